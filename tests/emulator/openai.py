"""OpenAI's Responses API: `POST /openai/v1/responses`."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tests.emulator.connection import HttpRequest
from tests.emulator.dialect import (
    Frame,
    Refusal,
    arguments_text,
    event,
    halves,
    new_id,
    signature_of,
)
from tests.emulator.request import Attachment, Native, Provider, Refused, Request, ToolResult, Turn, unpaired
from tests.emulator.script import (
    CodeExecution,
    Fault,
    FaultKind,
    NativeStep,
    Reply,
    ToolCall,
    UrlContext,
    Usage,
    WebSearch,
)

# kind: status, type, code, message
ERRORS: Final[Mapping[FaultKind, tuple[int, str, str | None, str]]] = {
    "invalid_request": (400, "invalid_request_error", None, "Invalid request."),
    "context_window": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
    ),
    "authentication": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: test-key."),
    "permission": (403, "invalid_request_error", None, "You do not have access to this model."),
    "not_found": (404, "invalid_request_error", "model_not_found", "The model does not exist."),
    "rate_limit": (429, "requests", "rate_limit_exceeded", "Rate limit reached on requests per min (RPM): Limit 3."),
    "quota": (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota."),
    "server_error": (500, "server_error", "server_error", "The server had an error while processing your request."),
    "unavailable": (503, "server_error", None, "The server is not available now."),
    "overloaded": (
        503,
        "service_unavailable_error",
        "server_is_overloaded",
        "Our servers are currently overloaded. Please try again later.",
    ),
}

NATIVE_TOOLS: Final[Mapping[str, Native]] = {"web_search": "web_search", "code_interpreter": "code_execution"}


class Responses:
    """The dialect of the Responses API."""

    provider: Provider = "openai"

    def read(self, http: HttpRequest) -> Request:
        body = json_object(http)
        turns = tuple(_turns(body.get("input", "")))
        orphan, unanswered = unpaired(turns)
        if orphan:
            raise Refused(f"No tool call found for function call output with call_id {orphan}.")
        if unanswered:
            raise Refused(f"No tool output found for function call {unanswered}.")
        if not turns:
            raise Refused("Missing required parameter: 'input'.")
        tools = body.get("tools") or []
        return Request(
            provider="openai",
            api="responses",
            path=http.path,
            model=body["model"],
            stream=bool(body.get("stream")),
            body=body,
            system=_system(body),
            turns=turns,
            tools=tuple(tool["name"] for tool in tools if tool["type"] == "function"),
            native_tools=tuple(NATIVE_TOOLS[tool["type"]] for tool in tools if tool["type"] in NATIVE_TOOLS),
            thinking=body.get("reasoning") or {},
        )

    def frames(self, request: Request, reply: Reply, usage: Usage) -> list[Frame]:
        events = _Events()
        output = _output(request, reply)
        envelope = _envelope(request)
        events.add("response.created", response=envelope)
        events.add("response.in_progress", response=envelope)
        for index, item in enumerate(output):
            _stream_item(events, index, item, reply)
        last = _finished(envelope, output, reply, usage)
        events.add(f"response.{last['status']}", response=last)
        return events.frames

    def whole(self, request: Request, reply: Reply, usage: Usage) -> dict[str, Any]:
        return _finished(_envelope(request), _output(request, reply), reply, usage)

    def refusal(self, fault: Fault, model: str) -> Refusal:
        return refusal(fault)

    def broken(self, fault: Fault, request: Request, position: int) -> bytes:
        _, error_type, code, message = ERRORS[fault.category]
        error = {"code": code or error_type, "message": fault.message or message}
        response = {**_envelope(request), "status": "failed", "error": error}
        fields = {"type": "response.failed", "sequence_number": position, "response": response}
        return event("response.failed", fields)

    def garbage(self) -> bytes:
        return b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":\n\n'


class _Events:
    """A stream in the making: every event carries its number."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def add(self, name: str, /, *, shown: bool = False, **fields: Any) -> None:
        value = {"type": name, "sequence_number": len(self.frames), **fields}
        self.frames.append(Frame(event(name, value), shown))


