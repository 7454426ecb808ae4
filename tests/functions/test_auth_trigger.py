"""Profiles at sign-up and at sign-in, by Cognito's events and by the signed webhook."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from standardwebhooks import Webhook

from functions.auth_trigger import app
from tests.aws import LambdaContext, recorded
from tests.crowd import Action, Owner, at_once, begin, refusals, somebody
from tests.providers import HOOK_SECRET, OLD_HOOK_SECRET, OTHER_ISSUER, POOL
from threadkeep import profiles
from threadkeep.database import Database
from threadkeep.identity import Authenticator, user_id_of
from threadkeep.settings import Settings
from threadkeep.web import LambdaHandler, Runtime, create_app

ADA = "3f8a9c1e-5b7d-4e21-9a64-0c2f7e8d1b35"
SIGN_UP = "cognito_post_confirmation_confirm_sign_up"
FORGOT_PASSWORD = "cognito_post_confirmation_confirm_forgot_password"
SIGN_IN = "cognito_post_authentication_authentication"
# For as long as Cognito waits for a trigger.
COGNITO_MILLISECONDS = 5000


# Cognito


class Process:
    """A fresh Lambda environment, seen from outside, and the rows in its database."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    def rows(self, query: str) -> list[DictRow]:
        with psycopg.connect(self._database_url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def profiles(self) -> list[DictRow]:
        return self.rows("select id, email, full_name, is_guest from public.user_profiles order by id")


@pytest.fixture
def function(
    process: asyncio.AbstractEventLoop, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Process]:
    monkeypatch.setattr(app, "http", LambdaHandler(app.router))
    yield Process(database_url)
    if "runtime" in vars(app.http):
        process.run_until_complete(app.http.runtime.database.close())


@pytest.mark.parametrize("name", [SIGN_UP, FORGOT_PASSWORD, SIGN_IN])
def test_a_user_of_the_pool_has_a_profile_after_each_of_its_events(function: Process, name: str) -> None:
    event = recorded(name)
    for _ in range(2):
        assert app.handler(event, LambdaContext()) == recorded(name)
    assert function.profiles() == [
        {"id": UUID(ADA), "email": "ada@example.com", "full_name": "Ada Lovelace", "is_guest": False}
    ]


def test_a_user_of_a_pool_that_is_not_the_primary_issuer_gets_an_id_of_his_own(
    function: Process, settings: Settings
) -> None:
    event = recorded(SIGN_IN) | {"userPoolId": "eu-central-1_Other"}
    app.handler(event, LambdaContext())
    [profile] = function.profiles()
    issuer = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Other"
    assert profile["id"] == user_id_of(settings, issuer, ADA) != UUID(ADA)


def test_another_trigger_is_given_back_and_does_nothing(function: Process) -> None:
    event = recorded(SIGN_IN) | {"triggerSource": "TokenGeneration_Authentication"}
    assert app.handler(deepcopy(event), LambdaContext()) == event
    assert function.profiles() == []


def test_attributes_that_no_column_can_hold_are_cut(function: Process) -> None:
    event = recorded(SIGN_UP)
    event["request"]["userAttributes"] |= {"name": "A\u0000\ud800da " + "x" * 2048, "email": "e" * 2048}
    app.handler(event, LambdaContext())
    [profile] = function.profiles()
    assert (profile["full_name"], len(profile["full_name"])) == ("Ada " + "x" * 196, 200)
    assert len(profile["email"]) == 320


def test_a_deleted_user_can_sign_in_and_is_not_brought_back(function: Process) -> None:
    function.rows(f"select private.remove_user('{ADA}')")
    event = recorded(SIGN_IN)
    assert app.handler(event, LambdaContext()) == recorded(SIGN_IN)
    assert function.profiles() == []


def test_an_event_that_cannot_be_read_is_recorded_and_refuses_nobody(function: Process) -> None:
    event = recorded(SIGN_IN)
    del event["request"]["userAttributes"]["sub"]
    assert app.handler(deepcopy(event), LambdaContext()) == event
    [row] = function.rows("select error_category, error_details ->> 'exception' as exception from public.error_logs")
    assert row == {"error_category": "profile_creation", "exception": "KeyError"}


def test_what_fails_in_the_database_is_recorded_and_refuses_nobody(function: Process) -> None:
    function.rows("alter function private.record_sign_in rename to record_nothing")
    assert app.handler(recorded(SIGN_IN), LambdaContext()) == recorded(SIGN_IN)
    [row] = function.rows("select error_message, error_details ->> 'sqlstate' as sqlstate from public.error_logs")
    assert row == {
        "error_message": "The profile of a user was not made at PostAuthentication_Authentication.",
        "sqlstate": "42883",
    }


def test_a_function_without_settings_refuses_nobody(function: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    assert app.handler(recorded(SIGN_UP), LambdaContext()) == recorded(SIGN_UP)


@pytest.fixture
def silence() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_database_that_says_nothing_refuses_nobody_and_is_not_waited_for(
    function: Process, monkeypatch: pytest.MonkeyPatch, silence: int
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://nobody@127.0.0.1:{silence}/nothing")
    started = time.monotonic()
    assert app.handler(recorded(SIGN_UP), LambdaContext(milliseconds=COGNITO_MILLISECONDS)) == recorded(SIGN_UP)
    assert (time.monotonic() - started) * 1000 < COGNITO_MILLISECONDS


def test_a_database_that_is_busy_is_not_waited_for(function: Process, database_url: str) -> None:
    with psycopg.connect(database_url) as other:
        other.execute("lock table public.user_profiles in access exclusive mode")
        started = time.monotonic()
        assert app.handler(recorded(SIGN_UP), LambdaContext(milliseconds=COGNITO_MILLISECONDS)) == recorded(SIGN_UP)
        assert (time.monotonic() - started) * 1000 < COGNITO_MILLISECONDS
    app.handler(recorded(SIGN_UP), LambdaContext())
    assert len(function.profiles()) == 1


def test_one_environment_takes_both_kinds_of_events_on_one_connection(function: Process) -> None:
    body = json.dumps({"type": "user.created", "data": {"id": "grace", "issuer": OTHER_ISSUER}})
    call = recorded("http_api_auth_hook")
    call["body"] = body
    call["headers"] |= {"content-type": "application/json", "content-length": str(len(body))} | signed(body)

    app.handler(recorded(SIGN_UP), LambdaContext())
    answer = app.handler(call, LambdaContext())
    app.handler(recorded(SIGN_IN), LambdaContext())

    assert (answer["statusCode"], json.loads(answer["body"])) == (200, {"handled": True})
    assert len(function.profiles()) == 2
    connections = (
        "select count(*) from pg_stat_activity where usename = 'threadkeep_api' and datname = current_database()"
    )
    assert function.rows(connections) == [{"count": 1}]


# The webhook


@pytest.fixture
def runtime(settings: Settings, database: Database) -> Runtime:
    return Runtime(settings, database, Authenticator(settings))


@pytest.fixture
async def api(runtime: Runtime) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(app.router, runtime=runtime))
    async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as client:
        yield client


def signed(body: str, *, secret: str = HOOK_SECRET, at: datetime | None = None, name: str = "msg_1") -> dict[str, str]:
    at = at or datetime.now(UTC)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, at, body),
    }


