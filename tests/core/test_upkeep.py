"""What the schedule does: everything that is due and nothing else, alone, twice at once, and under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.crowd import Owner, at_once, begin, somebody, usage
from tests.logs import break_settings
from threadkeep import profiles, upkeep
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.file_kinds import FileType
from threadkeep.settings import Settings
from threadkeep.storage import DiskStorage, storage_of
from threadkeep.upkeep import KindReport, Report

pytestmark = pytest.mark.also_behind_a_pooler

ADDRESS = "192.0.2.7"


def kind(report: Report, name: str) -> KindReport:
    [found] = [kind for kind in report.kinds if kind.kind == name]
    return found


def done(report: Report) -> dict[str, int]:
    """What was done, by kind, without what was not."""
    assert [kind for kind in report.kinds if kind.error or kind.remaining] == []
    return {kind.kind: kind.done for kind in report.kinds if kind.done}


async def test_there_is_nothing_to_do_in_a_new_database(database: Database) -> None:
    assert done(await upkeep.run(database)) == {}


# Months


async def drop_months_ahead(owner: Owner, months: int) -> None:
    """Takes away what a purge of some months ago would not have made yet."""
    rows = await owner.rows("""
        select partition
        from private.log_partitions()
        where month is not null
        order by month desc
    """)
    for row in rows[: 2 * months]:
        await owner.rows(f"drop table private.{row['partition']}")


async def log_rows(owner: Owner, table: str = "public.user_activity_logs") -> int:
    return await owner.number(f"select count(*) from {table}")


LOG = """
    insert into public.user_activity_logs (user_id, correlation_id, activity_type, activity_category, created_at)
    values (%(user)s, gen_random_uuid(), 'chat_create', 'chat', clock_timestamp() + %(later)s::interval)
