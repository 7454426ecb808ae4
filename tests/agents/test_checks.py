"""Scripts and diagrams are judged as Python and mermaid would judge them, and a hostile one costs little."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from threadkeep_agents import checks
from threadkeep_agents.checks import MAX_DIAGRAM, MAX_SCRIPT, Problem, check_mermaid, check_python

# Of each type of diagram one that is right and one that is not, with the line of what is wrong if the grammar names it.
DIAGRAMS = {
    "flowchart": (
        "flowchart LR\n  a[Start] --> b{Right?}\n  b -->|yes| c[(Kept)]",
        "flowchart LR\n  a[Start] --> b{Right?\n  b --> c",
        2,
    ),
    "sequence": (
        "sequenceDiagram\n  Ann->>Bob: Hello\n  alt well\n    Bob-->>Ann: Fine\n  end",
        "sequenceDiagram\n  Ann->>Bob Hello\n  Bob-->>Ann: Fine",
        2,
    ),
    "class": (
        "classDiagram\n  Animal <|-- Duck\n  class Duck {\n    +String beak\n    +swim()\n  }",
        "classDiagram\n  Animal <|-- Duck\n  class Duck {\n    +swim()",
        4,
    ),
    "state": (
        "stateDiagram-v2\n  [*] --> Still\n  Still --> Moving: push\n  Moving --> [*]",
        "stateDiagram-v2\n  [*] --> Still\n  state Moving {\n    [*] --> Fast",
        4,
    ),
    "er": (
        "erDiagram\n  CUSTOMER ||--o{ ORDER : places\n  ORDER {\n    int id PK\n  }",
        "erDiagram\n  CUSTOMER ||--o{ ORDER places",
        2,
    ),
    "journey": (
        "journey\n  title A day\n  section Morning\n    Tea: 5: Me",
        "journey\n  title A day\n  section Morning\n    Tea",
        4,
    ),
    "gantt": (
        "gantt\n  dateFormat YYYY-MM-DD\n  section One\n    First :a1, 2026-01-01, 30d\n    Second :after a1, 20d",
        "gantt\n  dateFormat YYYY-MM-DD\n  section One\n    First",
        4,
    ),
    "pie": ('pie title Pets\n  "Dogs" : 3\n  "Cats" : 2', 'pie title Pets\n  "Dogs" : three', 2),
    "quadrant": (
        "quadrantChart\n  x-axis Low --> High\n  y-axis Small --> Large\n  A: [0.3, 0.6]",
        "quadrantChart\n  x-axis Low --> High\n  A: [3, 0.6]",
        3,
    ),
    "requirement": (
        "requirementDiagram\n  requirement one {\n    id: 1\n    text: it works\n    risk: high\n  }",
        "requirementDiagram\n  requirement one {\n    colour: 1\n  }",
        3,
    ),
    "gitgraph": (
        "gitGraph\n  commit\n  branch next\n  commit\n  checkout main\n  merge next",
        "gitGraph\n  commit\n  checkout nowhere",
        None,
    ),
    "mindmap": ("mindmap\n  root((Idea))\n    One\n    Two", "mindmap\n  root((Idea\n    One", 2),
    "timeline": ("timeline\n  title Years\n  2004 : One\n  2005 : Two : Three", "timeline\n  title Years\n  : :", 3),
    "sankey": ("sankey-beta\n\na,b,10\nb,c,5", "sankey-beta\n\na,b\n", 3),
    "xychart": (
        'xychart-beta\n  x-axis [jan, feb]\n  y-axis "Sales" 0 --> 10\n  bar [3, 5]',
        "xychart-beta\n  x-axis [jan, feb]\n  bar [3, five]",
        3,
    ),
    "block": ("block-beta\n  columns 2\n  a b\n  c:2", "block-beta\n  columns 2\n  a -->", 3),
    "packet": (
        'packet-beta\n  0-15: "Source"\n  16-31: "Target"',
        'packet-beta\n  0-15: "Source"\n  20-31: "Target"',
        None,
    ),
    "kanban": (
        "kanban\n  todo[To do]\n    one[First]\n  done[Done]",
        "kanban\n  todo[To do]\n    one[First]@{ priority: 'High'",
        3,
    ),
    "c4": (
        'C4Context\n  Person(ann, "Ann")\n  System(bank, "Bank")\n  Rel(ann, bank, "uses")',
        'C4Context\n  Person(ann, "Ann")\n  Somebody(bank, "Bank")',
        3,
    ),
    "architecture": (
        "architecture-beta\n  group api(cloud)[API]\n  service db(database)[Database] in api",
        "architecture-beta\n  service db(database)[Database] in nowhere",
        None,
    ),
    "treemap": ('treemap-beta\n"One"\n    "Two": 3', 'treemap-beta\n"One\n    "Two": 3', 3),
}

# Without limits some of them take minutes.
HOSTILE = {
    "empty lines": "flowchart TD\n" + "\n" * 49_000 + "x--",
    "open brackets": "flowchart TD\n" + "a[" * 20_000,
    "open blocks": "sequenceDiagram\n" + "alt x\n" * 8_000,
    "open tags": "C4Context\n" + "<a " * 15_000,
    "deep settings": "---\n" + "[ " * 20_000 + "\n---\nflowchart TD\na-->b",
    "a zero": "flowchart TD\n  a\0 --> b",
}


@pytest.mark.parametrize("kind", DIAGRAMS)
async def test_a_right_diagram_passes(kind: str) -> None:
    assert await check_mermaid(DIAGRAMS[kind][0]) is None


@pytest.mark.parametrize("kind", DIAGRAMS)
async def test_a_wrong_diagram_is_refused_with_its_line(kind: str) -> None:
    _, wrong, line = DIAGRAMS[kind]

    problem = await check_mermaid(wrong)

    assert problem is not None
    assert problem.message
    assert problem.line == line


async def test_the_line_counts_what_mermaid_takes_away_first() -> None:
    diagram = "---\ntitle: Lines\n---\n%% one\n\n%%{init: {\n}}%%\nflowchart TD\n%% two\n\n  a-->b\r\n  b-->]c\n  d-->e"

    problem = await check_mermaid(diagram)

    assert problem == Problem("Unrecognized text, in: b-->]c", 12)


async def test_a_text_that_is_no_diagram_is_told_what_its_first_line_should_be() -> None:
    problem = await check_mermaid("Here is your diagram:\nflowchart LR\n  a --> b")

    assert problem is not None
    assert "first line" in problem.message


@pytest.mark.parametrize("text", ["", " \n", "flowchart TD\n" + "%" * MAX_DIAGRAM])
async def test_an_empty_or_too_large_diagram_is_refused(text: str) -> None:
    assert await check_mermaid(text) is not None


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_diagram_is_refused_and_the_next_is_judged(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as shorter:
        shorter.setattr(checks, "MAX_SECONDS", 0.5)
        assert await check_mermaid(HOSTILE[kind]) is not None
    assert await check_mermaid("flowchart LR\n  a --> b") is None


async def test_other_work_goes_on_while_a_diagram_is_judged() -> None:
    judging = asyncio.create_task(check_mermaid(HOSTILE["open tags"]))
    turns_of_others = 0
    while not judging.done():
        await asyncio.sleep(0.01)
        turns_of_others += 1

    assert await judging is not None
    # An engine that kept the interpreter to itself would let one or two through.
    assert turns_of_others > 10


async def test_a_diagram_cannot_raise_the_limits() -> None:
    edges = "\n".join(f"a{number} --> b" for number in range(600))

    problem = await check_mermaid(f"---\nconfig:\n  maxEdges: 1000\n---\nflowchart LR\n{edges}")

    assert problem is not None
    assert "Edge limit exceeded" in problem.message


async def test_a_diagram_of_hundreds_of_lines_is_judged() -> None:
    assert await check_mermaid("classDiagram\n" + "\n".join(f"A{n} <|-- B{n}" for n in range(400))) is None


@pytest.mark.parametrize(
    "code",
    ["", "print('hello')\n", "async def main() -> None:\n    await work()\n", 'pattern = "\\d"\n', "\ufeffx = 1\n"],
)
def test_a_right_script_passes(code: str) -> None:
    assert check_python(code) is None


def test_a_wrong_script_is_refused_with_its_place() -> None:
    problem = check_python("x = 1\nprint('hello'\n")

    assert problem == Problem("'(' was never closed", 2, 6)
    assert str(problem) == "Line 2, column 6: '(' was never closed"


@pytest.mark.parametrize("code", ["x = 1\ny = '\0'", "x = 1\ny = '\ud800'"])
def test_a_character_that_no_script_may_have_is_found(code: str) -> None:
    problem = check_python(code)

    assert problem is not None
    assert (problem.line, problem.column) == (2, 6)


@pytest.mark.parametrize(
    "code",
    ["(" * 10_000, "(" * 300 + ")" * 300, "-" * 100_000 + "1", "x" + ".y" * 100_000, "#" * (MAX_SCRIPT + 1)],
)
def test_a_script_too_deep_or_too_large_is_refused(code: str) -> None:
    assert check_python(code) is not None


def test_nothing_is_loaded_before_the_first_diagram() -> None:
    program = "import sys, threadkeep_agents.checks; sys.exit('quickjs' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
