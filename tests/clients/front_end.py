"""A front end in a Node process of its own, which does what a person would do in a browser."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("front_end.mjs")
SECONDS = 60
MAX_LINE_BYTES = 1 << 22


@dataclass(frozen=True)
class Page:
    """What a person sees: the chat's messages and status, and every error that its `onError` was told."""

    id: str
    status: str
    messages: list[dict[str, Any]]
    error: str | None
    errors: list[str]
    data: list[dict[str, Any]]
    token: str | None

    @property
    def texts(self) -> list[str]:
        """The text of each message."""
        return ["".join(part.get("text", "") for part in _texts(message)) for message in self.messages]

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document that the error's message is, if the server refused."""
        assert self.error is not None
        problem: dict[str, Any] = json.loads(self.error)
        return problem


def _texts(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in message["parts"] if part["type"] == "text"]


class Chat:
    """One chat of a front end; each call returns the page once the SDK's own promise is kept."""

    def __init__(self, front_end: FrontEnd, name: str) -> None:
        self._front_end = front_end
        self._name = name

    async def send(self, text: str, *, body: dict[str, Any] | None = None, **message: Any) -> Page:
        return await self._act("send", message={"text": text, **message}, options={"body": body or {}})

    async def regenerate(self, message_id: str | None = None) -> Page:
        return await self._act("regenerate", messageId=message_id)

    async def resume(self) -> Page:
        return await self._act("resume")

    async def stop(self) -> Page:
        """The SDK's own stop, which only closes the connection."""
        return await self._act("stop")

    async def break_off(self) -> Page:
        """Ends a `breakable` connection as a network does."""
        return await self._act("breakOff")

    async def look(self) -> Page:
        return await self._act("look")

    async def until(self, text: str, status: str | None = None) -> Page:
        """The page once some message shows this text, and the chat has this status."""
        return await self._act("until", text=text, status=status)

    async def _act(self, act: str, **given: Any) -> Page:
        return await self._front_end.call(self._name, act, **given)


class FrontEnd:
    """Chats of one release of the AI SDK."""

    def __init__(self, process: asyncio.subprocess.Process, release: str) -> None:
        self.release = release
        self._process = process
        self._calls = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def open(self, api: str, token: str | None = None, **options: Any) -> Chat:
        """A new chat page; `id`, `messages` and `network` as `front_end.mjs` has them."""
        name = str(next(self._calls))
        await self.call(name, "open", api=f"{api}/api/chat", token=token, **options)
        return Chat(self, name)

    async def call(self, chat: str, act: str, **given: Any) -> Page:
        assert self._process.stdin is not None
        number = next(self._calls)
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"call": number, "chat": chat, "act": act, **given})
        self._process.stdin.write(f"{line}\n".encode())
        async with asyncio.timeout(SECONDS):
            answer = await answered
        assert "failure" not in answer, answer["failure"]
        return Page(**answer["page"])

    async def listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = json.loads(line)
            waiting = self._waiting.pop(answer["call"])
            # A test that failed meanwhile waits for nothing any more.
            if not waiting.done():
                waiting.set_result(answer)


@asynccontextmanager
async def running_front_end(release: str) -> AsyncIterator[FrontEnd]:
    """A Node process with the AI SDK of this release, as `package.json` calls it."""
    process = await asyncio.create_subprocess_exec(
        "node",
        str(PROGRAM),
        release,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=MAX_LINE_BYTES,
    )
    front_end = FrontEnd(process, release)
    listening = asyncio.create_task(front_end.listen())
    try:
        yield front_end
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await listening
