"""Chat Completions, as OpenAI and the servers that follow it speak them: `POST /openai/v1/chat/completions`.

Reasoning comes as `reasoning_content`, the field of the compatible servers; OpenAI itself shows none here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.emulator.connection import HttpRequest
from tests.emulator.dialect import Frame, Refusal, arguments_text, compact, halves, new_id
from tests.emulator.openai import (
    content_attachments,
    content_text,
    json_object,
    refusal,
    url_citations,
)
from tests.emulator.request import Provider, Refused, Request, ToolResult, Turn, unpaired
from tests.emulator.script import Fault, Reply, ToolCall, Usage


class ChatCompletions:
    """The dialect of Chat Completions."""

    provider: Provider = "openai"

    def read(self, http: HttpRequest) -> Request:
        body = json_object(http)
        messages = body.get("messages") or []
        turns = tuple(_turns(messages))
        orphan, unanswered = unpaired(turns)
        if orphan:
            raise Refused("messages with role 'tool' must be a response to a preceding message with 'tool_calls'.")
        if unanswered:
            raise Refused(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {unanswered}"
            )
        if not turns:
            raise Refused("Invalid 'messages': empty array. Expected an array with minimum length 1.")
        said = [content_text(message["content"]) for message in messages if message["role"] in ("system", "developer")]
        effort = body.get("reasoning_effort")
        return Request(
            provider="openai",
            api="chat",
            path=http.path,
            model=body["model"],
            stream=bool(body.get("stream")),
            body=body,
            system="\n\n".join(said),
            turns=turns,
            tools=tuple(tool["function"]["name"] for tool in body.get("tools") or [] if tool["type"] == "function"),
            thinking={"effort": effort} if effort else {},
        )

    def frames(self, request: Request, reply: Reply, usage: Usage) -> list[Frame]:
        envelope = _envelope(request, "chat.completion.chunk")
        frames = [_chunk(envelope, {"role": "assistant", "content": ""})]
        frames.extend(_chunk(envelope, {"reasoning_content": delta}, shown=True) for delta in reply.reasoning_deltas)
        frames.extend(_chunk(envelope, {"content": delta}, shown=True) for delta in reply.text_deltas)
        if annotations := _annotations(reply):
            frames.append(_chunk(envelope, {"annotations": annotations}))
        for index, call in enumerate(_calls(reply)):
            begun = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
            frames.append(_chunk(envelope, {"tool_calls": [begun]}))
            for piece in halves(call["function"]["arguments"]):
                more = {"index": index, "function": {"arguments": piece}}
                frames.append(_chunk(envelope, {"tool_calls": [more]}, shown=True))
        frames.append(_chunk(envelope, {}, finish=_finish(reply)))
        if usage.reported and (request.body.get("stream_options") or {}).get("include_usage"):
            frames.append(_data({**envelope, "choices": [], "usage": _usage(usage)}))
        frames.append(Frame(b"data: [DONE]\n\n"))
        return frames

    def whole(self, request: Request, reply: Reply, usage: Usage) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(reply.text_deltas) or None, "refusal": None}
        if reply.reasoning_deltas:
            message["reasoning_content"] = "".join(reply.reasoning_deltas)
        if calls := _calls(reply):
            message["tool_calls"] = calls
        if annotations := _annotations(reply):
            message["annotations"] = annotations
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply)}
        reported = {"usage": _usage(usage)} if usage.reported else {}
        return {**_envelope(request, "chat.completion"), "choices": [choice], **reported}

    def refusal(self, fault: Fault, model: str) -> Refusal:
        return refusal(fault)

    def broken(self, fault: Fault, request: Request, position: int) -> bytes:
        return b"data: %s\n\n" % compact(refusal(fault).body)

    def garbage(self) -> bytes:
        return b'data: {"object":"chat.completion.chunk","choices":[\n\n'


def _turns(messages: Sequence[Mapping[str, Any]]) -> Iterable[Turn]:
    for message in messages:
        content = message.get("content")
        match message["role"]:
            case "user":
                yield Turn(role="user", text=content_text(content), attachments=content_attachments(content))
            case "tool":
                result = ToolResult(message["tool_call_id"], content_text(content))
                yield Turn(role="user", tool_results=(result,))
            case "assistant":
                calls = tuple(
                    ToolCall(call["function"]["name"], call["function"]["arguments"], call["id"])
                    for call in message.get("tool_calls") or ()
                )
                yield Turn(
                    role="assistant",
                    text=content_text(content),
                    reasoning=message.get("reasoning_content") or "",
                    tool_calls=calls,
                )


def _envelope(request: Request, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{request.id}", "object": kind, "created": int(time.time()), "model": request.model}


def _chunk(envelope: dict[str, Any], delta: dict[str, Any], *, finish: str | None = None, shown: bool = False) -> Frame:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _data({**envelope, "choices": [choice], "usage": None}, shown=shown)


def _data(value: object, *, shown: bool = False) -> Frame:
    return Frame(b"data: %s\n\n" % compact(value), shown)


def _calls(reply: Reply) -> list[dict[str, Any]]:
    if reply.native:
        raise TypeError("Chat Completions have no tools of the provider's own")
    return [
        {
            "id": call.id or new_id("call_"),
            "type": "function",
            "function": {"name": call.name, "arguments": arguments_text(call)},
        }
        for call in reply.tool_calls
    ]


def _annotations(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"type": "url_citation", "url_citation": {name: value for name, value in citation.items() if name != "type"}}
        for citation in url_citations(reply)
    ]


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.finish == "stop" and reply.tool_calls else reply.finish


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached_read, "cache_write_tokens": usage.cached_write},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
