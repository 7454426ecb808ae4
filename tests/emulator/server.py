"""The server: takes requests, asks the script what to answer, and plays it to the client."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from tests.emulator.anthropic import Messages
from tests.emulator.connection import Connection, HttpRequest
from tests.emulator.dialect import Dialect, Frame, compact, plausible_usage
from tests.emulator.fixed import JSON_HEADERS, SSE_HEADERS, Fixed, FixedAnswers, stats
from tests.emulator.google import GenerateContent
from tests.emulator.openai import Responses
from tests.emulator.openai_chat import ChatCompletions
from tests.emulator.request import Provider, Refused, Request, native_of
from tests.emulator.script import Answer, Bell, Cut, Fault, Garbage, Hold, Interruption, Reply, Silence, Usage

Match: TypeAlias = Callable[[Request], bool]
Scripted: TypeAlias = Answer | Callable[[Request], Answer]

BASE_PATHS: Final[Mapping[Provider, str]] = {"openai": "/openai/v1", "google": "/google", "anthropic": "/anthropic"}

_DIALECTS: Final[Mapping[str, Dialect]] = {
    "/openai/v1/responses": Responses(),
    "/openai/v1/chat/completions": ChatCompletions(),
    "/anthropic/v1/messages": Messages(),
}
_GOOGLE: Final = GenerateContent()
_GOOGLE_PATH: Final = re.compile(r"/google/v1(beta|alpha)?/models/[^/:]+:(generateContent|streamGenerateContent)")
_SECRETS: Final = ("authorization", "x-api-key", "x-goog-api-key")


class Emulator:
    """Three providers on one loopback port, in a thread of its own between `start` and `close`.

    `requests` are the requests that were read, in the order in which they came. `refusals` are the messages of those
    that a provider would not take (a broken history, a missing field). `problems` are mistakes of the script or
    of the emulator: the fixture fails a test that left any.
    """

    def __init__(self, *, fixed: Fixed | None = None) -> None:
        self.requests: list[Request] = []
        self.refusals: list[str] = []
        self.problems: list[str] = []
        self.port = 0
        self.default: Scripted = echo
        self._served = 0
        self._fixed = fixed
        self._fixed_answers = FixedAnswers(fixed) if fixed else None
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._bell = Bell()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def base_url(self, provider: Provider) -> str:
        """What the provider's SDK takes as its base URL."""
        return base_url(provider, self.port)

    def script(
        self,
        *answers: Scripted,
        match: Match | None = None,
        provider: Provider | None = None,
        model: str | None = None,
        always: bool = False,
    ) -> None:
        """Answer the next requests that fit with `answers`, one each; the last one for ever if `always`.

        A request takes the first answer left of the first script that it fits; if there is none, `default`.
        """
        with self._lock:
            self._rules.append(_Rule(deque(answers), match, provider, model, always))

    @property
    def unused(self) -> int:
        """How many scripted answers nobody has asked for yet."""
        with self._lock:
            return sum(len(rule.answers) for rule in self._rules if not rule.always)

    async def until(self, holds: Callable[[], bool], *, timeout: float = 30) -> None:  # noqa: ASYNC109
        """Wait until `holds()`, looked at whenever a request comes or ends; TimeoutError after `timeout` seconds."""
        await self._bell.until(holds, timeout=timeout)

    def start(self, port: int = 0) -> None:
        """Serve in a thread, on a free port unless one is given."""
        ready: Future[int] = Future()

        def run() -> None:
            try:
                asyncio.run(self.serve(port, ready.set_result))
            except BaseException as error:
                if ready.done():
                    raise
                ready.set_exception(error)

        self._thread = threading.Thread(target=run, name="emulator", daemon=True)
        self._thread.start()
        ready.result(timeout=10)

    def close(self) -> None:
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout=10)
        self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def serve(self, port: int, announce: Callable[[int], None]) -> None:
        """Serve in the running loop until it is cancelled or `close`; `announce` is told the port."""
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        connections: set[Connection] = set()
        server = await self._loop.create_server(
            lambda: Connection(self._answer, self._shortcut, connections), "127.0.0.1", port, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        announce(self.port)
        try:
            await self._stopping.wait()
        finally:
            server.close()
            for connection in list(connections):
                connection.abort()
            await server.wait_closed()
            await asyncio.sleep(0)  # the aborted transports close in the next turn of the loop

    def _shortcut(self, http: HttpRequest) -> bytes | None:
        if http.method == "GET":
            return stats(self._served)
        self._served += 1
        if self._fixed_answers is None or self._fixed is None or self._fixed.pace:
            return None
        dialect = _dialect(http)
        return self._fixed_answers.pieces(dialect, http)[0] if dialect else None

    async def _answer(self, http: HttpRequest, connection: Connection) -> None:
        request: Request | None = None
        try:
            dialect = _dialect(http)
            if dialect is None:
                await _send_json(connection, 404, {"error": {"message": f"no such address: {http.path}"}})
            elif self._fixed is not None and self._fixed_answers is not None:
                await _send_paced(connection, self._fixed_answers.pieces(dialect, http), self._fixed.pace)
            else:
                request = await self._read(http, dialect, connection)
                if request is not None:
                    await self._perform(request, dialect, connection)
        except (asyncio.CancelledError, ConnectionResetError):
            if request is not None:
                request.outcome = "left"
        except Exception as error:  # noqa: BLE001 - whatever it is, the fixture reports it
            self.problems.append(f"{type(error).__name__}: {error}")
            connection.close()
        finally:
            self._bell.ring()

    async def _read(self, http: HttpRequest, dialect: Dialect, connection: Connection) -> Request | None:
        try:
            request = dialect.read(http)
        except Refused as refused:
            self.refusals.append(str(refused))
            await _send_refusal(connection, dialect, Fault(kind="invalid_request", message=str(refused)), "")
            return None
        request.headers = {name: "***" if name in _SECRETS else value for name, value in http.headers.items()}
        request.key = next((http.headers[name] for name in _SECRETS if name in http.headers), "")
        request.key = request.key.removeprefix("Bearer ")
        if not request.key:
            await _send_refusal(connection, dialect, Fault(kind="authentication"), request.model)
            return None
        self.requests.append(request)
        self._bell.ring()
        return request

    async def _perform(self, request: Request, dialect: Dialect, connection: Connection) -> None:
        request.answer = answer = self._choose(request)
        reply = answer if isinstance(answer, Reply) else replace(echo(request), interruptions=[answer])
        for step in reply.native:
            if native_of(step) not in request.native_tools:
                raise ValueError(f"the script has {type(step).__name__}, but the request offers no such tool")
        play = _Play(request, reply, dialect, connection, reply.usage or plausible_usage(request, reply))
        request.outcome = await play.run()

    def _choose(self, request: Request) -> Answer:
        with self._lock:
            rule = next((rule for rule in self._rules if rule.fits(request)), None)
            scripted = rule.take() if rule else self.default
        return scripted(request) if callable(scripted) else scripted


@dataclass
class _Rule:
    answers: deque[Scripted]
    match: Match | None
    provider: Provider | None
    model: str | None
    always: bool

    def fits(self, request: Request) -> bool:
        return (
            len(self.answers) > 0
            and self.provider in (None, request.provider)
            and self.model in (None, request.model)
            and (self.match is None or self.match(request))
        )

    def take(self) -> Scripted:
        return self.answers[0] if self.always and len(self.answers) == 1 else self.answers.popleft()


class _Over(Exception):  # noqa: N818 - the end of a play, not an error
    """An interruption that ended the answer."""

    def __init__(self, outcome: Literal["refused", "cut"]) -> None:
        self.outcome: Literal["refused", "cut"] = outcome


@dataclass
class _Play:
    """One reply on its way to one client."""

    request: Request
    reply: Reply
    dialect: Dialect
    connection: Connection
    usage: Usage

    async def run(self) -> Literal["answered", "refused", "cut"]:
        try:
            for interruption in self.reply.interruptions:
                if interruption.after_deltas is None:
                    await self._before_head(interruption)
            if self.reply.delay_before:
                await asyncio.sleep(self.reply.delay_before)
            await (self._stream() if self.request.stream else self._whole())
        except _Over as over:
            return over.outcome
        return "answered"

    async def _stream(self) -> None:
        frames = self.dialect.frames(self.request, self.reply, self.usage)
        total = sum(frame.delta for frame in frames)
        waiting = self._later()
        if waiting and (waiting[-1].after_deltas or 0) > total:
            raise ValueError(f"the script interrupts after {waiting[-1].after_deltas} deltas of {total}")
        await self.connection.start(200, SSE_HEADERS)
        for position, frame in enumerate(frames):
            if frame.delta:
                await self._interrupt(waiting, position)
                await self._pause()
            await self._send(frame)
            if self.request.deltas_sent == total:
                await self._interrupt(waiting, position + 1)
        await self.connection.finish()

    async def _send(self, frame: Frame) -> None:
        await self.connection.send(frame.data)
        self.request.deltas_sent += frame.delta
        await asyncio.sleep(0)  # a client that left is noticed between two writes

    async def _pause(self) -> None:
        if self.reply.delay_between and self.request.deltas_sent:
            await asyncio.sleep(self.reply.delay_between)

    def _later(self) -> deque[Interruption]:
        later = [each for each in self.reply.interruptions if each.after_deltas is not None]
        return deque(sorted(later, key=lambda each: each.after_deltas or 0))

    async def _interrupt(self, waiting: deque[Interruption], position: int) -> None:
        """Let those interruptions happen whose place is here, after `position` events."""
        while waiting and waiting[0].after_deltas == self.request.deltas_sent:
            match interruption := waiting.popleft():
                case Garbage():
                    await self.connection.send(self.dialect.garbage())
                case Fault():
                    await self.connection.send(self.dialect.broken(interruption, self.request, position))
                    await self.connection.finish()
                    raise _Over("refused")
                case Cut():
                    if interruption.how == "end":
                        await self.connection.finish()
                    self._break(interruption)
                case _:
                    await _wait(interruption)

    async def _before_head(self, interruption: Interruption) -> None:
        match interruption:
            case Fault():
                await _send_refusal(self.connection, self.dialect, interruption, self.request.model)
                raise _Over("refused")
            case Cut():
                self._break(interruption)
            case Hold() | Silence():
                await _wait(interruption)

    async def _whole(self) -> None:
        """One body has no deltas: what was to come between them comes before it, or breaks it."""
        body = compact(self.dialect.whole(self.request, self.reply, self.usage))
        for interruption in self._later():
            match interruption:
                case Garbage():
                    body = body[: len(body) // 2]
                case Cut():
                    await self.connection.start(200, JSON_HEADERS, length=len(body))
                    await self.connection.send(body[: len(body) // 2])
                    self._break(interruption)
                case _:
                    await self._before_head(interruption)
        await self.connection.start(200, JSON_HEADERS, length=len(body))
        await self.connection.send(body)

    def _break(self, cut: Cut) -> None:
        if cut.how == "reset":
            self.connection.reset()
        else:
            self.connection.close()
        raise _Over("cut")


def base_url(provider: Provider, port: int) -> str:
    """What the provider's SDK takes as its base URL for an emulator on `port`."""
    return f"http://127.0.0.1:{port}{BASE_PATHS[provider]}"


def echo(request: Request) -> Reply:
    """Say what the user said, a word at a time."""
    return Reply(text=re.findall(r"\S+\s*", f"You said: {request.last_user_text}"))


def _dialect(http: HttpRequest) -> Dialect | None:
    if http.method != "POST":
        return None
    return _GOOGLE if _GOOGLE_PATH.fullmatch(http.path) else _DIALECTS.get(http.path)


async def _wait(interruption: Hold | Silence) -> None:
    if isinstance(interruption, Hold):
        await interruption.gate.pass_through()
    elif interruption.seconds is None:
        await asyncio.get_running_loop().create_future()  # until the client leaves
    else:
        await asyncio.sleep(interruption.seconds)


async def _send_json(
    connection: Connection, status: int, body: object, headers: Mapping[str, str] = JSON_HEADERS
) -> None:
    content = compact(body)
    await connection.start(status, headers, length=len(content))
    await connection.send(content)


async def _send_refusal(connection: Connection, dialect: Dialect, fault: Fault, model: str) -> None:
    refusal = dialect.refusal(fault, model)
    await _send_json(connection, refusal.status, refusal.body, {**JSON_HEADERS, **refusal.headers})


async def _send_paced(connection: Connection, pieces: list[bytes], pace: float) -> None:
    for number, piece in enumerate(pieces):
        if number:
            await asyncio.sleep(pace)
        await connection.send(piece)
