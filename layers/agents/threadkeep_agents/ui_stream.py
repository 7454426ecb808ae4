"""The AI SDK's UI message stream: an agent's events as its chunks, and chunks as the parts of a message.

Chunks are written as version 5 of the SDK reads them, which 6 and 7 read as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic_ai.exceptions import RunCancelled
from pydantic_ai.messages import FunctionToolResultEvent
from pydantic_ai.ui.vercel_ai import VercelAIEventStream
from pydantic_ai.ui.vercel_ai.response_types import (
    BaseChunk,
    DoneChunk,
    ErrorChunk,
    FinishChunk,
    MessageMetadataChunk,
    ReasoningDeltaChunk,
    StartChunk,
    TextDeltaChunk,
)

SDK_VERSION: Final = 5
HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
    "x-vercel-ai-ui-message-stream": "v1",
}
DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"
# None is a value here, as of a tool that returns nothing; clients refuse a chunk that lacks one of these.
VALUES: Final = frozenset({"input", "output", "data"})
UNANSWERED: Final = "The turn ended before the tool did."


class ChunkStream(VercelAIEventStream[Any, Any]):
    """The library's encoder with our edges: our start, no provider metadata, and no end before the turn's Finish.

    `late_results` has by its id what a call had done when the turn ended around it.
    """

    def __init__(self, start: StartChunk, late_results: Mapping[str, Any]) -> None:
        super().__init__(sdk_version=SDK_VERSION)
        self._start = start
        self._late_results = late_results
        self.failure: Exception | None = None

    async def before_stream(self) -> AsyncIterator[BaseChunk]:
        yield self._start

    async def handle_function_tool_result(self, event: FunctionToolResultEvent) -> AsyncIterator[BaseChunk]:
        """A call around which the turn ended has failed, but for what it had done; the library has it succeed."""
        part = event.part
        if part.tool_call_id in self._late_results:
            part = replace(part, content=self._late_results[part.tool_call_id], outcome="success")
        elif part.outcome == "interrupted":
            part = replace(part, content=UNANSWERED, outcome="failed")
        async for chunk in super().handle_function_tool_result(replace(event, part=part)):
            yield chunk

    async def on_error(self, error: Exception) -> AsyncIterator[BaseChunk]:
        """Closes open tool calls; what the client is told is decided by the turn, in our words."""
        self.failure = error
        async for chunk in super().on_error(error):
            if not isinstance(chunk, ErrorChunk):
                yield chunk

    async def on_cancelled(self, cancelled: RunCancelled) -> AsyncIterator[BaseChunk]:
        self.failure = cancelled
        return
        yield  # marks an async generator

    async def after_stream(self) -> AsyncIterator[BaseChunk]:
        async for chunk in super().after_stream():
            if not isinstance(chunk, FinishChunk | DoneChunk):
                yield chunk

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped, in the AI SDK's words."""
        return self._finish_reason


def event_of(chunk: BaseChunk) -> dict[str, Any] | None:
    """A chunk as the JSON object that clients get; None for one that is not passed on."""
    if isinstance(chunk, TextDeltaChunk | ReasoningDeltaChunk):
        # Most chunks are these, and the general way costs ten times as much.
        return {"type": chunk.type, "id": chunk.id, "delta": chunk.delta}
    if isinstance(chunk, MessageMetadataChunk):
        return None
    event: dict[str, Any] = chunk.model_dump(mode="json", by_alias=True, exclude_none=True)
    for name in VALUES & type(chunk).model_fields.keys():
        event.setdefault(name, None)
    # It is for the provider alone and may be large; the server keeps the history, so no client sends it back.
    event.pop("providerMetadata", None)
    return event


