"""The caller's own routes: guest tokens, the profile, a claim, leaving."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest

from functions.account import app
from tests.aws import LambdaContext, recorded
from tests.crowd import Owner, begin, somebody
from tests.functions.account import ada, by_token, client_of, new_guest, problem, wrong_fields
from tests.providers import OTHER_ISSUER, bearer
from threadkeep.database import Database
from threadkeep.guests import LIFETIME, issue_guest
from threadkeep.identity import user_id_of
from threadkeep.settings import Settings
from threadkeep.web import LambdaHandler

ORIGIN = "https://app.example.com"


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return environment | {"ALLOWED_ORIGINS": ORIGIN}


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(settings, database) as client:
        yield client


# Guests


async def test_a_guest_has_a_token_and_a_profile_at_once(api: httpx.AsyncClient, owner: Owner) -> None:
    guest = await new_guest(api)
    expires_at = datetime.fromisoformat(guest["expiresAt"])
    assert abs(expires_at - datetime.now(expires_at.tzinfo) - LIFETIME) < timedelta(minutes=1)
    [row] = await owner.rows("select id, is_guest from public.user_profiles")
    assert row == {"id": UUID(guest["userId"]), "is_guest": True}
    profile = (await api.get("/api/me", headers=by_token(guest["token"]))).json()
    assert (profile["id"], profile["isGuest"]) == (guest["userId"], True)


async def test_too_many_guests_are_told_when_to_come_back(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows("""
        update public.admin_config
        set config_data = config_data || '{"guests": {"perAddressPerHour": 1}}'
        where config_key = 'app_settings'
    """)
    await new_guest(api)
    refused = await api.post("/api/auth/guest")
    assert problem(refused) == (429, "rate_limit:guest")
    assert 1 <= int(refused.headers["retry-after"]) <= 3600
    assert await owner.number("select count(*) from public.user_profiles") == 1


async def test_there_are_no_guests_where_an_administrator_wants_none(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows("""
        update public.admin_config
        set config_data = config_data || '{"guests": {"enabled": false}}'
        where config_key = 'app_settings'
    """)
    assert problem(await api.post("/api/auth/guest")) == (401, "unauthorized:auth")


async def test_there_are_no_guests_where_they_are_switched_off(environment: dict[str, str], database: Database) -> None:
    settings = Settings.load({**environment, "GUESTS_ENABLED": "false", "GUEST_TOKEN_KEYS": ""})
    async with client_of(settings, database) as api:
        assert problem(await api.post("/api/auth/guest")) == (401, "unauthorized:auth")
        answer = await api.post("/api/me/claim", headers=ada(), json={"guestToken": "anything"})
        assert wrong_fields(answer) == ["guestToken"]


async def test_a_guest_who_comes_back_keeps_his_things_for_another_30_days(
    api: httpx.AsyncClient, settings: Settings, owner: Owner
) -> None:
    guest = await new_guest(api)
    await owner.rows("alter table public.user_profiles disable trigger user")
    await owner.rows("update public.user_profiles set updated_at = now() - interval '20 days'")
    await owner.rows("alter table public.user_profiles enable trigger user")
    half_spent = issue_guest(settings, UUID(guest["userId"]), now=time.time() - 20 * 86400)

    answer = await api.get("/api/me", headers=by_token(half_spent.token))

    assert answer.headers["x-guest-token"]
    assert (
        await owner.number("select count(*) from public.user_profiles where updated_at > now() - interval '1 h'") == 1
    )


# The profile


async def test_a_stranger_has_no_profile(api: httpx.AsyncClient) -> None:
    answers = [await api.get("/api/me"), await api.patch("/api/me", json={}), await api.delete("/api/me")]
    assert {problem(answer) for answer in answers} == {(401, "unauthorized:auth")}


async def test_a_missing_profile_is_made_when_it_is_read(api: httpx.AsyncClient, settings: Settings) -> None:
    answer = await api.get("/api/me", headers=ada())
    profile = answer.json()
    assert profile.pop("createdAt") == profile.pop("updatedAt")
    assert profile == {
        "id": str(user_id_of(settings, OTHER_ISSUER, "ada")),
        "email": "ada@example.com",
        "fullName": "Ada",
        "preferences": {},
        "isGuest": False,
        "isAdmin": False,
    }


async def test_an_administrator_is_told_so(api: httpx.AsyncClient) -> None:
    answer = await api.get("/api/me", headers=ada(app_metadata={"role": "admin"}))
    assert answer.json()["isAdmin"] is True


async def test_a_change_is_of_the_callers_own_profile_and_of_what_was_sent(api: httpx.AsyncClient) -> None:
    await api.get("/api/me", headers=bearer("grace", name="Grace"))
    changed = await api.patch("/api/me", headers=ada(), json={"preferences": {"theme": "dark", "n": [1, None]}})
    assert (changed.json()["fullName"], changed.json()["preferences"]) == ("Ada", {"theme": "dark", "n": [1, None]})
    changed = await api.patch("/api/me", headers=ada(), json={"fullName": "  Ada Lovelace "})
    assert changed.json()["fullName"] == "Ada Lovelace"
    changed = await api.patch("/api/me", headers=ada(), json={"fullName": None})
    assert (changed.json()["fullName"], changed.json()["preferences"]["theme"]) == (None, "dark")
    changed = await api.patch("/api/me", headers=ada(), json={"preferences": {}})
    assert changed.json()["preferences"] == {}
    other = await api.get("/api/me", headers=bearer("grace"))
    assert (other.json()["fullName"], other.json()["preferences"]) == ("Grace", {})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"fullName": ""}', "fullName"),
        ('{"fullName": "   "}', "fullName"),
        ('{"fullName": 7}', "fullName"),
        (json.dumps({"fullName": "x" * 201}), "fullName"),
        ('{"preferences": []}', "preferences"),
        ('{"preferences": null}', "preferences"),
        (json.dumps({"preferences": {"a": "x" * 16 * 1024}}), "preferences"),
        ('{"email": "root@example.com"}', "email"),
        ('{"isAdmin": true}', "isAdmin"),
        ('{"isGuest": false}', "isGuest"),
        (r'{"fullName": "a\u0000"}', "body"),
        (r'{"preferences": {"a": "\ud800"}}', "body"),
    ],
)
async def test_a_wrong_change_names_its_field_and_changes_nothing(
    api: httpx.AsyncClient, body: str, field: str
) -> None:
    before = (await api.get("/api/me", headers=ada())).json()
    answer = await api.patch("/api/me", headers=ada() | {"content-type": "application/json"}, content=body)
    assert wrong_fields(answer) == [field]
    assert (await api.get("/api/me", headers=ada())).json() == before


async def test_preferences_may_have_16_kb(api: httpx.AsyncClient) -> None:
    preferences = {"a": "ü" * ((16 * 1024 - len('{"a":""}')) // 2)}
    answer = await api.patch("/api/me", headers=ada(), json={"preferences": preferences})
    assert (answer.status_code, answer.json()["preferences"]) == (200, preferences)


async def test_preferences_may_be_nested_as_deep_as_a_body_may(api: httpx.AsyncClient) -> None:
    def nested(levels: int) -> str:
        return '{"preferences": ' + '{"a": ' * levels + "1" + "}" * levels + "}"

    headers = ada() | {"content-type": "application/json"}
    assert (await api.patch("/api/me", headers=headers, content=nested(63))).status_code == 200
    assert problem(await api.patch("/api/me", headers=headers, content=nested(64))) == (400, "bad_request:api")


# Leaving


async def test_who_left_is_refused_with_a_token_that_is_still_valid(
    api: httpx.AsyncClient, settings: Settings, database: Database, owner: Owner
) -> None:
    user = somebody(user_id_of(settings, OTHER_ISSUER, "ada"))
    await begin(database, user)
    left = await api.delete("/api/me", headers=ada())
    assert (left.status_code, left.content) == (204, b"")

    answers = await asyncio.gather(
        *[api.get("/api/me", headers=ada()) for _ in range(13)],
        *[api.patch("/api/me", headers=ada(), json={"fullName": "Ada"}) for _ in range(12)],
    )

    assert {problem(answer) for answer in answers} == {(403, "forbidden:account")}
    again = await api.delete("/api/me", headers=ada())
    assert (again.status_code, again.headers["x-identity-deletion"]) == (204, "kept")
    for table in ("user_profiles", '"Chat"', '"Message_v2"', '"Stream"', "rate_limit_tracking"):
        assert await owner.number(f"select count(*) from public.{table}") == 0


async def test_a_guest_who_leaves_loses_the_cookie_and_gets_no_new_token(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    half_spent = issue_guest(settings, uuid4(), now=time.time() - 20 * 86400)
    cookie = {"cookie": f"threadkeep_guest={half_spent.token}"}
    assert problem(await api.delete("/api/me", headers=cookie)) == (403, "forbidden:origin")

    answer = await api.delete("/api/me", headers=cookie | {"origin": ORIGIN})

    assert answer.status_code == 204
    assert not {"x-guest-token", "x-identity-deletion"} & set(answer.headers)
    assert answer.headers["set-cookie"].startswith("threadkeep_guest=; HttpOnly; Path=/; Max-Age=0")
    assert problem(await api.get("/api/me", headers=by_token(half_spent.token))) == (403, "forbidden:account")


# Claims


async def test_an_account_takes_over_what_its_guest_did(
    api: httpx.AsyncClient, settings: Settings, database: Database, owner: Owner
) -> None:
    guest = await new_guest(api)
    await begin(database, somebody(UUID(guest["userId"]), is_guest=True))
    headers = ada() | {"cookie": f"threadkeep_guest={guest['token']}", "origin": ORIGIN}

    claimed = await api.post("/api/me/claim", headers=headers, json={"guestToken": guest["token"]})
    again = await api.post("/api/me/claim", headers=ada(), json={"guestToken": guest["token"]})

    assert (claimed.status_code, claimed.json()) == (200, {"sessions": 1, "documents": 0})
    assert "Max-Age=0" in claimed.headers["set-cookie"]
    assert (again.status_code, again.json()) == (200, {"sessions": 0, "documents": 0})
    assert "set-cookie" not in again.headers
    [row] = await owner.rows('select user_id from public."Chat"')
    assert row["user_id"] == user_id_of(settings, OTHER_ISSUER, "ada")
    assert problem(await api.get("/api/me", headers=by_token(guest["token"]))) == (403, "forbidden:account")


async def test_a_guest_is_claimed_by_one_account_only(api: httpx.AsyncClient) -> None:
    guest = await new_guest(api)
    body = {"guestToken": guest["token"]}
    assert (await api.post("/api/me/claim", headers=ada(), json=body)).status_code == 200
    answer = await api.post("/api/me/claim", headers=bearer("grace"), json=body)
    assert problem(answer) == (409, "conflict:guest")


async def test_a_guest_claims_nobody(api: httpx.AsyncClient) -> None:
    guest, other = await new_guest(api), await new_guest(api)
    answer = await api.post("/api/me/claim", headers=by_token(guest["token"]), json={"guestToken": other["token"]})
    assert problem(answer) == (403, "forbidden:auth")


async def test_a_claim_needs_an_account(api: httpx.AsyncClient) -> None:
    guest = await new_guest(api)
    answer = await api.post("/api/me/claim", json={"guestToken": guest["token"]})
    assert problem(answer) == (401, "unauthorized:auth")


@pytest.mark.parametrize("token", ["", "nonsense", "x" * 9000, "an account's"])
async def test_only_a_guests_token_can_be_claimed(api: httpx.AsyncClient, token: str) -> None:
    if token == "an account's":
        token = bearer("grace")["authorization"].removeprefix("Bearer ")
    answer = await api.post("/api/me/claim", headers=ada(), json={"guestToken": token})
    assert wrong_fields(answer) == ["guestToken"]


# On Lambda


def test_the_function_answers_an_event_of_the_http_api(process: asyncio.AbstractEventLoop, database_url: str) -> None:
    handler = LambdaHandler(app.router)
    answers = [handler(recorded("http_api_auth_guest"), LambdaContext()) for _ in range(2)]
    process.run_until_complete(handler.runtime.database.close())
    assert [answer["statusCode"] for answer in answers] == [201, 201]
    assert len({json.loads(answer["body"])["userId"] for answer in answers}) == 2