async def call(api: httpx.AsyncClient, payload: Any, **signature: Any) -> httpx.Response:
    body = json.dumps(payload)
    return await api.post(
        "/api/hooks/auth", content=body, headers={"content-type": "application/json"} | signed(body, **signature)
    )


def user(kind: str, subject: str = ADA, **data: Any) -> dict[str, Any]:
    return {"type": f"user.{kind}", "timestamp": "2026-03-14T09:26:53Z", "data": {"id": subject} | data}


def wrong_fields(answer: httpx.Response) -> list[str]:
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid:api")
    return [error["field"] for error in answer.json()["errors"]]


async def profile_ids(owner: Owner) -> list[UUID]:
    return [row["id"] for row in await owner.rows("select id from public.user_profiles")]


async def test_a_user_is_made_once_and_removed_with_everything(
    api: httpx.AsyncClient, database: Database, owner: Owner
) -> None:
    created = user("created", email="ada@example.com", name="Ada", phone_numbers=[])
    for _ in range(2):
        answer = await call(api, created)
        assert (answer.status_code, answer.json()) == (200, {"handled": True})
    [row] = await owner.rows("select id, email, full_name, is_guest from public.user_profiles")
    assert row == {"id": UUID(ADA), "email": "ada@example.com", "full_name": "Ada", "is_guest": False}
    await begin(database, somebody(UUID(ADA)))

    answers = [await call(api, user("deleted")) for _ in range(2)]

    assert [answer.json() for answer in answers] == [{"handled": True}, {"handled": False}]
    assert await profile_ids(owner) == []
    assert await owner.number('select count(*) from public."Chat"') == 0


