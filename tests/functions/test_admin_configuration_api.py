"""The routes of configurations: for administrators, for everybody else, and for two of them at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from functions.admin import app
from tests.aws import LambdaContext, recorded
from tests.crowd import Owner, somebody
from tests.providers import bearer
from threadkeep import admin_configuration, model_catalog
from threadkeep.configuration import SHAPES, json_schema
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.guests import issue_guest
from threadkeep.identity import Authenticator
from threadkeep.settings import Settings
from threadkeep.web import LambdaHandler, Runtime, create_app

ADA = bearer("ada")
ROOT = bearer("root", email="root@example.com", name="Root", app_metadata={"role": "admin"})
OTHER_ROOT = bearer("other", app_metadata={"role": "admin"})
ADMINISTRATORS = 12

CONFIG = "/api/admin/config"
CHAT = f"{CONFIG}/chat_model_agent_google"
SETTINGS = f"{CONFIG}/app_settings"


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    application = create_app(*app.ROUTERS, runtime=Runtime(settings, database, Authenticator(settings)))
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as client:
        yield client


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def wrong_fields(answer: httpx.Response) -> dict[str, str]:
    assert problem(answer) == (422, "invalid:api")
    return {error["field"]: error["message"] for error in answer.json()["errors"]}


async def read(api: httpx.AsyncClient, path: str = CHAT) -> dict[str, Any]:
    answer = await api.get(path, headers=ROOT)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    assert answer.headers["etag"] == found["etag"]
    return found


async def history(api: httpx.AsyncClient, path: str = CHAT) -> list[dict[str, Any]]:
    answer = await api.get(f"{path}/history", headers=ROOT)
    assert answer.status_code == 200
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def break_by_hand(owner: Owner, key: str, data: Any) -> None:
    """Writes past the trigger, as somebody with the owner's password can."""
    await owner.rows("alter table public.admin_config disable trigger trigger_validate_admin_config")
    await owner.rows(
        """
        insert into public.admin_config (config_key, config_data) values (%(key)s, %(data)s)
        on conflict (config_key) do update set config_data = excluded.config_data
        """,
        {"key": key, "data": json.dumps(data)},
    )
    await owner.rows("alter table public.admin_config enable trigger trigger_validate_admin_config")


async def version(owner: Owner) -> int:
    return await owner.number("select version from private.configuration_version")


# Reading


async def test_the_list_has_every_configuration_as_it_was_delivered(api: httpx.AsyncClient) -> None:
    answer = await api.get(CONFIG, headers=ROOT)
    listed = answer.json()
    assert [one["key"] for one in listed["items"]] == sorted(SHAPES)
    assert listed["nextCursor"] is None
    for one in listed["items"]:
        assert one["isSeeded"], one
        assert one["problems"] == []
        assert one["version"] >= 1
        assert one["updatedBy"] is None
        assert "data" not in one


async def test_a_configuration_comes_with_its_tag_and_the_way_to_its_schema(api: httpx.AsyncClient) -> None:
    found = await read(api)
    assert found["data"]["rateLimit"] == {"perMinute": 10, "perHour": 100, "perDay": 1000}
    assert found["isSeeded"] is True
    schema = await api.get(found["schemaUrl"], headers=ROOT)
    assert schema.headers["content-type"] == "application/schema+json"
    assert schema.json() == json_schema("chat_model_agent_google")


# Who may


async def test_nobody_but_an_administrator_gets_in(api: httpx.AsyncClient, owner: Owner, settings: Settings) -> None:
    before = await read(api)
    calls: list[tuple[str, str, Any]] = [
        ("GET", CONFIG, None),
        ("GET", CHAT, None),
        ("PUT", CHAT, before["data"] | {"enabled": False}),
        ("PATCH", CHAT, {"enabled": False}),
        ("DELETE", CHAT, None),
        ("GET", f"{CHAT}/history", None),
        ("GET", f"{CHAT}/history/1", None),
        ("POST", f"{CHAT}/revert", {"historyId": 1}),
        ("GET", f"{CHAT}/schema", None),
    ]
    guest = {"authorization": f"Bearer {issue_guest(settings).token}"}
    self_made = bearer("eve", user_metadata={"role": "admin"}, role="authenticated")
    for method, path, body in calls:
        assert problem(await api.request(method, path, json=body)) == (401, "unauthorized:auth"), (method, path)
        for caller in (ADA, guest, self_made):
            answer = await api.request(method, path, headers=caller, json=body)
            assert problem(answer) == (403, "forbidden:auth"), (method, path)
    assert await read(api) == before


