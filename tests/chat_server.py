"""A running chat server for tests: the real application on a real port, over a fresh database and the emulator."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import uvicorn
from fastapi import APIRouter, FastAPI
from psycopg.rows import dict_row

from functions.chat import app as chat
from local.configuration import Keys, with_defaults
from local.token import token
from tests.emulator import Emulator
from threadkeep.settings import Settings
from threadkeep.storage import UPLOADS_PATH
from threadkeep.web import Runtime, create_app

KEYS = Keys(issuer="i" * 48, guests="g" * 48, hooks="whsec_" + "aG9vay1zZWNyZXQtb2YtMzItYnl0ZXMtaW4tdGVzdHM=")
MODELS = {"openai": "gpt-6.1-terra", "google": "gemini-3.8-flash", "anthropic": "claude-sonnet-5-5"}


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Answer:
    """A streamed answer: its events, and what came around them."""

    status: int
    headers: httpx.Headers
    events: list[dict[str, Any]]
    is_done: bool
    problem: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        return "".join(event["delta"] for event in self.events if event["type"] == "text-delta")

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = self.events[-1]["messageMetadata"]
        return metadata

    @property
    def session(self) -> UUID:
        return UUID(self.headers["x-session-id"])


@dataclass
class ChatServer:
    """One process's application under a web server."""

    app: FastAPI
    url: str
    owner_url: str
    http: httpx.AsyncClient
    tokens: dict[str, str] = field(default_factory=dict)

    def token(self, user: str = "ada", *, is_admin: bool = False) -> str:
        return self.tokens.setdefault(f"{user} {is_admin}", token(KEYS, user, is_admin=is_admin))

    def headers(self, user: str | None) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(user)}"} if user else {}

    async def say(
        self, said: str | dict[str, Any], *, user: str | None = "ada", headers: dict[str, str] | None = None
    ) -> Answer:
        """Sends one message and reads the stream to its end."""
        async with self.stream(said, user=user, headers=headers) as response:
            return await read_answer(response)

    @asynccontextmanager
    async def stream(
        self, said: str | dict[str, Any], *, user: str | None = "ada", headers: dict[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        body = {"message": said} if isinstance(said, str) else said
        async with self.http.stream(
            "POST", "/api/chat", json=body, headers=self.headers(user) | (headers or {})
        ) as response:
            yield response

    async def whole(self, said: str | dict[str, Any], *, user: str | None = "ada") -> httpx.Response:
        """Sends one message as a caller that accepts only JSON."""
        body = {"message": said} if isinstance(said, str) else said
        return await self.http.post("/api/chat", json=body, headers=self.headers(user) | {"accept": "application/json"})

    async def follow(self, session: UUID | str, *, user: str | None = "ada") -> Answer:
        async with self.http.stream("GET", f"/api/chat/{session}/stream", headers=self.headers(user)) as response:
            return await read_answer(response)

    async def stop(self, session: UUID | str, *, user: str | None = "ada") -> int:
        return (await self.http.post(f"/api/chat/{session}/stop", headers=self.headers(user))).status_code

    async def rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """What is in the database, as its owner sees it."""
        async with await psycopg.AsyncConnection.connect(
            self.owner_url, autocommit=True, row_factory=dict_row
        ) as connection:
            cursor = await connection.execute(sql.encode(), parameters)
            return await cursor.fetchall() if cursor.description else []

    async def messages(self, session: UUID) -> list[dict[str, Any]]:
        return await self.rows('select * from "Message_v2" where "chatId" = %(session)s order by seq', session=session)

    async def until(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """Asks until there are rows; a test that waits for nothing fails after half a minute."""
        async with asyncio.timeout(30):
            while not (rows := await self.rows(sql, **parameters)):  # noqa: ASYNC110 - the database rings no bell
                await asyncio.sleep(0.02)
            return rows


def user_message(text: str, message_id: str | None = None) -> dict[str, Any]:
    """A user's message as the AI SDK sends it, with an id of its making."""
    return {
        "id": message_id or uuid4().hex[:16],
        "role": "user",
        "parts": [{"type": "text", "text": text}],
    }


def settings_for(api_url: str, emulator: Emulator | None, **environ: str) -> Settings:
    given = dict(environ)
    if emulator is not None:
        given |= {
            "OPENAI_API_KEY": "test-key",
            "ANTHROPIC_API_KEY": "test-key",
            "GEMINI_API_KEY": "test-key",
            "OPENAI_BASE_URL": emulator.base_url("openai"),
            "ANTHROPIC_BASE_URL": emulator.base_url("anthropic"),
            "GEMINI_BASE_URL": emulator.base_url("google"),
        }
    given |= environ
    return Settings.load(with_defaults(given, KEYS, api_url))


@asynccontextmanager
async def running(settings: Settings, owner_url: str, *routers: APIRouter) -> AsyncIterator[ChatServer]:
    """Chat and these routers on a free port of this machine."""
    async with serving(
        create_app(chat.router, *routers, runtime=Runtime.of(settings), raw_path=UPLOADS_PATH), owner_url
    ) as chat_server:
        yield chat_server


@asynccontextmanager
async def serving(app: FastAPI, owner_url: str) -> AsyncIterator[ChatServer]:
    """An application on a free port of this machine."""
    server = _Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as http:
        try:
            yield ChatServer(app, url, owner_url, http)
        finally:
            if hasattr(app.state, "conversations"):
                await app.state.conversations.close()
            server.should_exit = True
            await serving
            await app.state.runtime.database.close()


async def read_answer(response: httpx.Response) -> Answer:
    """Reads a stream of events to its end, or the problem that came instead."""
    if response.headers.get("content-type", "").startswith("application/problem"):
        return Answer(
            response.status_code, response.headers, [], is_done=False, problem=json.loads(await response.aread())
        )
    events = [event async for event in events_of(response)]
    is_done = bool(events) and events[-1] == {"type": "[DONE]"}
    return Answer(response.status_code, response.headers, events[:-1] if is_done else events, is_done)


async def events_of(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            yield {"type": "[DONE]"}
        elif line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