async def test_a_deleted_user_is_not_made_again_by_a_call_that_comes_twice_or_late(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    assert (await call(api, user("deleted"))).json() == {"handled": False}
    assert (await call(api, user("created"))).json() == {"handled": False}
    assert await profile_ids(owner) == []


async def test_a_user_of_another_issuer_is_known_by_issuer_and_subject(
    api: httpx.AsyncClient, owner: Owner, settings: Settings
) -> None:
    await call(api, user("created", issuer=OTHER_ISSUER))
    assert await profile_ids(owner) == [user_id_of(settings, OTHER_ISSUER, ADA)]
    assert (await call(api, user("deleted", issuer=POOL))).json() == {"handled": False}
    assert len(await profile_ids(owner)) == 1


@pytest.mark.parametrize("kind", ["user.updated", "session.created", ""])
async def test_what_we_do_not_care_for_is_taken_and_changes_nothing(
    api: httpx.AsyncClient, owner: Owner, kind: str
) -> None:
    answer = await call(api, {"type": kind, "data": {"id": ADA}})
    assert (answer.status_code, answer.json()) == (200, {"handled": False})
    assert await profile_ids(owner) == []


@pytest.mark.parametrize("secret", [HOOK_SECRET, OLD_HOOK_SECRET])
async def test_any_of_the_secrets_may_have_signed(api: httpx.AsyncClient, secret: str) -> None:
    assert (await call(api, user("created"), secret=secret)).json() == {"handled": True}


OTHER_SECRET = "whsec_bm90LW91cnMtbm90LW91cnMtbm90LW91cnMtbm90LW8="


@pytest.mark.parametrize(
    "signature",
    [
        {"secret": OTHER_SECRET},
        {"at": datetime.now(UTC) - timedelta(minutes=6)},
        {"at": datetime.now(UTC) + timedelta(minutes=60)},
    ],
    ids=["another secret", "old", "from the future"],
)
async def test_a_call_that_is_not_to_be_believed_changes_nothing(
    api: httpx.AsyncClient, owner: Owner, signature: dict[str, Any]
) -> None:
    answer = await call(api, user("created"), **signature)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized:hook")
    assert await profile_ids(owner) == []


# The name of a test must be the same in every worker, so the time is put in later.
LATER = "a second later"


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-id": "msg_2"},
        {"webhook-id": None},
        {"webhook-timestamp": LATER},
        {"webhook-timestamp": "nan"},
        {"webhook-timestamp": ""},
        {"webhook-signature": None},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,a,b"},
        {"webhook-signature": "v1,not base64"},
        {"webhook-signature": "v2,bm90aGluZw=="},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,\u00e9"},
    ],
    ids=str,
)
async def test_a_signature_is_of_one_id_time_and_body(
    api: httpx.AsyncClient, owner: Owner, changes: dict[str, str | None]
) -> None:
    body = json.dumps(user("created"))
    if changes.get("webhook-timestamp") == LATER:
        changes = {"webhook-timestamp": str(int(time.time()) + 1)}
    merged: dict[str, str | None] = {"content-type": "application/json", **signed(body), **changes}
    headers = [(name.encode(), value.encode("latin-1")) for name, value in merged.items() if value is not None]
    answer = await api.post("/api/hooks/auth", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized:hook")
    assert await profile_ids(owner) == []


async def test_a_captured_call_with_another_body_is_refused(api: httpx.AsyncClient, owner: Owner) -> None:
    headers = {"content-type": "application/json"} | signed(json.dumps(user("created")))
    answer = await api.post("/api/hooks/auth", content=json.dumps(user("deleted")), headers=headers)
    assert answer.status_code == 401
    assert await owner.number("select count(*) from private.revoked_principals") == 0


async def test_without_a_secret_nobody_can_call(environment: dict[str, str], database: Database) -> None:
    settings = Settings.load({**environment, "AUTH_HOOK_SECRETS": ""})
    runtime = Runtime(settings, database, Authenticator(settings))
    transport = httpx.ASGITransport(create_app(app.router, runtime=runtime))
    async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as api:
        answer = await call(api, user("created"))
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized:hook")


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({}, "type"),
        ({"type": 7}, "type"),
        ({"type": "user.created"}, "data"),
        ({"type": "user.created", "data": {}}, "data.id"),
        (user("created", ""), "data.id"),
        (user("created", "x" * 256), "data.id"),
        (user("created", "a\nb"), "data.id"),
        (user("created", email=["ada@example.com"]), "data.email"),
        (user("deleted", issuer="https://elsewhere.example.com"), "data.issuer"),
        ({"metadata": {"name": "custom-access-token"}, "user_id": ADA}, "type"),
    ],
    ids=str,
)
async def test_a_signed_call_that_says_nothing_names_its_field(
    api: httpx.AsyncClient, owner: Owner, payload: Any, field: str
) -> None:
    assert wrong_fields(await call(api, payload)) == [field]
    assert await owner.number("select count(*) from private.revoked_principals") == 0