async def test_a_disabled_administrator_reads_and_changes_nothing(api: httpx.AsyncClient, owner: Owner) -> None:
    await api.patch(CHAT, headers=ROOT, json={"enabled": False})
    before = await owner.rows("select config_data from public.admin_config")
    await owner.rows("update public.user_profiles set disabled_at = now()")
    calls: list[tuple[str, str, Any]] = [
        ("GET", CONFIG, None),
        ("PUT", CHAT, {}),
        ("PATCH", CHAT, {"enabled": True}),
        ("DELETE", CHAT, None),
        ("GET", f"{CHAT}/history", None),
        ("POST", f"{CHAT}/revert", {"historyId": 1}),
    ]
    for method, path, body in calls:
        answer = await api.request(method, path, headers=ROOT, json=body)
        # What is sent is judged before who sends it is asked for in the database.
        expected = (422, "invalid:api") if body == {} else (403, "forbidden:account")
        assert problem(answer) == expected, (method, path)
    assert await owner.rows("select config_data from public.admin_config") == before


async def test_the_database_itself_refuses_whoever_is_no_administrator(database: Database) -> None:
    user = somebody()
    fields = model_catalog.ModelFields(
        name="x",
        description=None,
        is_active=True,
        is_default=False,
        thinking_enabled=False,
        input_price=Decimal(1),
        output_price=Decimal(1),
        metadata={},
    )
    settings = {"activeProvider": "google", "availableProviders": ["google"]}
    for attempt in (
        admin_configuration.put(database, user, "app_settings", settings),
        model_catalog.create(database, user, "x", "google", fields),
        model_catalog.make_default(database, user, "gemini-2.5-pro"),
        model_catalog.delete(database, user, "gemini-2.5-pro"),
        model_catalog.change(database, user, "gemini-2.5-pro", {"name": "x"}),
    ):
        with pytest.raises(ThreadkeepError) as refusal:
            await attempt
        assert refusal.value.code == "forbidden:auth"
    with pytest.raises(ThreadkeepError) as refusal:
        await admin_configuration.read(database, user, "app_settings")
    assert refusal.value.code == "not_found:configuration"
    page = await admin_configuration.history(database, user, "app_settings", limit=5, cursor=None)
    assert page.items == []


# Replacing and patching


async def test_a_replacement_is_a_version_in_the_administrators_name(api: httpx.AsyncClient, owner: Owner) -> None:
    assert await owner.number("select count(*) from public.user_profiles") == 0
    first, counted = await read(api), await version(owner)
    data = first["data"] | {"systemPrompt": "Be brief."}
    answer = await api.put(CHAT, headers=ROOT, json=data)
    assert answer.status_code == 200
    second = answer.json()
    assert second == await read(api)
    assert (second["data"], second["version"], second["isSeeded"]) == (data, first["version"] + 1, False)
    assert second["etag"] != first["etag"]
    assert (second["updatedBy"]["email"], second["updatedBy"]["fullName"]) == ("root@example.com", "Root")
    assert await version(owner) > counted


async def test_the_same_again_is_no_change(api: httpx.AsyncClient, owner: Owner) -> None:
    first, counted = await read(api), await version(owner)
    answers = [
        await api.put(CHAT, headers=ROOT, json=first["data"]),
        await api.patch(CHAT, headers=ROOT, json={}),
        await api.patch(CHAT, headers=ROOT, json={"enabled": True}),
        await api.delete(CHAT, headers=ROOT),
    ]
    assert [answer.json() for answer in answers] == [first] * 4
    assert await version(owner) == counted
    assert (await history(api))[0]["version"] == first["version"]


