"""The model of the soak, a process of its own: the provider emulator, which does what a mark in the message says.

`python -m bench.soak.model` prints its port when it is ready. A mark is for the first request that can follow it: the
chat agent calls a tool, and the agent that this hands work to finds the kind of its work in its instruction.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from contextlib import suppress
from typing import Final

from tests.emulator import Cut, Emulator, Fault, Reply, Request, ToolCall

MARK: Final = re.compile(r"\[(\w+)(?: ([0-9a-f-]{36}))?\]")
SLOW_SECONDS: Final = 0.05

WRITTEN: Final = {
    "prose": "# Plans\n\nFirst the north.\n\nThen the south.\n",
    "sheet": "item,price\ntea,3\nbread,4\n",
    "code": "def total(prices: list[int]) -> int:\n    return sum(prices)\n",
    "diagram": "graph TD\n  A[Ask] --> B[Answer]\n",
}
LAST_LINES: Final = {
    "prose": "And day {0}.\n",
    "sheet": "day,{0}\n",
    "code": "\n\nDAY = {0}\n",
    "diagram": "  B --> D{0}[Day]\n",
}
TOOLS: Final = {
    "prose": ("documentAgent", "documentId", "Text: Plans\nWrite them. [prose]"),
    "sheet": ("documentAgent", "documentId", "Sheet: Prices\nList them. [sheet]"),
    "code": ("pythonAgent", "codeId", "Python: Total\nWrite it. [code]"),
    "diagram": ("mermaidAgent", "diagramId", "Diagram: Ways\nDraw them. [diagram]"),
}

_numbers = itertools.count(1)


def answer(request: Request) -> Reply:
    """What the model says to this request."""
    mark = MARK.search(request.last_user_text)
    kind, document = (mark[1], mark[2]) if mark else ("", None)
    if request.returns_tools:
        return _plain(request, 12)
    if kind == "clock" and "current_time" in request.tools:
        return Reply(tool_calls=[ToolCall("current_time")])
    if kind in TOOLS and TOOLS[kind][0] in request.tools:
        tool, parameter, instruction = TOOLS[kind]
        arguments = {"operation": "update" if document else "create", "instruction": instruction}
        return Reply(tool_calls=[ToolCall(tool, arguments | ({parameter: document} if document else {}))])
    if not request.tools and kind in WRITTEN:
        # Never the same twice: what is written again unchanged makes no version.
        lines = WRITTEN[kind].splitlines(keepends=True)
        return Reply(text=[*lines, LAST_LINES[kind].format(next(_numbers))])
    if kind == "slow" and request.stream and request.tools:
        return Reply(text=[f"word {number} " for number in range(40)], delay_between=SLOW_SECONDS)
    if kind == "broken" and request.tools:
        return Reply(text=["It ", "begins ", "well "], interruptions=[Cut(after_deltas=2)])
    if kind == "failing" and request.tools:
        return Reply(text=["It ", "begins ", "well "], interruptions=[Fault(status=500, after_deltas=2)])
    return _plain(request, 30)


def _plain(request: Request, words: int) -> Reply:
    return Reply(text=[f"{request.last_user_text[:20]} {number} " for number in range(words)])


class _Forgetful(Emulator):
    """Keeps no requests, of which there are many."""

    def forget_and_answer(self, request: Request) -> Reply:
        self.requests.clear()
        return answer(request)


def main() -> None:
    emulator = _Forgetful()
    emulator.default = emulator.forget_and_answer
    with suppress(KeyboardInterrupt):
        asyncio.run(emulator.serve(0, lambda port: print(port, flush=True)))


if __name__ == "__main__":
    main()
