"""What a log knows of a request, and whose word is taken for where it came from."""

from __future__ import annotations

import json
import os
from typing import Any, Final

from fastapi import Request

from threadkeep.activity import Call
from threadkeep.addresses import parsed
from threadkeep.settings import Settings

REQUEST_CONTEXT_HEADER: Final = "x-amzn-request-context"
VIEWER_ADDRESS_HEADER: Final = "cloudfront-viewer-address"
FORWARDED_HEADER: Final = "x-forwarded-for"


def call_of(request: Request) -> Call:
    """The request as one row of a log has it."""
    return Call(
        correlation_id=request.state.correlation_id,
        method=request.method,
        path=request.url.path,
        address=client_address(request) or None,
        user_agent=request.headers.get("user-agent"),
    )


def client_address(request: Request) -> str:
    """The address of the client, in its one form; empty if nobody knows it.

    It is what the server itself saw: API Gateway, or on this machine the connection. A header counts only if someone
    has set it who cannot be passed by: the proxy that TRUSTED_PROXY names, and on Lambda the web adapter.
    """
    settings: Settings = request.app.state.runtime.settings
    found = parsed(_named_by_proxy(request, settings) or _seen(request))
    return "" if found is None else str(found)


def _named_by_proxy(request: Request, settings: Settings) -> str | None:
    match settings.trusted_proxy:
        case "cloudfront":
            # `203.0.113.9:46532`, `2001:db8::1:46532`: the port is behind the last colon.
            return _only(request, VIEWER_ADDRESS_HEADER).rpartition(":")[0].strip("[]")
        case "forwarded":
            # The proxy adds whom it saw to whatever the client has sent.
            return ",".join(request.headers.getlist(FORWARDED_HEADER)).rpartition(",")[2]
    return None


def _only(request: Request, header: str) -> str:
    values = request.headers.getlist(header)
    return values[0] if len(values) == 1 else ""


def _seen(request: Request) -> str:
    if "aws.event" not in request.scope and _is_behind_web_adapter():
        return _source_address(_only(request, REQUEST_CONTEXT_HEADER))
    return request.client.host if request.client and request.client.host else ""


def _is_behind_web_adapter() -> bool:
    # The adapter replaces what a client has sent under this name; elsewhere a client could write what it likes.
    return "AWS_LAMBDA_FUNCTION_NAME" in os.environ


def _source_address(context: str) -> str:
    """Of the request context of an HTTP API or a function URL, or of a REST API."""
    try:
        found: Any = json.loads(context)
    except ValueError:
        return ""
    for path in (("http", "sourceIp"), ("identity", "sourceIp")):
        place = found
        for step in path:
            place = place.get(step) if isinstance(place, dict) else None
        if isinstance(place, str):
            return place
    return ""