async def test_a_merge_patch_changes_its_members_and_no_others(api: httpx.AsyncClient) -> None:
    data = (await read(api, SETTINGS))["data"]
    patch = {"turn": {"maxSeconds": 60}, "availableProviders": ["google"], "fallback": None}
    answer = await api.patch(
        SETTINGS,
        headers=ROOT | {"content-type": "application/merge-patch+json"},
        content=json.dumps(patch),
    )
    assert answer.status_code == 200
    expected = data | {"turn": {"maxSeconds": 60}, "availableProviders": ["google"]}
    del expected["fallback"]
    assert answer.json()["data"] == expected


@pytest.mark.parametrize(
    ("path", "patch", "field", "message"),
    [
        (CHAT, {"enabled": "yes"}, "enabled", "must be true or false"),
        (CHAT, {"rateLimit": {"perMinute": -1}}, "rateLimit.perMinute", "must be greater than or equal to 0"),
        (CHAT, {"rateLimit": {"perMinute": 5.0}}, "rateLimit.perMinute", "must be a whole number"),
        (CHAT, {"rateLimit": {"perMinute": None}}, "rateLimit.perMinute", "is missing"),
        (CHAT, {"systemPrompt": " "}, "systemPrompt", "must not be blank"),
        (CHAT, {"mood": 1}, "mood", "is not a known field"),
        (CHAT, [], "configData", "must be an object"),
        (SETTINGS, {"activeProvider": "mistral"}, "activeProvider", "must be 'google', 'openai' or 'anthropic'"),
        (SETTINGS, {"availableProviders": ["openai"]}, "availableProviders", "must name the active provider"),
        (SETTINGS, {"fallback": {"models": ["gpt-9"]}}, "fallback.models[0]", "is not a model here"),
        (
            SETTINGS,
            {"fallback": {"models": ["gpt-4o", "gemma-3"]}},
            "fallback.models[1]",
            "is not an active model",
        ),
        (SETTINGS, {"turn": {"maxSeconds": 10**30}}, "turn.maxSeconds", "must be less than or equal to 840"),
    ],
    ids=str,
)
async def test_what_is_wrong_or_cannot_work_is_refused_with_field_and_reason(
    api: httpx.AsyncClient, path: str, patch: Any, field: str, message: str
) -> None:
    before = await read(api, path)
    assert wrong_fields(await api.patch(path, headers=ROOT, json=patch)) == {field: message}
    assert await read(api, path) == before


