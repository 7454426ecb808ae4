"""`python -m bench.purge`: what it takes to purge a million rows of a log, as a whole month and in batches.

Takes about two minutes and 1 GB of disk, and prints one table in Markdown. While the batches go, people's actions are
written to the same log, and the longest of them is said: a purge may make nobody wait.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg

from bench import migrations
from bench.system import System, running_system
from threadkeep import activity, upkeep
from threadkeep.activity import Call
from threadkeep.database import Database
from threadkeep.identity import Principal

ROWS: Final = 1_000_000
SECONDS: Final = 240.0
USER: Final = UUID(int=1)

# Two months and a half back: a whole month that is past its time, and one day at the edge of the retention.
_FILL: Final = """
    insert into public.user_activity_logs (
        user_id, correlation_id, activity_type, activity_category, activity_metadata, resource_id, resource_type,
        ip_address, user_agent, request_path, request_method, created_at
    )
    select
        %(user)s, gen_random_uuid(), 'chat_view', 'chat', '{"changed": ["title"]}', gen_random_uuid(), 'chat',
        '203.0.113.9', 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36', '/api/sessions', 'GET',
        %(from)s::timestamptz + n * %(for)s::interval / %(rows)s
    from generate_series(0, %(rows)s - 1) as n
"""
_SIZE: Final = """
    select coalesce(sum(pg_total_relation_size(format('private.%I', p.partition)::regclass)), 0) / 1048576
    from private.log_partitions() as p
    where p.log = 'user_activity_logs'
"""


@dataclass(frozen=True, kw_only=True)
class Purge:
    """One purge: rows and seconds, MiB of the log before and after, and milliseconds of people's actions meanwhile."""

    way: str
    rows: int
    seconds: float
    before: float
    after: float
    action_p50: float
    action_longest: float


def main() -> None:
    with running_system() as system:
        migrations.measure(system)
        print(_table([_by_partition(system), _in_batches(system)]))


def _by_partition(system: System) -> Purge:
    [[month]] = system.execute("select date_trunc('month', now() at time zone 'UTC') - interval '3 months'")
    system.execute("select private.create_log_partition('user_activity_logs', %(month)s::date)", {"month": month})
    return _purge(system, "a whole month, dropped", {"from": month, "for": "20 days"})


def _in_batches(system: System) -> Purge:
    [[day]] = system.execute("select now() - interval '33 days'")
    system.execute("select private.create_log_partition('user_activity_logs', %(day)s::date)", {"day": day})
    # A row that is kept, so that the month is not past its time as a whole.
    system.execute(
        """
        update public.admin_config
        set config_data = jsonb_set(config_data, '{log_retention_days,user_activity_logs}', '30')
        where config_key = 'logging_settings'
        """
    )
    return _purge(system, f"the edge, {upkeep.LOG_BATCH:,} rows a batch", {"from": day, "for": "1 day"})


def _purge(system: System, way: str, span: dict[str, Any]) -> Purge:
    with psycopg.connect(system.postgres.dsn(), autocommit=True) as owner:
        owner.execute("insert into public.user_profiles (id) values (%s) on conflict do nothing", [USER])
        owner.execute(
            "update public.admin_config set config_data = config_data || '{\"user_activity_logging_enabled\": true}'"
            " where config_key = 'logging_settings'"
        )
        owner.execute(_FILL.encode(), {"user": USER, "rows": ROWS, **span})
        owner.execute("vacuum (analyze) public.user_activity_logs")
        owner.execute("checkpoint")
    [[before]] = system.execute(_SIZE)
    report, actions = asyncio.run(_run(system))
    done = {kind.kind: kind for kind in report.kinds}
    [[after]] = system.execute(_SIZE)
    [[left]] = system.execute(
        "select count(*) from public.user_activity_logs where created_at < now() - interval '30 days'"
    )
    log, months = done["user_activity_logs"], done["past_log_partitions"]
    assert (log.error, months.error) == (None, None), report
    return Purge(
        way=way,
        rows=ROWS - left,
        seconds=log.seconds + months.seconds,
        before=before,
        after=after,
        action_p50=statistics.median(actions),
        action_longest=max(actions),
    )


async def _run(system: System) -> tuple[upkeep.Report, list[float]]:
    database, people = Database(_login(system)), Database(_login(system))
    stop, actions = asyncio.Event(), list[float]()

    async def act() -> None:
        user = Principal(user_id=USER, role="authenticated")
        bound = people.during(Call(correlation_id=uuid4(), path="/api/sessions", address="203.0.113.9"))
        while not stop.is_set():
            started = time.perf_counter()
            note = {"activity": activity.note(bound, "chat_view")}
            await bound.rows(user, "select private.log_user_activity(%(activity)s)", note)
            actions.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(0.01)

    acting = asyncio.create_task(act())
    report = await upkeep.run(database, deadline=time.monotonic() + SECONDS)
    stop.set()
    await acting
    await database.close()
    await people.close()
    return report, actions


def _login(system: System) -> str:
    return system.postgres.dsn(user="threadkeep_api")


def _table(purges: list[Purge]) -> str:
    lines = [
        "| a million rows of a log        |      rows | seconds | MiB before | after | action p50 ms | longest |",
        "|--------------------------------|----------:|--------:|-----------:|------:|--------------:|--------:|",
    ]
    lines += [
        f"| {purge.way:<30} | {purge.rows:>9,} | {purge.seconds:>7.1f} | {purge.before:>10.0f} | {purge.after:>5.0f}"
        f" | {purge.action_p50:>13.1f} | {purge.action_longest:>7.1f} |"
        for purge in purges
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
