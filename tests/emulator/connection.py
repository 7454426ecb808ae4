"""HTTP/1.1 on a connection that can also be broken: closed half way, reset, or left in silence."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

Handler = Callable[["HttpRequest", "Connection"], Coroutine[Any, Any, None]]
Shortcut = Callable[["HttpRequest"], bytes | None]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request with its whole body; header names are lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """One client's connection: reads requests one after the other and lets the handler answer each.

    `shortcut` may answer a request at once with the bytes of a whole response, without a task. The handler's task
    is cancelled when the client leaves.
    """

    transport: asyncio.Transport

    def __init__(self, handler: Handler, shortcut: Shortcut, connections: set[Connection]) -> None:
        self._handler = handler
        self._shortcut = shortcut
        self._connections = connections
        self._received = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._chunked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next_request()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def start(self, status: int, headers: Mapping[str, str], *, length: int | None = None) -> None:
        """Send the head; without `length` the body is chunked and `finish` ends it."""
        self._chunked = length is None
        await self._write(head(status, headers, length=length))

    async def send(self, data: bytes) -> None:
        """Send a piece of the body at once."""
        await self._write(chunk(data) if self._chunked else data)

    async def finish(self) -> None:
        if self._chunked:
            await self._write(b"0\r\n\r\n")

    def close(self) -> None:
        """Close after what was sent, wherever the response is."""
        self.transport.close()

    def reset(self) -> None:
        """Close so that the client's next read fails with a reset."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    async def _write(self, data: bytes) -> None:
        await self._writable.wait()
        if self.transport.is_closing():
            raise ConnectionResetError
        self.transport.write(data)

    def _next_request(self) -> None:
        while self._task is None and (request := self._read()) is not None:
            if (response := self._shortcut(request)) is not None:
                self.transport.write(response)
                continue
            self._task = asyncio.get_running_loop().create_task(self._handler(request, self))
            self._task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.result()
        if not self.transport.is_closing():
            self._next_request()

    def _read(self) -> HttpRequest | None:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        start = end + 4
        stop = start + int(headers.get("content-length", 0))
        if len(self._received) < stop:
            return None
        body = bytes(self._received[start:stop])
        del self._received[:stop]
        method, target, _ = first.split(" ", 2)
        path, _, query = target.partition("?")
        return HttpRequest(method, path, query, headers, body)


def head(status: int, headers: Mapping[str, str], *, length: int | None) -> bytes:
    """The status line and headers of a response, chunked if it has no length."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:  # 529 is Anthropic's own
        phrase = "Overloaded"
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [f"HTTP/1.1 {status} {phrase}", framing, *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
