"""The contract of an application: the OpenAPI document that FastAPI makes, with what holds for all routes said once.

What a route may be refused with follows from what it depends on: a signed-in caller, a body, a condition, a thing that
its path names. Only what a route knows besides is said beside it, by `raises`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, get_args

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from threadkeep.errors import SENTENCES, status_of
from threadkeep.web.callers import Administrator, Caller, SignedIn, Visitor
from threadkeep.web.conditions import IfMatch
from threadkeep.web.edge import GUEST_COOKIE
from threadkeep.web.examples import example_of
from threadkeep.web.models import PROBLEM_TYPE
from threadkeep.web.problems import CODES

CORRELATION_ID: Final = "6f1c2a34-9d1e-4c59-8a57-2f6f0a8c7b11"
DESCRIPTION: Final = """\
The backend of an AI chat application. JSON in camelCase, times in ISO 8601 (UTC).

Every error is `application/problem+json` (RFC 9457) with a `code`, a sentence for a person, the correlation id, and
`errors` by field where input is wrong. Unknown fields of a body are refused, except by chat. What belongs to somebody
else is 404, as if it did not exist. A body has at most {max_body_bytes} bytes, is UTF-8 and nested at most 64 deep;
no text may hold U+0000 or unpaired surrogates. A fault in here is 500 with `internal:api`; an address that takes
another method is 405 with `method_not_allowed:api`.

