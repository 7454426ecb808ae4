"""The load generator, a process of its own: callers on kept connections who send prepared requests one after another.

`python -m bench.load` reads a plan from standard input and prints what came of it, both as JSON. It parses nothing
but the end of an answer, so that it stays far from being what is measured; what it costs is reported.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any, Final, cast

import uvloop

PATIENCE_SECONDS: Final = 120


@dataclass(frozen=True)
class Plan:
    """Requests as they go over the wire, shared out among so many callers, each with one request under way.

    They are sent in their order, and none after `seconds`. The first token has come with the first byte after which
    the answer holds `first`; an answer is good if it is a 200, holds `needed` and does not hold `forbidden`.
    """

    port: int
    callers: int
    requests: list[str]
    seconds: float = 60.0
    first: str = ""
    needed: str = ""
    forbidden: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a plan: milliseconds of each good answer, and seconds of all of it together."""

    first: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return len(self.total) / self.seconds

    @property
    def cpu_ms(self) -> float:
        """What one answer cost the caller, in milliseconds of CPU time."""
        return self.cpu_seconds * 1000 / len(self.total)

    def checked(self) -> Outcome:
        """The same, if all answers were good."""
        if self.failures:
            raise RuntimeError(f"the system failed under the benchmark: {self.failures}")
        return self


def run(plan: Plan) -> Outcome:
    """Carries a plan out in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps(asdict(plan)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    return Outcome(**json.loads(finished.stdout))


def request(method: str, path: str, token: str, body: Any = None) -> str:
    """An HTTP request in full."""
    content = "" if body is None else json.dumps(body)
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {token}",
        *(["content-type: application/json", f"content-length: {len(content)}"] if content else []),
    ]
    return "\r\n".join(lines) + "\r\n\r\n" + content


class _Caller(asyncio.Protocol):
    """One connection; `ask` sends a request and gives the times of its answer, in milliseconds."""

    transport: asyncio.Transport

    def __init__(self, plan: Plan) -> None:
        self._first_mark = plan.first.encode()
        self._needed = plan.needed.encode()
        self._forbidden = plan.forbidden.encode()
        self._received = bytearray()
        self._end: int | None = None
        self._is_chunked = False
        self._sent_at = 0.0
        self._first_at = 0.0
        self._answer: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed before the end of an answer"))

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if not self._first_at and self._first_mark in received:
            self._first_at = time.perf_counter()
        if self._end is None and not self._is_chunked and (head_end := received.find(b"\r\n\r\n")) >= 0:
            self._read_head(bytes(received[:head_end]).lower(), head_end + 4)
        is_over = received.endswith(b"0\r\n\r\n") if self._is_chunked else len(received) == self._end
        if is_over and self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _read_head(self, head: bytes, body_start: int) -> None:
        self._is_chunked = b"\r\ntransfer-encoding: chunked" in head
        if not self._is_chunked:
            _, _, length = head.partition(b"\r\ncontent-length:")
            self._end = body_start + int(length.split(b"\r\n")[0] or 0)

    async def ask(self, wire: bytes) -> tuple[float, float]:
        self._received.clear()
        self._end, self._is_chunked, self._first_at = None, False, 0.0
        self._answer = asyncio.get_running_loop().create_future()
        self._sent_at = time.perf_counter()
        self.transport.write(wire)
        await self._answer
        ended_at = time.perf_counter()
        return (self._first_at - self._sent_at) * 1000, (ended_at - self._sent_at) * 1000

    def failure(self) -> str | None:
        """What is wrong with the answer that was received last."""
        received = self._received
        if not received.startswith(b"HTTP/1.1 200"):
            return received[:12].decode("latin-1")
        if self._needed not in received:
            return f"without {self._needed.decode()}"
        if self._forbidden and self._forbidden in received:
            return f"with {self._forbidden.decode()}"
        return None


async def _carry_out(plan: Plan) -> Outcome:
    loop = asyncio.get_running_loop()
    waiting = deque(wire.encode() for wire in plan.requests)
    first: list[float] = []
    total: list[float] = []
    failures: Counter[str] = Counter()

    async def work(caller: _Caller) -> None:
        while waiting and time.perf_counter() - started < plan.seconds:
            to_first, to_end = await caller.ask(waiting.popleft())
            if (failure := caller.failure()) is not None:
                failures[failure] += 1
                continue
            first.append(to_first)
            total.append(to_end)

    callers = []
    for _ in range(plan.callers):
        _transport, caller = await loop.create_connection(lambda: _Caller(plan), "127.0.0.1", plan.port)
        callers.append(caller)
    cpu, started = _own_cpu(), time.perf_counter()
    await asyncio.gather(*(work(caller) for caller in callers))
    seconds, cpu_seconds = time.perf_counter() - started, _own_cpu() - cpu
    for caller in callers:
        caller.transport.close()
    return Outcome(first, total, seconds, cpu_seconds, dict(failures))


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    plan = Plan(**json.load(sys.stdin))
    print(json.dumps(asdict(uvloop.run(_carry_out(plan)))))


if __name__ == "__main__":
    main()
