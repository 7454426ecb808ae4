"""What a caller used, may still use, and with which models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from psycopg.types.json import Jsonb

from tests.crowd import Owner, at_once, begin, somebody, usage
from tests.functions.account import ada, by_token, client_of, new_guest, problem, wrong_fields
from tests.providers import OTHER_ISSUER, bearer
from threadkeep import limits
from threadkeep.database import Database
from threadkeep.guests import address_hash
from threadkeep.identity import user_id_of
from threadkeep.settings import Settings

ROUTES = ("/api/usage", "/api/limits", "/api/repositories", "/api/models", "/api/me/export")


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(settings, database) as client:
        yield client


@pytest.fixture
def user_id(settings: Settings) -> UUID:
    return user_id_of(settings, OTHER_ISSUER, "ada")


async def profile(owner: Owner, user_id: UUID, **members: Any) -> None:
    await owner.rows(
        "insert into public.user_profiles (id, is_guest) values (%(user)s, %(is_guest)s) on conflict do nothing",
        {"user": user_id, "is_guest": False} | members,
    )


async def log_usage(owner: Owner, user_id: UUID, *rows: dict[str, Any]) -> None:
    await profile(owner, user_id)
    values = {"user": user_id, "rows": Jsonb([usage(**row) for row in rows])}
    await owner.rows("select private.settle_usage(%(user)s, null, null, %(rows)s)", values)


async def get(api: httpx.AsyncClient, path: str, headers: dict[str, str] | None = None) -> Any:
    answer = await api.get(path, headers=headers or ada())
    assert answer.status_code == 200, answer.text
    return answer.json()


# Who is let in


@pytest.mark.parametrize("route", ROUTES)
async def test_a_guest_and_an_account_read_their_own_things(api: httpx.AsyncClient, route: str) -> None:
    guest = await new_guest(api)
    for headers in (ada(), by_token(guest["token"])):
        assert (await api.get(route, headers=headers)).status_code == 200


@pytest.mark.parametrize("route", [route for route in ROUTES if route != "/api/models"])
async def test_nobody_has_nothing_to_read(api: httpx.AsyncClient, route: str) -> None:
    assert problem(await api.get(route)) == (401, "unauthorized:auth")


@pytest.mark.parametrize("route", ROUTES)
async def test_a_disabled_user_reads_nothing(api: httpx.AsyncClient, owner: Owner, user_id: UUID, route: str) -> None:
    await profile(owner, user_id)
    await owner.rows("update public.user_profiles set disabled_at = now()")
    assert problem(await api.get(route, headers=ada())) == (403, "forbidden:account")


# Usage


async def test_usage_is_summed_by_day_agent_and_model(api: httpx.AsyncClient, owner: Owner, user_id: UUID) -> None:
    gemini = {"provider": "google", "model_used": "gemini", "input_cost": 0.5, "output_cost": 0.25}
    await log_usage(
        owner,
        user_id,
        gemini
        | {
            "request_timestamp": "2026-03-01T23:59:59Z",
            "input_tokens": 100,
            "cached_input_tokens": 40,
            "cache_write_tokens": 10,
            "output_tokens": 20,
            "reasoning_tokens": 5,
        },
        gemini
        | {"request_timestamp": "2026-03-02T01:00:00+01:00", "agent_type": "python_agent", "source": "estimated"},
        {"request_timestamp": "2026-03-04T00:00:00Z", "model_used": "mystery", "is_priced": False},
        {"request_timestamp": "2026-03-05T00:00:00Z"},
        {"request_timestamp": "2026-02-28T23:59:59Z"},
    )
    await log_usage(owner, uuid4(), {"request_timestamp": "2026-03-02T00:00:00Z", "input_tokens": 1000})

    found = await get(api, "/api/usage?from=2026-03-01&to=2026-03-04")

    assert (found["from"], found["to"]) == ("2026-03-01", "2026-03-04")
    assert found["totals"] == {
        "requests": 3,
        "inputTokens": 106,
        "cachedInputTokens": 40,
        "cacheWriteTokens": 10,
        "outputTokens": 28,
        "reasoningTokens": 5,
        "cost": 1.5,
        "estimatedRequests": 1,
        "unpricedRequests": 1,
    }
    assert [(day["day"], day["requests"], day["cost"]) for day in found["days"]] == [
        ("2026-03-01", 1, 0.75),
        ("2026-03-02", 1, 0.75),
        ("2026-03-04", 1, 0),
    ]
    assert [(one["agent"], one["requests"]) for one in found["agents"]] == [
        ("chat_model_agent", 2),
        ("python_agent", 1),
    ]
    assert [(one["provider"], one["model"], one["requests"], one["cost"]) for one in found["models"]] == [
        ("google", "gemini", 2, 1.5),
        ("offline", "mystery", 1, 0),
    ]


async def test_without_usage_there_are_totals_of_nothing(api: httpx.AsyncClient) -> None:
    found = await get(api, "/api/usage")
    today = datetime.now(UTC).date()
    assert abs((datetime.fromisoformat(found["to"]).date() - today).days) <= 1
    assert (datetime.fromisoformat(found["to"]) - datetime.fromisoformat(found["from"])).days == 29
    assert (found["totals"]["requests"], found["totals"]["cost"]) == (0, 0)
    assert found["days"] == found["agents"] == found["models"] == []


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
async def test_the_first_and_the_last_of_all_days_can_be_asked_for(api: httpx.AsyncClient, day: str) -> None:
    assert (await get(api, f"/api/usage?from={day}&to={day}"))["days"] == []
    assert (await get(api, f"/api/usage?to={day}"))["days"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=2026-03-02&to=2026-03-01", "to"),
        ("from=2025-01-01&to=2026-01-02", "to"),
        ("from=1767225600", "from"),
        ("from=2026-02-30", "from"),
        ("from=2026-3-1", "from"),
        ("from=", "from"),
        ("to=2026-03-01T00:00:00Z", "to"),
        ("to=now()", "to"),
    ],
)
async def test_a_wrong_range_names_its_end(api: httpx.AsyncClient, query: str, field: str) -> None:
    assert wrong_fields(await api.get(f"/api/usage?{query}", headers=ada())) == [field]


# Limits


def windows(found: Any, agent: str, provider: str = "google") -> dict[str, tuple[int, int, int | None, int]]:
    [one] = [one for one in found["agents"] if (one["agent"], one["provider"]) == (agent, provider)]
    return {
        window["window"]: (window["limit"], window["used"], window["usedByAddress"], window["remaining"])
        for window in one["windows"]
    }


async def set_limit_of_mermaid(owner: Owner, a_day: int) -> None:
    """Enough for a minute and an hour, of which a test may see two."""
    await owner.rows(
        """
        update public.admin_config
        set config_data = config_data || jsonb_build_object(
            'rateLimit', jsonb_build_object('perMinute', 100, 'perHour', 200, 'perDay', %(a_day)s::integer)
        )
        where config_key = 'mermaid_agent_google'
        """,
        {"a_day": a_day},
    )


async def test_what_is_left_is_what_consuming_leaves(
    api: httpx.AsyncClient, database: Database, owner: Owner, user_id: UUID
) -> None:
    await set_limit_of_mermaid(owner, 3)
    await get(api, "/api/me")
    user = somebody(user_id)
    consume = partial(limits.consume, database, user, "mermaid_agent", "google", guest_address=None)
    await at_once(*[consume] * 5)

    found = [await get(api, "/api/limits") for _ in range(2)]

    assert [windows(one, "mermaid_agent")["day"] for one in found] == [(3, 3, None, 0)] * 2
    assert [windows(found[0], "mermaid_agent")[window][0] for window in ("minute", "hour")] == [100, 200]
    assert windows(found[0], "chat_model_agent")["day"] == (1000, 0, None, 1000)
    assert windows(await get(api, "/api/limits", bearer("grace")), "mermaid_agent")["day"] == (3, 0, None, 3)


async def test_each_agent_has_three_windows_that_end(api: httpx.AsyncClient) -> None:
    before = datetime.now(UTC)
    found = await get(api, "/api/limits")
    assert [one["provider"] for one in found["agents"]] == ["google"] * 6
    [minute, hour, day] = [datetime.fromisoformat(window["resetsAt"]) for window in found["agents"][0]["windows"]]
    assert timedelta(0) < minute - before <= timedelta(minutes=1, seconds=10)
    assert (hour.minute, day.hour, day.minute) == (0, 0, 0)


async def test_a_new_guest_is_told_what_other_guests_of_his_address_used(
    api: httpx.AsyncClient, database: Database, settings: Settings, owner: Owner
) -> None:
    await set_limit_of_mermaid(owner, 3)
    first, second = await new_guest(api), await new_guest(api)
    address = address_hash(settings, "127.0.0.1")
    guest = somebody(UUID(first["userId"]), is_guest=True)
    for _ in range(2):
        await limits.consume(database, guest, "mermaid_agent", "google", guest_address=address)
    found = await get(api, "/api/limits", by_token(second["token"]))
    assert windows(found, "mermaid_agent")["day"] == (3, 0, 2, 1)


async def test_limits_are_of_the_providers_with_a_key(environment: dict[str, str], database: Database) -> None:
    settings = Settings.load(environment | {"OPENAI_API_KEY": "sk-a", "ANTHROPIC_API_KEY": "sk-b"})
    async with client_of(settings, database) as api:
        found = await get(api, "/api/limits")
    assert [(one["provider"], one["agent"]) for one in found["agents"]][:6:5] == [
        ("openai", "chat_model_agent"),
        ("openai", "git_mcp_agent"),
    ]
    assert windows(found, "chat_model_agent", "anthropic")["minute"] == (4, 0, None, 4)


async def test_an_agent_that_is_off_and_a_limit_of_nothing_are_shown(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows("""
        update public.admin_config
        set config_data = config_data || '{"enabled": false, "rateLimit": {"perMinute": 0, "perHour": 1, "perDay": 1}}'
        where config_key = 'python_agent_google'
    """)
    found = await get(api, "/api/limits")
    assert [one["enabled"] for one in found["agents"] if one["agent"] == "python_agent"] == [False]
    assert windows(found, "python_agent")["minute"] == (0, 0, None, 0)


async def set_app_settings(owner: Owner, members: str) -> None:
    await owner.rows(
        "update public.admin_config set config_data = config_data || %(members)s where config_key = 'app_settings'",
        {"members": members},
    )


async def test_a_turns_bounds_are_the_configured_ones_or_the_defaults(api: httpx.AsyncClient, owner: Owner) -> None:
    assert (await get(api, "/api/limits"))["turn"] == {
        "maxRequests": 8,
        "maxToolCalls": 16,
        "maxOutputTokens": 65536,
        "maxSeconds": 600,
        "maxCostUsd": 2,
    }
    await set_app_settings(owner, '{"turn": {"maxSeconds": 30, "maxCostUsd": 0.5}}')
    turn = (await get(api, "/api/limits"))["turn"]
    assert (turn["maxSeconds"], turn["maxCostUsd"], turn["maxRequests"]) == (30, 0.5, 8)


async def test_the_last_good_settings_hold_while_a_row_is_broken(api: httpx.AsyncClient, owner: Owner) -> None:
    await set_app_settings(owner, '{"turn": {"maxSeconds": 30}}')
    await owner.rows("alter table public.admin_config disable trigger user")
    await set_app_settings(owner, '{"turn": "broken by hand"}')
    assert (await get(api, "/api/limits"))["turn"]["maxSeconds"] == 30


async def test_a_month_without_a_bound_has_no_cap(api: httpx.AsyncClient, owner: Owner, user_id: UUID) -> None:
    await log_usage(owner, user_id, {"input_cost": 0.25, "output_cost": 0.5})
    budget = (await get(api, "/api/limits"))["budget"]
    assert (budget["cap"], budget["remaining"], budget["spent"], budget["hasRoom"]) == (None, None, 0.75, True)
    assert budget["reserved"] == 0
    now = datetime.now(UTC)
    assert budget["month"] == f"{now:%Y-%m}-01"
    resets_at = datetime.fromisoformat(budget["resetsAt"])
    assert (resets_at.day, resets_at.hour) == (1, 0)
    assert timedelta(0) < resets_at - now <= timedelta(days=31)


RESERVE = """
    insert into public.budget_reservations (user_id, scope, month, amount, stream_id, lease_until)
    values (
        %(user)s, %(scope)s, date_trunc('month', now() at time zone 'UTC')::date, %(amount)s, gen_random_uuid(),
        now() + %(lease)s::interval
    )