"""


async def log(owner: Owner, later: str = "0") -> None:
    user_id = UUID(int=1)
    await owner.rows(
        "insert into public.user_profiles (id) values (%(user)s) on conflict do nothing", {"user": user_id}
    )
    await owner.rows(LOG, {"user": user_id, "later": later})


async def test_months_are_made_ahead_once(database: Database, owner: Owner) -> None:
    await drop_months_ahead(owner, 2)
    assert done(await upkeep.run(database)) == {"log_partitions": 4}
    assert done(await upkeep.run(database)) == {}
    ahead = "select count(*) from private.log_partitions() where month > now() + interval '2 months'"
    assert await owner.number(ahead) == 2


async def test_two_runs_at_once_make_each_month_once(database: Database, owner: Owner) -> None:
    await drop_months_ahead(owner, 3)
    reports = await at_once(*[partial(upkeep.run, database)] * 4)
    assert sum(done(report).get("log_partitions", 0) for report in reports) == 6


async def test_rows_that_came_before_their_month_are_moved_into_it(database: Database, owner: Owner) -> None:
    for later in ("0", "5 months", "5 months", "7 months"):
        await log(owner, later)
    assert await log_rows(owner, "private.user_activity_logs_default") == 3

    assert done(await upkeep.run(database)) == {"log_partitions": 2}

    assert await log_rows(owner, "private.user_activity_logs_default") == 0
    assert await log_rows(owner) == 4


async def test_the_running_month_can_be_made_while_rows_come_in(
    database: Database, database_url: str, owner: Owner
) -> None:
    await drop_months_ahead(owner, 4)
    await log(owner)
    is_over = asyncio.Event()

    async def write() -> int:
        written = 0
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            while not is_over.is_set():
                await connection.execute(LOG, {"user": UUID(int=1), "later": "0"})
                written += 1
        return written

    writers = [asyncio.create_task(write()) for _ in range(4)]
    report = await upkeep.run(database)
    is_over.set()
    written = sum(await asyncio.gather(*writers))

    assert done(report) == {"log_partitions": 8}
    assert await log_rows(owner) == written + 1
    assert await log_rows(owner, "private.user_activity_logs_default") == 0


async def test_a_lock_that_is_never_free_is_reported_and_stops_nothing_else(
    database: Database, database_url: str, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "PARTITION_RETRY_SECONDS", (0.01,))
    await drop_months_ahead(owner, 1)
    await owner.rows(ROWS["revoked_principals"], {"then": datetime.now(UTC)})
    async with await psycopg.AsyncConnection.connect(database_url) as reader:
        await reader.execute("select count(*) from public.user_activity_logs")
        report = await upkeep.run(database)

    partitions = kind(report, "log_partitions")
    assert (partitions.error, partitions.remaining) == ("unavailable:database", 1)
    assert kind(report, "revoked_principals").done == 1
    recorded = "select count(*) from public.error_logs where error_category = 'upkeep:log_partitions'"
    assert await owner.number(recorded) == 1
    assert done(await upkeep.run(database)) == {"log_partitions": 1}


async def test_a_lock_that_gets_free_is_waited_for(
    database: Database, database_url: str, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    await drop_months_ahead(owner, 1)
    reader = await psycopg.AsyncConnection.connect(database_url)
    await reader.execute("select count(*) from public.user_activity_logs")
    sleep = asyncio.sleep

    async def free_the_lock(_: float) -> None:
        await reader.close()
        await sleep(0)

    monkeypatch.setattr("threadkeep.upkeep.asyncio.sleep", free_the_lock)
    assert done(await upkeep.run(database)) == {"log_partitions": 2}
    assert reader.closed


# Turns


async def end_lease(owner: Owner, stream: UUID) -> None:
    query = """update public."Stream" set lease_until = now() - interval '1 second' where id = %(stream)s"""
    await owner.rows(query, {"stream": stream})


async def say(owner: Owner, stream: UUID, payload: str) -> None:
    query = "insert into public.stream_chunks (stream_id, seq, payload) values (%(stream)s, 0, %(payload)s)"
    await owner.rows(query, {"stream": stream, "payload": payload})


async def statuses(owner: Owner) -> dict[UUID, str]:
    rows = await owner.rows("""select id, status from public."Message_v2" where role = 'assistant'""")
    return {row["id"]: row["status"] for row in rows}


async def test_a_dead_turn_is_ended_with_what_it_had_said_and_a_living_one_is_left_alone(
    database: Database, owner: Owner
) -> None:
    living = await begin(database, somebody())
    dead = await begin(database, somebody())
    await say(owner, dead.stream, '{"type": "text-delta", "id": "1", "delta": "Once upon"}')
    values: dict[str, Any] = {"stream": dead.stream, "usage": Jsonb([usage(source="estimated")])}
    await owner.rows('update public."Stream" set usage = %(usage)s where id = %(stream)s', values)
    await end_lease(owner, dead.stream)

    assert done(await upkeep.run(database)) == {"dead_turns": 1}

    assert await statuses(owner) == {living.answer: "streaming", dead.answer: "interrupted"}
    [row] = await owner.rows("""select parts from public."Message_v2" where status = 'interrupted'""")
    assert [part["text"] for part in row["parts"]] == ["Once upon"]
    [row] = await owner.rows("select source, message_id from public.usage_logs")
    assert row == {"source": "estimated", "message_id": dead.answer}


async def test_a_server_that_is_alone_ends_every_turn_of_its_predecessor(database: Database, owner: Owner) -> None:
    for _ in range(3):
        await begin(database, somebody())
    assert await upkeep.recover_dead_turns(database) == 0
    assert await upkeep.recover_dead_turns(database, alone=True) == 3
    assert set((await statuses(owner)).values()) == {"interrupted"}


async def test_a_dead_turn_is_ended_by_one_of_many(database: Database, owner: Owner) -> None:
    for _ in range(8):
        await end_lease(owner, (await begin(database, somebody())).stream)
    results = await at_once(*[partial(upkeep.recover_dead_turns, database)] * 4)
    assert sum(results) == 8


async def test_a_turn_that_cannot_be_recovered_is_reported_and_does_not_keep_the_others(
    database: Database, owner: Owner
) -> None:
    runs = [await begin(database, somebody()) for _ in range(3)]
    await say(owner, runs[0].stream, "no JSON")
    for run in runs:
        await end_lease(owner, run.stream)

    report = kind(await upkeep.run(database), "dead_turns")

    assert (report.done, report.remaining) == (2, 1)
    assert await owner.number("select count(*) from public.error_logs where error_category = 'upkeep:turn'") == 1


async def test_a_turn_in_use_is_left_for_the_next_run(database: Database, database_url: str, owner: Owner) -> None:
    runs = [await begin(database, somebody()) for _ in range(2)]
    for run in runs:
        await end_lease(owner, run.stream)
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute('select from public."Chat" where id = %s for update', [runs[0].session])
        assert await upkeep.recover_dead_turns(database) == 1
    assert await upkeep.recover_dead_turns(database) == 1


async def test_streams_are_kept_for_ten_minutes_after_their_end(database: Database, owner: Owner) -> None:
    young = await begin(database, somebody())
    await say(owner, young.stream, "{}")
    old = await begin(database, somebody())
    await owner.rows(
        """
        insert into public."Stream" ("chatId", message_id, status, lease_until, correlation_id, closed_at)
        select %(session)s, %(answer)s, 'closed', now(), gen_random_uuid(), now() - interval '11 minutes'
        from generate_series(1, 120)
        """,
        {"session": old.session, "answer": old.answer},
    )
    await owner.rows("""
        insert into public.stream_chunks (stream_id, seq, payload)
        select s.id, 0, '{}'
        from public."Stream" as s
        where s.status = 'closed'
    """)
    await owner.rows("""update public."Stream" set status = 'closed', closed_at = now() where closed_at is null""")

    assert done(await upkeep.run(database)) == {"streams": 120}

    assert await owner.number('select count(*) from public."Stream"') == 2
    assert await owner.number("select count(*) from public.stream_chunks") == 1


# Guests


async def age(owner: Owner, days: int) -> None:
    """Everything that guests did happened so many days earlier."""
    await owner.rows("set session_replication_role = replica")
    for table, column in (("user_profiles", "created_at"), ("user_profiles", "updated_at"), ('"Chat"', "last_active")):
        await owner.rows(f"update public.{table} set {column} = {column} - make_interval(days => {days})")
    await owner.rows("set session_replication_role = origin")


async def test_a_guest_that_never_came_back_goes_with_everything_and_without_a_mark(
    database: Database, owner: Owner, settings: Settings
) -> None:
    for _ in range(45):
        guest = await profiles.make_guest(database, settings, f"192.0.2.{_}")
    await begin(database, somebody(guest.user_id, is_guest=True))
    await begin(database, somebody())
    await age(owner, 32)
    await owner.rows("""update public."Stream" set status = 'closed', closed_at = now()""")

    assert done(await upkeep.run(database)) == {"guests": 45}

    assert await owner.number('select count(*) from public."Chat"') == 1
    assert await owner.number("select count(*) from private.revoked_principals") == 0


async def test_a_guest_stays_while_a_token_of_his_is_valid(
    database: Database, owner: Owner, settings: Settings
) -> None:
    guest = await profiles.make_guest(database, settings, ADDRESS)
    await age(owner, 29)
    await profiles.keep_guest(database, somebody(guest.user_id, is_guest=True))
    await age(owner, 30)
    assert done(await upkeep.run(database)) == {}
    await age(owner, 2)
    assert done(await upkeep.run(database)) == {"guests": 1}


async def test_a_guest_who_wrote_lately_stays(database: Database, owner: Owner, settings: Settings) -> None:
    guest = await profiles.make_guest(database, settings, ADDRESS)
    await age(owner, 40)
    await begin(database, somebody(guest.user_id, is_guest=True))
    assert done(await upkeep.run(database)) == {}


async def test_an_anonymous_user_of_supabase_is_not_ours_to_delete(database: Database, owner: Owner) -> None:
    await owner.rows("insert into auth.users (is_anonymous) values (true)")
    await age(owner, 400)
    assert done(await upkeep.run(database)) == {}
    assert await owner.number("select count(*) from public.user_profiles where is_guest") == 1


# Rows that have had their time


ROWS = {
    "rate_limits": """
        insert into public.rate_limit_tracking (user_id, agent_type, limit_type, period_start, period_end, limit_value)
        values (%(user)s, 'chat_model_agent', 'daily', %(then)s - interval '1 day', %(then)s, 10)
    """,
    "guest_windows": """
        insert into private.guest_windows (address_hash, purpose, limit_type, period_start)
        values ('', 'guest', 'hourly', %(then)s)
    """,
    "revoked_principals": """
        insert into private.revoked_principals (user_id, reason, until)
        values (gen_random_uuid(), 'deleted', %(then)s)
    """,
    "budget_reservations": """
        insert into public.budget_reservations (user_id, scope, month, amount, stream_id, lease_until)
        values (%(user)s, 'user', current_date, 1, gen_random_uuid(), %(then)s)
    """,
}
KEPT = {"rate_limits": "2 days", "guest_windows": "2 days", "revoked_principals": "0", "budget_reservations": "0"}


@pytest.mark.parametrize("name", ROWS)
async def test_rows_go_when_their_time_is_over_and_not_before(database: Database, owner: Owner, name: str) -> None:
    user_id = uuid4()
    await owner.rows("insert into public.user_profiles (id) values (%(user)s)", {"user": user_id})
    for offset in ("-1 minute", "1 minute"):
        [row] = await owner.rows(f"select now() - interval '{KEPT[name]}' + interval '{offset}' as then")
        await owner.rows(ROWS[name], {"user": user_id, **row})
    assert done(await upkeep.run(database)) == {name: 1}
    assert done(await upkeep.run(database)) == {}


async def test_two_runs_at_once_share_the_work(database: Database, owner: Owner) -> None:
    await owner.rows("""
        insert into private.guest_windows (address_hash, purpose, limit_type, period_start)
        select n::text, 'guest', 'hourly', now() - interval '3 days'
        from generate_series(1, 20000) as n
    """)
    reports = await at_once(*[partial(upkeep.run, database)] * 3)
    assert [report for report in reports if any(kind.error for kind in report.kinds)] == []
    assert sum(kind(report, "guest_windows").done for report in reports) == 20_000


async def test_a_run_without_time_does_nothing_and_says_what_remains(database: Database, owner: Owner) -> None:
    await owner.rows("""
        insert into private.guest_windows (address_hash, purpose, limit_type, period_start)
        select n::text, 'guest', 'hourly', now() - interval '3 days'
        from generate_series(1, 12000) as n
    """)
    await end_lease(owner, (await begin(database, somebody())).stream)

    report = await upkeep.run(database, deadline=time.monotonic())

    assert {kind.kind: (kind.done, kind.remaining) for kind in report.kinds if kind.remaining} == {
        "dead_turns": (0, 1),
        "guest_windows": (0, 10_000),
    }


async def test_a_backlog_of_one_kind_does_not_hold_up_the_others(
    database: Database, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(_: object) -> AsyncIterator[int]:
        while True:
            yield 1

    monkeypatch.setitem(upkeep._KINDS, "log_partitions", (endless, "select 7 as number"))
    await log(owner, "-40 days")
    report = await upkeep.run(database, deadline=time.monotonic() + 1)
    assert kind(report, "log_partitions").remaining == 7
    assert kind(report, "user_activity_logs").done == 1


# Logs


async def test_logs_past_their_retention_go_and_whole_months_are_dropped(database: Database, owner: Owner) -> None:
    for later in ("-100 days", "-31 days", "-29 days", "0"):
        await log(owner, later)
    await upkeep.run(database)
    assert await log_rows(owner) == 2
    await upkeep.run(database)
    past = """
        select count(*)
        from private.log_partitions()
        where (month + interval '1 month') at time zone 'UTC' < now() - private.retention(log)
    """
    assert await owner.number(past) == 0
    assert await log_rows(owner) == 2


NONSENSE = [0, -1, 3651, 0.5, "30", None, [], {}]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=map(str, NONSENSE))
async def test_a_broken_retention_deletes_nothing_and_is_reported(
    database: Database, owner: Owner, nonsense: object
) -> None:
    for later in ("-100 days", "-1 day"):
        await log(owner, later)
    await owner.rows("""
        insert into public.error_logs (error_type, error_category, error_message, created_at, resolved)
        values ('api', 'internal:api', 'An error', now() - interval '900 days', true)
    """)
    await break_settings(owner, "{log_retention_days,user_activity_logs}", nonsense)
    months = await owner.number("select count(*) from private.log_partitions()")

    for _ in range(2):
        report = await upkeep.run(database)
        assert kind(report, "past_log_partitions").done == 0
        for name in ("user_activity_logs", "error_logs"):
            assert (kind(report, name).error, kind(report, name).done) == ("conflict:retention", 0)
        assert kind(report, "user_activity_logs").remaining is None
        assert kind(report, "logging_settings").remaining == 1

    assert await log_rows(owner) == 2
    assert await owner.number("select count(*) from public.error_logs where resolved") == 1
    assert await owner.number("select count(*) from private.log_partitions()") >= months
    reported = "select count(*) from public.error_logs where error_category = 'upkeep:logging_settings'"
    assert await owner.number(reported) == 1


async def test_a_row_that_is_broken_as_a_whole_deletes_nothing(database: Database, owner: Owner) -> None:
    await log(owner, "-100 days")
    await owner.rows("set session_replication_role = replica")
    await owner.rows("update public.admin_config set config_data = '[]' where config_key = 'logging_settings'")
    assert kind(await upkeep.run(database), "user_activity_logs").error == "conflict:retention"
    assert await log_rows(owner) == 1


OLD_ROWS = """
    insert into public.user_activity_logs
        (user_id, correlation_id, activity_type, activity_category, created_at)
    select %(user)s, gen_random_uuid(), 'chat_view', 'chat', now() - interval '31 days' - n * interval '1 second'
    from generate_series(1, %(rows)s) as n
