"""What the schedule does to the database: dead turns are ended, what has had its time goes, months are prepared.

Each kind of work is a row of small transactions, and the kinds take turns, so that a backlog of one does not hold up
the others. All of it can be repeated, and can run twice at once: a row that somebody else has in hand is passed over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from functools import partial
from typing import Final, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg import errors as pg
from pydantic import BaseModel, ConfigDict

from threadkeep import error_log, identity_deletion, upkeep_reports
from threadkeep.database import Database, Parameters, Rows
from threadkeep.errors import ThreadkeepError
from threadkeep.guests import LIFETIME
from threadkeep.identity import SERVICE
from threadkeep.log import logger
from threadkeep.settings import Settings
from threadkeep.storage import DELETED_AT_ONCE, Storage

MONTHS_AHEAD: Final = 3
STREAM_KEPT: Final = timedelta(minutes=10)
# Usage by user is rolled up when it is this old, so that a server's clock may be set back by less than that.
ROLLED_UP_AFTER: Final = timedelta(minutes=5)
ROLL_UP_BATCH: Final = 20_000
# The longest window is a day, and "yesterday" may still be asked for.
WINDOW_KEPT: Final = timedelta(days=2)
# A returning guest's token is renewed and his profile touched with it: after this long none of his tokens is valid.
GUEST_KEPT: Final = LIFETIME + timedelta(days=1)
# An upload's form is good for 15 minutes; a file that was uploaded may wait in an unsent message for a day.
UPLOAD_KEPT: Final = timedelta(hours=1)
UNUSED_FILE_KEPT: Final = timedelta(days=1)

DEFAULT_SECONDS: Final = 60.0
STATEMENT_SECONDS: Final = 30.0
LOCK_WAIT_MS: Final = 1000
# To attach a month takes a lock that new log rows queue behind, so it is asked for briefly and often.
PARTITION_LOCK_WAIT_MS: Final = 200
PARTITION_RETRY_SECONDS: Final = (0.1, 0.3, 1.0, 3.0)
COUNTED: Final = 10_000
LOG_BATCH: Final = 10_000

_LIMITS: Final = """
    select
        set_config('lock_timeout', %(lock_ms)s::text, true),
        set_config('statement_timeout', %(statement_ms)s::text, true)