async def test_every_wrong_field_is_named_at_once(api: httpx.AsyncClient) -> None:
    answer = await api.put(CHAT, headers=ROOT, json={"enabled": 1, "tools": {}, "mood": "good"})
    assert set(wrong_fields(answer)) == {
        "capabilities",
        "enabled",
        "fileInputTypes",
        "mood",
        "rateLimit",
        "systemPrompt",
    }


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        ("{", 400, "bad_request:api"),
        ("", 422, "invalid:api"),
        ("null", 422, "invalid:api"),
        ("1", 422, "invalid:api"),
        ('{"systemPrompt": "\\u0000"}', 422, "invalid:api"),
        ('{"rateLimit": {"perDay": NaN}}', 400, "bad_request:api"),
        ('{"rateLimit": {"perDay": ' + "9" * 5000 + "}}", 400, "bad_request:api"),
        ("[" * 70 + "]" * 70, 400, "bad_request:api"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_rubbish_changes_nothing(
    api: httpx.AsyncClient, method: str, content: str, status: int, code: str
) -> None:
    before = await read(api)
    headers = ROOT | {"content-type": "application/json"}
    assert problem(await api.request(method, CHAT, headers=headers, content=content)) == (status, code)
    assert await read(api) == before


@pytest.mark.parametrize("key", ["nobody", "chat_model_agent_mistral", "%00", "a%2Fb", "x" * 5000, "%F0%9F%99%82"])
async def test_a_key_that_there_is_not_is_not_found(api: httpx.AsyncClient, key: str) -> None:
    path = f"{CONFIG}/{key}"
    code = "not_found:api" if "%2F" in key else "not_found:configuration"
    calls: list[tuple[str, str, Any]] = [
        ("GET", path, None),
        ("PUT", path, {}),
        ("PATCH", path, {}),
        ("DELETE", path, None),
        ("GET", f"{path}/history", None),
        ("POST", f"{path}/revert", {"historyId": 1}),
        ("GET", f"{path}/schema", None),
    ]
    for method, where, body in calls:
        assert problem(await api.request(method, where, headers=ROOT, json=body)) == (404, code), (method, where)


# A model and the settings that name it


async def test_a_fallback_that_was_switched_off_stands_in_no_ones_way(api: httpx.AsyncClient) -> None:
    fallback = {"enabled": True, "models": ["gpt-4o"]}
    assert (await api.patch(SETTINGS, headers=ROOT, json={"fallback": fallback})).status_code == 200
    assert problem(await api.delete("/api/admin/models/gpt-4o", headers=ROOT)) == (409, "conflict:model")
    await api.patch("/api/admin/models/gpt-4o", headers=ROOT, json={"isActive": False})
    assert (await read(api, SETTINGS))["problems"] == [
        {"field": "fallback.models[0]", "message": "is not an active model"}
    ]
    assert (await api.patch(SETTINGS, headers=ROOT, json={"titles": {"enabled": False}})).status_code == 200
    models = {"fallback": {"models": ["gpt-4o", "gpt-4-turbo"]}}
    assert set(wrong_fields(await api.patch(SETTINGS, headers=ROOT, json=models))) == {"fallback.models[1]"}


async def test_a_provider_without_models_cannot_be_the_active_one(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows("delete from public.model_config where provider = 'openai'")
    change = {"activeProvider": "openai"}
    assert wrong_fields(await api.patch(SETTINGS, headers=ROOT, json=change)) == {
        "activeProvider": "has no active default model"
    }


async def test_a_fallback_and_the_deletion_of_its_model_do_not_both_happen(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    for model in ("gpt-4o", "gpt-4o-mini", "gpt-6-luna", "gpt-6.1-sol"):
        named, deleted = await asyncio.gather(
            api.patch(SETTINGS, headers=ROOT, json={"fallback": {"models": [model]}}),
            api.delete(f"/api/admin/models/{model}", headers=OTHER_ROOT),
        )
        assert (named.status_code, deleted.status_code) in {(200, 409), (422, 204)}
        assert (await read(api, SETTINGS))["problems"] == []


# Conditions


async def test_a_condition_that_does_not_hold_gives_back_what_is_there(api: httpx.AsyncClient) -> None:
    first = await read(api)
    seen = ROOT | {"if-match": first["etag"]}
    second = (await api.patch(CHAT, headers=seen, json={"enabled": False})).json()
    [entry, *_] = await history(api)
    calls: list[tuple[str, str, Any]] = [
        ("PUT", CHAT, first["data"]),
        ("PATCH", CHAT, {"enabled": True}),
        ("DELETE", CHAT, None),
        ("POST", f"{CHAT}/revert", {"historyId": entry["id"]}),
    ]
    for method, path, body in calls:
        for tag in (first["etag"], "W/" + second["etag"], "rubbish", '""', '"1"'):
            answer = await api.request(method, path, headers=ROOT | {"if-match": tag}, json=body)
            assert problem(answer) == (412, "precondition_failed:configuration"), (method, tag)
            current = answer.json()["current"]
            assert (current["etag"], current["data"]) == (second["etag"], second["data"])
    assert await read(api) == second
    for tag in ("*", f'"other", {second["etag"]}'):
        assert (await api.patch(CHAT, headers=ROOT | {"if-match": tag}, json={})).status_code == 200


async def test_of_many_administrators_with_one_condition_one_wins(api: httpx.AsyncClient) -> None:
    first = await read(api)
    seen = ROOT | {"if-match": first["etag"]}
    replacements = [
        api.put(CHAT, headers=seen, json=first["data"] | {"systemPrompt": f"Prompt {number}."})
        for number in range(ADMINISTRATORS)
    ]
    patches = [
        api.patch(CHAT, headers=seen, json={"systemPrompt": f"Patch {number}."}) for number in range(ADMINISTRATORS)
    ]
    answers = await asyncio.gather(*replacements, *patches)
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] + [412] * (2 * ADMINISTRATORS - 1)
    [winner] = [answer.json() for answer in answers if answer.status_code == 200]
    assert await read(api) == winner
    assert winner["version"] == first["version"] + 1
    for answer in answers:
        if answer.status_code == 412:
            assert answer.json()["current"]["data"] == winner["data"]


async def test_patches_at_once_without_a_condition_are_all_kept(api: httpx.AsyncClient) -> None:
    tools = ["providerToolsAgent", "documentAgent", "pythonAgent", "mermaidAgent", "gitMcpAgent"]
    first = await read(api)
    patches: list[dict[str, Any]] = [{"tools": {tool: {"enabled": False}}} for tool in tools]
    patches += [{"rateLimit": {limit: 7}} for limit in ("perMinute", "perHour", "perDay")]
    whatever_it_is = ROOT | {"if-match": "*"}
    answers = await asyncio.gather(
        *[api.patch(CHAT, headers=ROOT, json=patch) for patch in patches[::2]],
        *[api.patch(CHAT, headers=whatever_it_is, json=patch) for patch in patches[1::2]],
    )
    assert [answer.status_code for answer in answers] == [200] * len(patches)
    data = (await read(api))["data"]
    assert data["rateLimit"] == {"perMinute": 7, "perHour": 7, "perDay": 7}
    assert [tool["enabled"] for tool in data["tools"].values()] == [False] * 5
    assert len(await history(api)) == first["version"] + len(patches)


async def test_the_tag_of_a_row_that_was_deleted_and_made_again_does_not_come_back(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    first = await read(api)
    [row] = await owner.rows(
        "delete from public.admin_config where config_key = 'chat_model_agent_google' returning config_data"
    )
    await owner.rows(
        "insert into public.admin_config (config_key, config_data) values ('chat_model_agent_google', %(data)s)",
        {"data": json.dumps(row["config_data"])},
    )
    answer = await api.patch(CHAT, headers=ROOT | {"if-match": first["etag"]}, json={"enabled": False})
    assert problem(answer) == (412, "precondition_failed:configuration")


# What is broken or gone


async def test_a_row_broken_by_hand_is_shown_with_its_problem_and_mended(api: httpx.AsyncClient, owner: Owner) -> None:
    good = await read(api)
    for broken, field in [
        (good["data"] | {"enabled": "yes"}, "enabled"),
        ({}, "systemPrompt"),
        ("rubbish", "configData"),
        ([1], "configData"),
        (None, "configData"),
    ]:
        for mend in ("put", "revert", "reset"):
            await break_by_hand(owner, "chat_model_agent_google", broken)
            shown = await read(api)
            assert shown["data"] == broken
            assert field in {one["field"] for one in shown["problems"]}
            [listed] = [
                one
                for one in (await api.get(CONFIG, headers=ROOT)).json()["items"]
                if one["key"] == "chat_model_agent_google"
            ]
            assert listed["problems"] == shown["problems"]
            seen = ROOT | {"if-match": shown["etag"]}
            [*_, seed] = await history(api)
            if mend == "put":
                answer = await api.put(CHAT, headers=seen, json=good["data"])
            elif mend == "revert":
                answer = await api.post(f"{CHAT}/revert", headers=seen, json={"historyId": seed["id"]})
            else:
                answer = await api.delete(CHAT, headers=seen)
            assert answer.status_code == 200
            assert (answer.json()["data"], answer.json()["problems"]) == (good["data"], [])


async def test_a_patch_mends_a_row_if_what_comes_out_is_whole(api: httpx.AsyncClient, owner: Owner) -> None:
    good = await read(api)
    await break_by_hand(owner, "chat_model_agent_google", good["data"] | {"mood": 1})
    assert set(wrong_fields(await api.patch(CHAT, headers=ROOT, json={"enabled": False}))) == {"mood"}
    mended = await api.patch(CHAT, headers=ROOT, json={"mood": None})
    assert mended.json()["data"] == good["data"]


async def test_a_number_that_only_a_reader_refuses_is_replaced(api: httpx.AsyncClient, owner: Owner) -> None:
    """To jsonb, 10.0 and 10 are the same."""
    good = await read(api)
    limits = good["data"]["rateLimit"] | {"perMinute": 10.0}
    await break_by_hand(owner, "chat_model_agent_google", good["data"] | {"rateLimit": limits})
    assert len((await read(api))["problems"]) == 1
    await api.put(CHAT, headers=ROOT, json=good["data"])
    assert (await read(api))["problems"] == []


async def test_a_missing_row_is_listed_and_made_again(api: httpx.AsyncClient, owner: Owner) -> None:
    good = await read(api)
    for mend in ("put", "revert", "reset"):
        await owner.rows("delete from public.admin_config where config_key = 'chat_model_agent_google'")
        listed = {one["key"]: one for one in (await api.get(CONFIG, headers=ROOT)).json()["items"]}
        missing = listed["chat_model_agent_google"]
        assert (missing["version"], missing["etag"]) == (None, None)
        assert missing["problems"] == [{"field": "configData", "message": "is missing"}]
        assert problem(await api.get(CHAT, headers=ROOT)) == (404, "not_found:configuration")
        assert problem(await api.patch(CHAT, headers=ROOT, json={})) == (404, "not_found:configuration")
        any_of_it = await api.put(CHAT, headers=ROOT | {"if-match": "*"}, json=good["data"])
        assert problem(any_of_it) == (412, "precondition_failed:configuration")
        entries = await history(api)
        assert entries[0]["operation"] == "delete"
        on_deletion = await api.post(f"{CHAT}/revert", headers=ROOT, json={"historyId": entries[0]["id"]})
        assert problem(on_deletion) == (409, "conflict:configuration")
        if mend == "put":
            answer = await api.put(CHAT, headers=ROOT, json=good["data"])
        elif mend == "revert":
            answer = await api.post(f"{CHAT}/revert", headers=ROOT, json={"historyId": entries[-1]["id"]})
        else:
            answer = await api.delete(CHAT, headers=ROOT)
        assert answer.status_code == (201 if mend == "put" else 200)
        assert (answer.json()["data"], answer.json()["version"]) == (good["data"], 1)


async def test_a_row_under_a_key_that_nothing_reads_can_be_read_and_deleted(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    path = f"{CONFIG}/chat_model_agent_mistral"
    await break_by_hand(owner, "chat_model_agent_mistral", {"enabled": True})
    found = await read(api, path)
    assert found["problems"] == [{"field": "configKey", "message": "is not the key of a configuration"}]
    assert found["schemaUrl"] is None
    assert "chat_model_agent_mistral" in {one["key"] for one in (await api.get(CONFIG, headers=ROOT)).json()["items"]}
    wrong = await api.delete(path, headers=ROOT | {"if-match": '"other"'})
    assert problem(wrong) == (412, "precondition_failed:configuration")
    assert (await api.delete(path, headers=ROOT | {"if-match": found["etag"]})).status_code == 204
    assert problem(await api.delete(path, headers=ROOT)) == (404, "not_found:configuration")
    assert [entry["operation"] for entry in await history(api, path)] == ["delete", "insert"]


async def test_the_row_of_an_own_tool_is_made_changed_and_deleted(api: httpx.AsyncClient) -> None:
    path = f"{CONFIG}/tool_weather"
    row = {
        "enabled": True,
        "rateLimit": {"perMinute": 1, "perHour": 2, "perDay": 3},
        "server": {"url": "https://tools.example.com/mcp", "secret": "weather", "allowedTools": ["forecast"]},
    }
    assert (await api.put(path, headers=ROOT, json=row)).status_code == 201
    assert (await api.patch(path, headers=ROOT, json={"enabled": False})).status_code == 200
    wrong = await api.patch(path, headers=ROOT, json={"server": {"url": "ftp://tools.example.com"}})
    assert wrong_fields(wrong).keys() == {"server.url"}
    schema = (await api.get(f"{path}/schema", headers=ROOT)).json()
    assert "server" in schema["properties"]
    assert (await api.delete(path, headers=ROOT)).status_code == 204
    assert problem(await api.get(path, headers=ROOT)) == (404, "not_found:configuration")


# Deleting is putting back


async def test_deleting_puts_back_what_was_delivered(api: httpx.AsyncClient) -> None:
    first = await read(api)
    await api.patch(CHAT, headers=ROOT, json={"enabled": False, "systemPrompt": "Be brief."})
    answer = await api.delete(CHAT, headers=OTHER_ROOT)
    assert answer.status_code == 200
    assert (answer.json()["data"], answer.json()["isSeeded"]) == (first["data"], True)
    assert answer.json()["version"] == first["version"] + 2


async def test_a_seed_that_a_later_migration_changed_is_what_is_gone_back_to(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    """Unless somebody had changed the row: what the migration then adds is no seed."""
    google, openai = await read(api), await read(api, f"{CONFIG}/chat_model_agent_openai")
    await api.patch(f"{CONFIG}/chat_model_agent_openai", headers=ROOT, json={"enabled": False})
    await owner.rows("select set_config('threadkeep.migration', '9999_seed.sql', false)")
    await owner.rows(
        """
        update public.admin_config
        set config_data = config_data || '{"systemPrompt": "Newer."}'
        where config_key like 'chat_model_agent_%%'
        """
    )
    await owner.rows("select set_config('threadkeep.migration', '', false)")
    assert (await read(api))["isSeeded"] is True
    await api.patch(CHAT, headers=ROOT, json={"systemPrompt": "Mine."})
    assert (await api.delete(CHAT, headers=ROOT)).json()["data"] == google["data"] | {"systemPrompt": "Newer."}
    back = await api.delete(f"{CONFIG}/chat_model_agent_openai", headers=ROOT)
    assert back.json()["data"] == openai["data"]


async def test_without_a_seed_deleting_is_refused(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows("update public.admin_config_history set is_seed = false")
    before = await read(api)
    assert problem(await api.delete(CHAT, headers=ROOT)) == (409, "conflict:configuration")
    assert before["isSeeded"] is False
    assert await read(api) == before


# History


async def test_the_history_says_who_changed_what(api: httpx.AsyncClient) -> None:
    prompt = "Be brief. " * 60
    await api.patch(CHAT, headers=ROOT, json={"systemPrompt": prompt, "capabilities": {"fileInput": None}})
    await api.patch(CHAT, headers=OTHER_ROOT, json={"rateLimit": {"perDay": 9}, "capabilities": {"fileInput": True}})
    second, first, *_, seed = await history(api)
    assert [(one["path"], one["change"], one["before"], one["after"]) for one in second["changes"]] == [
        ("rateLimit.perDay", "changed", 1000, 9),
        ("capabilities.fileInput", "added", None, True),
    ]
    changes = {one["path"]: one for one in first["changes"]}
    assert set(changes) == {"systemPrompt", "capabilities.fileInput"}
    assert changes["capabilities.fileInput"]["change"] == "removed"
    assert len(changes["systemPrompt"]["after"]) == 200
    assert (first["changedBy"]["email"], first["changedBy"]["fullName"]) == ("root@example.com", "Root")
    assert second["changedBy"]["id"] != first["changedBy"]["id"]
    assert (second["version"], second["operation"], second["isSeed"]) == (first["version"] + 1, "update", False)
    assert (seed["operation"], seed["isSeed"], seed["changedBy"]) == ("insert", True, None)
    whole = (await api.get(f"{CHAT}/history/{first['id']}", headers=ROOT)).json()
    assert whole.pop("data")["systemPrompt"] == prompt
    assert whole == first


async def test_the_history_is_read_page_by_page(api: httpx.AsyncClient) -> None:
    for number in range(6):
        await api.patch(CHAT, headers=ROOT, json={"rateLimit": {"perDay": number}})
    every = await history(api)
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query: dict[str, Any] = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await api.get(f"{CHAT}/history", headers=ROOT, params=query)).json()
        assert len(page["items"]) <= 2
        found += page["items"]
        if (cursor := page["nextCursor"]) is None:
            break
    assert found == every
    cursor = (await api.get(f"{CHAT}/history?limit=1", headers=ROOT)).json()["nextCursor"]
    other = await api.get(f"{SETTINGS}/history?cursor={cursor}", headers=ROOT)
    assert set(wrong_fields(other)) == {"cursor"}
    for limit in ("0", "101", "x"):
        assert set(wrong_fields(await api.get(f"{CHAT}/history?limit={limit}", headers=ROOT))) == {"limit"}


async def test_a_change_outlives_whoever_made_it(api: httpx.AsyncClient, owner: Owner) -> None:
    changed = (await api.patch(CHAT, headers=ROOT, json={"enabled": False})).json()
    await owner.rows("delete from public.user_profiles")
    [newest, *_] = await history(api)
    assert newest["changedBy"] is None
    later = await read(api)
    assert (later["updatedBy"], later["etag"]) == (None, changed["etag"])


async def test_going_back_makes_a_new_version_of_an_old_one(api: httpx.AsyncClient) -> None:
    first = await read(api)
    await api.patch(CHAT, headers=ROOT, json={"systemPrompt": "One."})
    await api.patch(CHAT, headers=ROOT, json={"systemPrompt": "Two."})
    [_, one, *_] = await history(api)
    answer = await api.post(f"{CHAT}/revert", headers=ROOT, json={"historyId": one["id"]})
    assert answer.status_code == 200
    assert answer.json()["data"] == first["data"] | {"systemPrompt": "One."}
    assert answer.json()["version"] == first["version"] + 3
    [settings_entry, *_] = await history(api, SETTINGS)
    for wrong in (settings_entry["id"], 10**18):
        answer = await api.post(f"{CHAT}/revert", headers=ROOT, json={"historyId": wrong})
        assert problem(answer) == (404, "not_found:history")
        assert problem(await api.get(f"{CHAT}/history/{wrong}", headers=ROOT)) == (404, "not_found:history")
    for body, field in [({}, "historyId"), ({"historyId": "1"}, "historyId"), ({"historyId": 2**63}, "historyId")]:
        assert set(wrong_fields(await api.post(f"{CHAT}/revert", headers=ROOT, json=body))) == {field}


async def test_what_was_valid_once_is_judged_by_what_holds_now(api: httpx.AsyncClient, owner: Owner) -> None:
    await break_by_hand(owner, "chat_model_agent_google", {"enabled": True})
    [broken, *_] = await history(api)
    answer = await api.post(f"{CHAT}/revert", headers=ROOT, json={"historyId": broken["id"]})
    assert "systemPrompt" in wrong_fields(answer)
    await api.patch(SETTINGS, headers=ROOT, json={"fallback": {"models": ["gpt-4o"]}})
    [naming, *_] = await history(api, SETTINGS)
    await api.patch(SETTINGS, headers=ROOT, json={"fallback": None})
    assert (await api.delete("/api/admin/models/gpt-4o", headers=ROOT)).status_code == 204
    answer = await api.post(f"{SETTINGS}/revert", headers=ROOT, json={"historyId": naming["id"]})
    assert wrong_fields(answer) == {"fallback.models[0]": "is not a model here"}


async def test_only_administrators_read_the_history(api: httpx.AsyncClient, database: Database) -> None:
    await api.patch(CHAT, headers=ROOT, json={"enabled": False})
    read_all = "select * from public.admin_config_history"
    assert await database.rows(somebody(), read_all) == []
    assert await database.rows(somebody(is_admin=True), read_all) != []


# As a function


def test_the_function_answers_recorded_events(process: asyncio.AbstractEventLoop) -> None:
    function = LambdaHandler(*app.ROUTERS)
    event = recorded("http_api_sessions_list") | {"rawPath": "/api/admin/config/app_settings", "rawQueryString": ""}
    event["requestContext"]["http"]["path"] = event["rawPath"]
    event["headers"] = event["headers"] | ROOT
    answer = function(event, LambdaContext())
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"])["data"]["activeProvider"] == "google"
    process.run_until_complete(function.runtime.database.close())