"""


async def test_two_runs_at_once_share_the_rows_of_a_log(
    database: Database, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(upkeep._KINDS, "past_log_partitions", upkeep._KINDS["logging_settings"])
    await log(owner)
    await owner.rows(OLD_ROWS, {"user": UUID(int=1), "rows": 40_000})
    reports = await at_once(*[partial(upkeep.run, database)] * 3)
    assert [report for report in reports if any(kind.error for kind in report.kinds)] == []
    assert sum(kind(report, "user_activity_logs").done for report in reports) == 40_000
    assert await log_rows(owner) == 1


async def test_a_log_goes_in_batches_and_what_remains_is_said(database: Database, owner: Owner) -> None:
    await log(owner)
    await owner.rows(OLD_ROWS, {"user": UUID(int=1), "rows": 15_000})
    bounded = upkeep._Bounded(database, time.monotonic() + 60)
    steps, due = upkeep._KINDS["user_activity_logs"]
    assert await anext(steps(bounded)) == upkeep.LOG_BATCH == 10_000
    assert await bounded.number(due, {"counted": upkeep.COUNTED, **upkeep._KEPT}) == 5_000


async def test_errors_go_only_when_they_are_resolved_and_a_refusal_is_from_the_start(
    database: Database, owner: Owner
) -> None:
    error = {"error_type": "api", "error_category": "a", "error_message": "b", "severity": "error"}
    for members in ({}, {"is_refusal": True, "severity": "warning", "error_category": "c"}):
        await owner.rows("select private.log_error(null, null, %(error)s)", {"error": Jsonb(error | members)})
    await owner.rows("update public.error_logs set created_at = created_at - interval '91 days'")
    assert done(await upkeep.run(database)) == {"error_logs": 1}
    assert await owner.number("select count(*) from public.error_logs where severity = 'error'") == 1


async def test_the_history_of_the_configuration_is_kept_for_good(database: Database, owner: Owner) -> None:
    kept = await owner.number("select count(*) from public.admin_config_history")
    await owner.rows("update public.admin_config_history set changed_at = changed_at - interval '10 years'")
    await upkeep.run(database)
    assert await owner.number("select count(*) from public.admin_config_history") == kept > 0


async def test_a_database_that_cannot_be_reached_is_an_error_and_no_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("threadkeep.database.WAIT_FOR_CONNECTION_SECONDS", 0.2)
    database = Database("postgresql://nobody@127.0.0.1:9/nothing")
    with pytest.raises(ThreadkeepError) as refused:
        await upkeep.run(database)
    await database.close()
    assert refused.value.code == "unavailable:database"


# Files


async def add_file(owner: Owner, user: UUID, state: str, age: str, message: UUID | None = None) -> str:
    [row] = await owner.rows(
        """
        insert into public.files (
            user_id, storage_key, filename, kind, media_type, size_bytes, state, created_at, checked_at, message_id
        )
        values (
            %(user)s, %(key)s, 'a', 'images', 'image/png', 1, %(state)s, now() - %(age)s::interval,
            now() - %(age)s::interval, %(message)s
        )
        returning storage_key
        """,
        {"user": user, "key": f"files/{uuid4()}", "state": state, "age": age, "message": message},
    )
    return str(row["storage_key"])


async def test_uploads_that_nobody_finished_and_files_that_nobody_said_go_with_their_objects(
    database: Database, owner: Owner, store: dict[str, str], settings: Settings
) -> None:
    storage = storage_of(settings.model_copy(update=fields_of(store)))
    assert storage is not None
    user = somebody()
    await begin(database, user)
    assert user.user_id is not None
    young = [
        await add_file(owner, user.user_id, "pending", "50 minutes"),
        await add_file(owner, user.user_id, "refused", "50 minutes"),
        await add_file(owner, user.user_id, "ready", "23 hours"),
        await add_file(owner, user.user_id, "ready", "99 days", uuid4()),
    ]
    old = [
        await add_file(owner, user.user_id, "pending", "61 minutes"),
        await add_file(owner, user.user_id, "refused", "61 minutes"),
        await add_file(owner, user.user_id, "ready", "25 hours"),
    ]
    for key in young + old:
        await storage.write(key, b"x", FileType("images", "image/png"))

    first = await upkeep.run(database, storage=storage)

    assert done(first) == {"unfinished_uploads": 2, "unused_files": 1, "file_deletions": 1}
    left = await owner.rows("select storage_key from public.files")
    assert {row["storage_key"] for row in left} == set(young)
    # The forms of the other two could still be used until now.
    assert [await storage.read(key, 1) for key in old] == [b"x", b"x", None]
    await owner.rows("update private.file_deletions set due_at = now()")
    assert done(await upkeep.run(database, storage=storage)) == {"file_deletions": 2}
    assert [await storage.read(key, 1) for key in old] == [None] * 3
    assert [await storage.read(key, 1) for key in young] == [b"x"] * 4
    assert done(await upkeep.run(database, storage=storage)) == {}


async def test_objects_are_deleted_by_two_runs_at_once_and_in_batches(
    database: Database, owner: Owner, on_disk: dict[str, str], settings: Settings
) -> None:
    storage = storage_of(settings.model_copy(update=fields_of(on_disk)))
    await owner.rows("""
        insert into private.file_deletions (storage_key)
        select 'files/' || gen_random_uuid() from generate_series(1, 2500)
    """)
    await asyncio.gather(*[upkeep.run(database, storage=storage) for _ in range(2)])
    assert await owner.number("select count(*) from private.file_deletions") == 0


async def test_what_the_store_keeps_is_tried_again_later(
    database: Database, owner: Owner, on_disk: dict[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = storage_of(settings.model_copy(update=fields_of(on_disk)))
    assert isinstance(storage, DiskStorage)
    keys = sorted(f"files/{uuid4()}" for _ in range(3))
    await owner.rows("insert into private.file_deletions (storage_key) select unnest(%(keys)s::text[])", {"keys": keys})

    async def keeps_one(_self: DiskStorage, _keys: Sequence[str]) -> list[str]:
        return keys[:1]

    with monkeypatch.context() as patch:
        patch.setattr(DiskStorage, "delete", keeps_one)
        assert done(await upkeep.run(database, storage=storage)) == {"file_deletions": 2}
    [row] = await owner.rows("select storage_key, attempts, due_at > now() as later from private.file_deletions")
    assert row == {"storage_key": keys[0], "attempts": 1, "later": True}


async def test_without_a_store_deletions_wait_and_are_counted(database: Database, owner: Owner) -> None:
    await owner.rows("insert into private.file_deletions (storage_key) values ('files/x')")
    report = await upkeep.run(database)
    assert (kind(report, "file_deletions").done, kind(report, "file_deletions").remaining) == (0, 1)


async def test_a_store_that_is_away_stops_nothing_else(
    database: Database, owner: Owner, bucket: str, settings: Settings
) -> None:
    storage = storage_of(settings.model_copy(update={"files_bucket": f"{bucket}-not"}))
    await owner.rows("insert into private.file_deletions (storage_key) values ('files/x')")
    await owner.rows("""
        insert into private.revoked_principals (user_id, reason, until) values (gen_random_uuid(), 'deleted', now())
    """)
    report = await upkeep.run(database, storage=storage)
    assert kind(report, "file_deletions").error == "unavailable:files"
    assert kind(report, "revoked_principals").done == 1
    assert await owner.number("select count(*) from private.file_deletions") == 1


def fields_of(variables: dict[str, str]) -> dict[str, Any]:
    """The settings that these variables are."""
    loaded = Settings.load({"DATABASE_URL": "postgresql:///none", "GUESTS_ENABLED": "false"} | variables)
    return {name.lower(): getattr(loaded, name.lower()) for name in variables}
