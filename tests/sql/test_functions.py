"""The functions of the source design, on what made them fail there: summaries, retention, partitions, toggles."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.crowd import Owner, at_once, somebody
from tests.databases import SQL
from threadkeep.database import Database, Statement
from threadkeep.errors import SENTENCES, ThreadkeepError
from threadkeep.identity import SERVICE, Principal

LOGS = ("user_activity_logs", "agent_activity_logs", "error_logs")


@pytest.fixture
async def database(api_database_url: str) -> AsyncIterator[Database]:
    """The functions' way to this test's database; it opens more connections only as they are needed."""
    database = Database(api_database_url, pool_size=9)
    yield database
    await database.close()


@pytest.fixture
async def user(database: Database) -> Principal:
    principal = somebody()
    await database.rows(principal, "select private.ensure_profile(null, null)")
    return principal


async def use(owner: Owner, user_id: UUID | None, **columns: Any) -> None:
    values = {"request_id": uuid4(), "user_id": user_id, "agent_type": "chat_model_agent"} | columns
    names, marks = ", ".join(values), ", ".join(f"%({name})s" for name in values)
    await owner.rows(f"insert into public.usage_logs ({names}) values ({marks})", values)


async def configure(owner: Owner, key: str, path: str, value: Any) -> None:
    """Write into a configuration past its validation, as somebody does by hand."""
    await owner.rows("alter table public.admin_config disable trigger trigger_validate_admin_config")
    await owner.rows(
        """
        update public.admin_config
        set config_data = case
            when %(value)s::text is null then config_data #- %(path)s
            else jsonb_set(config_data, %(path)s, %(value)s::jsonb)
        end
        where config_key = %(key)s
        """,
        {"key": key, "path": path.split("."), "value": value},
    )
    await owner.rows("alter table public.admin_config enable trigger trigger_validate_admin_config")


SUMMARY = "select * from public.get_current_user_usage_summary()"


async def test_a_user_without_any_usage_has_a_summary_of_exactly_one_row(database: Database, user: Principal) -> None:
    assert await database.rows(user, SUMMARY) == [
        {
            "total_calls": 0,
            "total_input_tokens": 0,
            "total_output_tokens": 0,
            "total_tokens": 0,
            "total_cost": 0,
            "agent_breakdown": {},
        }
    ]


@pytest.mark.parametrize("is_admin", [False, True])
async def test_a_summary_adds_up_the_callers_own_usage_by_agent(
    database: Database, owner: Owner, user: Principal, is_admin: bool
) -> None:
    caller = somebody(user.user_id, is_admin=is_admin)
    other = somebody()
    await database.rows(other, "select private.ensure_profile(null, null)")
    await use(owner, other.user_id, input_tokens=1000, output_tokens=1000, total_cost=1000)
    await use(owner, user.user_id, input_tokens=10, output_tokens=1, total_cost="0.25")
    await use(owner, user.user_id, input_tokens=20, output_tokens=2, total_cost="0.000000000001")
    await use(owner, user.user_id, agent_type="python_agent", input_tokens=5)

    [summary] = await database.rows(caller, SUMMARY)

    assert summary["total_calls"] == 3
    assert (summary["total_input_tokens"], summary["total_output_tokens"], summary["total_tokens"]) == (35, 3, 38)
    assert str(summary["total_cost"]) == "0.250000000001"
    assert summary["agent_breakdown"] == {
        "chat_model_agent": {"calls": 2, "tokens": 33, "cost": 0.250000000001},
        "python_agent": {"calls": 1, "tokens": 5, "cost": 0},
    }


async def test_both_days_of_a_summary_are_whole_days_of_utc(database: Database, owner: Owner, user: Principal) -> None:
    for moment in ("2026-01-31T23:59:59Z", "2026-02-01T00:00:00Z", "2026-02-02T23:59:59Z", "2026-02-03T00:00:00Z"):
        await use(owner, user.user_id, request_timestamp=moment)
    summary = "select total_calls from public.get_current_user_usage_summary(%(first)s, %(last)s)"
    days = {"first": date(2026, 2, 1), "last": date(2026, 2, 2)}

    _, rows = await database.run(user, ("select set_config('timezone', 'Pacific/Auckland', true)", {}), (summary, days))

    assert rows == [{"total_calls": 2}]
    assert await database.rows(user, summary, {"first": None, "last": None}) == [{"total_calls": 0}]
    assert await database.rows(user, summary, {"first": days["last"], "last": days["first"]}) == [{"total_calls": 0}]


async def fill_logs(owner: Owner, user_id: UUID | None, count: int, age: timedelta) -> None:
    values = {"user": user_id, "count": count, "at": datetime.now(UTC) - age}
    await owner.rows(
        """
        insert into public.user_activity_logs (user_id, correlation_id, activity_type, activity_category, created_at)
        select %(user)s, gen_random_uuid(), 'chat_create', 'chat', %(at)s
        from generate_series(1, %(count)s)
        """,
        values,
    )
    await owner.rows(
        """
        insert into public.agent_activity_logs (
            user_id, correlation_id, agent_type, operation_type, operation_category, created_at
        )
        select %(user)s, gen_random_uuid(), 'chat_model_agent', 'streaming', 'generation', %(at)s
        from generate_series(1, %(count)s)
        """,
        values,
    )
    await owner.rows(
        """
        insert into public.error_logs (user_id, error_type, error_category, error_message, resolved, created_at)
        select %(user)s, 'api', 'api', 'An error', n %% 2 = 0, %(at)s
        from generate_series(1, %(count)s) as n
        """,
        values,
    )


async def log_sizes(owner: Owner) -> dict[str, int]:
    return {log: await owner.number(f"select count(*) from public.{log}") for log in LOGS}


async def test_a_purge_deletes_a_batch_of_what_is_past_its_time_and_errors_only_when_resolved(
    database: Database, owner: Owner, user: Principal
) -> None:
    await fill_logs(owner, user.user_id, 24, timedelta(days=91))
    await fill_logs(owner, user.user_id, 4, timedelta(days=6))
    purge = "select * from public.purge_old_activity_logs(10)"

    deleted = [tuple((await database.rows(SERVICE, purge))[0].values()) for _ in range(4)]

    assert deleted == [(10, 10, 10), (10, 10, 2), (4, 4, 0), (0, 0, 0)]
    assert await log_sizes(owner) == {"user_activity_logs": 4, "agent_activity_logs": 4, "error_logs": 16}


@pytest.mark.parametrize("days", ["0", "-1", "0.5", '"30"', "null", "1e12", "3651", None])
@pytest.mark.parametrize("log", LOGS)
async def test_a_retention_of_nonsense_deletes_nothing_of_any_log(
    database: Database, owner: Owner, user: Principal, log: str, days: str | None
) -> None:
    await fill_logs(owner, user.user_id, 2, timedelta(days=5000))
    await configure(owner, "logging_settings", f"log_retention_days.{log}", days)

    with pytest.raises(ThreadkeepError) as error:
        await database.rows(SERVICE, "select public.purge_old_activity_logs()")

    assert error.value.code == "conflict:retention"
    assert log in error.value.detail
    assert await log_sizes(owner) == dict.fromkeys(LOGS, 2)


CREATE = "select private.create_log_partition(%(log)s, %(month)s) as made"
MARCH = {"log": "user_activity_logs", "month": date(2020, 3, 17)}


async def test_a_month_is_made_once_and_takes_its_rows_out_of_the_default_partition(
    database: Database, owner: Owner, user: Principal
) -> None:
    edges = [
        "2020-02-29T23:59:59.999999Z",
        "2020-03-01T00:00:00Z",
        "2020-03-31T23:59:59.999999Z",
        "2020-04-01T00:00:00Z",
    ]
    for moment in edges:
        await owner.rows(
            """
            insert into public.user_activity_logs
                (user_id, correlation_id, activity_type, activity_category, created_at)
            values (%(user)s, gen_random_uuid(), 'a', 'b', %(moment)s)
            """,
            {"user": user.user_id, "moment": moment},
        )

    assert await database.rows(SERVICE, CREATE, MARCH) == [{"made": True}]
    assert await database.rows(SERVICE, CREATE, MARCH) == [{"made": False}]

    assert await owner.number("select count(*) from private.user_activity_logs_2020_03") == 2
    assert await owner.number("select count(*) from private.user_activity_logs_default") == 2
    assert await owner.number("select count(*) from public.user_activity_logs") == 4


async def test_a_month_takes_a_row_that_was_still_being_written_when_its_making_began(
    database: Database, database_url: str, owner: Owner, user: Principal
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as writer:
        await writer.execute(
            """
            insert into public.user_activity_logs
                (user_id, correlation_id, activity_type, activity_category, created_at)
            values (%s, gen_random_uuid(), 'a', 'b', '2020-03-15')
            """,
            [user.user_id],
        )
        making = asyncio.create_task(database.rows(SERVICE, CREATE, MARCH))
        waiting = "select count(*) from pg_locks where not granted and relation = 'public.user_activity_logs'::regclass"
        async with asyncio.timeout(30):
            while not await owner.number(waiting):  # noqa: ASYNC110 - the database rings no bell
                await asyncio.sleep(0.01)
        await writer.commit()

    assert await making == [{"made": True}]
    assert await owner.number("select count(*) from private.user_activity_logs_2020_03") == 1


async def test_months_of_nothing_but_the_two_logs_are_made_or_dropped(database: Database) -> None:
    for function in ("create_log_partition", "drop_log_partition"):
        for name in ("error_logs", "Chat", 'x"; drop table public."Chat"; --', ""):
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                await database.rows(SERVICE, f"select private.{function}(%(name)s, '2020-03-01')", {"name": name})


async def test_a_month_is_made_while_rows_come_in_and_none_is_refused_or_lost(
    database: Database, owner: Owner, user: Principal
) -> None:
    made = asyncio.Event()
    insert = """
        insert into public.user_activity_logs (user_id, correlation_id, activity_type, activity_category, created_at)
        values (%(user)s, gen_random_uuid(), 'a', 'b', '2020-03-15')
    """

    async def write() -> int:
        written = 0
        while not made.is_set() or written < 10:
            await database.rows(SERVICE, insert, {"user": user.user_id})
            written += 1
        return written

    async def make() -> int:
        # In short transactions with a short patience, as the schedule does it.
        briefly: Statement = ("select set_config('lock_timeout', '200ms', true)", {})
        try:
            for _ in range(100):
                with suppress(ThreadkeepError):
                    _, [row] = await database.run(SERVICE, briefly, (CREATE, MARCH))
                    assert row["made"]
                    return 0
            raise AssertionError("the lock was never free")
        finally:
            made.set()

    results = await at_once(*[write] * 8, make)

    assert all(isinstance(result, int) for result in results), results
    assert await owner.number("select count(*) from private.user_activity_logs_2020_03") == sum(results)
    assert await owner.number("select count(*) from private.user_activity_logs_default") == 0


async def test_a_month_that_is_not_wholly_past_its_retention_is_not_dropped(database: Database) -> None:
    drop = "select private.drop_log_partition('user_activity_logs', current_date) as dropped"
    assert await database.rows(SERVICE, drop) == [{"dropped": False}]


ENABLED = (
    "select public.is_user_activity_logging_enabled() as people, public.is_agent_activity_logging_enabled() as agents"
)
LOG_OPERATION = """
    select private.log_agent_activity(null, gen_random_uuid(), %(rows)s)
