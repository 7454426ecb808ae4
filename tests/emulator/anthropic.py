"""Anthropic's Messages API: `POST /anthropic/v1/messages`."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from tests.emulator.connection import HttpRequest
from tests.emulator.dialect import Frame, Refusal, arguments_text, event, halves, new_id, signature_of
from tests.emulator.request import Attachment, Native, Provider, Refused, Request, ToolResult, Turn, unpaired
from tests.emulator.script import (
    Citation,
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

# kind: status, type, message
ERRORS: Final[Mapping[FaultKind, tuple[int, str, str]]] = {
    "invalid_request": (400, "invalid_request_error", "Invalid request."),
    "context_window": (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
    "authentication": (401, "authentication_error", "invalid x-api-key"),
    "permission": (403, "permission_error", "Your API key does not have permission to use this resource."),
    "not_found": (404, "not_found_error", "model: unknown"),
    "rate_limit": (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
    "quota": (402, "billing_error", "Your credit balance is too low to access the Anthropic API."),
    "server_error": (500, "api_error", "Internal server error"),
    "unavailable": (503, "api_error", "Service unavailable"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
}

NATIVE_TOOLS: Final[Mapping[str, Native]] = {
    "web_search": "web_search",
    "web_fetch": "url_context",
    "code_execution": "code_execution",
}

# Up to these the API shows thinking by default, and does not think unasked; later models do the opposite of both.
OLDER_MODELS: Final = re.compile(r"claude-(3|haiku-4|sonnet-4|opus-4(-2|-1|-5|-6|$))")


class Messages:
    """The dialect of the Messages API."""

    provider: Provider = "anthropic"

    def read(self, http: HttpRequest) -> Request:
        body = _json_object(http)
        turns = tuple(_turn(message) for message in body["messages"] if message["role"] != "system")
        orphan, unanswered = unpaired(turns)
        if orphan:
            raise Refused(f"unexpected `tool_use_id` found in `tool_result` blocks: {orphan}.")
        if unanswered:
            raise Refused(f"`tool_use` ids were found without `tool_result` blocks immediately after: {unanswered}.")
        if not turns:
            raise Refused("messages: at least one message is required")
        tools = body.get("tools") or []
        return Request(
            provider="anthropic",
            api="messages",
            path=http.path,
            model=body["model"],
            stream=bool(body.get("stream")),
            body=body,
            system=_system(body),
            turns=turns,
            tools=tuple(tool["name"] for tool in tools if tool.get("type", "custom") == "custom"),
            native_tools=tuple(
                NATIVE_TOOLS[tool["name"]]
                for tool in tools
                if tool.get("type", "custom") != "custom" and tool["name"] in NATIVE_TOOLS
            ),
            thinking={name: body[name] for name in ("thinking", "output_config") if name in body},
        )

    def frames(self, request: Request, reply: Reply, usage: Usage) -> list[Frame]:
        begun = {**_message(request), "usage": _usage(replace(usage, output=1, reasoning=0), reply)}
        frames = [_frame("message_start", message=begun), _frame("ping")]
        for index, block in enumerate(_blocks(request, reply)):
            frames.append(_frame("content_block_start", index=index, content_block=block.begun))
            frames.extend(
                _frame("content_block_delta", shown=shown, index=index, delta=delta) for delta, shown in block.deltas
            )
            frames.append(_frame("content_block_stop", index=index))
        end = {"stop_reason": _stop_reason(reply), "stop_sequence": None}
        frames.append(_frame("message_delta", delta=end, usage=_usage(usage, reply)))
        frames.append(_frame("message_stop"))
        return frames

    def whole(self, request: Request, reply: Reply, usage: Usage) -> dict[str, Any]:
        return {
            **_message(request),
            "content": [block.whole for block in _blocks(request, reply)],
            "stop_reason": _stop_reason(reply),
            "usage": _usage(usage, reply),
        }

    def refusal(self, fault: Fault, model: str) -> Refusal:
        status, body = _error(fault)
        headers = {"request-id": body["request_id"]}
        if fault.retry_after is not None:
            headers["retry-after"] = f"{fault.retry_after:g}"
        return Refusal(status, body, headers)

    def broken(self, fault: Fault, request: Request, position: int) -> bytes:
        return event("error", _error(fault)[1])

    def garbage(self) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":\n\n'


def _json_object(http: HttpRequest) -> dict[str, Any]:
    if "anthropic-version" not in http.headers:
        raise Refused("anthropic-version: header is required")
    try:
        body = json.loads(http.body)
    except ValueError:
        raise Refused("The request body is not valid JSON.") from None
    for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
        if not isinstance(body, dict) or not isinstance(body.get(name), kind):
            raise Refused(f"{name}: Field required")
    return body  # type: ignore[no-any-return]


def _error(fault: Fault) -> tuple[int, dict[str, Any]]:
    status, error_type, message = ERRORS[fault.category]
    error = {"type": error_type, "message": fault.message or message}
    return fault.status or status, {"type": "error", "error": error, "request_id": new_id("req_")}


def _system(body: Mapping[str, Any]) -> str:
    said = [_text(message["content"]) for message in body["messages"] if message["role"] == "system"]
    return "\n\n".join(text for text in (_text(body.get("system") or ""), *said) if text)


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block["type"] == "text")


def _turn(message: Mapping[str, Any]) -> Turn:
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if any(block["type"] == "text" and not block["text"].strip() for block in blocks):
        raise Refused("messages: text content blocks must contain non-whitespace text")
    results = [block for block in blocks if block["type"] == "tool_result"]
    returned = [part for block in results if isinstance(block.get("content"), list) for part in block["content"]]
    return Turn(
        role=message["role"],
        text=_text(blocks),
        reasoning="".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        attachments=tuple(found for block in (*blocks, *returned) if (found := _attachment(block)) is not None),
        tool_calls=tuple(
            ToolCall(block["name"], block["input"], block["id"]) for block in blocks if block["type"] == "tool_use"
        ),
        tool_results=tuple(ToolResult(block["tool_use_id"], _text(block.get("content") or "")) for block in results),
    )


def _attachment(block: Mapping[str, Any]) -> Attachment | None:
    if block["type"] not in ("image", "document"):
        return None
    source = block["source"]
    media_type = source.get("media_type", "image/*" if block["type"] == "image" else "application/octet-stream")
    match source["type"]:
        case "base64":
            return Attachment(media_type, data=base64.b64decode(source["data"]))
        case "text":
            return Attachment(media_type, data=source["data"].encode())
        case _:
            return Attachment(media_type, url=source.get("url") or source.get("file_id"))


def _message(request: Request) -> dict[str, Any]:
    return {
        "id": f"msg_{request.id}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _usage(usage: Usage, reply: Reply) -> dict[str, Any]:
    if not usage.reported:
        return {"input_tokens": 0, "output_tokens": 0}
    searches = sum(isinstance(step, WebSearch) for step in reply.native)
    fetches = sum(isinstance(step, UrlContext) for step in reply.native)
    return {
        "input_tokens": usage.input - usage.cached_read - usage.cached_write,
        "cache_creation_input_tokens": usage.cached_write,
        "cache_read_input_tokens": usage.cached_read,
        "cache_creation": {"ephemeral_5m_input_tokens": usage.cached_write, "ephemeral_1h_input_tokens": 0},
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning} if usage.reasoning else None,
        "server_tool_use": {"web_search_requests": searches, "web_fetch_requests": fetches} if reply.native else None,
        "service_tier": "standard",
    }


def _stop_reason(reply: Reply) -> str:
    if reply.finish == "stop":
        return "tool_use" if reply.tool_calls else "end_turn"
    return "max_tokens" if reply.finish == "length" else "refusal"


@dataclass(frozen=True)
class _Block:
    """A content block as it begins in a stream, its deltas (and whether a reader sees each), and as a whole."""

    begun: dict[str, Any]
    whole: dict[str, Any]
    deltas: Sequence[tuple[dict[str, Any], bool]] = ()


def _blocks(request: Request, reply: Reply) -> Iterator[_Block]:
    if reply.reasoning_deltas and (visibility := _thinking_visibility(request)) != "none":
        yield _thinking(reply, shown=visibility == "shown")
    for step in reply.native:
        yield from _native(step)
    for deltas, citation in _cited_runs(reply):
        yield _text_block(deltas, citation)
    for call in reply.tool_calls:
        yield _tool_use("tool_use", call.id or new_id("toolu_"), call)


def _thinking(reply: Reply, *, shown: bool) -> _Block:
    signature = signature_of("".join(reply.reasoning_deltas))
    texts = reply.reasoning_deltas if shown else ()
    deltas: list[tuple[dict[str, Any], bool]] = [({"type": "thinking_delta", "thinking": text}, True) for text in texts]
    deltas.append(({"type": "signature_delta", "signature": signature}, False))
    whole = {"type": "thinking", "thinking": "".join(texts), "signature": signature}
    return _Block({**whole, "thinking": "", "signature": ""}, whole, deltas)


def _text_block(texts: Sequence[str], citation: dict[str, Any] | None) -> _Block:
    whole = {"type": "text", "text": "".join(texts), "citations": [citation] if citation else None}
    deltas: list[tuple[dict[str, Any], bool]] = [({"type": "text_delta", "text": text}, True) for text in texts]
    if citation:
        deltas.insert(0, ({"type": "citations_delta", "citation": citation}, False))
    return _Block({**whole, "text": "", "citations": [] if citation else None}, whole, deltas)


def _tool_use(kind: str, call_id: str, call: ToolCall) -> _Block:
    whole = {"type": kind, "id": call_id, "name": call.name, "input": call.arguments}
    pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in halves(arguments_text(call))]
    return _Block({**whole, "input": {}}, whole, [(piece, True) for piece in pieces])


def _thinking_visibility(request: Request) -> Literal["none", "signed", "shown"]:
    thinking = request.body.get("thinking") or {}
    older = OLDER_MODELS.match(request.model) is not None
    if thinking.get("type") == "disabled" or (not thinking and older):
        return "none"
    display = thinking.get("display") or ("summarized" if older else "omitted")
    return "signed" if display == "omitted" else "shown"


def _cited_runs(reply: Reply) -> Iterator[tuple[list[str], dict[str, Any] | None]]:
    """The text in the blocks in which the API cites: each cited delta alone, and the runs between them."""
    cited = {citation.delta: _citation(citation, reply) for citation in reply.citations}
    run: list[str] = []
    for number, delta in enumerate(reply.text_deltas):
        if number not in cited:
            run.append(delta)
            continue
        if run:
            yield run, None
        yield [delta], cited[number]
        run = []
    if run:
        yield run, None


def _citation(citation: Citation, reply: Reply) -> dict[str, Any]:
    fetched = [step for step in reply.native if isinstance(step, UrlContext)]
    for index, page in enumerate(fetched):
        if page.url == citation.url:
            return {
                "type": "char_location",
                "cited_text": page.text,
                "document_index": index,
                "document_title": page.title,
                "start_char_index": 0,
                "end_char_index": len(page.text),
                "file_id": None,
            }
    return {
        "type": "web_search_result_location",
        "cited_text": citation.title,
        "encrypted_index": signature_of(citation.url),
        "title": citation.title,
        "url": citation.url,
    }


def _native(step: NativeStep) -> Iterator[_Block]:
    call_id = new_id("srvtoolu_")
    call, found = _native_call(step)
    yield _tool_use("server_tool_use", call_id, call)
    result = {"type": f"{call.name}_tool_result", "tool_use_id": call_id, "content": found}
    yield _Block(result, result)


def _native_call(step: NativeStep) -> tuple[ToolCall, object]:
    match step:
        case WebSearch():
            found = [
                {
                    "type": "web_search_result",
                    "url": source.url,
                    "title": source.title,
                    "encrypted_content": signature_of(source.url),
                    "page_age": None,
                }
                for source in step.sources
            ]
            return ToolCall("web_search", {"query": step.query}), found
        case UrlContext():
            page = {"type": "text", "media_type": "text/plain", "data": step.text}
            document = {"type": "document", "source": page, "title": step.title, "citations": {"enabled": True}}
            fetched = {"type": "web_fetch_result", "url": step.url, "content": document, "retrieved_at": None}
            return ToolCall("web_fetch", {"url": step.url}), fetched
        case CodeExecution():
            ran = {"type": "bash_code_execution_result", "stdout": step.output, "stderr": "", "return_code": 0}
            return ToolCall("bash_code_execution", {"command": step.code}), {**ran, "content": []}


def _frame(name: str, /, *, shown: bool = False, **fields: Any) -> Frame:
    return Frame(event(name, {"type": name, **fields}), shown)
