"""A proxy before the real server that counts how often a client waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

CHUNK: Final = 64 * 1024
# Longer than a client takes between two packets that it sends without waiting, so that they count as one.
ANSWER_DELAY: Final = 0.02

Side = Literal["client", "server"]


class Proxy:
    """Counts round trips: each time a client speaks first, or after the server did, over all connections.

    `last_sent` ends with what a client sent last.
    """

    def __init__(self, target: str) -> None:
        self._target = conninfo_to_dict(target)
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.connections = 0
        self.round_trips = 0
        self.last_sent = b""

    def reset(self) -> None:
        """Counts from 0 again; the connections stay."""
        self.connections = self.round_trips = 0

    def listens_on(self, port: int) -> None:
        login = quote(str(self._target["user"]))
        if password := self._target.get("password"):
            login += f":{quote(str(password))}"
        # Neither TLS nor Kerberos: each asks the server first whether it speaks it.
        options = urlencode({"sslmode": "disable", "gssencmode": "disable"})
        self.url = f"postgresql://{login}@127.0.0.1:{port}/{quote(str(self._target['dbname']))}?{options}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, until either side ends it."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        server_reader, server_writer = await self._connect()
        last: list[Side] = ["server"]
        ways = [
            asyncio.create_task(self._pass_on("client", reader, server_writer, last)),
            asyncio.create_task(self._pass_on("server", server_reader, writer, last)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for side in (writer, server_writer):
                side.close()
                with suppress(OSError):
                    await side.wait_closed()

    async def end(self) -> None:
        """Ends the connections that are still there."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = str(self._target["host"]), self._target.get("port") or 5432
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, int(port))

    async def _pass_on(
        self, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, last: list[Side]
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if side == "server":
                    await asyncio.sleep(ANSWER_DELAY)
                elif last[0] == "server":
                    self.round_trips += 1
                last[0] = side
                if side == "client":
                    self.last_sent = data
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def counted(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the database at `url`: connect to `proxy.url`, then read `proxy.round_trips`.

    A new connection takes some itself; warm it up, then `reset`.
    """
    proxy = Proxy(url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.listens_on(server.sockets[0].getsockname()[1])
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
        await server.wait_closed()
