"""The routes of models: for administrators, for everybody else, and for many of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from functions.admin import app
from tests.crowd import Owner
from tests.providers import bearer
from threadkeep.database import Database
from threadkeep.guests import issue_guest
from threadkeep.identity import Authenticator
from threadkeep.settings import Settings
from threadkeep.web import Runtime, create_app

ADA = bearer("ada")
ROOT = bearer("root", app_metadata={"role": "admin"})
ADMINISTRATORS = 12

MODELS = "/api/admin/models"
PRO = f"{MODELS}/gemini-2.5-pro"
DEFAULT = f"{MODELS}/gemini-3.8-flash"
NEW: dict[str, Any] = {
    "modelId": "gemini-9",
    "provider": "google",
    "name": "Gemini 9",
    "inputPrice": 0.1,
    "outputPrice": 0.00000001,
}


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    application = create_app(*app.ROUTERS, runtime=Runtime(settings, database, Authenticator(settings)))
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as client:
        yield client


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def wrong_fields(answer: httpx.Response) -> set[str]:
    assert problem(answer) == (422, "invalid:api")
    return {error["field"] for error in answer.json()["errors"]}


async def read(api: httpx.AsyncClient, path: str = PRO) -> dict[str, Any]:
    answer = await api.get(path, headers=ROOT)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    assert answer.headers["etag"] == found["etag"]
    return found


async def listed(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await api.get(MODELS, headers=ROOT)
    assert answer.status_code == 200
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def defaults(api: httpx.AsyncClient, provider: str = "google") -> list[str]:
    return [one["modelId"] for one in await listed(api) if one["isDefault"] and one["provider"] == provider]


# Reading


async def test_the_list_has_every_model_with_its_prices(api: httpx.AsyncClient, owner: Owner) -> None:
    found = {one["modelId"]: one for one in await listed(api)}
    assert len(found) == await owner.number("select count(*) from public.model_config")
    assert found["gemini-2.5-pro"] == await read(api)
    assert (found["gemini-2.5-pro"]["inputPrice"], found["gemini-2.5-pro"]["outputPrice"]) == (1.25, 10)
    assert found["gemini-2.5-pro"]["metadata"]["contextWindow"] == 1_048_576
    assert [name for name, one in found.items() if not one["isPriced"]] == ["gemma-3"]


# Who may


async def test_nobody_but_an_administrator_gets_in(api: httpx.AsyncClient, owner: Owner, settings: Settings) -> None:
    before = await listed(api)
    calls: list[tuple[str, str, Any]] = [
        ("GET", MODELS, None),
        ("POST", MODELS, NEW),
        ("GET", PRO, None),
        ("PATCH", PRO, {"name": "Mine"}),
        ("DELETE", PRO, None),
        ("POST", f"{PRO}/default", None),
    ]
    guest = {"authorization": f"Bearer {issue_guest(settings).token}"}
    for method, path, body in calls:
        assert problem(await api.request(method, path, json=body)) == (401, "unauthorized:auth"), (method, path)
        for caller in (ADA, guest, bearer("eve", user_metadata={"role": "admin"})):
            answer = await api.request(method, path, headers=caller, json=body)
            assert problem(answer) == (403, "forbidden:auth"), (method, path)
    assert await listed(api) == before
    await api.patch(PRO, headers=ROOT, json={})
    await owner.rows("update public.user_profiles set disabled_at = now()")
    for method, path, body in calls:
        answer = await api.request(method, path, headers=ROOT, json=body)
        assert problem(answer) == (403, "forbidden:account"), (method, path)


# Adding


async def test_a_new_model_is_there_to_the_last_digit_and_the_same_again_finds_it(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    metadata = {"contextWindow": 1000, "cachedInputPrice": 0.01}
    answer = await api.post(MODELS, headers=ROOT, json=NEW | {"metadata": metadata})
    assert answer.status_code == 201
    made = answer.json()
    assert made == await read(api, f"{MODELS}/gemini-9")
    assert (made["inputPrice"], made["outputPrice"], made["isPriced"]) == (0.1, 0.00000001, True)
    assert (made["isActive"], made["isDefault"], made["thinkingEnabled"]) == (True, False, True)
    assert (made["description"], made["metadata"]) == (None, metadata)
    [row] = await owner.rows(
        """
        select input_pricing_per_million_tokens::text as price
        from public.model_config
        where model_id = 'gemini-9'
        """
    )
    assert row["price"] == "0.10000000"
    again = await api.post(MODELS, headers=ROOT, json=NEW | {"metadata": metadata})
    assert (again.status_code, again.json()) == (200, made)
    others: list[dict[str, Any]] = [{"name": "Other"}, {"inputPrice": 0.2}, {"provider": "openai"}, {"metadata": {}}]
    for other in others:
        answer = await api.post(MODELS, headers=ROOT, json=NEW | {"metadata": metadata} | other)
        assert problem(answer) == (409, "conflict:model"), other
    assert await read(api, f"{MODELS}/gemini-9") == made


async def test_calls_at_once_make_one_model(api: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*[api.post(MODELS, headers=ROOT, json=NEW) for _ in range(ADMINISTRATORS)])
    assert sorted(answer.status_code for answer in answers) == [200] * (ADMINISTRATORS - 1) + [201]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"inputPrice": -0.1}, "inputPrice"),
        ({"inputPrice": 10_000.1}, "inputPrice"),
        ({"inputPrice": "1"}, "inputPrice"),
        ({"inputPrice": True}, "inputPrice"),
        ({"inputPrice": None}, "inputPrice"),
        ({"outputPrice": 0.000000001}, "outputPrice"),
        ({"outputPrice": 1e-300}, "outputPrice"),
        ({"provider": "mistral"}, "provider"),
        ({"name": " "}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"description": "x" * 4001}, "description"),
        ({"isActive": "yes"}, "isActive"),
        ({"unknown": 1}, "unknown"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"contextWindow": 0}}, "metadata.contextWindow"),
        ({"metadata": {"cachedInputPrice": -1}}, "metadata.cachedInputPrice"),
        ({"metadata": {"inputPrice": 1}}, "metadata.inputPrice"),
        (
            {"metadata": {"priceChanges": [{"from": "soon", "inputPrice": 1, "outputPrice": 1}]}},
            "metadata.priceChanges[0].from",
        ),
        ({"modelId": ""}, "modelId"),
        ({"modelId": "x" * 101}, "modelId"),
        ({"modelId": "a b"}, "modelId"),
        ({"modelId": "../secrets"}, "modelId"),
        ({"modelId": "a//b"}, "modelId"),
        ({"modelId": "a/"}, "modelId"),
        ({"modelId": "modèle"}, "modelId"),
        ({"modelId": "offline"}, "modelId"),
    ],
    ids=str,
)
async def test_a_model_that_makes_no_sense_is_not_added(
    api: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    before = await listed(api)
    assert wrong_fields(await api.post(MODELS, headers=ROOT, json=NEW | change)) == {field}
    assert await listed(api) == before
    if "modelId" not in change and "provider" not in change:
        unpatched = await read(api)
        assert wrong_fields(await api.patch(PRO, headers=ROOT, json=change)) == {field}
        assert await read(api) == unpatched


@pytest.mark.parametrize("missing", ["modelId", "provider", "name", "inputPrice", "outputPrice"])
async def test_a_price_that_nobody_named_is_no_price(api: httpx.AsyncClient, missing: str) -> None:
    body = {name: value for name, value in NEW.items() if name != missing}
    assert wrong_fields(await api.post(MODELS, headers=ROOT, json=body)) == {missing}


async def test_a_model_without_prices_says_so(api: httpx.AsyncClient) -> None:
    made = (await api.post(MODELS, headers=ROOT, json=NEW | {"inputPrice": 0, "outputPrice": 0})).json()
    assert made["isPriced"] is False
    priced = (await api.patch(f"{MODELS}/gemini-9", headers=ROOT, json={"outputPrice": 2.5})).json()
    assert priced["isPriced"] is True


@pytest.mark.parametrize(
    "model_id", ["meta-llama/llama-4:free", "qwen3:8b", "models/x@2026", "a.b/c.d/default", "x", "default"]
)
async def test_an_id_may_hold_what_model_servers_have_in_theirs(api: httpx.AsyncClient, model_id: str) -> None:
    assert (await api.post(MODELS, headers=ROOT, json=NEW | {"modelId": model_id})).status_code == 201
    for path in (f"{MODELS}/{model_id}", f"{MODELS}/{model_id.replace('/', '%2F')}"):
        assert (await read(api, path))["modelId"] == model_id
        answer = await api.patch(path, headers=ROOT, json={"name": path})
        assert (answer.status_code, answer.json()["name"]) == (200, path)
        answer = await api.post(f"{path}/default", headers=ROOT)
        assert (answer.status_code, await defaults(api)) == (200, [model_id])
    await api.post(f"{PRO}/default", headers=ROOT)
    assert (await api.delete(path, headers=ROOT)).status_code == 204
    assert problem(await api.get(path, headers=ROOT)) == (404, "not_found:model")


@pytest.mark.parametrize("model_id", ["nothing", "%00", "x" * 5000, "%F0%9F%99%82", "..%2F..%2Fconfig", "a%20b"])
async def test_a_model_that_there_is_not_is_not_found(api: httpx.AsyncClient, model_id: str) -> None:
    path = f"{MODELS}/{model_id}"
    calls: list[tuple[str, str, Any]] = [
        ("GET", path, None),
        ("PATCH", path, {"name": "x"}),
        ("DELETE", path, None),
        ("POST", f"{path}/default", None),
    ]
    for method, where, body in calls:
        answer = await api.request(method, where, headers=ROOT, json=body)
        assert problem(answer) == (404, "not_found:model"), (method, where)


# Changing


async def test_a_change_is_of_what_is_sent_and_nothing_else(api: httpx.AsyncClient) -> None:
    before = await read(api)
    change = {"inputPrice": 2, "description": None, "metadata": {"longContext": None, "maxOutputTokens": 5}}
    answer = await api.patch(PRO, headers=ROOT, json=change)
    assert answer.status_code == 200
    after = answer.json()
    metadata = before["metadata"] | {"maxOutputTokens": 5}
    del metadata["longContext"]
    expected = before | {"inputPrice": 2, "description": None, "metadata": metadata}
    for changing in ("updatedAt", "etag"):
        assert after[changing] != before[changing]
        expected[changing] = after[changing]
    assert after == expected == await read(api)
    for name in ("name", "isActive", "isDefault", "thinkingEnabled", "inputPrice", "metadata"):
        assert wrong_fields(await api.patch(PRO, headers=ROOT, json={name: None})) == {name}
    for name in ("modelId", "provider"):
        assert wrong_fields(await api.patch(PRO, headers=ROOT, json={name: "google"})) == {name}


async def test_nothing_sent_is_no_change(api: httpx.AsyncClient, owner: Owner) -> None:
    before, counted = await read(api), await owner.number("select version from private.configuration_version")
    for change in ({}, {"name": before["name"], "metadata": {}}):
        assert (await api.patch(PRO, headers=ROOT, json=change)).json() == before
    assert await owner.number("select version from private.configuration_version") == counted


async def test_a_condition_that_does_not_hold_gives_back_what_is_there(api: httpx.AsyncClient) -> None:
    first = await read(api)
    second = (await api.patch(PRO, headers=ROOT | {"if-match": first["etag"]}, json={"name": "Pro"})).json()
    stale = ROOT | {"if-match": first["etag"]}
    for method, path, body in [
        ("PATCH", PRO, {"name": "Mine"}),
        ("DELETE", PRO, None),
        ("POST", f"{PRO}/default", None),
    ]:
        answer = await api.request(method, path, headers=stale, json=body)
        assert problem(answer) == (412, "precondition_failed:model"), method
        assert answer.json()["current"]["name"] == "Pro"
        assert answer.json()["current"]["etag"] == second["etag"]
    assert await read(api) == second


async def test_of_many_with_one_condition_one_wins_and_without_all_do(api: httpx.AsyncClient) -> None:
    seen = ROOT | {"if-match": (await read(api))["etag"]}
    answers = await asyncio.gather(
        *[api.patch(PRO, headers=seen, json={"name": f"{number}"}) for number in range(ADMINISTRATORS)]
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * (ADMINISTRATORS - 1)
    changes: list[dict[str, Any]] = [
        {"name": "All of them"},
        {"inputPrice": 7},
        {"outputPrice": 8},
        {"thinkingEnabled": False},
        {"description": "Everything."},
        {"metadata": {"contextWindow": 1}},
        {"metadata": {"maxOutputTokens": 2}},
        {"metadata": {"capabilities": ["pdf"]}},
    ]
    answers = await asyncio.gather(*[api.patch(PRO, headers=ROOT, json=change) for change in changes])
    assert [answer.status_code for answer in answers] == [200] * len(changes)
    found = await read(api)
    for change in changes:
        metadata = change.pop("metadata", {})
        assert change.items() <= found.items()
        assert metadata.items() <= found["metadata"].items()


# Defaults


async def test_a_default_moves_from_one_model_to_another(api: httpx.AsyncClient) -> None:
    assert await defaults(api) == ["gemini-3.8-flash"]
    answer = await api.post(f"{PRO}/default", headers=ROOT)
    assert (answer.status_code, answer.json()) == (200, await read(api))
    assert await defaults(api) == ["gemini-2.5-pro"]
    again = await api.post(f"{PRO}/default", headers=ROOT)
    assert (again.status_code, again.json()) == (200, answer.json())
    await api.patch(DEFAULT, headers=ROOT, json={"isDefault": True})
    assert await defaults(api) == ["gemini-3.8-flash"]
    made = await api.post(MODELS, headers=ROOT, json=NEW | {"isDefault": True})
    assert (made.status_code, await defaults(api)) == (201, ["gemini-9"])
    assert await defaults(api, "openai") == ["gpt-6.1-terra"]


async def test_a_provider_keeps_an_active_default_whatever_is_asked(api: httpx.AsyncClient) -> None:
    before = await listed(api)
    calls: list[tuple[str, str, Any]] = [
        ("PATCH", DEFAULT, {"isActive": False}),
        ("PATCH", DEFAULT, {"isDefault": False}),
        ("DELETE", DEFAULT, None),
        ("POST", f"{MODELS}/gemma-3/default", None),
        ("PATCH", f"{MODELS}/gemma-3", {"isDefault": True}),
        ("POST", MODELS, NEW | {"isDefault": True, "isActive": False}),
    ]
    for method, path, body in calls:
        answer = await api.request(method, path, headers=ROOT, json=body)
        assert problem(answer) == (409, "conflict:model"), (method, path)
        assert "active" in answer.json()["detail"]
    assert await listed(api) == before


async def test_many_make_many_models_the_default_at_once(api: httpx.AsyncClient) -> None:
    models = [one["modelId"] for one in await listed(api) if one["provider"] == "google" and one["isActive"]]
    answers = await asyncio.gather(
        *[api.post(f"{MODELS}/{model}/default", headers=ROOT) for model in models * 4],
        *[api.patch(f"{MODELS}/{model}", headers=ROOT, json={"isDefault": True}) for model in models],
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len(await defaults(api)) == 1


# Going


async def test_a_model_in_use_can_be_switched_off_and_deleted_and_its_bills_stay(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    await api.patch(PRO, headers=ROOT, json={})
    await owner.rows(
        """
        insert into public.usage_logs (request_id, user_id, agent_type, model_used, provider, total_cost)
        select gen_random_uuid(), id, 'chat_model_agent', 'gemini-2.5-pro', 'google', 1
        from public.user_profiles
        """
    )
    off = await api.patch(PRO, headers=ROOT, json={"isActive": False})
    assert (off.status_code, off.json()["isActive"]) == (200, False)
    assert (await api.delete(PRO, headers=ROOT)).status_code == 204
    assert problem(await api.delete(PRO, headers=ROOT)) == (404, "not_found:model")
    used = "select count(*) from public.usage_logs where model_used = 'gemini-2.5-pro' and total_cost = 1"
    assert await owner.number(used) == 1


async def test_the_last_model_of_the_active_provider_stays(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows("delete from public.model_config where not is_default")
    assert problem(await api.delete(DEFAULT, headers=ROOT)) == (409, "conflict:model")
    assert (await api.delete(f"{MODELS}/gpt-6.1-terra", headers=ROOT)).status_code == 204
    first = NEW | {"modelId": "gpt-9", "provider": "openai"}
    assert problem(await api.post(MODELS, headers=ROOT, json=first)) == (409, "conflict:model")
    assert (await api.post(MODELS, headers=ROOT, json=first | {"isDefault": True})).status_code == 201
