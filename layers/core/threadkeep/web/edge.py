"""The outermost layer of every application: correlation, body checks, guest headers and one log line a request.

It is plain ASGI, because it stands around streams that a response middleware would buffer.
"""

from __future__ import annotations

import json
import math
import re
import time
from typing import Final
from uuid import UUID, uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from threadkeep.errors import FieldError, ThreadkeepError
from threadkeep.log import logger
from threadkeep.settings import Settings
from threadkeep.web.problems import broken_off, problem_response, unexpected

CORRELATION_HEADER: Final = "x-correlation-id"
GUEST_HEADER: Final = "x-guest-token"
GUEST_COOKIE: Final = "threadkeep_guest"
MAX_JSON_DEPTH: Final = 64

_JSON_TYPE: Final = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;|$)", re.IGNORECASE)
# What PostgreSQL stores in no text: U+0000, and surrogates without their partner.
_UNSTORABLE_ESCAPE: Final = re.compile(rb"\\u(?:0000|[dD][89abAB][0-9a-fA-F]{2}|[dD][c-fC-F][0-9a-fA-F]{2})")
# Not JSON, or beyond what a float holds: Python reads both, and jsonb stores neither.
_UNSTORABLE_NUMBER: Final = re.compile(rb"NaN|Infinity|[eE]\+?\d{3}")
_STRING_OR_BRACKET: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')


class AnswerBrokenOffError(Exception):
    """An answer failed when a part of it was sent; why is in the logs."""


class Edge:
    """Wraps an application; sets `scope["state"]["correlation_id"]` and answers bad bodies itself."""

    def __init__(self, app: ASGIApp, settings: Settings, raw_path: str | None = None) -> None:
        self._app = app
        self._settings = settings
        self._raw_path = raw_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        state["correlation_id"] = correlation_id = _correlation_id(headers)
        started = time.perf_counter()
        status = 500
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, has_started
            if message["type"] == "http.response.start":
                status = message["status"]
                has_started = True
                answer = MutableHeaders(scope=message)
                answer[CORRELATION_HEADER] = str(correlation_id)
                if (status < 400 or status == 401) and state.get("guest_cookie_ended", False):
                    _set_guest_cookie(answer, "", seconds=0, secure=_is_https(scope, headers))
                elif status < 400 and (guest := state.get("guest_token")) is not None:
                    answer[GUEST_HEADER] = guest.token
                    _set_guest_cookie(answer, guest.token, seconds=30 * 86400, secure=_is_https(scope, headers))
            await send(message)

        try:
            is_raw = scope["path"] == self._raw_path
            receive = receive if is_raw else await self._checked(headers, receive)
        except ThreadkeepError as error:
            response: Response = problem_response(error, correlation_id)
            await response(scope, receive, send_with_headers)
        else:
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded
                if has_started:
                    await broken_off(Request(scope), error)
                    # The server cuts the connection, and prints this one: what it was may hold secrets.
                    raise AnswerBrokenOffError from None
                response = await unexpected(Request(scope), error)
                await response(scope, receive, send_with_headers)
        finally:
            logger.info(
                "request",
                extra={
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "milliseconds": round((time.perf_counter() - started) * 1000, 1),
                    "correlation_id": str(correlation_id),
                },
            )

    async def _checked(self, headers: Headers, receive: Receive) -> Receive:
        return _replaying(await _checked_body(headers, receive, self._settings.max_body_bytes), receive)


def _correlation_id(headers: Headers) -> UUID:
    try:
        return UUID(headers.get(CORRELATION_HEADER, ""))
    except ValueError:
        return uuid4()


def _set_guest_cookie(headers: MutableHeaders, token: str, *, seconds: int, secure: bool) -> None:
    # A front end at another site gets its cookie back only with SameSite=None, which browsers take over TLS alone. A
    # path would have to be the browser's, which a stage of API Gateway or a proxy makes another than ours.
    same_site = "None; Secure" if secure else "Lax"
    headers.append("set-cookie", f"{GUEST_COOKIE}={token}; HttpOnly; Path=/; Max-Age={seconds}; SameSite={same_site}")


def _is_https(scope: Scope, headers: Headers) -> bool:
    return bool(scope.get("scheme") == "https" or headers.get("x-forwarded-proto") == "https")


async def _checked_body(headers: Headers, receive: Receive, max_bytes: int) -> bytes:
    too_large = ThreadkeepError("too_large:api", f"The request is larger than {max_bytes} bytes.")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        chunks.append(chunk)
        if not message.get("more_body", False):
            break
    body = b"".join(chunks)
    if body:
        if not _JSON_TYPE.match(headers.get("content-type", "")):
            raise ThreadkeepError("unsupported_media:api")
        _check_json(body)
    return body


def _check_json(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError:
        raise ThreadkeepError("bad_request:api", "The body is not valid UTF-8.") from None
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH:
        depth = 0
        for match in _STRING_OR_BRACKET.finditer(body):
            first = match[0][:1]
            if first != b'"':
                depth += 1 if first in b"[{" else -1
            if depth > MAX_JSON_DEPTH:
                raise ThreadkeepError("bad_request:api", f"The body is nested deeper than {MAX_JSON_DEPTH} levels.")
    if _UNSTORABLE_NUMBER.search(body):
        _refuse_unstorable_numbers(body)
    if _UNSTORABLE_ESCAPE.search(body):
        _refuse_unstorable_text(body)


def _refuse_unstorable_numbers(body: bytes) -> None:
    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number

    try:
        json.loads(body, parse_constant=finite, parse_float=finite)
    except ValueError:
        raise ThreadkeepError(
            "bad_request:api", "The body is not valid JSON, or a number in it is too large."
        ) from None


def _refuse_unstorable_text(body: bytes) -> None:
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
    except ValueError:
        raise ThreadkeepError("bad_request:api") from None
    try:
        text.encode()
    except UnicodeEncodeError:
        text = r"\u0000"
    # json.dumps writes a real U+0000 as this escape, and a typed backslash as two.
    if re.search(r"(?<!\\)(?:\\\\)*\\u0000", text):
        raise ThreadkeepError(
            "invalid:api", fields=[FieldError("body", "Text may not hold U+0000 or unpaired surrogates.")]
        )


def _replaying(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
