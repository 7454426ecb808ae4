"""Whatever is thrown at a route gets a clear refusal, and nothing in the database changes.

The routes come from the contract, so a new one is tried by itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from local.configuration import AUDIENCE, ISSUER
from tests.chat_server import KEYS, ChatServer
from tests.contract.conftest import MAX_BODY_BYTES
from tests.contract.operations import Operation, everything, operations, positions, problem, with_texts
from tests.issuer import SUBJECT, LocalIssuer
from threadkeep.web.problems import REFUSALS

JSON: Final = "application/json"
CHANGING: Final = {"POST", "PUT", "PATCH", "DELETE"}
NESTED: Final = b'{"a":' * 166_000 + b"1" + b"}" * 166_000
MALFORMED_IDS: Final = (
    "a b",
    "x" * 65,
    "..%2f..",
    "\x00",
    "\x1b[0m",
    '\'; drop table "Chat"; --',
    "0b8e2f0a-5c1d-4b7e-9a43-6d2f1e8c7a9g!",
    "💥",
    "{id}",
)


@dataclass(frozen=True)
class Throw:
    """A request, and what it may be refused with; none is anything that is a refusal."""

    operation: Operation
    url: str
    codes: frozenset[str] = frozenset()
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    is_signed_in: bool = True


async def test_bodies_that_are_none(server: ChatServer, callers: Callers) -> None:
    await callers.throw(bodies(operations(server.app)))


async def test_texts_that_cannot_be_stored(server: ChatServer, callers: Callers) -> None:
    await callers.throw(unstorable_texts(operations(server.app)))


async def test_fields_that_nobody_knows(server: ChatServer, callers: Callers) -> None:
    throws = list(unknown_fields(operations(server.app)))

    assert len(throws) > 10
    await callers.throw(iter(throws))


async def test_ids_that_are_none(server: ChatServer, callers: Callers) -> None:
    await callers.throw(malformed_ids(operations(server.app)))


async def test_cursors_that_were_tampered_with(server: ChatServer, callers: Callers) -> None:
    for number in range(3):
        headers = server.headers("ada")
        await server.http.post("/api/sessions", json={"title": f"Session {number}"}, headers=headers)
        await server.http.post("/api/repositories", json={"owner": "ada", "name": f"r{number}"}, headers=headers)
    lists = [one for one in operations(server.app) if "cursor" in one.query]
    given = [await callers.cursor(server, one) for one in lists]
    real = [cursor for cursor in given if cursor]
    callers.before = await everything(server)

    assert len(real) > 2
    await callers.throw(tampered_cursors(lists, given, real))


async def test_tokens_that_are_none(server: ChatServer, callers: Callers, issuer: LocalIssuer) -> None:
    good = await server.http.get("/api/me", headers={"authorization": f"Bearer {issuer.token()}"})
    assert good.status_code == 200
    callers.before = await everything(server)
    secured = [one for one in operations(server.app) if one.is_secured]

    assert len(secured) > 50
    await callers.throw(bad_tokens(secured, issuer))


async def test_what_asks_for_an_administrator(server: ChatServer, callers: Callers) -> None:
    routes = [one for one in operations(server.app) if one.is_for_administrators]

    assert len(routes) > 10
    headers = server.headers("ada")
    forbidden = frozenset({"forbidden:auth"})
    await callers.throw(
        Throw(one, one.url(), forbidden, body_of(one), headers | {"content-type": JSON}, is_signed_in=False)
        for one in routes
    )


async def test_headers_that_are_none(server: ChatServer, callers: Callers) -> None:
    ada = server.headers("ada")
    for name, value in (("if-match", "x" * 5000), ("x-correlation-id", "'; --"), ("accept", "nothing"), ("range", "x")):
        answer = await server.http.get("/api/me", headers=ada | {name: value})
        assert answer.status_code == 200
    answer = await server.http.post("/api/chat", json={"message": "x"}, headers=ada | {"x-github-token": "a b"})
    assert problem(answer) == "bad_request:api"
    assert await everything(server) == callers.before


async def test_methods_that_an_address_does_not_take(server: ChatServer, callers: Callers) -> None:
    known: dict[str, set[str]] = {}
    for one in operations(server.app):
        known.setdefault(one.url(), set()).add(one.method)
    # An id of a model may hold slashes, so under the models any path is a model.
    known = {url: methods for url, methods in known.items() if not url.startswith("/api/admin/models/")}
    for url, methods in known.items():
        for method in {"GET", *CHANGING} - methods:
            answer = await server.http.request(method, url, headers=server.headers("ada"))
            assert problem(answer) == "method_not_allowed:api"
            assert set(answer.headers["allow"].split(", ")) == methods
    assert await everything(server) == callers.before


class Callers:
    """An ordinary user and an administrator, both known already, and the database before anything was thrown."""

    def __init__(self, server: ChatServer, before: dict[str, list[str]]) -> None:
        self.server = server
        self.before = before

    def headers(self, operation: Operation) -> dict[str, str]:
        name = "root" if operation.is_for_administrators else "ada"
        return {"authorization": f"Bearer {self.server.token(name, is_admin=operation.is_for_administrators)}"}

    async def throw(self, throws: Iterator[Throw]) -> None:
        for thrown in throws:
            own = self.headers(thrown.operation) if thrown.is_signed_in else {}
            answer = await self.server.http.request(
                thrown.operation.method, thrown.url, content=thrown.content, headers=own | thrown.headers
            )
            what = f"{thrown.operation} {thrown.url[-80:]} {(thrown.content or b'')[:120]!r}: {answer.text[:300]}"
            assert 400 <= answer.status_code < 500, what
            code = problem(answer, thrown.operation)
            assert not thrown.codes or code in thrown.codes, what
        assert await everything(self.server) == self.before

    async def cursor(self, server: ChatServer, operation: Operation) -> str | None:
        """A cursor that this list gives, if it has more than one thing."""
        answer = await server.http.get(operation.url(), params={"limit": 1}, headers=self.headers(operation))
        found: str | None = answer.json().get("nextCursor")
        return found


@pytest.fixture
async def callers(server: ChatServer) -> AsyncIterator[Callers]:
    for name, is_admin in (("ada", False), ("root", True)):
        headers = {"authorization": f"Bearer {server.token(name, is_admin=is_admin)}"}
        assert (await server.http.patch("/api/me", json={"fullName": name}, headers=headers)).status_code == 200
    yield Callers(server, await everything(server))
    recorded = await server.rows("select distinct error_category from error_logs")
    assert {row["error_category"] for row in recorded} <= REFUSALS.keys()


def bodies(found: list[Operation]) -> Iterator[Throw]:
    not_read, not_json = frozenset({"bad_request:api"}), frozenset({"unsupported_media:api"})
    for one in found:
        json_type = {"content-type": JSON}
        # A route without a body says nothing of bodies, but its edge is the same.
        if one.body is None:
            continue
        yield Throw(one, one.url(), frozenset({"too_large:api"}), b"[" + b" " * MAX_BODY_BYTES, json_type)
        yield Throw(one, one.url(), not_json, b"hello", {"content-type": "text/plain"})
        yield Throw(one, one.url(), not_json, b"{}", {})
        yield Throw(one, one.url(), not_json, b"a=b", {"content-type": "application/x-www-form-urlencoded"})
        yield Throw(one, one.url(), not_read, NESTED, json_type)
        yield Throw(one, one.url(), not_read, b'{"a":"\xff\xfe"}', json_type)
        if one.path == "/api/hooks/auth":
            yield Throw(one, one.url(), frozenset({"unauthorized:hook"}), b"{", json_type)
            continue
        yield Throw(one, one.url(), not_read, b'{"a":', json_type)
        yield Throw(one, one.url(), not_read, b'{"a":NaN}', json_type)
        yield Throw(one, one.url(), not_read, b'{"a":1e999}', json_type)
        for content in (b"[]", b'"text"', b"7", b"true"):
            yield Throw(one, one.url(), frozenset({"invalid:api"}), content, json_type)


def unstorable_texts(found: list[Operation]) -> Iterator[Throw]:
    invalid = frozenset({"invalid:api"})
    for one in found:
        if one.body is not None:
            for text in ("a\0b", "\ud800", "\udc00\ud800"):
                body = json.dumps(with_texts(one.body, text) if any(positions(one.body)) else {"a": text}).encode()
                yield Throw(one, one.url(), invalid, body, {"content-type": JSON})
            for position, _ in positions(one.body):
                changed = json.loads(json.dumps(one.body))
                for name, put in positions(changed):
                    if name == position:
                        put("a\0b")
                yield Throw(one, one.url(), invalid, json.dumps(changed).encode(), {"content-type": JSON})
        for name in one.texts():
            yield Throw(one, f"{one.url()}?{name}=a%00b", content=body_of(one), headers={"content-type": JSON})


def unknown_fields(found: list[Operation]) -> Iterator[Throw]:
    for one in (one for one in found if one.is_closed):
        body = json.dumps(one.body | {"unknownField": 1}).encode()
        yield Throw(one, one.url(), frozenset({"invalid:api"}), body, {"content-type": JSON})


def malformed_ids(found: list[Operation]) -> Iterator[Throw]:
    for one in found:
        for name in one.path_parameters:
            for text in MALFORMED_IDS:
                yield Throw(one, one.url(**{name: text}), content=body_of(one), headers={"content-type": JSON})


def tampered_cursors(lists: list[Operation], given: list[str | None], real: list[str]) -> Iterator[Throw]:
    invalid = frozenset({"invalid:api"})
    for one, own in zip(lists, given, strict=True):
        foreign = [cursor for cursor in real if cursor != own]
        changed = [f"{own[:12]}{'A' if own[12] != 'A' else 'B'}{own[13:]}", f"{own}=", f" {own}"] if own else []
        for cursor in ["", "x", "0", "AAAA", "W10", "%FF", "x" * 5000, *foreign, *changed]:
            # A thing that is not there may be said first.
            allowed = invalid | {code for code in one.codes if code.startswith("not_found")}
            yield Throw(one, f"{one.url()}?cursor={cursor}", allowed)


def bad_tokens(found: list[Operation], issuer: LocalIssuer) -> Iterator[Throw]:
    unauthorized = frozenset({"unauthorized:auth"})
    for one in found:
        for header in headers_of_bad_tokens(issuer):
            headers = {"authorization": header, "content-type": JSON}
            yield Throw(one, one.url(), unauthorized, body_of(one), headers, is_signed_in=False)


def headers_of_bad_tokens(issuer: LocalIssuer) -> list[str]:
    key = issuer.keys[-1]
    public = key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    claims = issuer.claims(app_metadata={"role": "admin"})
    local = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "exp": claims["exp"]}
    # PyJWT refuses to sign with a public key, so this is what it would make.
    signed = jwt.PyJWS().encode(json.dumps(claims).encode(), b"x" * 32, "HS256", {"kid": key.key_id})
    by_public_key = forged(signed, public)
    tokens = [
        issuer.token(exp=claims["iat"] - 3600),
        issuer.token(iss="https://issuer.example.com"),
        issuer.token(aud="somebody-else"),
        issuer.token(role="service_role"),
        LocalIssuer("RS256").token(iss=issuer.url),
        jwt.encode(claims, "", algorithm="none"),
        jwt.encode(local, "x" * 48, "HS256"),
        jwt.encode(local | {"exp": 1}, KEYS.issuer, "HS256"),
        by_public_key,
        "nonsense",
    ]
    return [*(f"Bearer {token}" for token in tokens), "Basic YWRhOmFkYQ==", "Bearer"]


def forged(token: str, key: bytes) -> str:
    """The same token with an HMAC by this key."""
    signed = token.rpartition(".")[0]
    signature = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def body_of(operation: Operation) -> bytes | None:
    return None if operation.body is None else json.dumps(operation.body).encode()
