"""What a test says "the model" does: replies, faults, and where in a reply the test holds or breaks it.

Everything here is the same for all providers; the dialects turn it into each provider's own form. Positions in a
reply are counted in deltas, the pieces a reader would see: first those of the reasoning, then those of the tools
that the provider runs, of the text, and of the arguments of function calls.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

FaultKind = Literal[
    "invalid_request",
    "context_window",
    "authentication",
    "permission",
    "not_found",
    "rate_limit",
    "quota",
    "server_error",
    "unavailable",
    "overloaded",
]

KIND_OF_STATUS: Mapping[int, FaultKind] = {
    400: "invalid_request",
    401: "authentication",
    403: "permission",
    404: "not_found",
    429: "rate_limit",
    500: "server_error",
    503: "overloaded",
    529: "overloaded",
}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Token counts in one meaning: `input` holds the cached tokens, `output` holds the reasoning.

    Each dialect reports them as its provider does: Anthropic's cached tokens are beside its input, Google's
    thoughts beside its candidates, and Google knows no cache writes. `reported=False` leaves usage out altogether.
    """

    input: int = 0
    output: int = 0
    cached_read: int = 0
    cached_write: int = 0
    reasoning: int = 0
    reported: bool = True


@dataclass(frozen=True)
class ToolCall:
    """A call of one of the client's functions; `arguments` as text are sent as they are, well-formed or not."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True)
class Source:
    """A page that a search found."""

    url: str
    title: str = ""


@dataclass(frozen=True)
class WebSearch:
    """The provider searched the web."""

    query: str
    sources: Sequence[Source] = ()


@dataclass(frozen=True)
class UrlContext:
    """The provider fetched a page."""

    url: str
    title: str = ""
    text: str = ""


@dataclass(frozen=True)
class CodeExecution:
    """The provider ran a script."""

    code: str
    output: str = ""


NativeStep: TypeAlias = WebSearch | UrlContext | CodeExecution


@dataclass(frozen=True)
class Citation:
    """The source of one text delta, whose number is `delta`."""

    url: str
    title: str = ""
    delta: int = 0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An error of the provider, in its own format.

    `kind` picks the provider's own status; `status` alone picks the kind; both together are sent as they are.
    `retry_after` is in seconds. With `after_deltas` it comes inside a stream that began well.
    """

    status: int | None = None
    kind: FaultKind | None = None
    message: str | None = None
    retry_after: float | None = None
    after_deltas: int | None = None

    @property
    def category(self) -> FaultKind:
        """The kind, also of a fault that was given by its status."""
        return self.kind or KIND_OF_STATUS.get(self.status or 500, "server_error")


@dataclass(frozen=True, kw_only=True)
class Silence:
    """Accept, and say nothing for `seconds`, or until the client leaves; without `after_deltas` not even headers."""

    seconds: float | None = None
    after_deltas: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cut:
    """End the connection: closed, reset, or (`end`) a well-formed body that lacks the provider's last events.

    Without `after_deltas` not even headers are sent.
    """

    after_deltas: int | None = None
    how: Literal["close", "reset", "end"] = "close"


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """An event that is not JSON, after which the reply goes on."""

    after_deltas: int = 0


class Bell:
    """Wakes whoever waits for a condition, in any event loop, when something rang that may have changed it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def ring(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for loop, event in waiting:
            with suppress(RuntimeError):  # its loop was closed: nobody waits there any more
                loop.call_soon_threadsafe(event.set)

    async def until(self, holds: Callable[[], bool], *, timeout: float | None = 30) -> None:  # noqa: ASYNC109
        """Wait until `holds()`; TimeoutError after `timeout` seconds."""
        event = asyncio.Event()
        entry = (asyncio.get_running_loop(), event)
        with self._lock:
            self._waiting.add(entry)
        try:
            async with asyncio.timeout(timeout):
                while not holds():
                    await event.wait()
                    event.clear()
        finally:
            with self._lock:
                self._waiting.discard(entry)


class Gate:
    """Where replies are held until the test releases them; several replies may be held by one gate."""

    def __init__(self) -> None:
        self._bell = Bell()
        self._arrivals = 0
        self._open = False

    async def arrived(self, count: int = 1) -> None:
        """Wait until `count` replies have come to the gate."""
        await self._bell.until(lambda: self._arrivals >= count)

    def release(self) -> None:
        """Let through all that are held, and all that come later."""
        self._open = True
        self._bell.ring()

    async def pass_through(self) -> None:
        self._arrivals += 1
        self._bell.ring()
        await self._bell.until(lambda: self._open, timeout=None)


@dataclass(frozen=True)
class Hold:
    """Hold the reply at a gate; without `after_deltas` before its headers."""

    gate: Gate
    after_deltas: int | None = None


Interruption: TypeAlias = Fault | Silence | Cut | Garbage | Hold


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the model answers, in the order reasoning, steps of the provider's own tools, text, function calls.

    A text given as a sequence is one delta per item. Reasoning is shown only as the provider would: OpenAI when
    the request asks for a summary, Google for thoughts, Anthropic for a display (which its older models default
    to); otherwise there is only its signature. `usage` is a plausible estimate if not given; delays are seconds.
    """

    text: str | Sequence[str] = ()
    reasoning: str | Sequence[str] = ()
    native: Sequence[NativeStep] = ()
    citations: Sequence[Citation] = ()
    tool_calls: Sequence[ToolCall] = ()
    usage: Usage | None = None
    finish: Literal["stop", "length", "content_filter"] = "stop"
    interruptions: Sequence[Interruption] = ()
    delay_before: float = 0
    delay_between: float = 0

    @property
    def text_deltas(self) -> tuple[str, ...]:
        return _deltas(self.text)

    @property
    def reasoning_deltas(self) -> tuple[str, ...]:
        return _deltas(self.reasoning)


Answer: TypeAlias = Reply | Interruption


def _deltas(text: str | Sequence[str]) -> tuple[str, ...]:
    return ((text,) if text else ()) if isinstance(text, str) else tuple(text)