"""


async def test_a_budget_is_less_what_was_spent_and_what_is_held(
    api: httpx.AsyncClient, owner: Owner, user_id: UUID
) -> None:
    await set_app_settings(owner, '{"budgets": {"perUserMonthlyUsd": 10, "guestsMonthlyUsd": 1}}')
    await log_usage(owner, user_id, {"input_cost": 1, "output_cost": 2})
    await log_usage(owner, user_id, {"input_cost": 5, "output_cost": 5, "request_timestamp": "2026-01-31T00:00:00Z"})
    await log_usage(owner, uuid4(), {"input_cost": 9, "output_cost": 9})
    for amount, lease in ((1.5, "1 minute"), (4, "-1 second")):
        await owner.rows(RESERVE, {"user": user_id, "scope": "user", "amount": amount, "lease": lease})

    budget = (await get(api, "/api/limits"))["budget"]

    assert {name: budget[name] for name in ("cap", "spent", "reserved", "remaining", "hasRoom")} == {
        "cap": 10,
        "spent": 3,
        "reserved": 1.5,
        "remaining": 5.5,
        "hasRoom": True,
    }
    await owner.rows(RESERVE, {"user": user_id, "scope": "user", "amount": 50, "lease": "1 minute"})
    budget = (await get(api, "/api/limits"))["budget"]
    assert (budget["remaining"], budget["hasRoom"]) == (0, False)


async def test_a_turn_that_died_holds_nothing(
    api: httpx.AsyncClient, database: Database, owner: Owner, user_id: UUID
) -> None:
    run = await begin(database, somebody(user_id))
    await owner.rows(RESERVE, {"user": user_id, "scope": "user", "amount": 2, "lease": "1 minute"})
    await owner.rows("update public.budget_reservations set stream_id = %(stream)s", {"stream": run.stream})
    assert (await get(api, "/api/limits"))["budget"]["reserved"] == 2
    await owner.rows('update public."Stream" set lease_until = now()')
    assert (await get(api, "/api/limits"))["budget"]["reserved"] == 0


async def test_a_guest_is_told_only_whether_the_guests_budget_has_room(api: httpx.AsyncClient, owner: Owner) -> None:
    await set_app_settings(owner, '{"budgets": {"perUserMonthlyUsd": 5, "guestsMonthlyUsd": 1}}')
    guest, other = await new_guest(api), await new_guest(api)
    before = (await get(api, "/api/limits", by_token(guest["token"])))["budget"]
    await log_usage(owner, UUID(other["userId"]), {"input_cost": 1, "output_cost": 0})
    after = (await get(api, "/api/limits", by_token(guest["token"])))["budget"]
    assert (before.pop("hasRoom"), after.pop("hasRoom")) == (True, False)
    assert before == after
    assert (after["cap"], after["spent"], after["remaining"]) == (5, 0, 5)
    assert (await get(api, "/api/limits"))["budget"]["hasRoom"] is True


# Models


async def test_anybody_sees_the_models_and_which_of_them_can_be_used(
    environment: dict[str, str], database: Database, owner: Owner
) -> None:
    await owner.rows("update public.model_config set is_active = false where model_id = 'gpt-6-luna'")
    settings = Settings.load(environment | {"OPENAI_API_KEY": "sk-a"})
    async with client_of(settings, database) as api:
        answers = [await api.get("/api/models", headers=headers) for headers in ({}, ada())]
    assert answers[0].json() == answers[1].json()
    models = {model["id"]: model for model in answers[0].json()["items"]}
    assert "gpt-6-luna" not in models
    assert {model["provider"] for model in models.values() if model["isAvailable"]} == {"openai"}
    [default] = [model for model in models.values() if model["isDefault"]]
    assert (default["provider"], default["isProviderDefault"]) == ("openai", True)
    assert {model["provider"] for model in models.values() if model["isProviderDefault"]} == {
        "google",
        "openai",
        "anthropic",
    }
    sol = models["gpt-6.1-sol"]
    assert (sol["prices"]["input"], sol["prices"]["output"]) == (2, 10)
    assert sol["prices"]["cachedInput"] <= 2
    assert sol["contextWindow"] > 0


async def test_prices_are_todays_and_those_of_long_input_beside_them(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows("""
        update public.model_config
        set metadata = '{
            "contextWindow": 1000,
            "priceChanges": [
                {
                    "from": "2020-01-01", "inputPrice": 0.1, "cachedInputPrice": 0.01, "outputPrice": 3,
                    "longContext": {"aboveInputTokens": 200, "inputPrice": 7, "outputPrice": 9}
                },
                {"from": "2999-01-01", "inputPrice": 50, "outputPrice": 50}
            ]
        }'
        where model_id = 'gpt-6.1-sol'
    """)
    [model] = [model for model in (await get(api, "/api/models"))["items"] if model["id"] == "gpt-6.1-sol"]
    assert model["prices"] == {"input": 0.1, "cachedInput": 0.01, "cacheWrite": 0.1, "output": 3}
    assert model["longContext"] == {
        "aboveInputTokens": 200,
        "prices": {"input": 7, "cachedInput": 7, "cacheWrite": 7, "output": 9},
    }


async def test_a_provider_that_is_switched_off_offers_nothing(
    environment: dict[str, str], database: Database, owner: Owner
) -> None:
    await set_app_settings(owner, '{"activeProvider": "google", "availableProviders": ["google", "anthropic"]}')
    settings = Settings.load(environment | {"OPENAI_API_KEY": "sk-a", "ANTHROPIC_API_KEY": "sk-b"})
    async with client_of(settings, database) as api:
        models = (await get(api, "/api/models"))["items"]
        agents = (await get(api, "/api/limits"))["agents"]
    assert {model["provider"] for model in models} == {"google", "anthropic"}
    assert {model["provider"] for model in models if model["isAvailable"]} == {"anthropic"}
    assert {agent["provider"] for agent in agents} == {"anthropic"}


async def test_without_any_key_the_offline_model_answers(api: httpx.AsyncClient) -> None:
    first, *others = (await get(api, "/api/models"))["items"]
    assert (first["id"], first["isAvailable"], first["isDefault"]) == ("offline", True, True)
    assert not any(model["isAvailable"] or model["isDefault"] for model in others)


async def test_models_are_for_those_who_may_chat(
    environment: dict[str, str], database: Database, api: httpx.AsyncClient, owner: Owner
) -> None:
    settings = Settings.load(environment | {"GUESTS_ENABLED": "false"})
    async with client_of(settings, database) as closed:
        assert problem(await closed.get("/api/models")) == (401, "unauthorized:auth")
        assert (await closed.get("/api/models", headers=ada())).status_code == 200
    await set_app_settings(owner, '{"guests": {"enabled": false}}')
    assert problem(await api.get("/api/models")) == (401, "unauthorized:auth")
    assert (await api.get("/api/models", headers=ada())).status_code == 200
