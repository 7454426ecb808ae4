"""Whose word is taken for where a client is: never the client's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from functions.account import app
from tests.aws import LambdaContext, recorded
from tests.crowd import Owner
from threadkeep.database import Database
from threadkeep.identity import Authenticator
from threadkeep.settings import Settings
from threadkeep.web import LambdaHandler, Runtime, create_app

CLIENT = "198.51.100.7"
FORGED = {
    "x-forwarded-for": "192.0.2.1",
    "forwarded": "for=192.0.2.1",
    "x-real-ip": "192.0.2.1",
    "cloudfront-viewer-address": "192.0.2.1:1234",
    "x-amzn-request-context": json.dumps({"http": {"sourceIp": "192.0.2.1"}}),
}
LAMBDA = "AWS_LAMBDA_FUNCTION_NAME"


async def windows(owner: Owner) -> int:
    """How many addresses have made guests."""
    return await owner.number("select count(*) from private.guest_windows where address_hash <> ''")


class Api:
    """Makes guests from this machine's or another address, with whatever headers."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._app = create_app(app.router, runtime=Runtime(settings, database, Authenticator(settings)))

    async def make_guest(self, headers: Any = None, *, client: str = CLIENT) -> None:
        transport = httpx.ASGITransport(self._app, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as api:
            answer = await api.post("/api/auth/guest", headers=headers)
        assert answer.status_code == 201


@pytest.fixture
def api(settings: Settings, database: Database) -> Api:
    return Api(settings, database)


def behind(proxy: str, environment: dict[str, str], database: Database) -> Api:
    return Api(Settings.load(environment | {"TRUSTED_PROXY": proxy}), database)


async def test_no_header_of_a_client_gives_it_another_address(api: Api, owner: Owner) -> None:
    await api.make_guest()
    for name, value in FORGED.items():
        await api.make_guest({name: value})
    await api.make_guest(FORGED)
    assert await windows(owner) == 1
    await api.make_guest(client="198.51.100.8")
    assert await windows(owner) == 2


async def test_behind_the_web_adapter_it_is_what_lambda_says(
    api: Api, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAMBDA, "chat")
    contexts: list[Any] = [
        {"http": {"sourceIp": "203.0.113.1"}},
        {"identity": {"sourceIp": "203.0.113.1"}},
        {"http": {"sourceIp": "::ffff:203.0.113.1"}},
    ]
    for context in contexts:
        await api.make_guest(FORGED | {"x-amzn-request-context": json.dumps(context)}, client="127.0.0.1")
    assert await windows(owner) == 1
    await api.make_guest({"x-amzn-request-context": '{"http": {"sourceIp": "203.0.113.2"}}'}, client="127.0.0.1")
    assert await windows(owner) == 2


@pytest.mark.parametrize(
    "context", ["", "{", "[]", "7", '{"http": 7}', '{"http": {"sourceIp": ["203.0.113.1"]}}', "{}"]
)
async def test_a_context_that_says_nothing_leaves_the_address_unknown(
    api: Api, owner: Owner, monkeypatch: pytest.MonkeyPatch, context: str
) -> None:
    monkeypatch.setenv(LAMBDA, "chat")
    await api.make_guest({"x-amzn-request-context": context}, client="127.0.0.1")
    await api.make_guest({"x-amzn-request-context": "another"}, client="127.0.0.1")
    assert await windows(owner) == 1


async def test_behind_cloudfront_it_is_the_viewers(
    environment: dict[str, str], database: Database, owner: Owner
) -> None:
    api = behind("cloudfront", environment, database)
    for forwarded in ("192.0.2.1", "192.0.2.2"):
        headers = FORGED | {"x-forwarded-for": forwarded, "cloudfront-viewer-address": "203.0.113.1:443"}
        await api.make_guest(headers, client=forwarded)
    assert await windows(owner) == 1
    await api.make_guest({"cloudfront-viewer-address": "2001:db8::1:443"})
    await api.make_guest({"cloudfront-viewer-address": "[2001:db8::2]:443"})
    assert await windows(owner) == 2


async def test_two_viewer_addresses_are_none(environment: dict[str, str], database: Database, owner: Owner) -> None:
    api = behind("cloudfront", environment, database)
    twice = [("cloudfront-viewer-address", "192.0.2.1:1"), ("cloudfront-viewer-address", "203.0.113.1:1")]
    await api.make_guest(twice)
    await api.make_guest()
    assert await windows(owner) == 1


async def test_behind_another_proxy_it_is_whom_the_proxy_added(
    environment: dict[str, str], database: Database, owner: Owner
) -> None:
    api = behind("forwarded", environment, database)
    for forged in ("192.0.2.1", "192.0.2.2, 192.0.2.3"):
        await api.make_guest({"x-forwarded-for": f"{forged}, 203.0.113.1"})
    await api.make_guest([("x-forwarded-for", "192.0.2.9"), ("x-forwarded-for", "203.0.113.1")])
    assert await windows(owner) == 1


@pytest.fixture
def handler(process: asyncio.AbstractEventLoop) -> Iterator[LambdaHandler]:
    handler = LambdaHandler(app.router)
    yield handler
    process.run_until_complete(handler.runtime.database.close())


def test_behind_an_http_api_it_is_what_the_event_says(
    handler: LambdaHandler, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAMBDA, "account")
    for forged in ({}, FORGED):
        event = recorded("http_api_auth_guest")
        event["headers"] |= forged
        assert handler(event, LambdaContext())["statusCode"] == 201
    with psycopg.connect(database_url) as owner:
        hashes = owner.execute("select used from private.guest_windows where address_hash <> ''").fetchall()
    assert hashes == [(2,)]
