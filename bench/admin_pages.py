"""`python -m bench --administration`: the pages of administrators over ten million usage rows, with their plans.

A PostgreSQL of its own is filled with a year of 100,000 users, rolled up by the schedule's own work, and asked through
the functions that the routes call. It takes some minutes and 8 GB of disk, and is gone afterwards.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg

from bench.figures import p50, table
from local.postgres import EmbeddedPostgres, discard
from local.server import API_ROLE, SQL
from threadkeep import activity_reports, error_reports, people, upkeep, usage_reports
from threadkeep.database import Actor, Database, Rows, Statement
from threadkeep.identity import SERVICE, Principal
from threadkeep.migrations import apply

ROWS: Final = 10_000_000
USERS: Final = 100_000
LOG_ROWS: Final = 200_000
ROUNDS: Final = 7
ADMINISTRATOR: Final = Principal(user_id=UUID(int=1), role="authenticated", is_admin=True)
BUSIEST: Final = UUID("00000000-0000-4000-8000-000000000001")

# Past triggers and foreign keys. A user makes ten requests at a time, and some come much more often than others; the
# rows come in the order of time.
_FILL: Final[tuple[tuple[str, LiteralString], ...]] = (
    (
        "users",
        """
        insert into public.user_profiles (id, email, full_name, is_guest, created_at)
        select
            ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
            'user' || n || '@example.com', 'User ' || n, n %% 5 = 0, now() - random() * interval '365 days'
        from generate_series(1, %(users)s::integer) as n
        """,
    ),
    (
        "usage rows",
        """
        insert into public.usage_logs (
            request_id, user_id, agent_type, model_used, provider, input_tokens, output_tokens, cached_input_tokens,
            total_tokens, input_cost, output_cost, total_cost, request_timestamp, response_timestamp
        )
        select
            gen_random_uuid(), b.user_id,
            case when r.place %% 5 = 0 then 'document_agent' else 'chat_model_agent' end,
            'model-' || b.model, (array['openai', 'google', 'anthropic'])[1 + b.model %% 3],
            900, 300, 400, 1200, 0.001, 0.004, 0.005 + b.model * 0.001,
            b.moment + r.place * interval '100 milliseconds', b.moment + r.place * interval '100 milliseconds'
        from (
            select
                (
                    '00000000-0000-4000-8000-'
                    || lpad(to_hex(1 + (random() ^ 3 * (%(users)s - 1))::integer), 12, '0')
                )::uuid as user_id,
                (random() * 11.999)::integer as model,
                now() - interval '365 days' * (1 - n * 10.0 / %(rows)s) - interval '10 seconds' as moment
            from generate_series(1, %(rows)s / 10) as n
        ) as b
        cross join generate_series(1, 10) as r (place)
        """,
    ),
    (
        "days",
        """
        insert into public.usage_daily (
            day, agent_type, provider, model_used, user_kind, shard, requests, input_tokens, output_tokens,
            cached_input_tokens, total_cost
        )
        select
            (u.request_timestamp at time zone 'UTC')::date, u.agent_type, u.provider, u.model_used, 'account',
            get_byte(uuid_send(u.request_id), 15) %% 16, count(*), sum(u.input_tokens), sum(u.output_tokens),
            sum(u.cached_input_tokens), sum(u.total_cost)
        from public.usage_logs as u
        group by 1, 2, 3, 4, 6
        """,
    ),
    (
        "activity of users",
        """
        insert into public.user_activity_logs
            (user_id, correlation_id, activity_type, activity_category, created_at)
        select
            ('00000000-0000-4000-8000-' || lpad(to_hex(1 + n %% %(users)s), 12, '0'))::uuid,
            gen_random_uuid(), 'chat_message', 'chat', now() + interval '60 days' * (n::double precision / %(logs)s)
        from generate_series(1, %(logs)s::integer) as n
        """,
    ),
    (
        "activity of agents",
        """
        insert into public.agent_activity_logs (
            user_id, correlation_id, agent_type, operation_type, operation_category, provider, model_id, duration_ms,
            input_tokens, output_tokens, total_cost, success, created_at
        )
        select
            ('00000000-0000-4000-8000-' || lpad(to_hex(1 + n %% %(users)s), 12, '0'))::uuid,
            gen_random_uuid(), 'chat_model_agent', 'chat_turn', 'chat', 'openai', 'model-' || n %% 12,
            (random() * 5000)::integer, 900, 300, 0.005, n %% 50 <> 0,
            now() + interval '60 days' * (n::double precision / %(logs)s)
        from generate_series(1, %(logs)s::integer) as n
        """,
    ),
    (
        "errors",
        """
        insert into public.error_logs
            (error_type, error_category, error_message, severity, request_path, correlation_id, resolved, created_at)
        select
            'api', 'category-' || n %% 20, 'It broke.', 'error', '/api/chat', gen_random_uuid(), n %% 2 = 0,
            now() - interval '90 days' * (1 - n::double precision / %(logs)s)
        from generate_series(1, %(logs)s::integer) as n
        """,
    ),
)


class Explaining(Database):
    """Keeps the plan of each statement that it runs."""

    plans: list[str]

    async def run(self, actor: Actor, *statements: Statement, require_active: bool = True) -> list[Rows]:
        for place, (sql, parameters) in enumerate(statements):
            explained = "explain (analyze, buffers, costs off, timing off) " + sql
            before = statements[:place]
            *_, rows = await super().run(actor, *before, (explained, parameters), require_active=require_active)
            self.plans.append("\n".join(row["QUERY PLAN"] for row in rows))
        return await super().run(actor, *statements, require_active=require_active)


Page = Callable[[Database], Awaitable[Any]]


def measure(rows: int = ROWS, *, with_plans: bool = False) -> None:
    """Fills, rolls up, asks and prints a table of the pages, and the plan of each if wanted."""
    folder = Path(tempfile.mkdtemp(prefix="threadkeep-bench-"))
    # Open to the account that PostgreSQL runs as when this is root.
    folder.chmod(0o755)
    try:
        with EmbeddedPostgres(folder / "postgres", durable=False) as postgres:
            apply(postgres.dsn(), SQL)
            _fill(postgres.dsn(), rows)
            asyncio.run(_measure(postgres.dsn(user=API_ROLE), with_plans=with_plans))
    finally:
        discard(folder / "postgres")
        shutil.rmtree(folder)


def _fill(dsn: str, rows: int) -> None:
    values = {"rows": rows, "users": USERS, "logs": LOG_ROWS}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set session_replication_role = replica; set maintenance_work_mem = '512MB'")
        indexes = [
            (name, definition)
            for name, definition in connection.execute("""
                select i.indexname, i.indexdef
                from pg_indexes as i
                where i.schemaname = 'public'
                    and i.tablename = 'usage_logs'
                    and i.indexname like 'idx%'
            """)
        ]
        for name, _ in indexes:
            connection.execute(f"drop index public.{name}".encode())
        for what, statement in _FILL:
            _say(f"filling in {what}")
            connection.execute(statement.encode(), values)
        for name, definition in indexes:
            _say(f"making {name}")
            connection.execute(definition.encode())
        connection.execute("set session_replication_role = origin")
        connection.execute("vacuum analyze")


async def _measure(dsn: str, *, with_plans: bool) -> None:
    database = Database(dsn, pool_size=1)
    started = time.perf_counter()
    rolled_up = 0
    while True:
        report = await upkeep.run(database, deadline=time.monotonic() + 300)
        [kind] = [kind for kind in report.kinds if kind.kind == "usage_roll_up"]
        assert kind.error is None, kind
        rolled_up += kind.done
        if not kind.remaining:
            break
    seconds = time.perf_counter() - started
    # What has not been rolled up yet: as much as five minutes bring, and more.
    await _settle_some(database)
    explaining = Explaining(dsn, pool_size=1)
    rows = []
    plans = []
    for name, page in _pages().items():
        times: list[float] = []
        _say(name)
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            await page(database)
            times.append((time.perf_counter() - begun) * 1000)
        explaining.plans = []
        await page(explaining)
        rows.append([name, times[0], p50(times), max(times)])
        plans.append(f"### {name}\n\n```\n{max(explaining.plans, key=len)}\n```")
    [counted] = await database.rows(
        SERVICE,
        """
        select
            (select count(*) from public.usage_logs) as rows,
            (select count(*) from public.usage_user_daily) as rolled,
            (select count(*) from public.usage_user_monthly) as months,
            (select count(*) from public.usage_daily) as days,
            current_setting('server_version') as version
        """,
    )
    await database.close()
    await explaining.close()
    print(
        f"## Pages of administrators\n\nPostgreSQL {counted['version']}; {counted['rows']:,} usage rows of {USERS:,} "
        f"users in 365 days; {counted['rolled']:,} rows by user and day, {counted['months']:,} by user and month, "
        f"{counted['days']:,} by day; {LOG_ROWS:,} rows in each log. The roll-up of {rolled_up:,} rows took "
        f"{seconds:.0f} s.\n\n" + table(["milliseconds", "first", "p50", "worst"], rows)
    )
    if with_plans:
        print("\n" + "\n\n".join(plans))


def _pages() -> dict[str, Page]:
    now = datetime.now(UTC)
    month = usage_reports.Filter(first=now.date() - timedelta(days=29), last=now.date())
    year = usage_reports.Filter(first=now.date() - timedelta(days=366), last=now.date())
    one = usage_reports.Filter(first=year.first, last=year.last, user=BUSIEST)

    def usage(wanted: usage_reports.Filter, *by: usage_reports.Dimension) -> Page:
        return lambda database: usage_reports.read(database, ADMINISTRATOR, by, wanted, limit=100, cursor=None)

    def users(words: str | None) -> Page:
        return lambda database: people.page(
            database, ADMINISTRATOR, words=words, kind=None, disabled=None, limit=50, cursor=None
        )

    def errors(**wanted: Any) -> Page:
        return lambda database: error_reports.page(
            database, ADMINISTRATOR, error_reports.Filter(**wanted), limit=50, cursor=None
        )

    def activity(**wanted: Any) -> Page:
        return lambda database: activity_reports.page(
            database, ADMINISTRATOR, activity_reports.Filter(**wanted), limit=50, cursor=None
        )

    return {
        "usage, 30 days, by day": usage(month, "day"),
        "usage, 30 days, by model and provider": usage(month, "model", "provider"),
        "usage, a year, by day and agent": usage(year, "day", "agent"),
        "usage, a year, by everything but users": usage(year, "day", "agent", "model", "provider"),
        "usage, 30 days, by user": usage(month, "user"),
        "usage, a year, by user": usage(year, "user"),
        "usage, 30 days, by user and model": usage(month, "user", "model"),
        "usage of one user, a year, by day": usage(one, "day"),
        "users": users(None),
        "users, by a part of the e-mail": users("99999@"),
        "errors": errors(),
        "errors, open, of one category": errors(resolved=False, category="category-7"),
        "activity": activity(),
        "activity of one user": activity(user=BUSIEST),
        "activity of two weeks ahead, failed": activity(
            since=now + timedelta(days=20), until=now + timedelta(days=34), success=False
        ),
        "agents, a week": lambda database: activity_reports.performance(
            database,
            ADMINISTRATOR,
            activity_reports.DIMENSIONS,
            since=now + timedelta(days=20),
            until=now + timedelta(days=27),
        ),
    }


async def _settle_some(database: Database) -> None:
    await database.rows(
        SERVICE,
        """
        insert into public.usage_logs (
            request_id, user_id, agent_type, model_used, provider, input_tokens, output_tokens, total_cost
        )
        select
            gen_random_uuid(),
            ('00000000-0000-4000-8000-' || lpad(to_hex(1 + n * 7), 12, '0'))::uuid,
            'chat_model_agent', 'model-1', 'openai', 900, 300, 0.005
        from generate_series(1, 5000) as n
        """,
    )


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)