@pytest.mark.parametrize("body", ["", "[]", "{", "7"])
async def test_a_signed_call_that_is_no_object_is_unreadable(api: httpx.AsyncClient, body: str) -> None:
    headers = {"content-type": "application/json"} | signed(body)
    answer = await api.post("/api/hooks/auth", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request:api")


async def test_supabases_hook_before_a_sign_up_is_accepted_and_makes_nothing(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    payload = {
        "metadata": {
            "uuid": "8b34dcdd-9df1-4c10-850a-b3277c653040",
            "time": "2026-03-14T09:26:53.755552Z",
            "name": "before-user-created",
            "ip_address": "203.0.113.9",
        },
        "user": {
            "id": ADA,
            "aud": "authenticated",
            "role": "",
            "email": "ada@example.com",
            "phone": "",
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "user_metadata": {},
            "identities": [],
            "created_at": "0001-01-01T00:00:00Z",
            "updated_at": "0001-01-01T00:00:00Z",
            "is_anonymous": False,
        },
    }
    answer = await call(api, payload)
    assert (answer.status_code, answer.json()) == (200, {})
    assert await profile_ids(owner) == []


# All ways at once


async def test_thirty_sign_ups_at_once_make_one_profile(
    api: httpx.AsyncClient, runtime: Runtime, database: Database, owner: Owner
) -> None:
    for _ in range(5):
        subject = str(uuid4())
        principal = somebody(UUID(subject))
        event = recorded(SIGN_UP)
        event["request"]["userAttributes"]["sub"] = subject
        insert = "insert into auth.users (id, email) values (%(id)s, 'ada@example.com')"
        create = "select private.create_session(%(id)s, 'Hello', 'private', null, false, null, null)"
        ways: list[Action] = [
            partial(app.sign_in, runtime, event),
            partial(call, api, user("created", subject, email="ada@example.com")),
            partial(begin, database, principal),
            partial(database.rows, principal, create, {"id": uuid4()}),
            partial(profiles.own, database, principal),
        ]

        results = await at_once(partial(owner.rows, insert, {"id": subject}), *ways * 6)

        assert refusals(results) == set()
        answers = [result.json() for result in results if isinstance(result, httpx.Response)]
        assert answers == [{"handled": True}] * 6
        made = "select email, full_name, auth_user_id, is_guest from public.user_profiles where id = %(id)s"
        assert await owner.rows(made, {"id": subject}) == [
            {"email": "ada@example.com", "full_name": "Ada Lovelace", "auth_user_id": UUID(subject), "is_guest": False}
        ]
        sessions = 'select count(*) from public."Chat" where user_id = %(id)s'
        assert await owner.number(sessions, {"id": subject}) == 7