def json_object(http: HttpRequest) -> dict[str, Any]:
    """The body of a request, for both of OpenAI's APIs."""
    try:
        body = json.loads(http.body)
    except ValueError:
        raise Refused("We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise Refused("you must provide a model parameter")
    return body


def refusal(fault: Fault) -> Refusal:
    """An error answer, for both of OpenAI's APIs."""
    status, error_type, code, message = ERRORS[fault.category]
    headers = {"x-request-id": new_id("req_")}
    if fault.retry_after is not None:
        headers["retry-after"] = f"{fault.retry_after:g}"
        headers["retry-after-ms"] = f"{fault.retry_after * 1000:g}"
    error = {"message": fault.message or message, "type": error_type, "param": None, "code": code}
    return Refusal(fault.status or status, {"error": error}, headers)


def attachment(part: Mapping[str, Any]) -> Attachment | None:
    """An image or file of a message, for both of OpenAI's APIs."""
    image = part.get("image_url")
    where = image.get("url") if isinstance(image, dict) else image
    file = part.get("file", part)
    where = where or file.get("file_data") or file.get("file_url")
    if not where:
        return None
    if not where.startswith("data:"):
        return Attachment("image/*" if image else "application/octet-stream", url=where)
    media_type, _, data = where.removeprefix("data:").partition(";base64,")
    return Attachment(media_type, data=base64.b64decode(data))


def content_text(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    """The text of a message, for both of OpenAI's APIs."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if isinstance(part.get("text"), str))


def content_attachments(content: str | Sequence[Mapping[str, Any]] | None) -> tuple[Attachment, ...]:
    parts = () if isinstance(content, str) or content is None else content
    return tuple(found for part in parts if (found := attachment(part)) is not None)


def url_citations(reply: Reply) -> list[dict[str, Any]]:
    """Where in the joined text each citation's delta is, for both of OpenAI's APIs."""
    deltas = reply.text_deltas
    starts = [sum(map(len, deltas[:number])) for number in range(len(deltas))]
    return [
        {
            "type": "url_citation",
            "start_index": starts[citation.delta],
            "end_index": starts[citation.delta] + len(deltas[citation.delta]),
            "url": citation.url,
            "title": citation.title,
        }
        for citation in reply.citations
    ]


def _system(body: Mapping[str, Any]) -> str:
    items = body["input"] if isinstance(body.get("input"), list) else []
    said = [content_text(item["content"]) for item in items if item.get("role") in ("system", "developer")]
    return "\n\n".join(text for text in (body.get("instructions") or "", *said) if text)


def _turns(items: str | Sequence[Mapping[str, Any]]) -> Iterable[Turn]:
    if isinstance(items, str):
        if items:
            yield Turn(role="user", text=items)
        return
    for item in items:
        kind = item.get("type", "message")
        if kind == "message" and item["role"] in ("user", "assistant"):
            content = item["content"]
            yield Turn(role=item["role"], text=content_text(content), attachments=content_attachments(content))
        elif kind == "function_call":
            call = ToolCall(item["name"], _arguments(item["arguments"]), item["call_id"])
            yield Turn(role="assistant", tool_calls=(call,))
        elif kind == "function_call_output":
            output = item["output"]
            result = ToolResult(item["call_id"], content_text(output))
            yield Turn(role="user", tool_results=(result,), attachments=content_attachments(output))
        elif kind == "reasoning":
            yield Turn(role="assistant", reasoning="".join(part["text"] for part in item["summary"]))


def _arguments(text: str) -> Mapping[str, Any] | str:
    try:
        parsed = json.loads(text)
    except ValueError:
        return text
    return parsed if isinstance(parsed, dict) else text


def _envelope(request: Request) -> dict[str, Any]:
    body = request.body
    return {
        "id": f"resp_{request.id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": request.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": body.get("reasoning"),
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools", []),
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "metadata": {},
    }


def _finished(envelope: dict[str, Any], output: list[dict[str, Any]], reply: Reply, usage: Usage) -> dict[str, Any]:
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    searches = sum(isinstance(step, WebSearch) for step in reply.native)
    return {
        **envelope,
        "status": "completed" if reply.finish == "stop" else "incomplete",
        "incomplete_details": None if reply.finish == "stop" else {"reason": reasons[reply.finish]},
        "output": output,
        "usage": _usage(usage) if usage.reported else None,
        **({"tool_usage": {"web_search": {"num_requests": searches}}} if searches else {}),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached_read, "cache_write_tokens": usage.cached_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


def _output(request: Request, reply: Reply) -> list[dict[str, Any]]:
    include = request.body.get("include") or []
    output = []
    if reply.reasoning_deltas:
        output.append(_reasoning(request, reply, encrypted="reasoning.encrypted_content" in include))
    output.extend(_native(step, include) for step in reply.native)
    if reply.text_deltas:
        part = {"type": "output_text", "text": "".join(reply.text_deltas), "annotations": url_citations(reply)}
        message = {"id": new_id("msg_"), "type": "message", "status": "completed", "role": "assistant"}
        output.append({**message, "content": [part]})
    output.extend(
        {
            "id": new_id("fc_"),
            "type": "function_call",
            "status": "completed",
            "call_id": call.id or new_id("call_"),
            "name": call.name,
            "arguments": arguments_text(call),
        }
        for call in reply.tool_calls
    )
    return output


def _reasoning(request: Request, reply: Reply, *, encrypted: bool) -> dict[str, Any]:
    text = "".join(reply.reasoning_deltas)
    summary = [{"type": "summary_text", "text": text}] if request.thinking.get("summary") else []
    item: dict[str, Any] = {"id": new_id("rs_"), "type": "reasoning", "summary": summary}
    return {**item, "encrypted_content": signature_of(text)} if encrypted else item


def _native(step: NativeStep, include: Sequence[str]) -> dict[str, Any]:
    if isinstance(step, UrlContext):
        raise TypeError("OpenAI has no tool that fetches a page")
    if isinstance(step, CodeExecution):
        shown = "code_interpreter_call.outputs" in include
        return {
            "id": new_id("ci_"),
            "type": "code_interpreter_call",
            "status": "completed",
            "code": step.code,
            "container_id": new_id("cntr_"),
            "outputs": [{"type": "logs", "logs": step.output}] if shown else None,
        }
    action: dict[str, Any] = {"type": "search", "query": step.query, "queries": [step.query]}
    if "web_search_call.action.sources" in include:
        action["sources"] = [{"type": "url", "url": source.url} for source in step.sources]
    return {"id": new_id("ws_"), "type": "web_search_call", "status": "completed", "action": action}


def _stream_item(events: _Events, index: int, item: dict[str, Any], reply: Reply) -> None:
    begun = {**item, **_EMPTY[item["type"]]}
    if "status" in item:
        begun["status"] = "in_progress"
    events.add("response.output_item.added", output_index=index, item=begun)
    at = {"item_id": item["id"], "output_index": index}
    match item["type"]:
        case "reasoning":
            _stream_summary(events, at, item, reply)
        case "message":
            _stream_text(events, at, item, reply)
        case "function_call":
            for piece in halves(item["arguments"]):
                events.add("response.function_call_arguments.delta", shown=True, **at, delta=piece)
            done = {"name": item["name"], "arguments": item["arguments"]}
            events.add("response.function_call_arguments.done", **at, **done)
        case "web_search_call":
            for state in ("in_progress", "searching", "completed"):
                events.add(f"response.web_search_call.{state}", shown=state == "searching", **at)
        case "code_interpreter_call":
            _stream_code(events, at, item)
    events.add("response.output_item.done", output_index=index, item=item)


_EMPTY: Final[Mapping[str, dict[str, Any]]] = {
    "reasoning": {"summary": []},
    "message": {"content": []},
    "function_call": {"arguments": ""},
    "web_search_call": {},
    "code_interpreter_call": {"code": "", "outputs": None},
}


def _stream_summary(events: _Events, at: dict[str, Any], item: dict[str, Any], reply: Reply) -> None:
    if not item["summary"]:
        return
    at = {**at, "summary_index": 0}
    events.add("response.reasoning_summary_part.added", **at, part={"type": "summary_text", "text": ""})
    for delta in reply.reasoning_deltas:
        events.add("response.reasoning_summary_text.delta", shown=True, **at, delta=delta)
    events.add("response.reasoning_summary_text.done", **at, text=item["summary"][0]["text"])
    events.add("response.reasoning_summary_part.done", **at, part=item["summary"][0])


def _stream_text(events: _Events, at: dict[str, Any], item: dict[str, Any], reply: Reply) -> None:
    part = item["content"][0]
    at = {**at, "content_index": 0}
    events.add("response.content_part.added", **at, part={**part, "text": "", "annotations": []})
    for delta in reply.text_deltas:
        events.add("response.output_text.delta", shown=True, **at, delta=delta, logprobs=[])
    for number, annotation in enumerate(part["annotations"]):
        events.add("response.output_text.annotation.added", **at, annotation_index=number, annotation=annotation)
    events.add("response.output_text.done", **at, text=part["text"], logprobs=[])
    events.add("response.content_part.done", **at, part=part)


def _stream_code(events: _Events, at: dict[str, Any], item: dict[str, Any]) -> None:
    events.add("response.code_interpreter_call.in_progress", **at)
    for piece in halves(item["code"]):
        events.add("response.code_interpreter_call_code.delta", shown=True, **at, delta=piece)
    events.add("response.code_interpreter_call_code.done", **at, code=item["code"])
    events.add("response.code_interpreter_call.interpreting", **at)
    events.add("response.code_interpreter_call.completed", **at)
