"""Usage, errors, activity and performance: what an administrator reads, and that nobody else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.administrators import ADA, ROOT, admin_api, all_pages, guest, problem, read, wrong_fields
from tests.crowd import Owner, at_once, rolled_up
from tests.providers import OTHER_ISSUER, bearer
from threadkeep import upkeep
from threadkeep.database import Database
from threadkeep.identity import user_id_of
from threadkeep.settings import Settings

TODAY = datetime.now(UTC).date()
READS = ["usage", "usage?groupBy=user", "errors", "activity", "agents", "users", "purge", "health"]
WRITES = [
    ("PATCH", f"errors/{UUID(int=1)}", {"resolved": True}),
    ("PATCH", f"users/{UUID(int=1)}", {"disabled": True}),
    ("POST", "purge", None),
]
CALLS: list[tuple[str, str, Any]] = [*[("GET", path, None) for path in READS], *WRITES]


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with admin_api(settings, database) as client:
        yield client


async def add_user(owner: Owner, email: str | None = None, **columns: Any) -> UUID:
    user = uuid4()
    values = {"id": user, "email": email, "is_guest": False, "disabled_at": None} | columns
    await owner.rows(
        """
        insert into public.user_profiles (id, email, is_guest, disabled_at)
        values (%(id)s, %(email)s, %(is_guest)s, %(disabled_at)s)
        """,
        values,
    )
    return user


# Who may


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_only_an_administrator_who_is_not_disabled_gets_in(
    api: httpx.AsyncClient, owner: Owner, settings: Settings, method: str, path: str, body: Any
) -> None:
    call = partial(api.request, method, f"/api/admin/{path}", json=body)
    assert problem(await call()) == (401, "unauthorized:auth")
    assert problem(await call(headers={"authorization": "Bearer nonsense"})) == (401, "unauthorized:auth")
    assert problem(await call(headers=guest(settings))) == (403, "forbidden:auth")
    assert problem(await call(headers=ADA)) == (403, "forbidden:auth")
    root = user_id_of(settings, OTHER_ISSUER, "root")
    await owner.rows("insert into public.user_profiles (id, disabled_at) values (%(root)s, now())", {"root": root})
    assert problem(await call(headers=ROOT)) == (403, "forbidden:account")
    assert await owner.number("select count(*) from private.upkeep_requests") == 0


@pytest.mark.parametrize("path", ["usage", "errors", "activity", "users"])
@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "é" * 10, "A" * 301])
async def test_a_cursor_that_was_tampered_with_is_refused(api: httpx.AsyncClient, path: str, cursor: str) -> None:
    answer = await api.get(f"/api/admin/{path}", headers=ROOT, params={"cursor": cursor})
    assert wrong_fields(answer) == ["cursor"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("usage?groupBy=cost", "groupBy"),
        ("usage?groupBy=day,", "groupBy"),
        ("usage?from=yesterday", "from"),
        ("usage?from=2026-02-30", "from"),
        ("usage?from=2026-02-02&to=2026-02-01", "from"),
        ("usage?userId=ada", "userId"),
        ("usage?agent=%00", "agent"),
        ("usage?limit=0", "limit"),
        ("usage?limit=201", "limit"),
        ("errors?type=none", "type"),
        ("errors?severity=high", "severity"),
        ("errors?resolved=perhaps", "resolved"),
        ("errors?correlationId=1", "correlationId"),
        ("errors?from=2026-01-01T00:00:00", "from"),
        ("errors?path=%00", "path"),
        ("errors?from=0001-01-01T00:00:00%2B14:00", "from"),
        ("activity?source=both", "source"),
        ("activity?success=1.5", "success"),
        ("activity?to=9999-12-31T23:59:59-14:00", "to"),
        ("activity?type=%00", "type"),
        ("agents?groupBy=user", "groupBy"),
        ("agents?to=0001-01-01T00:00:00Z", "to"),
        ("agents?from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("agents?from=2026-01-01T00:00:00Z&to=2026-03-01T00:00:00Z", "from"),
        ("users?q=%00", "q"),
        ("users?kind=robot", "kind"),
        ("users?disabled=2", "disabled"),
        ("health?providers=maybe", "providers"),
    ],
)
async def test_rubbish_is_named_by_its_field(api: httpx.AsyncClient, path: str, field: str) -> None:
    assert wrong_fields(await api.get(f"/api/admin/{path}", headers=ROOT)) == [field]


# Usage


async def use(owner: Owner, user: UUID, days_ago: int = 0, **columns: Any) -> None:
    """One model request, as a turn settles it."""
    values = {
        "user": user,
        "days": days_ago,
        "agent": "chat_model_agent",
        "provider": "openai",
        "model": "gpt",
        "input": 100,
        "cached": 40,
        "output": 10,
        "cost": 0.5,
    } | columns
    await owner.rows(
        """
        select private.settle_usage(%(user)s, null, null, jsonb_build_array(jsonb_build_object(
            'request_id', gen_random_uuid(), 'agent_type', %(agent)s::text, 'provider', %(provider)s::text,
            'model_used', %(model)s::text, 'input_tokens', %(input)s::int, 'cached_input_tokens', %(cached)s::int,
            'output_tokens', %(output)s::int, 'input_cost', %(cost)s::numeric, 'output_cost', 0,
            'source', 'provider', 'is_priced', true,
            'request_timestamp', now() - make_interval(days => %(days)s)
        )))
        """,
        values,
    )


def keyed(report: dict[str, Any], *names: str) -> dict[tuple[Any, ...], tuple[int, float]]:
    return {tuple(item[name] for name in names): (item["requests"], item["totalCost"]) for item in report["items"]}


async def test_usage_without_any_is_nothing(api: httpx.AsyncClient) -> None:
    report = await read(api, "usage")
    assert (report["items"], report["nextCursor"], report["asOf"]) == ([], None, None)
    assert (report["totals"]["requests"], report["totals"]["totalCost"]) == (0, 0)


async def test_usage_is_given_by_day_with_and_without_cached_tokens(api: httpx.AsyncClient, owner: Owner) -> None:
    ada = await add_user(owner)
    await use(owner, ada)
    await use(owner, ada, 1, cost=2)
    await use(owner, ada, 30, cost=9)
    report = await read(api, "usage")
    assert keyed(report, "day") == {
        (str(TODAY),): (1, 0.5),
        (str(TODAY - timedelta(days=1)),): (1, 2.0),
    }
    assert report["totals"] == {
        "requests": 2,
        "inputTokens": 200,
        "outputTokens": 20,
        "cachedInputTokens": 80,
        "cacheWriteTokens": 0,
        "reasoningTokens": 0,
        "totalTokens": 220,
        "uncachedTokens": 140,
        "totalCost": 2.5,
    }


@pytest.mark.parametrize("is_rolled_up", [False, True])
async def test_usage_is_grouped_and_filtered_by_any_of_its_dimensions(
    api: httpx.AsyncClient, owner: Owner, database: Database, monkeypatch: pytest.MonkeyPatch, is_rolled_up: bool
) -> None:
    ada, grace = await add_user(owner, "ada@example.com"), await add_user(owner, "grace@example.com")
    await use(owner, ada)
    await use(owner, ada, agent="search_agent", model="mini")
    await use(owner, grace, provider="google", model="flash", cost=4)
    if is_rolled_up:
        monkeypatch.setattr(upkeep, "ROLLED_UP_AFTER", timedelta(0))
        assert await rolled_up(database, 3)
    by_user = await read(api, "usage", groupBy="user")
    assert keyed(by_user, "userId", "email") == {
        (str(grace), "grace@example.com"): (1, 4.0),
        (str(ada), "ada@example.com"): (2, 1.0),
    }
    assert (by_user["asOf"] is not None) == is_rolled_up
    assert keyed(await read(api, "usage", groupBy=["agent", "user"]), "agent", "userId") == {
        ("chat_model_agent", str(grace)): (1, 4.0),
        ("chat_model_agent", str(ada)): (1, 0.5),
        ("search_agent", str(ada)): (1, 0.5),
    }
    assert keyed(await read(api, "usage", groupBy="provider,model"), "provider", "model") == {
        ("google", "flash"): (1, 4.0),
        ("openai", "gpt"): (1, 0.5),
        ("openai", "mini"): (1, 0.5),
    }
    assert keyed(await read(api, "usage", groupBy="model", userId=str(ada)), "model", "userId") == {
        ("gpt", None): (1, 0.5),
        ("mini", None): (1, 0.5),
    }
    assert keyed(await read(api, "usage", groupBy="user", agent="search_agent"), "userId") == {(str(ada),): (1, 0.5)}
    assert (await read(api, "usage", provider="google"))["totals"]["totalCost"] == 4.0
    assert (await read(api, "usage", userId=str(uuid4())))["items"] == []


@pytest.mark.parametrize("group_by", ["user", "day,user", "user,model"])
async def test_usage_is_read_page_by_page_without_gap_or_repeat(
    api: httpx.AsyncClient, owner: Owner, group_by: str
) -> None:
    users = [await add_user(owner) for _ in range(7)]
    for place, user in enumerate(users):
        await use(owner, user, place % 2, cost=place // 3)
    pages = await all_pages(api, "usage", groupBy=group_by, limit=2)
    assert [len(page) for page in pages] == [2, 2, 2, 1]
    items = [item for page in pages for item in page]
    assert sorted(item["userId"] for item in items) == sorted(map(str, users))
    if group_by == "user":
        assert [item["totalCost"] for item in items] == sorted([place // 3 for place in range(7)], reverse=True)
    first = await read(api, "usage", groupBy=group_by, limit=2)
    assert first["totals"]["requests"] == 7
    other = await api.get("/api/admin/usage", headers=ROOT, params={"groupBy": "agent", "cursor": first["nextCursor"]})
    assert wrong_fields(other) == ["cursor"]


# Errors


async def fail(owner: Owner, **columns: Any) -> str:
    values = {
        "type": "api",
        "category": "internal:api",
        "severity": "error",
        "path": "/api/chat",
        "user": None,
        "correlation": uuid4(),
        "minutes": 0,
    } | columns
    [row] = await owner.rows(
        """
        insert into public.error_logs (
            error_type, error_category, error_message, severity, request_path, user_id, correlation_id, created_at
        )
        values (
            %(type)s, %(category)s, 'It broke.', %(severity)s, %(path)s, %(user)s, %(correlation)s,
            now() - make_interval(mins => %(minutes)s)
        )
        returning id
        """,
        values,
    )
    return str(row["id"])


async def test_errors_are_found_by_what_they_are(api: httpx.AsyncClient, owner: Owner) -> None:
    user, correlation = await add_user(owner), uuid4()
    plain = await fail(owner, minutes=5)
    other = await fail(
        owner,
        type="system",
        category="upkeep:logs",
        severity="critical",
        path="/api/documents/7",
        user=user,
        correlation=correlation,
    )
    assert [item["id"] for item in (await read(api, "errors"))["items"]] == [other, plain]
    edge = (datetime.now(UTC) - timedelta(minutes=2)).isoformat()
    for query in (
        {"type": "system"},
        {"category": "upkeep:logs"},
        {"severity": "critical"},
        {"userId": str(user)},
        {"correlationId": str(correlation)},
        {"path": "/api/documents"},
        {"from": edge},
        {"type": "system", "severity": "critical", "resolved": "false"},
    ):
        assert [item["id"] for item in (await read(api, "errors", **query))["items"]] == [other], query
    assert [item["id"] for item in (await read(api, "errors", to=edge))["items"]] == [plain]
    assert (await read(api, "errors", resolved="true"))["items"] == []


async def test_errors_are_read_page_by_page(api: httpx.AsyncClient, owner: Owner) -> None:
    failed = [await fail(owner, minutes=place // 2) for place in range(7)]
    pages = await all_pages(api, "errors", limit=3)
    assert [len(page) for page in pages] == [3, 3, 1]
    assert sorted(item["id"] for page in pages for item in page) == sorted(failed)
    cursor = (await read(api, "errors", limit=3))["nextCursor"]
    answer = await api.get("/api/admin/errors", headers=ROOT, params={"cursor": cursor, "severity": "error"})
    assert wrong_fields(answer) == ["cursor"]


async def test_an_error_is_resolved_with_notes_and_opened_again(
    api: httpx.AsyncClient, owner: Owner, settings: Settings
) -> None:
    root = user_id_of(settings, OTHER_ISSUER, "root")
    await owner.rows("insert into public.user_profiles (id) values (%(root)s)", {"root": root})
    error = await fail(owner)
    change = partial(api.patch, f"/api/admin/errors/{error}", headers=ROOT)

    resolved = (await change(json={"resolved": True, "notes": "A key had expired."})).json()
    assert (resolved["resolved"], resolved["resolvedBy"], resolved["notes"]) == (True, str(root), "A key had expired.")
    assert (await change(json={"resolved": True})).json() == resolved
    opened = (await change(json={"resolved": False})).json()
    assert (opened["resolved"], opened["resolvedBy"], opened["resolvedAt"]) == (False, None, None)
    assert opened["notes"] == "A key had expired."


async def test_an_error_is_the_work_of_the_one_who_resolved_it_first(
    api: httpx.AsyncClient, owner: Owner, settings: Settings
) -> None:
    administrators = [bearer(name, app_metadata={"role": "admin"}) for name in ("first", "second", "third")]
    for name in ("first", "second", "third"):
        user = user_id_of(settings, OTHER_ISSUER, name)
        await owner.rows("insert into public.user_profiles (id) values (%(user)s)", {"user": user})
    error = await fail(owner)
    answers = await at_once(
        *[
            partial(api.patch, f"/api/admin/errors/{error}", headers=headers, json={"resolved": True})
            for headers in administrators * 3
        ]
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["resolvedBy"] for answer in answers}) == 1


async def test_an_administrator_without_a_profile_has_one_after_he_resolved(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    error = await fail(owner)
    answer = await api.patch(f"/api/admin/errors/{error}", headers=ROOT, json={"resolved": True})
    [profile] = await owner.rows("select id from public.user_profiles")
    assert (answer.status_code, answer.json()["resolvedBy"]) == (200, str(profile["id"]))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "resolved"),
        ({"resolved": None}, "resolved"),
        ({"resolved": True, "notes": "x" * 4001}, "notes"),
        ({"resolved": True, "resolvedBy": str(uuid4())}, "resolvedBy"),
    ],
)
async def test_a_change_of_an_error_that_is_wrong_changes_nothing(
    api: httpx.AsyncClient, owner: Owner, body: dict[str, Any], field: str
) -> None:
    error = await fail(owner)
    assert wrong_fields(await api.patch(f"/api/admin/errors/{error}", headers=ROOT, json=body)) == [field]
    assert await owner.number("select count(*) from public.error_logs where resolved") == 0


async def test_an_unknown_error_is_not_found(api: httpx.AsyncClient) -> None:
    answer = await api.patch(f"/api/admin/errors/{uuid4()}", headers=ROOT, json={"resolved": True})
    assert problem(answer) == (404, "not_found:error")
    answer = await api.patch("/api/admin/errors/7", headers=ROOT, json={"resolved": True})
    assert wrong_fields(answer) == ["error"]


# Activity


async def act(owner: Owner, user: UUID, **columns: Any) -> None:
    values = {"user": user, "correlation": uuid4(), "type": "chat_create", "category": "chat", "minutes": 0} | columns
    await owner.rows(
        """
        insert into public.user_activity_logs
            (user_id, correlation_id, activity_type, activity_category, created_at)
        values (%(user)s, %(correlation)s, %(type)s, %(category)s, now() - make_interval(mins => %(minutes)s))
        """,
        values,
    )


async def operate(owner: Owner, user: UUID | None, **columns: Any) -> None:
    values = {
        "user": user,
        "correlation": uuid4(),
        "agent": "chat_model_agent",
        "type": "chat_turn",
        "category": "chat",
        "model": "gpt",
        "duration": 100,
        "success": True,
        "minutes": 0,
    } | columns
    await owner.rows(
        """
        insert into public.agent_activity_logs (
            user_id, correlation_id, agent_type, operation_type, operation_category, provider, model_id, duration_ms,
            input_tokens, output_tokens, total_cost, success, created_at
        )
        values (
            %(user)s, %(correlation)s, %(agent)s, %(type)s, %(category)s, 'openai', %(model)s, %(duration)s,
            10, 5, 0.25, %(success)s, now() - make_interval(mins => %(minutes)s)
        )
        """,
        values,
    )


async def test_what_users_and_agents_did_is_one_list_joined_by_the_correlation_id(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    ada, grace, correlation = await add_user(owner), await add_user(owner), uuid4()
    await act(owner, ada, correlation=correlation, minutes=2)
    await operate(owner, ada, correlation=correlation, minutes=1, success=False)
    await act(owner, grace, type="file_upload", category="file")
    found = (await read(api, "activity"))["items"]
    assert [(item["source"], item["type"]) for item in found] == [
        ("user", "file_upload"),
        ("agent", "chat_turn"),
        ("user", "chat_create"),
    ]
    assert (found[1]["durationMs"], found[1]["totalCost"], found[0]["durationMs"]) == (100, 0.25, None)
    edge = (datetime.now(UTC) - timedelta(seconds=90)).isoformat()
    for query, wanted in (
        ({"correlationId": str(correlation)}, [1, 2]),
        ({"userId": str(grace)}, [0]),
        ({"source": "agent"}, [1]),
        ({"source": "user", "userId": str(ada)}, [2]),
        ({"type": "file_upload"}, [0]),
        ({"category": "chat"}, [1, 2]),
        ({"success": "false"}, [1]),
        ({"from": edge}, [0, 1]),
        ({"to": edge}, [2]),
    ):
        items = (await read(api, "activity", **query))["items"]
        assert items == [found[place] for place in wanted], query


@pytest.mark.parametrize("source", [None, "user", "agent"])
async def test_activity_is_read_page_by_page_over_months(
    api: httpx.AsyncClient, owner: Owner, source: str | None
) -> None:
    user = await add_user(owner)
    for place in range(8):
        await act(owner, user, minutes=-place // 2 * 43_200)
        await operate(owner, user, minutes=-place // 2 * 43_200)
    pages = await all_pages(api, "activity", limit=3, **({"source": source} if source else {}))
    items = [item for page in pages for item in page]
    times = [item["createdAt"] for item in items]
    assert len({(item["source"], item["id"]) for item in items}) == len(items) == (8 if source else 16)
    assert times == sorted(times, reverse=True)
    assert {len(page) for page in pages[:-1]} == {3}


async def test_how_agents_do_is_given_by_agent_operation_and_model(api: httpx.AsyncClient, owner: Owner) -> None:
    user = await add_user(owner)
    for place in range(1, 101):
        await operate(owner, user, duration=place * 10, success=place > 10)
    await operate(owner, None, agent="search_agent", type="search", model="mini", duration=None)
    await operate(owner, user, minutes=3000)
    report = await read(api, "agents")
    assert report["items"] == [
        {
            "agent": "chat_model_agent",
            "operation": "chat_turn",
            "provider": "openai",
            "model": "gpt",
            "operations": 100,
            "successRate": 0.9,
            "p50Ms": 505.0,
            "p95Ms": 950.5,
            "inputTokens": 1000,
            "outputTokens": 500,
            "reasoningTokens": 0,
            "totalCost": 25.0,
        },
        {
            "agent": "search_agent",
            "operation": "search",
            "provider": "openai",
            "model": "mini",
            "operations": 1,
            "successRate": 1.0,
            "p50Ms": None,
            "p95Ms": None,
            "inputTokens": 10,
            "outputTokens": 5,
            "reasoningTokens": 0,
            "totalCost": 0.25,
        },
    ]
    by_agent = await read(api, "agents", groupBy="agent", agent="search_agent")
    assert [(item["agent"], item["operation"], item["model"]) for item in by_agent["items"]] == [
        ("search_agent", None, None)
    ]
    week = (datetime.now(UTC) - timedelta(days=7)).isoformat()
    assert (await read(api, "agents", **{"from": week}))["items"][0]["operations"] == 101
