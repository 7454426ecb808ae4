"""A tool server that speaks MCP, made with the official SDK: GitHub's in small, which checks its bearer token."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

TOKEN = "ghp_right_token_of_ada"


@dataclass
class ToolServer:
    """What a test sets, and what the server saw."""

    url: str = ""
    fault: Literal["none", "slow", "status 500", "lists nothing", "breaks"] = "none"
    headers: list[dict[str, str]] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    open_sessions: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def tool_server() -> AsyncIterator[ToolServer]:
    """Runs on a free port of this machine until the block ends."""
    seen = ToolServer()
    app = _tools(seen).streamable_http_app()
    config = uvicorn.Config(_Guard(app, seen), host="127.0.0.1", port=0, log_config=None, lifespan="on")
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    seen.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
    try:
        yield seen
    finally:
        seen.release.set()
        server.should_exit = True
        server.force_exit = True
        await serving


def _tools(seen: ToolServer) -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("github")
    reads = ToolAnnotations(read_only_hint=True)
    writes = ToolAnnotations(read_only_hint=False)

    async def answer(name: str, **arguments: Any) -> str:
        seen.calls.append((name, arguments))
        if seen.fault == "slow":
            await seen.release.wait()
        if seen.fault == "breaks":
            raise RuntimeError("repository not found")
        return f"{name} of {arguments}"

    @server.tool(annotations=reads)
    async def get_file_contents(owner: str, repo: str, path: str) -> str:
        """Reads a file."""
        return await answer("get_file_contents", owner=owner, repo=repo, path=path)

    @server.tool(annotations=reads)
    async def list_branches(owner: str, repo: str) -> str:
        """Lists branches."""
        return await answer("list_branches", owner=owner, repo=repo)

    @server.tool(annotations=reads)
    async def search_code(query: str) -> str:
        """Searches code."""
        return await answer("search_code", query=query)

    @server.tool(annotations=writes)
    async def create_branch(owner: str, repo: str, branch: str) -> str:
        """Makes a branch."""
        return await answer("create_branch", owner=owner, repo=repo, branch=branch)

    @server.tool(annotations=writes)
    async def create_issue(owner: str, repo: str, title: str) -> str:
        """Opens an issue."""
        return await answer("create_issue", owner=owner, repo=repo, title=title)

    return server


@dataclass
class _Guard:
    """Checks the bearer token as GitHub does, and fails as it is told to."""

    app: Starlette
    seen: ToolServer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.headers.append(headers)
        if headers.get("authorization") != f"Bearer {TOKEN}":
            await PlainTextResponse("bad credentials", 401)(scope, receive, send)
        elif self.seen.fault == "status 500":
            await PlainTextResponse("broken inside", 500)(scope, receive, send)
        elif self.seen.fault == "lists nothing":
            body = await _body(receive)
            if b"tools/list" in body:
                await PlainTextResponse("broken inside", 500)(scope, receive, send)
            else:
                await self.app(scope, _again(body, receive), self._counting(scope, send))
        else:
            await self.app(scope, receive, self._counting(scope, send))

    def _counting(self, scope: Scope, send: Send) -> Send:
        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                names = {name.decode().lower() for name, _ in message["headers"]}
                asked = {name.decode().lower() for name, _ in scope["headers"]}
                if scope["method"] == "DELETE":
                    self.seen.open_sessions -= 1
                elif "mcp-session-id" in names and "mcp-session-id" not in asked:
                    self.seen.open_sessions += 1
            await send(message)

        return counted


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body on that was read already."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Any:
        return messages.pop() if messages else await receive()

    return given
