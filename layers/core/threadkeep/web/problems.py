"""Errors as `application/problem+json` (RFC 9457): one place where an error becomes an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from threadkeep import error_log
from threadkeep.errors import SENTENCES, FieldError, ThreadkeepError, status_of
from threadkeep.log import logger
from threadkeep.web.calls import call_of
from threadkeep.web.models import PROBLEM_TYPE

# The key under which a route says its codes, for the contract to put in their place.
CODES: Final = "x-codes"
# Until it is worth another try, where nobody knows when that is: somebody has to see to it first.
UNKNOWN_SECONDS: Final = 60
# Of what a caller did wrong, that which somebody may have meant: it is on record, in few rows.
REFUSALS: Final[dict[str, error_log.ErrorType]] = {
    "forbidden:account": "permission",
    "forbidden:auth": "permission",
    "forbidden:origin": "permission",
    "unauthorized:hook": "auth",
}


class ProblemResponse(JSONResponse):
    media_type = PROBLEM_TYPE


def raises(*codes: str) -> dict[int | str, dict[str, Any]]:
    """What a route may be refused with besides, as its `responses`; KeyError for a code that nobody knows."""
    answers: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        SENTENCES[code]
        answers.setdefault(status_of(code), {}).setdefault(CODES, []).append(code)
    return answers


def problem_response(error: ThreadkeepError, correlation_id: UUID) -> ProblemResponse:
    """The answer that an error becomes: its code, a sentence, the correlation id, and what else it carries."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "correlationId": str(correlation_id),
        **error.extra,
    }
    if error.fields:
        content["errors"] = [{"field": field.field, "message": field.message} for field in error.fields]
    headers = {}
    retry_after = error.retry_after
    if retry_after is None and error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after = UNKNOWN_SECONDS
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return ProblemResponse(content, status_code=error.status, headers=headers)


def install(app: FastAPI) -> None:
    """Makes every foreseen error of the application a problem document; the edge calls `unexpected` for the rest."""
    app.add_exception_handler(ThreadkeepError, _domain)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)


async def _domain(request: Request, error: Exception) -> Response:
    assert isinstance(error, ThreadkeepError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.code in REFUSALS:
        await _record(request, error, cause=error)
    return problem_response(error, request.state.correlation_id)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems: Sequence[Mapping[str, Any]] = error.errors()
    if any(problem["type"] == "json_invalid" for problem in problems):
        return problem_response(ThreadkeepError("bad_request:api"), request.state.correlation_id)
    fields = [FieldError(_path(problem["loc"]), problem["msg"].removeprefix("Value error, ")) for problem in problems]
    return problem_response(ThreadkeepError("invalid:api", fields=fields), request.state.correlation_id)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {
        HTTPStatus.NOT_FOUND: "not_found:api",
        HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed:api",
    }.get(HTTPStatus(error.status_code), "bad_request:api")
    response = problem_response(ThreadkeepError(code), request.state.correlation_id)
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["allow"] = ", ".join(sorted(_methods(request)))
    return response


def _methods(request: Request) -> set[str]:
    """What an address takes; the router knows the first only of its routes."""
    routes = iter_route_contexts(request.app.routes)
    return {method for route in routes if route.path_regex.match(request.url.path) for method in route.methods or ()}


async def unexpected(request: Request, error: Exception) -> Response:
    """The answer to what nobody foresaw; what it was is logged and recorded, and not told."""
    return problem_response(await _recorded(request, error), request.state.correlation_id)


async def broken_off(request: Request, error: Exception) -> None:
    """Records what ended an answer half way: there can be no other answer any more."""
    # A foreseen one comes as the cause of another, because its answer can no longer be given.
    foreseen = error.__cause__
    if isinstance(foreseen, ThreadkeepError):
        await _record(request, foreseen, cause=foreseen)
    else:
        await _recorded(request, error)


async def _recorded(request: Request, error: Exception) -> ThreadkeepError:
    logger.exception("unexpected error", exc_info=error, extra={"correlation_id": str(request.state.correlation_id)})
    internal = ThreadkeepError("internal:api")
    await _record(request, internal, cause=error)
    return internal


async def _record(request: Request, error: ThreadkeepError, *, cause: Exception) -> None:
    principal = getattr(request.state, "principal", None)
    is_refusal = error.code in REFUSALS
    await error_log.record(
        request.app.state.runtime.database,
        correlation_id=request.state.correlation_id,
        category=error.code,
        message=error.detail,
        error_type=REFUSALS.get(error.code, "admin" if request.url.path.startswith("/api/admin") else "api"),
        user_id=principal.user_id if principal else None,
        call=call_of(request),
        cause=None if is_refusal else cause,
        severity="warning" if is_refusal else "error",
        is_refusal=is_refusal,
    )


def _path(location: Sequence[str | int]) -> str:
    """`message.parts[0].text`, without the word for where it stands (body, query, path)."""
    steps = list(location[1:]) or list(location)
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return path.removeprefix(".")
