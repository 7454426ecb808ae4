"""What a running turn says, to all who follow it in this process: from its start, then live."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Final

from threadkeep_agents.ui_stream import DONE, KEEP_ALIVE

SILENCE_SECONDS: Final = 10.0
PACE_SECONDS: Final = 0.01

# An event in the form in which it is sent and kept.
as_line: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Broadcast:
    """The events of one answer, as JSON lines in their order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._has_ended = asyncio.Event()

    def say(self, line: str) -> None:
        """One more event."""
        self.lines.append(line)
        self._wake()

    def end(self, last_lines: list[str]) -> None:
        """The last events; nothing follows."""
        self.lines += last_lines
        self._has_ended.set()
        self._wake()

    async def follow(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events from its start, live, with a comment line in every 10 s of silence."""
        position = 0
        has_spoken = False
        while True:
            if position < len(self.lines):
                batch = self.lines[position:]
                position = len(self.lines)
                yield as_sse(batch)
                # The first words go out at once; from then on a packet holds what 10 ms bring.
                has_spoken = has_spoken or any("-delta" in line for line in batch)
                if has_spoken and not self._has_ended.is_set():
                    await is_set_within(self._has_ended, PACE_SECONDS)
            elif self._has_ended.is_set():
                break
            elif not await self._more_within(SILENCE_SECONDS):
                yield KEEP_ALIVE
        yield DONE

    def _wake(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    async def _more_within(self, seconds: float) -> bool:
        more: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(more)
        try:
            async with asyncio.timeout(seconds):
                await more
        except TimeoutError:
            return False
        return True


def as_sse(lines: list[str]) -> bytes:
    """JSON lines as server-sent events."""
    return "".join([f"data: {line}\n\n" for line in lines]).encode()


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event so long; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
