"""Google's Gemini API: `POST /google/v1beta/models/{model}:generateContent` and `:streamGenerateContent?alt=sse`."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tests.emulator.connection import HttpRequest
from tests.emulator.dialect import Frame, Refusal, compact, new_id, signature_of
from tests.emulator.request import Attachment, Native, Provider, Refused, Request, Role, ToolResult, Turn, unpaired
from tests.emulator.script import CodeExecution, Fault, FaultKind, NativeStep, Reply, ToolCall, UrlContext, Usage
from tests.emulator.script import WebSearch as WebSearchStep

# kind: status, status name, message
ERRORS: Final[Mapping[FaultKind, tuple[int, str, str]]] = {
    "invalid_request": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "context_window": (
        400,
        "INVALID_ARGUMENT",
        "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).",
    ),
    "authentication": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    "permission": (403, "PERMISSION_DENIED", "The caller does not have permission."),
    "not_found": (404, "NOT_FOUND", "models/unknown is not found for API version v1beta."),
    "rate_limit": (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota."),
    "quota": (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota."),
    "server_error": (500, "INTERNAL", "An internal error has occurred. Please retry."),
    "unavailable": (503, "UNAVAILABLE", "The service is currently unavailable."),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
}

NATIVE_TOOLS: Final[Mapping[str, Native]] = {
    "googleSearch": "web_search",
    "urlContext": "url_context",
    "codeExecution": "code_execution",
}

ROLES: Final[Mapping[str, Role]] = {"user": "user", "model": "assistant", "function": "user"}


class GenerateContent:
    """The dialect of the Gemini API; the model and whether to stream are in the path."""

    provider: Provider = "google"

    def read(self, http: HttpRequest) -> Request:
        model, _, method = http.path.rpartition("/models/")[2].partition(":")
        try:
            body = json.loads(http.body)
        except ValueError:
            raise Refused("Invalid JSON payload received.") from None
        turns = tuple(_turn(content) for content in body.get("contents") or [])
        if any(unpaired(turns)):
            raise Refused(
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
        if not turns:
            raise Refused("* GenerateContentRequest.contents: contents is not specified")
        tools = body.get("tools") or []
        system = (body.get("systemInstruction") or {}).get("parts") or []
        return Request(
            provider="google",
            api="generate",
            path=http.path,
            model=model,
            stream=method == "streamGenerateContent",
            body=body,
            system="\n\n".join(part["text"] for part in system),
            turns=turns,
            tools=tuple(
                declaration["name"] for tool in tools for declaration in tool.get("functionDeclarations") or ()
            ),
            native_tools=tuple(NATIVE_TOOLS[name] for tool in tools for name in tool if name in NATIVE_TOOLS),
            thinking=(body.get("generationConfig") or {}).get("thinkingConfig") or {},
        )

    def frames(self, request: Request, reply: Reply, usage: Usage) -> list[Frame]:
        envelope = _envelope(request)
        steps = list(_parts(request, reply))
        frames = []
        for number, (part, shown) in enumerate(steps):
            candidate = {"content": {"parts": [part], "role": "model"}, "index": 0}
            if number == 0:
                candidate |= _url_context_metadata(request, reply)
            so_far = _usage(usage, done=number / len(steps))
            frames.append(_frame({"candidates": [candidate], **so_far, **envelope}, shown=shown))
        last = {"content": {"parts": [{"text": ""}], "role": "model"}, **_end(reply)}
        frames.append(_frame({"candidates": [last], **_usage(usage), **envelope}))
        return frames

    def whole(self, request: Request, reply: Reply, usage: Usage) -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        for part, _ in _parts(request, reply):
            if parts and _joins(parts[-1], part):
                parts[-1]["text"] += part["text"]
            else:
                parts.append(part)
        content = {"content": {"parts": parts, "role": "model"}}
        candidate = {**content, **_end(reply), **_url_context_metadata(request, reply)}
        return {"candidates": [candidate], **_usage(usage), **_envelope(request)}

    def refusal(self, fault: Fault, model: str) -> Refusal:
        status, body = _error(fault, model)
        return Refusal(status, body)

    def broken(self, fault: Fault, request: Request, position: int) -> bytes:
        return _frame(_error(fault, request.model)[1]).data

    def garbage(self) -> bytes:
        return b'data: {"candidates": [{"content":\r\n\r\n'


def _error(fault: Fault, model: str) -> tuple[int, dict[str, Any]]:
    status, name, message = ERRORS[fault.category]
    status = fault.status or status
    if status == 401:
        name = "UNAUTHENTICATED"
    details: list[dict[str, Any]] = []
    if fault.category == "authentication" and status == 400:
        details.append(_detail("ErrorInfo", reason="API_KEY_INVALID", domain="googleapis.com"))
    if fault.category in ("rate_limit", "quota"):
        period = "Minute" if fault.category == "rate_limit" else "Day"
        quota = {"quotaId": f"GenerateRequestsPer{period}PerProjectPerModel", "quotaDimensions": {"model": model}}
        details.append(_detail("QuotaFailure", violations=[quota]))
    if fault.retry_after is not None:
        details.append(_detail("RetryInfo", retryDelay=f"{fault.retry_after:g}s"))
    error = {"code": status, "message": fault.message or message, "status": name}
    return status, {"error": {**error, **({"details": details} if details else {})}}


def _detail(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/google.rpc.{name}", **fields}


def _turn(content: Mapping[str, Any]) -> Turn:
    parts = content.get("parts") or []
    if not parts:
        raise Refused("* GenerateContentRequest.contents.parts: contents.parts must not be empty.")
    returned = [part["functionResponse"] for part in parts if "functionResponse" in part]
    nested = [part for response in returned for part in response.get("parts") or ()]
    return Turn(
        role=ROLES[content.get("role", "user")],
        text="\n".join(part["text"] for part in parts if "text" in part and not part.get("thought")),
        reasoning="".join(part["text"] for part in parts if "text" in part and part.get("thought")),
        attachments=tuple(found for part in (*parts, *nested) if (found := _attachment(part)) is not None),
        tool_calls=tuple(
            ToolCall(call["name"], call.get("args") or {}, call.get("id"))
            for part in parts
            if (call := part.get("functionCall"))
        ),
        tool_results=tuple(
            ToolResult(response.get("id") or response["name"], compact(response["response"]).decode())
            for response in returned
        ),
    )


def _attachment(part: Mapping[str, Any]) -> Attachment | None:
    if blob := _either(part, "inlineData"):
        standard = blob["data"].replace("-", "+").replace("_", "/")
        return Attachment(_either(blob, "mimeType"), data=base64.b64decode(standard))
    if file := _either(part, "fileData"):
        return Attachment(_either(file, "mimeType") or "application/octet-stream", url=_either(file, "fileUri"))
    return None


def _either(value: Mapping[str, Any], name: str) -> Any:
    """A field in either spelling: the SDK sends what it was given as a dictionary in snake case."""
    return value.get(name, value.get(re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)))


def _envelope(request: Request) -> dict[str, Any]:
    return {"modelVersion": request.model, "responseId": request.id}


def _frame(value: object, *, shown: bool = False) -> Frame:
    return Frame(b"data: %s\r\n\r\n" % compact(value), shown)


def _usage(usage: Usage, *, done: float = 1) -> dict[str, Any]:
    """Every chunk carries the counts so far; `done` is the part of the answer that was sent before it."""
    if not usage.reported:
        return {}
    candidates = int((usage.output - usage.reasoning) * done)
    counts: dict[str, Any] = {
        "promptTokenCount": usage.input,
        "candidatesTokenCount": candidates,
        "totalTokenCount": usage.input + usage.reasoning + candidates,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input}],
    }
    if usage.cached_read:
        counts["cachedContentTokenCount"] = usage.cached_read
        counts["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": usage.cached_read}]
    if usage.reasoning:
        counts["thoughtsTokenCount"] = usage.reasoning
    return {"usageMetadata": counts}


def _end(reply: Reply) -> dict[str, Any]:
    reasons = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
    return {"finishReason": reasons[reply.finish], "index": 0, **_grounding(reply)}


def _parts(request: Request, reply: Reply) -> Iterator[tuple[dict[str, Any], bool]]:
    """The parts in the order of the stream, and whether a reader sees something of each."""
    if _either(request.thinking, "includeThoughts"):
        for delta in reply.reasoning_deltas:
            yield {"text": delta, "thought": True}, True
    for step in reply.native:
        yield from _native(step, invocations=_reports_invocations(request))
    for delta in reply.text_deltas:
        yield {"text": delta}, True
    signature = {"thoughtSignature": signature_of("".join(reply.reasoning_deltas))} if reply.reasoning_deltas else {}
    for number, call in enumerate(reply.tool_calls):
        if isinstance(call.arguments, str):
            raise TypeError("Google's arguments are an object, not text")
        function = {"name": call.name, "args": dict(call.arguments), "id": call.id or new_id("")}
        yield {"functionCall": function, **(signature if number == 0 else {})}, True
    if signature and not reply.tool_calls:
        yield {"text": "", **signature}, False


def _joins(before: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """Whether two parts are one in an answer that is not streamed."""
    return "text" in before and set(before) == set(part) and before.get("thought") == part.get("thought")


def _reports_invocations(request: Request) -> bool:
    config = request.body.get("toolConfig") or {}
    return bool(config.get("includeServerSideToolInvocations"))


def _native(step: NativeStep, *, invocations: bool) -> Iterator[tuple[dict[str, Any], bool]]:
    call_id = new_id("")
    if isinstance(step, CodeExecution):
        yield {"executableCode": {"language": "PYTHON", "code": step.code, "id": call_id}}, True
        ran = {"outcome": "OUTCOME_OK", "output": step.output, "id": call_id}
        yield {"codeExecutionResult": ran}, True
    elif invocations:
        if isinstance(step, UrlContext):
            kind, arguments, found = "URL_CONTEXT", {"urls": [step.url]}, {"content": step.text}
        else:
            kind, arguments, found = "GOOGLE_SEARCH_WEB", {"queries": [step.query]}, {"search_suggestions": ""}
        yield {"toolCall": {"id": call_id, "toolType": kind, "args": arguments}}, True
        yield {"toolResponse": {"id": call_id, "toolType": kind, "response": found}}, True


def _url_context_metadata(request: Request, reply: Reply) -> dict[str, Any]:
    fetched = [
        {"retrievedUrl": step.url, "urlRetrievalStatus": "URL_RETRIEVAL_STATUS_SUCCESS"}
        for step in reply.native
        if isinstance(step, UrlContext)
    ]
    if not fetched or _reports_invocations(request):
        return {}
    return {"urlContextMetadata": {"urlMetadata": fetched}}


def _grounding(reply: Reply) -> dict[str, Any]:
    """Searches, sources and citations come once, with the end; segments are counted in bytes."""
    searches = [step for step in reply.native if isinstance(step, WebSearchStep)]
    if not searches and not reply.citations:
        return {}
    titles = {source.url: source.title for step in searches for source in step.sources}
    titles |= {citation.url: citation.title for citation in reply.citations}
    urls = list(titles)
    deltas = reply.text_deltas
    supports = [
        {
            "segment": _segment(deltas, citation.delta),
            "groundingChunkIndices": [urls.index(citation.url)],
        }
        for citation in reply.citations
    ]
    metadata = {
        "webSearchQueries": [step.query for step in searches],
        "groundingChunks": [{"web": {"uri": url, "title": title}} for url, title in titles.items()],
        "groundingSupports": supports,
    }
    return {"groundingMetadata": metadata}


def _segment(deltas: Sequence[str], number: int) -> dict[str, Any]:
    start = len("".join(deltas[:number]).encode())
    return {"startIndex": start, "endIndex": start + len(deltas[number].encode()), "text": deltas[number]}