Lists are read page by page: `limit` and `cursor` in, `items` and `nextCursor` out, null on the last page. An `ETag`
that came with a thing may be sent as `If-Match` with a change of it.
"""
TAGS: Final = {
    "health": "Whether a process is alive.",
    "chat": "Saying something, following the answer, stopping it.",
    "sessions": "Sessions, their messages and votes.",
    "documents": "Documents, their versions, differences and suggestions.",
    "files": "Files that come along with messages.",
    "account": "The caller: profile, guest token, usage, limits, models, repositories, export, deletion.",
    "administration": "What administrators see and decide.",
    "auth_trigger": "What identity providers tell.",
}
SECURITY_SCHEMES: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of a configured issuer, or a guest's token.",
    },
    "guestCookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": GUEST_COOKIE,
        "description": "A guest's token as a cookie, from an allowed origin. A bearer token wins over it.",
    },
    "webhookSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "webhook-signature",
        "description": "Standard Webhooks, with `webhook-id` and `webhook-timestamp`.",
    },
}
HEADERS: Final[dict[str, Any]] = {
    "CorrelationId": {
        "description": "The request's id: the caller's own `X-Correlation-Id` if that is a UUID, else a new one.",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    },
    "RetryAfter": {
        "description": "Seconds until it is worth another try.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "ETag": {
        "description": "The present state, for `If-Match`.",
        "schema": {"type": "string"},
    },
}
PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "An error (RFC 9457). Some codes bring further members.",
    "properties": {
        "type": {"type": "string", "const": "about:blank"},
        "title": {"type": "string", "description": "The status in words."},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "What happened, as `type:surface`.", "enum": sorted(SENTENCES)},
        "detail": {"type": "string", "description": "A sentence for a person to act on."},
        "correlationId": {"type": "string", "format": "uuid"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                "required": ["field", "message"],
            },
        },
    },
    "required": ["type", "title", "status", "code", "detail", "correlationId"],
}


def document(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI document, whole: errors, security, limits and examples of every operation."""
    found = _with_short_names(app.openapi())
    found["info"]["description"] = DESCRIPTION.format(max_body_bytes=app.state.runtime.settings.max_body_bytes)
    found["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
    schemas = found["components"]["schemas"]
    for leftover in ("HTTPValidationError", "ValidationError"):
        schemas.pop(leftover, None)
    answers: dict[str, Any] = {}
    for operation, dependencies in _operations(app, found):
        _secure(operation, dependencies)
        _refuse(operation, dependencies, answers)
        _exemplify(operation, schemas)
    schemas["Problem"] = PROBLEM
    found["components"] |= {
        "schemas": dict(sorted(schemas.items())),
        "responses": dict(sorted(answers.items())),
        "headers": HEADERS,
        "securitySchemes": SECURITY_SCHEMES,
    }
    return found


def _with_short_names(found: dict[str, Any]) -> dict[str, Any]:
    """FastAPI tells schemas of the same name apart by their modules; a client gets that in words."""
    text = json.dumps(found)
    for name in found["components"]["schemas"]:
        *modules, model = name.split("__")
        words = [module.capitalize() for module in modules if module not in {"functions", "app"}]
        text = text.replace(f'/{name}"', f'/{"".join(words)}{model}"').replace(
            f'"{name}":', f'"{"".join(words)}{model}":'
        )
    shortened: dict[str, Any] = json.loads(text)
    return shortened


def _operations(app: FastAPI, found: dict[str, Any]) -> Iterator[tuple[dict[str, Any], set[Any]]]:
    for route in (one for one in iter_route_contexts(app.routes) if one.include_in_schema):
        dependencies = set(_dependencies(route.dependant))
        for method in route.methods or ():
            operation = found["paths"][route.path_format][method.lower()]
            operation["operationId"] = _camel_case(str(route.name))
            yield operation, dependencies


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _dependencies(dependant: Dependant) -> Iterator[Callable[..., Any] | None]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _dependencies(dependency)


def _dependency_of(annotated: Any) -> Any:
    return get_args(annotated)[1].dependency


_ANYBODY: Final = _dependency_of(Caller)
_SIGNED_IN: Final = _dependency_of(SignedIn)
_ADMINISTRATOR: Final = _dependency_of(Administrator)
_VISITOR: Final = _dependency_of(Visitor)
_CONDITION: Final = _dependency_of(IfMatch)


def _secure(operation: dict[str, Any], dependencies: set[Any]) -> None:
    if _ANYBODY in dependencies:
        operation["security"] = [{"bearer": []}, {"guestCookie": []}]
        if _SIGNED_IN not in dependencies:
            operation["security"].append({})


def _refuse(operation: dict[str, Any], dependencies: set[Any], answers: dict[str, Any]) -> None:
    responses: dict[str, Any] = operation["responses"]
    # FastAPI's own form of a 422, which nobody gets here.
    responses.pop(str(HTTPStatus.UNPROCESSABLE_ENTITY.value), None) if CODES not in responses.get("422", {}) else None
    by_status: dict[str, set[str]] = {}
    for status in list(responses):
        if CODES in responses[status]:
            by_status[status] = set(responses.pop(status)[CODES])
    for code in _general_codes(operation, dependencies):
        by_status.setdefault(str(status_of(code)), set()).add(code)
    for response in responses.values():
        response.setdefault("headers", {})["X-Correlation-Id"] = {"$ref": "#/components/headers/CorrelationId"}
    for status in sorted(by_status):
        codes = sorted(by_status[status])
        name = ".".join([codes[0].partition(":")[0], *(code.partition(":")[2] for code in codes)])
        answers.setdefault(name, _problem_response(codes))
        responses[status] = {"$ref": f"#/components/responses/{name}"}


def _general_codes(operation: dict[str, Any], dependencies: set[Any]) -> Iterator[str]:
    parameters = operation.get("parameters", [])
    named = [parameter["name"] for parameter in parameters if parameter["in"] == "path"]
    if _ANYBODY in dependencies:
        yield from ("unauthorized:auth", "forbidden:account", "forbidden:origin", "unavailable:auth")
        yield "unavailable:database"
    if _ADMINISTRATOR in dependencies:
        yield "forbidden:auth"
    if _VISITOR in dependencies:
        yield "rate_limit:guest"
    if "requestBody" in operation:
        yield from ("bad_request:api", "too_large:api", "unsupported_media:api")
    if "requestBody" in operation or any(parameter["in"] in {"path", "query"} for parameter in parameters):
        yield "invalid:api"
    yield from (code for name in named if (code := f"not_found:{name}") in SENTENCES)
    if _CONDITION in dependencies:
        yield from (code for name in named if (code := f"precondition_failed:{name}") in SENTENCES)


def _problem_response(codes: list[str]) -> dict[str, Any]:
    status = status_of(codes[0])
    headers = {"X-Correlation-Id": {"$ref": "#/components/headers/CorrelationId"}}
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {
        "description": "\n".join(f"`{code}`: {SENTENCES[code]}" for code in codes),
        "headers": headers,
        "content": {
            PROBLEM_TYPE: {
                "schema": {
                    "allOf": [{"$ref": "#/components/schemas/Problem"}],
                    "properties": {"code": {"enum": codes}, "status": {"const": status}},
                },
                "examples": {re.sub(r"\W", "_", code): {"value": _problem(code)} for code in codes},
            }
        },
    }


def _problem(code: str) -> dict[str, Any]:
    status = HTTPStatus(status_of(code))
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "code": code,
        "detail": SENTENCES[code],
        "correlationId": CORRELATION_ID,
    }
    if code == "invalid:api":
        problem["errors"] = [{"field": "title", "message": "String should have at least 1 character"}]
    return problem


def _exemplify(operation: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
    contents += [response["content"] for response in operation["responses"].values() if "content" in response]
    for media in (media for content in contents for media in content.values()):
        if media.get("schema") and not media.keys() & {"example", "examples"}:
            media["example"] = example_of(media["schema"], schemas)
    for parameter in operation.get("parameters", []):
        if not parameter.keys() & {"example", "examples"} and parameter["in"] == "path":
            parameter["example"] = example_of(parameter["schema"], schemas, parameter["name"])
