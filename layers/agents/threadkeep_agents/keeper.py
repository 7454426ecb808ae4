"""Keeps a running turn's events in the database, for those who follow it elsewhere and for its recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal
from uuid import UUID

from threadkeep import turns
from threadkeep.database import Database
from threadkeep.log import logger
from threadkeep_agents.broadcast import is_set_within
from threadkeep_agents.ledger import Ledger

COALESCE_SECONDS: Final = 0.1
COALESCE_BYTES: Final = 16 * 1024
RENEW_SECONDS: Final = 5.0
# A stream that is longer is still delivered live and stored whole in the end; only followers elsewhere see less.
MAX_KEPT_BYTES: Final = 4 * 1024 * 1024


class Keeper:
    """Writes what is new every 100 ms, renews the lease every 5 s, and reads how the stream stands.

    `stop` is called with `person` or `gone` when the turn is to end.
    """

    def __init__(
        self,
        database: Database,
        stream: UUID,
        lines: list[str],
        ledger: Ledger,
        stop: Callable[[Literal["person", "gone"]], None],
    ) -> None:
        self._database = database
        self._stream = stream
        self._lines = lines
        self._ledger = ledger
        self._stop = stop
        self._kept_lines = 0
        self._kept_bytes = 0
        self._unkept_bytes = 0
        self._has_more = asyncio.Event()
        self._must_write_now = asyncio.Event()
        self._is_finishing = False
        self.chunk_seq = 0

    def notice(self, line: str) -> None:
        """There is one more line to keep."""
        self._unkept_bytes += len(line)
        self._has_more.set()
        if self._unkept_bytes >= COALESCE_BYTES:
            self._must_write_now.set()

    def finish(self) -> None:
        """Lets `run` return without another write: Finish takes what is left."""
        self._is_finishing = True
        self._has_more.set()
        self._must_write_now.set()

    def unkept(self) -> list[str]:
        """The lines that no chunk has yet."""
        return self._lines[self._kept_lines :] if self._kept_bytes < MAX_KEPT_BYTES else []

    async def run(self) -> None:
        """Keeps until it is told to finish."""
        while not self._is_finishing:
            if await is_set_within(self._has_more, RENEW_SECONDS):
                await is_set_within(self._must_write_now, COALESCE_SECONDS)
            if not self._is_finishing:
                await self.write()

    async def write(self) -> None:
        """Writes one chunk now; one that cannot be written stays to be written."""
        self._has_more.clear()
        self._must_write_now.clear()
        self._unkept_bytes = 0
        lines = self.unkept()
        payload = "\n".join(lines) or None
        try:
            usage = self._ledger.rows() if self._ledger.has_news else None
            verdict = await turns.write_chunk(self._database, self._stream, self.chunk_seq, payload, usage)
        except Exception as error:  # noqa: BLE001 - it must not end the turn, whose Finish still has the last word
            self._ledger.is_changed = True
            logger.warning("chunk not written", exc_info=error, extra={"stream": str(self._stream)})
            return
        self._kept_lines += len(lines)
        self._kept_bytes += len(payload or "")
        self.chunk_seq += 1 if payload is not None else 0
        if verdict == "stop":
            self._stop("person")
        elif verdict == "gone":
            self._stop("gone")
