"""The people's side of the soak: requests that know what may come back, and the record of what did."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, Self

import httpx

PATIENCE_SECONDS: Final = 90.0
# The server closes a kept connection after five seconds, so it is given up before.
KEPT_SECONDS: Final = 3.0
SHOWN_PROBLEMS: Final = 20
OK: Final = frozenset({200})


@dataclass
class Record:
    """What came back: how often by route and status, how long it took in milliseconds, and what should not have."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    unexpected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    deeds: Counter[str] = field(default_factory=Counter)
    deleted_while_answered: int = 0

    def note(self, route: str, status: int, started: float) -> None:
        self.statuses[route, status] += 1
        self.milliseconds[route].append((time.perf_counter() - started) * 1000)

    def complain(self, what: str, example: str = "") -> None:
        """Something is off; the first example of each kind is kept."""
        self.unexpected[what] += 1
        self.examples.setdefault(what, example[:1500])


@dataclass
class Answer:
    """A streamed answer as far as it was read."""

    status: int
    session: str = ""
    types: Counter[str] = field(default_factory=Counter)
    is_done: bool = False


class Client:
    """Sends requests for whoever has the token; one for all people."""

    def __init__(self, port: int, record: Record) -> None:
        self.record = record
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            timeout=PATIENCE_SECONDS,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=40, keepalive_expiry=KEPT_SECONDS),
            trust_env=False,
        )
        # People do not share a browser.
        self._http.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(
        self,
        token: str | None,
        method: str,
        route: str,
        *,
        expect: Collection[int] = OK,
        body: Any = None,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        **places: str,
    ) -> httpx.Response:
        """One request; `places` fill in the route's. Whatever status is not expected is on record."""
        started = time.perf_counter()
        response = await self._http.request(
            method,
            route.format(**places),
            json=body,
            params=params,
            headers=_authorization(token) | (headers or {}),
        )
        self._judge(f"{method} {route}", response, started, expect)
        return response

    async def upload(self, form: dict[str, Any], name: str, data: bytes) -> None:
        """Posts a file by its form."""
        started = time.perf_counter()
        response = await self._http.post(form["url"], data=form["fields"], files={"file": (name, data)})
        self._judge("POST (upload form)", response, started, {204})

    async def download(self, url: str) -> bytes:
        started = time.perf_counter()
        response = await self._http.get(url)
        self._judge("GET (download address)", response, started, OK)
        return response.content

    @asynccontextmanager
    async def stream(
        self,
        token: str | None,
        method: str,
        route: str,
        *,
        expect: Collection[int] = OK,
        body: Any = None,
        **places: str,
    ) -> AsyncIterator[httpx.Response]:
        """A request whose answer is read as it comes; leaving the block leaves the server."""
        started = time.perf_counter()
        async with self._http.stream(
            method, route.format(**places), json=body, headers=_authorization(token)
        ) as response:
            if response.status_code not in expect:
                await response.aread()
            self._judge(f"{method} {route}", response, started, expect)
            yield response

    async def say(
        self, token: str | None, body: dict[str, Any], *, expect: Collection[int] = OK, may_break: bool = False
    ) -> Answer:
        """Says something and reads the answer to its end; only where it `may_break` an error is none."""
        async with self.stream(token, "POST", "/api/chat", expect=expect, body=body) as response:
            return await self.read(response, may_break=may_break)

    async def follow(self, token: str | None, session: str) -> Answer:
        """Follows whatever answer is running, to its end."""
        route = "/api/chat/{session}/stream"
        async with self.stream(token, "GET", route, expect={200, 204}, session=session) as response:
            return await self.read(response, may_break=True)

    async def read(
        self,
        response: httpx.Response,
        *,
        may_break: bool = False,
        once_it_speaks: Callable[[], Awaitable[object]] | None = None,
    ) -> Answer:
        """A streamed answer, which has to come to its end; meanwhile something may be done once it has begun."""
        answer = Answer(response.status_code, response.headers.get("x-session-id", ""))
        if response.status_code != 200:
            await response.aread()
            return answer
        async for event in events_of(response):
            answer.types[event["type"]] += 1
            if event["type"] == "error" and not may_break:
                self.record.complain("an answer broke off", json.dumps(event))
            if event["type"] == "text-delta" and once_it_speaks is not None:
                done, once_it_speaks = once_it_speaks, None
                await done()
        answer.is_done = answer.types["[DONE]"] == 1
        if not answer.is_done:
            self.record.complain("a stream ended without its end", str(dict(answer.types)))
        return answer

    def _judge(self, route: str, response: httpx.Response, started: float, expect: Collection[int]) -> None:
        self.record.note(route, response.status_code, started)
        if response.status_code not in expect:
            self.record.complain(f"{route}: {response.status_code}", response.text)


async def events_of(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream; the mark at its end is one of the type `[DONE]`."""
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            yield {"type": "[DONE]"}
        elif line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def first_words(response: httpx.Response) -> None:
    """Reads until the answer has begun to say something, or is over."""
    async for event in events_of(response):
        if event["type"] in ("text-delta", "[DONE]"):
            return


def _authorization(token: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


async def both(first: Any, second: Any) -> tuple[Any, Any]:
    """Two requests at once."""
    one, other = await asyncio.gather(first, second)
    return one, other