"""


class KindReport(BaseModel):
    """One kind of work: rows (turns, months) done, those that remain (counted up to 10,000; None: unknown), seconds."""

    model_config = ConfigDict(frozen=True)

    kind: str
    done: int
    remaining: int | None
    seconds: float
    error: str | None = None


class Report(BaseModel):
    """What a run of the upkeep did."""

    model_config = ConfigDict(frozen=True)

    kinds: tuple[KindReport, ...]
    seconds: float


async def run(
    database: Database,
    settings: Settings | None = None,
    *,
    storage: Storage | None = None,
    deadline: float | None = None,
) -> Report:
    """Does all that is due until `deadline`, in seconds of `time.monotonic()`; without one, for a minute at most.

    Without `settings` users stay where they sign in; without `storage` the objects of deleted files stay where they
    are, and are counted as remaining. A kind of work that fails is reported and recorded, and does not stop the
    others. Raises `unavailable:database` when the database cannot be reached.
    """
    started = time.monotonic()
    bounded = _Bounded(database, started + DEFAULT_SECONDS if deadline is None else deadline, settings, storage)
    jobs = [_Job(kind, bounded, steps(bounded)) for kind, (steps, _) in _KINDS.items()]
    pending = list(jobs)
    while pending:
        for job in list(pending):
            if bounded.seconds_left <= 0 or not await job.advance():
                pending.remove(job)
    reports = [await job.report() for job in jobs]
    report = Report(kinds=tuple(reports), seconds=round(time.monotonic() - started, 3))
    logger.info("upkeep", extra={"report": report.model_dump()})
    await _keep(database, report)
    return report


async def _keep(database: Database, report: Report) -> None:
    """Stores the report for administrators; work that was done does not fail for want of it."""
    kinds = [kind.model_dump() for kind in report.kinds]
    try:
        await upkeep_reports.keep(database, seconds=report.seconds, kinds=kinds)
    except (ThreadkeepError, psycopg.Error) as error:
        await _record(database, "upkeep:report", "The report of the upkeep was not stored.", error)


async def recover_dead_turns(database: Database, *, alone: bool = False) -> int:
    """Ends the turns that nobody runs any more, with what they had said; how many there were.

    A turn is dead when its lease is over. With `alone` every running turn is, whatever its lease: for the start of the
    one process that uses this database, where a turn of a killed predecessor would seem alive for up to 30 seconds.
    """
    bounded = _Bounded(database, time.monotonic() + DEFAULT_SECONDS)
    return sum([recovered async for recovered in _dead_turns(bounded, alone=alone)])


class _Bounded:
    """The database, with a limit to each statement: of waiting for locks, and of what is left of the time."""

    def __init__(
        self,
        database: Database,
        deadline: float,
        settings: Settings | None = None,
        storage: Storage | None = None,
    ) -> None:
        self.database = database
        self.settings = settings
        self.storage = storage
        self._deadline = deadline

    @property
    def seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    async def rows(
        self, sql: LiteralString, parameters: Parameters | None = None, *, lock_ms: int = LOCK_WAIT_MS
    ) -> Rows:
        seconds = min(STATEMENT_SECONDS, max(self.seconds_left, 1.0))
        limits = {"lock_ms": lock_ms, "statement_ms": int(seconds * 1000)}
        return (await self.database.run(SERVICE, (_LIMITS, limits), (sql, parameters or {})))[1]

    async def number(self, sql: LiteralString, parameters: Parameters | None = None) -> int:
        number: int = (await self.rows(sql, parameters))[0]["number"]
        return number


Steps = Callable[[_Bounded], AsyncGenerator[int, None]]


class _Job:
    """One kind of work under way: each advance is a transaction or two."""

    def __init__(self, kind: str, bounded: _Bounded, steps: AsyncGenerator[int, None]) -> None:
        self._kind = kind
        self._bounded = bounded
        self._steps = steps
        self._done = 0
        self._seconds = 0.0
        self._error: str | None = None

    async def advance(self) -> bool:
        """One step; False if there is none left."""
        started = time.monotonic()
        try:
            self._done += await anext(self._steps)
        except StopAsyncIteration:
            return False
        except (ThreadkeepError, psycopg.Error) as error:
            if _is_unreachable(error):
                raise
            self._error = error.code if isinstance(error, ThreadkeepError) else type(error).__name__
            await _record(self._bounded.database, f"upkeep:{self._kind}", f"Upkeep failed: {self._kind}.", error)
            return False
        finally:
            self._seconds += time.monotonic() - started
        return True

    async def report(self) -> KindReport:
        """What came of it; what remains is counted now, so that what others did meanwhile counts too."""
        await self._steps.aclose()
        _, due = _KINDS[self._kind]
        remaining = None
        try:
            remaining = await self._bounded.number(due, {"counted": COUNTED, **_KEPT})
        except (ThreadkeepError, psycopg.Error) as error:
            if _is_unreachable(error):
                raise
            logger.warning("what remains was not counted", extra={"kind": self._kind, "error": type(error).__name__})
        return KindReport(
            kind=self._kind,
            done=self._done,
            remaining=remaining,
            seconds=round(self._seconds, 3),
            error=self._error,
        )


async def _partitions(bounded: _Bounded) -> AsyncGenerator[int, None]:
    missing = "select log, month from private.missing_log_months(%(ahead)s)"
    for row in await bounded.rows(missing, {"ahead": MONTHS_AHEAD}):
        yield await _briefly_locked(bounded, "select private.create_log_partition(%(log)s, %(month)s) as changed", row)


async def _past_partitions(bounded: _Bounded) -> AsyncGenerator[int, None]:
    past = "select log, month from private.log_partitions() where month < date_trunc('month', now() at time zone 'UTC')"
    for row in await bounded.rows(past):
        yield await _briefly_locked(bounded, "select private.drop_log_partition(%(log)s, %(month)s) as changed", row)


async def _briefly_locked(bounded: _Bounded, sql: LiteralString, parameters: Parameters) -> int:
    """One partition made or dropped, in a transaction of its own; raises when the lock was never free."""
    for pause in PARTITION_RETRY_SECONDS:
        try:
            return int((await bounded.rows(sql, parameters, lock_ms=PARTITION_LOCK_WAIT_MS))[0]["changed"])
        except ThreadkeepError as error:
            if not isinstance(error.__cause__, pg.LockNotAvailable) or bounded.seconds_left < pause:
                raise
            await asyncio.sleep(pause)
    return int((await bounded.rows(sql, parameters, lock_ms=PARTITION_LOCK_WAIT_MS))[0]["changed"])


async def _dead_turns(bounded: _Bounded, *, alone: bool = False) -> AsyncGenerator[int, None]:
    """Each turn in a transaction of its own, so that one that cannot be recovered does not keep the others."""
    page = """
        select s.id, s.lease_until
        from public."Stream" as s
        where s.status = 'running'
            and (%(alone)s or s.lease_until < clock_timestamp())
            and (%(id)s::uuid is null or (s.lease_until, s.id) > (%(lease_until)s, %(id)s))
        order by s.lease_until, s.id
        limit 100
    """
    last: Parameters = {"id": None, "lease_until": None}
    while rows := await bounded.rows(page, {"alone": alone, **last}):
        for last in rows:
            yield await _recover(bounded, last["id"], "lost" if alone else "lease")


async def _recover(bounded: _Bounded, stream: UUID, reason: str) -> int:
    recover = "select private.recover_stream(%(stream)s, %(reason)s)::integer as number"
    try:
        return await bounded.number(recover, {"stream": stream, "reason": reason})
    except ThreadkeepError as error:
        if not isinstance(error.__cause__, pg.LockNotAvailable | pg.QueryCanceled):
            raise
        logger.warning("a dead turn is in use; it waits for the next run", extra={"stream": str(stream)})
    except psycopg.Error as error:
        await _record(bounded.database, "upkeep:turn", f"The dead turn {stream} could not be recovered.", error)
    return 0


async def _identity_deletions(bounded: _Bounded) -> AsyncGenerator[int, None]:
    """One that fails is due again later, so that each is tried once a run."""
    if bounded.settings is None:
        return
    while (is_done := await identity_deletion.attempt(bounded.database, bounded.settings)) is not None:
        yield int(is_done)


async def _file_deletions(bounded: _Bounded) -> AsyncGenerator[int, None]:
    """Twice at once does no harm: an object that is not there is deleted. What the store keeps waits for an hour."""
    due = """
        select d.storage_key
        from private.file_deletions as d
        where d.due_at < now()
        order by d.due_at
        limit %(batch)s
    """
    settle = """
        with put_off as (
            update private.file_deletions as d
            set due_at = now() + interval '1 hour',
                attempts = d.attempts + 1
            where d.storage_key = any (%(stayed)s)
        )
        delete from private.file_deletions as d
        where d.storage_key = any (%(gone)s)
            and d.due_at < now()
    """
    while bounded.storage is not None and (rows := await bounded.rows(due, {"batch": DELETED_AT_ONCE})):
        keys = [row["storage_key"] for row in rows]
        stayed = set(await bounded.storage.delete(keys))
        gone = [key for key in keys if key not in stayed]
        await bounded.rows(settle, {"gone": gone, "stayed": list(stayed)})
        yield len(gone)


async def _logging_settings(bounded: _Bounded) -> AsyncGenerator[int, None]:
    """A row that was broken by hand is on record, once until somebody resolves that."""
    broken = """
        select private.admin_config_problem(a.config_key, a.config_data) as problem
        from public.admin_config as a
        where a.config_key = 'logging_settings'
            and private.admin_config_problem(a.config_key, a.config_data) is not null
            and not exists (
                select from public.error_logs as e
                where e.error_category = 'upkeep:logging_settings'
                    and not e.resolved
            )
    """
    for row in await bounded.rows(broken):
        await error_log.record(
            bounded.database,
            correlation_id=uuid4(),
            category="upkeep:logging_settings",
            message=f"logging_settings is broken: {row['problem']}.",
        )
        yield 0


async def _usage_roll_up(bounded: _Bounded) -> AsyncGenerator[int, None]:
    await bounded.rows("select private.plan_usage_roll_up(%(lag)s)", {"lag": ROLLED_UP_AFTER})
    roll_up = "select private.roll_up_usage(%(batch)s) as number"
    while (rows := (await bounded.rows(roll_up, {"batch": ROLL_UP_BATCH}))[0]["number"]) is not None:
        yield rows


async def _batches(bounded: _Bounded, *, delete: LiteralString, batch: int) -> AsyncGenerator[int, None]:
    while True:
        deleted = await bounded.number(delete, {"batch": batch, **_KEPT})
        yield deleted
        if deleted < batch:
            return


def _rows_past_their_time(table: LiteralString, due: LiteralString, batch: int) -> tuple[Steps, LiteralString]:
    # Of literals of this module.
    delete = f"""
        with gone as (
            delete from {table}
            where ctid = any (array(
                select t.ctid
                from {table} as t
                where {due}
                limit %(batch)s
                for update skip locked
            ))
            returning 1
        )
        select count(*) as number
        from gone
    """  # noqa: S608
    count = f"select count(*) as number from (select from {table} as t where {due} limit %(counted)s) as due"  # noqa: S608
    return partial(_batches, delete=delete, batch=batch), count


def _log_past_its_retention(log: LiteralString, also: LiteralString = "true") -> tuple[Steps, LiteralString]:
    # Not by ctid, which rows of two months may share; and the retention is asked for once, not for each row.
    due: Final = f"t.created_at < (select now() - private.retention('{log}')) and {also}"
    delete = f"""
        with gone as (
            delete from public.{log} as l
            where (l.id, l.created_at) in (
                select t.id, t.created_at
                from public.{log} as t
                where {due}
                limit %(batch)s
                for update skip locked
            )
            returning 1
        )
        select count(*) as number
        from gone
    """  # noqa: S608
    count = f"select count(*) as number from (select from public.{log} as t where {due} limit %(counted)s) as due"  # noqa: S608
    return partial(_batches, delete=delete, batch=LOG_BATCH), count


_KEPT: Final = {
    "ahead": MONTHS_AHEAD,
    "stream_kept": STREAM_KEPT,
    "rolled_up_after": ROLLED_UP_AFTER,
    "window_kept": WINDOW_KEPT,
    "guest_kept": GUEST_KEPT,
    "upload_kept": UPLOAD_KEPT,
    "unused_file_kept": UNUSED_FILE_KEPT,
}

_KINDS: Final[dict[str, tuple[Steps, LiteralString]]] = {
    "logging_settings": (
        _logging_settings,
        """
        select count(*) as number
        from public.admin_config as a
        where a.config_key = 'logging_settings'
            and private.admin_config_problem(a.config_key, a.config_data) is not null
        """,
    ),
    "log_partitions": (
        _partitions,
        "select count(*) as number from private.missing_log_months(%(ahead)s)",
    ),
    "dead_turns": (
        _dead_turns,
        """
        select count(*) as number
        from (
            select
            from public."Stream" as s
            where s.status = 'running'
                and s.lease_until < clock_timestamp()
            limit %(counted)s
        ) as due
        """,
    ),
    "identity_deletions": (
        _identity_deletions,
        """
        select count(*) as number
        from (
            select
            from private.identity_deletions as d
            where d.next_attempt_at <= clock_timestamp()
            limit %(counted)s
        ) as due
        """,
    ),
    # Their chunks go with them.
    "streams": _rows_past_their_time(
        'public."Stream"',
        "t.status = 'closed' and t.closed_at < now() - %(stream_kept)s",
        batch=50,
    ),
    "budget_reservations": _rows_past_their_time("public.budget_reservations", "t.lease_until < now()", batch=1000),
    "revoked_principals": _rows_past_their_time("private.revoked_principals", "t.until < now()", batch=1000),
    "rate_limits": _rows_past_their_time(
        "public.rate_limit_tracking",
        "t.period_end < now() - %(window_kept)s",
        batch=5000,
    ),
    "guest_windows": _rows_past_their_time(
        "private.guest_windows",
        "t.period_start < now() - %(window_kept)s",
        batch=5000,
    ),
    # Without a mark, for no token of theirs is valid any more. Guests of Supabase are its own to delete.
    "guests": _rows_past_their_time(
        "public.user_profiles",
        """
        t.is_guest
        and t.auth_user_id is null
        and t.updated_at < now() - %(guest_kept)s
        and not exists (
            select from public."Chat" as c
            where c.user_id = t.id
                and c.last_active >= now() - %(guest_kept)s
        )
        """,
        batch=20,
    ),
    # What a run could not roll up yet is not counted: that is due to the next one.
    "usage_roll_up": (
        _usage_roll_up,
        """
        select count(*) as number
        from (
            select
            from private.usage_roll_up as s
            join public.usage_logs as u on u.response_timestamp >= coalesce(s.through, '-infinity')
            where u.response_timestamp < now() - 3 * %(rolled_up_after)s
            limit %(counted)s
        ) as due
        """,
    ),
    "unfinished_uploads": _rows_past_their_time(
        "public.files",
        """
        (t.state = 'pending' and t.created_at < now() - %(upload_kept)s)
        or (t.state = 'refused' and t.created_at < now() - %(upload_kept)s)
        """,
        batch=500,
    ),
    "unused_files": _rows_past_their_time(
        "public.files",
        "t.state = 'ready' and t.message_id is null and t.checked_at < now() - %(unused_file_kept)s",
        batch=500,
    ),
    # After the kinds that delete files.
    "file_deletions": (
        _file_deletions,
        """
        select count(*) as number
        from (select from private.file_deletions as d where d.due_at < now() limit %(counted)s) as due
        """,
    ),
    "past_log_partitions": (
        _past_partitions,
        """
        select count(*) as number
        from private.log_partitions() as p
        where (p.month + interval '1 month') at time zone 'UTC' <= now() - private.retention(p.log)
        """,
    ),
    # What remains of whole months at the edge of the retention.
    "user_activity_logs": _log_past_its_retention("user_activity_logs"),
    "agent_activity_logs": _log_past_its_retention("agent_activity_logs"),
    "error_logs": _log_past_its_retention("error_logs", "t.resolved"),
}


def _is_unreachable(error: Exception) -> bool:
    """Whether it is the database that fails, and not this one piece of work: then nothing else would do better."""
    cause = error.__cause__
    return isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError) and not isinstance(
        cause, pg.LockNotAvailable | pg.QueryCanceled
    )


async def _record(database: Database, category: str, message: str, error: Exception) -> None:
    logger.error(message, exc_info=error)
    await error_log.record(database, correlation_id=uuid4(), category=category, message=message, cause=error)