class WithoutEmptyReasoning:
    """Lets reasoning begin with its first word: a provider may announce some and show none."""

    def __init__(self) -> None:
        self._announced: dict[str, dict[str, Any]] = {}

    def pass_on(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """What of it goes on now."""
        kind = event["type"]
        if kind == "reasoning-start":
            self._announced[event["id"]] = event
            return []
        if kind == "reasoning-delta" and (start := self._announced.pop(event["id"], None)):
            return [start, event]
        if kind == "reasoning-end" and self._announced.pop(event["id"], None):
            return []
        return [event]


def start_event(answer: str, metadata: dict[str, Any]) -> StartChunk:
    """The first chunk of an answer."""
    return StartChunk(message_id=answer, message_metadata=metadata)


def finish_events(metadata: dict[str, Any], *, error_text: str | None, is_aborted: bool) -> list[dict[str, Any]]:
    """The last events of an answer: what went wrong if anything did, then its metadata.

    Why it ended is in the metadata only: the first releases of version 5 refuse a `finishReason` beside it.
    """
    events: list[dict[str, Any]] = []
    if error_text is not None:
        # The SDK reads nothing after an error.
        events.append({"type": "message-metadata", "messageMetadata": metadata})
        events.append({"type": "error", "errorText": error_text})
    elif is_aborted:
        events.append({"type": "abort"})
    events.append({"type": "finish", "messageMetadata": metadata})
    return events


class Parts:
    """The parts of a message, put together from its events as the AI SDK's client does it."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []
        self._open: dict[str, dict[str, Any]] = {}
        self._pieces: dict[str, list[str]] = {}
        self._tools: dict[str, dict[str, Any]] = {}

    def add(self, event: dict[str, Any]) -> None:
        """Takes one event; one that belongs to no part is let pass."""
        kind: str = event["type"]
        if kind in {"text-delta", "reasoning-delta"}:
            self._pieces[event["id"]].append(event["delta"])
        elif kind in {"text-start", "reasoning-start"}:
            part = {"type": kind.removesuffix("-start"), "text": "", "state": "done"}
            self._open[event["id"]] = part
            self._pieces[event["id"]] = []
            self._parts.append(part)
        elif kind in {"text-end", "reasoning-end"}:
            self._close(event["id"])
        elif kind.startswith("tool-"):
            self._add_tool(kind, event)
        elif kind == "start-step":
            self._parts.append({"type": "step-start"})
        elif kind in {"source-url", "source-document", "file"} or (
            kind.startswith("data-") and not event.get("transient")
        ):
            self._parts.append(event)

    def finished(self) -> list[dict[str, Any]]:
        """The parts as they are stored; a tool that never answered is marked as failed."""
        for text_id in list(self._open):
            self._close(text_id)
        for tool in self._tools.values():
            if tool["state"] not in {"output-available", "output-error"}:
                tool["state"] = "output-error"
                tool["errorText"] = UNANSWERED
        return [part for part in self._parts if part["type"] not in {"text", "reasoning"} or part["text"]]

    def _close(self, text_id: str) -> None:
        part = self._open.pop(text_id, None)
        if part is not None:
            part["text"] = "".join(self._pieces.pop(text_id))

    def _add_tool(self, kind: str, event: dict[str, Any]) -> None:
        call_id = event["toolCallId"]
        tool = self._tools.get(call_id)
        if kind in {"tool-input-start", "tool-input-available"} and tool is None:
            tool = {"type": f"tool-{event['toolName']}", "toolCallId": call_id, "state": "input-streaming"}
            self._tools[call_id] = tool
            self._parts.append(tool)
        if tool is None:
            return
        if kind == "tool-input-available":
            tool |= {"state": "input-available", "input": event["input"]}
        elif kind == "tool-output-available":
            tool |= {"state": "output-available", "output": event["output"]}
        elif kind == "tool-output-error":
            tool |= {"state": "output-error", "errorText": event["errorText"]}
        if event.get("providerExecuted"):
            tool["providerExecuted"] = True


def replay_events(answer: str, parts: list[dict[str, Any]], metadata: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a stored answer, as if it were said once more at once."""
    start: dict[str, Any] = {"type": "start", "messageId": answer}
    if "sessionId" in metadata:
        start["messageMetadata"] = {"sessionId": metadata["sessionId"]}
    yield start
    has_step = False
    for position, part in enumerate(parts):
        kind: str = part["type"]
        if kind == "step-start":
            if has_step:
                yield {"type": "finish-step"}
            has_step = True
            yield {"type": "start-step"}
        elif kind in {"text", "reasoning"}:
            part_id = str(position)
            yield {"type": f"{kind}-start", "id": part_id}
            yield {"type": f"{kind}-delta", "id": part_id, "delta": part["text"]}
            yield {"type": f"{kind}-end", "id": part_id}
        elif kind.startswith("tool-"):
            yield from _replayed_tool(part)
        else:
            yield part
    if has_step:
        yield {"type": "finish-step"}
    yield {"type": "finish", "messageMetadata": metadata}


def _replayed_tool(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    call: dict[str, Any] = {"toolCallId": part["toolCallId"]}
    if part.get("providerExecuted"):
        call["providerExecuted"] = True
    name = part["type"].removeprefix("tool-")
    yield {"type": "tool-input-available", **call, "toolName": name, "input": part.get("input")}
    if part["state"] == "output-available":
        yield {"type": "tool-output-available", **call, "output": part.get("output")}
    else:
        yield {"type": "tool-output-error", **call, "errorText": part.get("errorText", "")}