"""
OPERATION = json.dumps([{"agent_type": "a", "operation_type": "b", "operation_category": "c"}])


@pytest.mark.parametrize(("value", "enabled"), [("true", True), ("false", False), ('"true"', False), (None, False)])
async def test_logging_follows_its_toggles(
    database: Database, owner: Owner, user: Principal, value: str | None, enabled: bool
) -> None:
    await configure(owner, "logging_settings", "user_activity_logging_enabled", value)
    await configure(owner, "logging_settings", "agent_activity_logging_enabled", value)

    assert await database.rows(user, ENABLED) == [{"people": enabled, "agents": enabled}]
    await database.rows(SERVICE, LOG_OPERATION, {"rows": OPERATION})
    assert await owner.number("select count(*) from public.agent_activity_logs") == int(enabled)


async def test_without_a_configuration_logging_is_as_the_source_design_says(
    database: Database, owner: Owner, user: Principal
) -> None:
    await owner.rows("delete from public.admin_config where config_key = 'logging_settings'")

    assert await database.rows(user, ENABLED) == [{"people": False, "agents": True}]
    [row] = await database.rows(SERVICE, "select public.get_logging_config() -> 'log_retention_days' as days")
    assert row["days"] == {"error_logs": 90, "user_activity_logs": 30, "agent_activity_logs": 7}


LOG_ERROR = "select private.log_error(%(user)s, gen_random_uuid(), %(error)s)"
ERROR = {"error_type": "api", "error_category": "api", "error_message": "An error"}


async def test_errors_are_logged_unless_that_is_switched_off(database: Database, owner: Owner) -> None:
    await database.rows(SERVICE, LOG_ERROR, {"user": None, "error": json.dumps(ERROR)})
    await configure(owner, "logging_settings", "error_logging_enabled", "false")
    await database.rows(SERVICE, LOG_ERROR, {"user": None, "error": json.dumps(ERROR)})

    assert await owner.number("select count(*) from public.error_logs") == 1


async def test_an_error_of_a_user_who_is_gone_and_with_everything_too_long_is_logged_all_the_same(
    database: Database, owner: Owner
) -> None:
    long = ("error_category", "request_path", "request_method", "user_agent", "ip_address", "session_id")
    error = ERROR | dict.fromkeys(long, "x" * 2000)

    await database.rows(SERVICE, LOG_ERROR, {"user": uuid4(), "error": json.dumps(error)})

    [row] = await owner.rows("select user_id, length(ip_address) as length from public.error_logs")
    assert row == {"user_id": None, "length": 45}


@pytest.mark.parametrize(
    "log",
    [
        (LOG_ERROR, {"user": None, "error": json.dumps(ERROR | {"error_type": "no such type"})}),
        (LOG_ERROR, {"user": None, "error": "[]"}),
        (LOG_OPERATION, {"rows": json.dumps([{"agent_type": "x" * 51}])}),
        (LOG_OPERATION, {"rows": "{}"}),
    ],
)
async def test_a_log_that_cannot_be_written_fails_nothing_else(
    database: Database, owner: Owner, user: Principal, log: Any
) -> None:
    await configure(owner, "logging_settings", "agent_activity_logging_enabled", "true")
    session = """insert into public."Chat" (user_id, title) values (%(user)s, 'A session')"""

    await database.run(SERVICE, (session, {"user": user.user_id}), log)

    assert await owner.number('select count(*) from public."Chat"') == 1


def test_every_error_that_a_function_raises_has_a_sentence() -> None:
    text = "".join(path.read_text() for path in SQL.glob("*.sql"))
    raised = re.findall(r"private\.(?:fail|refuse_limit)\(\s*(?:'TK\d{3}', )?'(\w+:\w+)'(.*?);", text, re.DOTALL)
    assert len(raised) > 20
    assert {code for code, rest in raised if code not in SENTENCES and "'detail'" not in rest} == set()
