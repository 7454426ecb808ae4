"""Deltas that arrived together go on together.

What a provider sends in one packet is decoded as many deltas, and each costs as much on its way through the agent as a
whole answer would. Nothing waits here: what has arrived is passed on at once, as one delta.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from pydantic_ai.messages import ModelResponseStreamEvent, PartDeltaEvent, TextPartDelta, ThinkingPartDelta

# A model that is faster than its client waits here, and not in memory.
MAX_WAITING: Final = 1000


class Bursts:
    """Iterates over a model's events, read by a task of its own; `close` it in every case."""

    def __init__(self, events: AsyncIterator[ModelResponseStreamEvent]) -> None:
        self._queue: asyncio.Queue[ModelResponseStreamEvent | None] = asyncio.Queue(MAX_WAITING)
        self._ready: list[ModelResponseStreamEvent | None] = []
        self._reader = asyncio.create_task(self._read(events))

    def __aiter__(self) -> Bursts:
        return self

    async def __anext__(self) -> ModelResponseStreamEvent:
        if not self._ready:
            self._ready = [await self._queue.get()]
            while not self._queue.empty():
                self._ready.append(self._queue.get_nowait())
            self._ready.reverse()
        event = self._ready.pop()
        if event is None:
            self._ready.append(None)
            await self._reader  # raises what the model raised
            raise StopAsyncIteration
        while self._ready and (merged := _merged(event, self._ready[-1])) is not None:
            event = merged
            self._ready.pop()
        return event

    async def begin(self) -> None:
        """Waits for the first event; raises what the model raised instead of one."""
        if not self._ready:
            self._ready = [await self._queue.get()]
        if self._ready[-1] is None:
            await self._reader

    async def close(self) -> None:
        """Ends the reading."""
        self._reader.cancel()
        await asyncio.wait([self._reader])
        if not self._reader.cancelled():
            self._reader.exception()

    async def _read(self, events: AsyncIterator[ModelResponseStreamEvent]) -> None:
        try:
            async for event in events:
                await self._queue.put(event)
        finally:
            if not self._queue.full():
                self._queue.put_nowait(None)
            else:
                await self._queue.put(None)


def _merged(
    event: ModelResponseStreamEvent, following: ModelResponseStreamEvent | None
) -> ModelResponseStreamEvent | None:
    """Both as one, if they are plain text of one part."""
    if (
        not isinstance(event, PartDeltaEvent)
        or not isinstance(following, PartDeltaEvent)
        or event.index != following.index
    ):
        return None
    first, second = event.delta, following.delta
    if isinstance(first, TextPartDelta) and isinstance(second, TextPartDelta):
        if first.provider_details or second.provider_details:
            return None
        return replace(event, delta=replace(first, content_delta=first.content_delta + second.content_delta))
    if isinstance(first, ThinkingPartDelta) and isinstance(second, ThinkingPartDelta):
        if any((first.provider_details, second.provider_details, first.signature_delta, second.signature_delta)):
            return None
        if first.content_delta is None or second.content_delta is None:
            return None
        return replace(event, delta=replace(first, content_delta=first.content_delta + second.content_delta))
    return None
