"""What the offline model writes for the agents that write: short, valid, and made of the request's own words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart
from pydantic_ai.models.function import AgentInfo

_NOTE: Final = "Threadkeep's offline model wrote this: no provider has a key here."
_FIRST_LINE: Final = re.compile(r"\A\s*(?:Text|Sheet|Python|Diagram):[^\n]*\n")
_SHORTER: Final = re.compile(r"\b(short\w*|brief\w*|less)\b", re.IGNORECASE)


def decide(messages: list[ModelMessage], info: AgentInfo) -> str | tuple[str, dict[str, Any]]:
    """A document's whole content, or the edits that the output tool takes."""
    prompt = _prompts(messages)
    title = _tag(prompt, "title") or "Untitled"
    request = _tag(prompt, "request") or prompt
    current = _tag(prompt, r"current_\w+")
    if info.output_tools:
        return info.output_tools[0].name, {"response": _edits(current or "")}
    if "Explain" in prompt.rsplit("</request>", 1)[-1]:
        return _explanation(title, current or "")
    kind = _kind(prompt, request)
    request = _FIRST_LINE.sub("", request)
    if current is None:
        return _NEW[kind](title, request)
    return _CHANGED[kind](current, request)


def _text(title: str, request: str) -> str:
    subject = title[0].lower() + title[1:]
    return (
        f"# {title}\n\n"
        f"This is a text about {subject}. {_NOTE}\n\n"
        f"## What was asked\n\n> {_one_line(request)}\n\n"
        f"## What a model would add\n\n- An introduction to {subject}\n- The facts that matter\n- A conclusion\n\n"
        "It streams word by word, is stored as a version, and can be changed, compared and taken back.\n"
    )


def _changed_text(current: str, request: str) -> str:
    paragraphs = current.rstrip().split("\n\n")
    if _SHORTER.search(request):
        return "\n\n".join(paragraphs[: max(1, len(paragraphs) // 2)]) + "\n"
    return current.rstrip() + f"\n\n## Changed\n\n> {_one_line(request)}\n"


def _sheet(title: str, request: str) -> str:
    return f'item,amount,note\n{_cell(title)},1,"{_NOTE}"\nrequest,2,{_cell(_one_line(request))}\n'


def _changed_sheet(current: str, request: str) -> str:
    rows = current.rstrip("\n").split("\n")
    if _SHORTER.search(request) and len(rows) > 2:
        return "\n".join(rows[:-1]) + "\n"
    columns = rows[0].count(",")
    return current.rstrip("\n") + f"\n{_cell(_one_line(request))}{',' * columns}\n"


def _script(title: str, request: str) -> str:
    return (
        f"# {_one_line(title)}\n# {_NOTE}\n\n\n"
        "def main() -> None:\n"
        f"    for word in {_one_line(request)!r}.split():\n"
        '        print(f"{len(word):>3} {word}")\n\n\n'
        'if __name__ == "__main__":\n    main()\n'
    )


def _changed_script(current: str, request: str) -> str:
    if _SHORTER.search(request):
        return "\n".join(line for line in current.split("\n") if not line.startswith("#")).lstrip("\n")
    return f"# Changed: {_one_line(request)}\n" + current


def _diagram(title: str, request: str) -> str:
    words = re.findall(r"[A-Za-z]{4,}", request)[:4] or ["Start", "End"]
    arrows = enumerate(pairwise(words))
    boxes = [f"    n{place}[{word}] --> n{place + 1}[{after}]" for place, (word, after) in arrows]
    return "flowchart TD\n    %% " + _one_line(title) + "\n" + "\n".join(boxes or ["    n0[Start] --> n1[End]"]) + "\n"


def _changed_diagram(current: str, request: str) -> str:
    lines = current.rstrip().split("\n")
    if _SHORTER.search(request) and len(lines) > 3:
        return "\n".join(lines[:-1]) + "\n"
    return current.rstrip() + f'\n    changed{len(lines)}["{_one_line(request).replace(chr(34), "")}"]\n'


_NEW: Final = {"text": _text, "sheet": _sheet, "python": _script, "mermaid": _diagram}
_CHANGED: Final = {
    "text": _changed_text,
    "sheet": _changed_sheet,
    "python": _changed_script,
    "mermaid": _changed_diagram,
}


def _kind(prompt: str, request: str) -> str:
    """By the words of the request and of the template around it."""
    first = request.lstrip().split(":", 1)[0].lower()
    named = {"text": "text", "sheet": "sheet", "python": "python", "diagram": "mermaid"}.get(first)
    if named:
        return named
    around = prompt.rsplit("</request>", 1)[-1].lower() + prompt.split("<request>", 1)[0].lower()[-200:]
    if "diagram" in around:
        return "mermaid"
    if "program" in around or "code" in around:
        return "python"
    current = _tag(prompt, r"current_\w+") or ""
    is_sheet = "," in current.split("\n", 1)[0] and not current.lstrip().startswith("#")
    return "sheet" if is_sheet else "text"


def _edits(current: str) -> list[dict[str, str]]:
    lines = [line.strip() for line in current.split("\n")]
    passages = [line for line in lines if len(line) > 20 and current.count(line) == 1]
    return [
        {
            "originalText": passage,
            "suggestedText": passage.rstrip(".") + ", in short.",
            "description": "An example of a suggestion; a model would have a reason.",
        }
        for passage in passages[:2]
    ]


def _explanation(title: str, current: str) -> str:
    lines = [line for line in current.split("\n") if line.strip()]
    names = re.findall(r"^\s*(?:def|class) (\w+)", current, re.MULTILINE)
    parts = f" It defines {', '.join(names)}." if names else ""
    return f"“{title}” has {len(lines)} lines.{parts} {_NOTE}"


def _tag(prompt: str, name: str) -> str | None:
    found = re.search(rf"<({name})>\n?(.*?)\n?</\1>", prompt, re.DOTALL)
    return found[2] if found else None


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _prompts(messages: Sequence[ModelMessage]) -> str:
    prompts = [
        part.content
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, UserPromptPart) and isinstance(part.content, str)
    ]
    return prompts[0] if prompts else ""
