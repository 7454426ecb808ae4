"""The same answer to every request, from bytes made once: the model of a benchmark, which must cost next to nothing."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.emulator.connection import HttpRequest, chunk, head
from tests.emulator.dialect import Dialect, compact
from tests.emulator.request import Request
from tests.emulator.script import Reply, ToolCall, Usage

SSE_HEADERS: Final = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
JSON_HEADERS: Final = {"content-type": "application/json"}

_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]+)"')
_STREAM: Final = re.compile(rb'"stream"\s*:\s*true')
_GOOGLE: Final = re.compile(r"/models/([^:]+):(stream)?")
# A question whose answer hands work to the document agent, and how each provider's requests tell what came of it.
DELEGATING: Final = "Hand this to the document agent."
_RESULT: Final = re.compile(
    rb'"(function_call_output|functionResponse|function_response|tool_result)"|"role"\s*:\s*"tool"'
)
_CALL: Final = ToolCall("documentAgent", {"operation": "create", "instruction": "Text: A bench\nWrite it."})
_ID: Final = re.compile(rb"[0-9a-f]{32}")


@dataclass(frozen=True)
class Fixed:
    """`tokens` deltas in every answer: in one write, or `pace` seconds apart; `DELEGATING` is answered by a call."""

    tokens: int = 50
    pace: float = 0.0


class FixedAnswers:
    """Whole responses, made once for each dialect and model; only the ids in them are new each time."""

    def __init__(self, fixed: Fixed) -> None:
        self._fixed = fixed
        self._made: dict[tuple[Dialect, str, bool, bool], list[list[bytes]]] = {}
        self._nonce = secrets.token_hex(8)
        self._numbers = itertools.count()

    def pieces(self, dialect: Dialect, http: HttpRequest) -> list[bytes]:
        """The response to `http` in the pieces that are to be written one after the other; the first has the head."""
        model, stream = _model(http)
        calls = DELEGATING.encode() in http.body and _RESULT.search(http.body) is None
        key = (dialect, model, stream, calls)
        if (templates := self._made.get(key)) is None:
            templates = self._made[key] = [_split_at_ids(piece) for piece in self._make(*key)]
        names: dict[bytes, bytes] = {}
        return [b"".join(self._renamed(template, names)) for template in templates]

    def _renamed(self, template: list[bytes], names: dict[bytes, bytes]) -> list[bytes]:
        renamed = list(template)
        for place in range(1, len(template), 2):
            old = template[place]
            if (new := names.get(old)) is None:
                new = names[old] = b"%s%016x" % (self._nonce.encode(), next(self._numbers))
            renamed[place] = new
        return renamed

    def _make(self, dialect: Dialect, model: str, stream: bool, calls: bool) -> list[bytes]:
        body = {"model": model, "stream": stream, "stream_options": {"include_usage": True}}
        request = Request(provider=dialect.provider, api="responses", path="", model=model, stream=stream, body=body)
        text = [f"token {number} " for number in range(self._fixed.tokens)]
        reply = Reply(tool_calls=[_CALL]) if calls else Reply(text=text)
        usage = Usage(input=200, output=self._fixed.tokens)
        if not stream:
            whole = compact(dialect.whole(request, reply, usage))
            return [head(200, JSON_HEADERS, length=len(whole)) + whole]
        frames = [frame.data for frame in dialect.frames(request, reply, usage)]
        begin, end = head(200, SSE_HEADERS, length=None), b"0\r\n\r\n"
        if not self._fixed.pace:
            return [begin + chunk(b"".join(frames)) + end]
        return [begin + chunk(frames[0]), *(chunk(frame) for frame in frames[1:-1]), chunk(frames[-1]) + end]


def _model(http: HttpRequest) -> tuple[str, bool]:
    if (found := _GOOGLE.search(http.path)) is not None:
        return found[1], found[2] is not None
    named = _MODEL.search(http.body)
    return named[1].decode() if named else "unknown", _STREAM.search(http.body) is not None


def _split_at_ids(piece: bytes) -> list[bytes]:
    """The piece with every id at an odd place."""
    parts: list[bytes] = []
    end = 0
    for found in _ID.finditer(piece):
        parts += [piece[end : found.start()], found[0]]
        end = found.end()
    return [*parts, piece[end:]]


def stats(served: int) -> bytes:
    """The answer to a GET: that the emulator is there, and how many requests it has had."""
    body: Mapping[str, int] = {"served": served}
    content = compact(body)
    return head(200, JSON_HEADERS, length=len(content)) + content
