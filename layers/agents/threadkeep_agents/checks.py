"""Whether a script or a diagram holds together, before it is stored: what is wrong is told to the agent that wrote it.

A diagram is judged by mermaid's own grammars, in an embedded JavaScript engine; how they came to be one file is told in
`mermaid/README.md`. Nothing of that is loaded before the first diagram.
"""

from __future__ import annotations

import ast
import asyncio
import json
import re
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quickjs import Context  # type: ignore[import-untyped]

# Characters. What is larger is not drawn either: it is mermaid's own limit.
MAX_DIAGRAM: Final = 50_000
MAX_SCRIPT: Final = 500_000
# Seconds of CPU; a diagram of a page takes a hundredth of it, and the engine counts what other threads use, too.
MAX_SECONDS: Final = 3.0
# Bytes; the grammars alone take 14 million.
MAX_MEMORY: Final = 128_000_000
# Characters of a grammar's complaint; some list every word they would have taken.
MAX_MESSAGE: Final = 600
MAX_QUOTED: Final = 120

_UNREADABLE: Final = re.compile("[\0\ud800-\udfff]")
_PLACE: Final = re.compile(
    r"(?:Parsing failed:\s*)?(?:Parse|Lexer|Lexical) error on line [\d?]+(?:, column [\d?]+)?[:.]\s*"
)
# Some of the diagram with its lines run together, and an arrow below it.
_EXCERPT: Final = re.compile(r"\n[^\n]*\n-*\^")


@dataclass(frozen=True)
class Problem:
    """Why a text would not run or not be drawn; line and column count from 1."""

    message: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        if self.line is None:
            return self.message
        if self.column is None:
            return f"Line {self.line}: {self.message}"
        return f"Line {self.line}, column {self.column}: {self.message}"


def check_python(code: str) -> Problem | None:
    """Says why a script is not Python, or `None` if it is; it is only read, never run."""
    if len(code) > MAX_SCRIPT:
        return Problem(f"The script has {len(code)} characters; at most {MAX_SCRIPT} are accepted.")
    if (place := _first_unreadable(code)) is not None:
        return Problem("No Python source may have this character.", *place)
    try:
        with warnings.catch_warnings():
            # A doubtful escape is a warning, and the script runs.
            warnings.simplefilter("ignore")
            ast.parse(code.removeprefix("\ufeff"))
    except SyntaxError as error:
        return Problem(error.msg, error.lineno or None, error.offset or None)
    except (RecursionError, MemoryError):
        return Problem("The script is nested too deeply to be read.")
    return None


async def check_mermaid(text: str) -> Problem | None:
    """Says why mermaid would not draw a diagram, or `None` if it would; other work goes on meanwhile."""
    if len(text) > MAX_DIAGRAM:
        return Problem(f"The diagram has {len(text)} characters; mermaid draws at most {MAX_DIAGRAM}.")
    if not text.strip():
        return Problem("The diagram is empty.")
    return await asyncio.get_running_loop().run_in_executor(_thread(), _judge, text)


def _first_unreadable(code: str) -> tuple[int, int] | None:
    """Line and column of a zero character or half of a surrogate pair, for which the parser names no place."""
    if (found := _UNREADABLE.search(code)) is None:
        return None
    before = code[: found.start()]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


@cache
def _thread() -> ThreadPoolExecutor:
    """The one thread that may touch the engine, which is bound to the thread that made it."""
    return ThreadPoolExecutor(1, thread_name_prefix="mermaid")


def _judge(text: str) -> Problem | None:
    import quickjs

    readable = text.encode("utf-8", "replace").decode()
    grammars = _grammars()
    try:
        verdict = _verdict(grammars, readable)
    except (quickjs.JSException, MemoryError):
        # An engine that was interrupted, or has no memory left, is in no state to judge the next diagram.
        _grammars.cache_clear()
        verdict = None
    if verdict is None:
        return Problem("The diagram takes too long or too much memory to read: make it simpler.")
    found = json.loads(verdict)
    if found is None:
        return None
    line, column = found["line"], found["column"]
    return Problem(_complaint(found["message"], readable, line), line, column)


@cache
def _grammars() -> Context:
    import quickjs

    context = quickjs.Context()
    context.set_memory_limit(MAX_MEMORY)
    context.eval(files(__package__).joinpath("mermaid", "mermaid-parser.js").read_text("utf-8"))
    return context


def _verdict(grammars: Context, text: str) -> str | None:
    deadline = time.monotonic() + MAX_SECONDS
    grammars.set_time_limit(MAX_SECONDS)
    grammars.get("judge")(text)
    while grammars.execute_pending_job():
        if time.monotonic() > deadline:
            _grammars.cache_clear()
            return None
    verdict = grammars.get("verdict")
    grammars.gc()
    return verdict if isinstance(verdict, str) else None


def _complaint(message: str, text: str, line: int | None) -> str:
    """A grammar's message without the places in it, which count other lines, and with the line that it is about."""
    if message.startswith("No diagram type detected"):
        return "The first line names no type of diagram, such as flowchart LR, sequenceDiagram or erDiagram."
    said = _EXCERPT.sub("", message)
    said = " ".join(_PLACE.sub("", said).replace("got '1'", "got the end of the diagram").split())
    said = said if len(said) <= MAX_MESSAGE else said[: MAX_MESSAGE - 1] + "…"
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    source = lines[line - 1].strip()[:MAX_QUOTED] if line is not None and line <= len(lines) else ""
    return f"{said.rstrip('.')}, in: {source}" if source else said
