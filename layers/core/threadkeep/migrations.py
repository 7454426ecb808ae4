"""Applies the numbered files of `sql/` to a database, each of them once.

All pending files run in one transaction: a deploy that fails leaves the database exactly on the version that
the running code knows, and a dry run is that same transaction with a rollback at its end, so it rehearses
everything. After each file its deferred constraints are checked, so that a seed's error is reported with the
seed's name and later files may alter the tables that it filled.

A file whose first line is `-- threadkeep: no-transaction` (`create index concurrently` and its kind) runs alone:
what stands before it is committed first. It holds one statement, and one that can be repeated, because a crash
between the statement and its ledger row runs it again.

A direct connection is needed, as a role that may create schemas and roles; a superuser is not.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, LiteralString

import psycopg
from psycopg import sql
from pydantic import BaseModel, ConfigDict

from threadkeep.settings import API_ROLE

Connection = psycopg.Connection[tuple[object, ...]]

OUTSIDE_TRANSACTION: Final = "-- threadkeep: no-transaction"
LOCK_KEY: Final = int.from_bytes(hashlib.sha256(b"threadkeep.migrations").digest()[:8], "big", signed=True)
TRY_LOCK: Final = sql.SQL("select pg_try_advisory_xact_lock({})").format(sql.Literal(LOCK_KEY))
LOCK_WAIT_SECONDS: Final = 300.0
LOCK_POLL_SECONDS: Final = 0.1
# A serverless cluster that was paused takes half of it to wake up.
CONNECT_SECONDS: Final = 60.0
CANCEL_SECONDS: Final = 0.5
FILE_NAME: Final = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
# A file that ends the transaction itself would leave half of a failed deploy behind.
TRANSACTION_CONTROL: Final = re.compile(
    r"^\s*(begin|commit|rollback|start\s+transaction)(\s+(work|transaction))?(\s+and\s+(no\s+)?chain)?\s*;",
    re.IGNORECASE | re.MULTILINE,
)
# What tells a database of ours from any other, when there is no ledger.
ROOT_TABLES: Final = ("Chat", "Message_v2", "user_profiles")

# Foreign keys that a message names; there may be dozens.
SHOWN: Final = 3


class MigrationError(Exception):
    """Why nothing was applied; its text names the file and what to do.

    `summary` is the text without what the server tells of rows, which may be somebody's data.
    """

    def __init__(self, text: str, *, summary: str = "") -> None:
        super().__init__(text)
        self.summary = summary or text


class AppliedMigration(BaseModel):
    """A file that this run applied."""

    model_config = ConfigDict(frozen=True)

    name: str
    duration_ms: int


class MigrationReport(BaseModel):
    """What a run did.

    `not_rehearsed` are files that a dry run has to leave out, because they cannot run in a transaction. `ahead` are
    names in the ledger that come after the last file of the folder: the database is newer than this code.
    """

    model_config = ConfigDict(frozen=True)

    dry_run: bool
    applied: tuple[AppliedMigration, ...] = ()
    already_applied: tuple[str, ...] = ()
    not_rehearsed: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()
    password_set: bool = False


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its name orders it, its sha-256 (with line ends as LF) tells an edit."""

    name: str
    text: str
    sha256: str
    in_transaction: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a ledger and a folder, taken together, leave to do."""

    pending: tuple[Migration, ...]
    already_applied: tuple[str, ...]
    ahead: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one statement may wait for a lock, and how long it may take (milliseconds)."""

    lock_ms: int = 10_000
    statement_ms: int = 600_000


def apply(
    dsn: str,
    folder: Path,
    *,
    dry_run: bool = False,
    api_password: str | None = None,
    timeouts: Timeouts = Timeouts(),
    seconds: float | None = None,
) -> MigrationReport:
    """Apply the pending files of `folder`, in the order of their names, and say which they were.

    `api_password` becomes the password of the login role when all else is committed. Runs at the same time wait for
    one another. What has not ended after so many `seconds` is cancelled and rolled back. Raises MigrationError:
    a file was edited, is out of order, fails or has no time left (then nothing of it stays), or the database holds
    our tables without our constraints.
    """
    migrations = read_folder(folder)
    deadline = Deadline(seconds)
    with connect(dsn, deadline) as connection, deadline.cancelling(connection):
        done: list[AppliedMigration] = []
        while True:
            plan, applied, outside = _apply_in_one_transaction(connection, migrations, dry_run, timeouts, deadline)
            done += applied
            if not outside or dry_run:
                break
            done += _apply_outside_transaction(dsn, connection, outside[0], timeouts, deadline)
        if api_password is not None and not dry_run:
            set_api_password(connection, api_password, deadline)
    names_done = {migration.name for migration in done}
    return MigrationReport(
        dry_run=dry_run,
        applied=tuple(done),
        already_applied=tuple(name for name in plan.already_applied if name not in names_done),
        not_rehearsed=tuple(migration.name for migration in outside),
        ahead=plan.ahead,
        password_set=api_password is not None and not dry_run,
    )


def _apply_in_one_transaction(
    connection: Connection,
    migrations: Sequence[Migration],
    dry_run: bool,
    timeouts: Timeouts,
    deadline: Deadline,
) -> tuple[Plan, list[AppliedMigration], list[Migration]]:
    """Apply up to the first file that needs to be outside of a transaction; a dry run goes past those."""
    with locked(connection, force_rollback=dry_run, deadline=deadline):
        plan = plan_against(connection, migrations)
        applied, outside = [], []
        for migration in plan.pending:
            if not migration.in_transaction:
                outside.append(migration)
                if dry_run:
                    continue
                break
            deadline.check()
            applied.append(run(connection, migration, timeouts))
    return plan, applied, outside


def _apply_outside_transaction(
    dsn: str, connection: Connection, migration: Migration, timeouts: Timeouts, deadline: Deadline
) -> list[AppliedMigration]:
    # The lock lasts as long as a transaction, so a second connection holds it. It is idle and has no snapshot, which
    # is what lets `create index concurrently` finish beside it.
    with connect(dsn, deadline) as holder, locked(holder, deadline=deadline):
        if migration.name in read_ledger(connection):
            return []
        # Waiting for a lock blocks nobody here, and giving up would leave an invalid index.
        configure(connection, Timeouts(lock_ms=0, statement_ms=timeouts.statement_ms), for_transaction=False)
        started = time.monotonic()
        with _named_after(migration):
            connection.execute(migration.text.encode())
        return [record(connection, migration, started)]


class Deadline:
    """When a run has to be over; without seconds, never."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._at = None if seconds is None else time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """The seconds that are left; infinite without a deadline."""
        return math.inf if self._at is None else self._at - time.monotonic()

    def check(self) -> None:
        """Raises MigrationError if no time is left."""
        if self.remaining <= 0:
            raise MigrationError(
                f"The run was not over after {self._seconds:.0f} s. What was not committed is rolled back. "
                "Run it where it has more time: db-migrate has no limit."
            )

    @contextmanager
    def cancelling(self, connection: Connection) -> Iterator[None]:
        """Cancels whatever this connection still runs when the time is over."""
        if self._at is None:
            yield
            return
        ended = threading.Event()

        def watch() -> None:
            # Again and again, because a cancellation that comes between two statements meets nothing.
            while not ended.wait(max(self.remaining, CANCEL_SECONDS)):
                with suppress(psycopg.Error):
                    connection.cancel_safe(timeout=CANCEL_SECONDS)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        except (psycopg.Error, MigrationError):
            self.check()
            raise
        finally:
            ended.set()
            watcher.join()


NO_DEADLINE: Final = Deadline()


def connect(dsn: str, deadline: Deadline = NO_DEADLINE) -> Connection:
    """A connection for explicit transactions, at READ COMMITTED because the ledger is read after the lock."""
    connection = psycopg.connect(
        dsn,
        autocommit=True,
        application_name="threadkeep-migrations",
        connect_timeout=max(2, round(min(CONNECT_SECONDS, deadline.remaining))),
        # A network that went away ends the run after half a minute, not after the two hours of the system.
        keepalives_idle=15,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=30_000,
    )
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return connection


@contextmanager
def locked(connection: Connection, *, force_rollback: bool = False, deadline: Deadline = NO_DEADLINE) -> Iterator[None]:
    """A transaction during which no other run, repair or reset is at work on this database.

    Raises MigrationError when another one keeps the lock for longer than `LOCK_WAIT_SECONDS`.
    """
    patience = min(LOCK_WAIT_SECONDS, deadline.remaining)
    until = time.monotonic() + patience
    while True:
        with connection.transaction(force_rollback=force_rollback):
            # Asked for again and again, each time in a transaction of its own: a waiting statement or an open
            # transaction can be what another run's `create index concurrently` waits for in its turn.
            # The key stands in the text, because a query with parameters keeps its portal's snapshot open.
            if connection.execute(TRY_LOCK).fetchone() == (True,):
                yield
                return
        if time.monotonic() > until:
            raise MigrationError(f"Another run has held the lock for {patience:.0f} s. Try again later.")
        time.sleep(LOCK_POLL_SECONDS)


def read_folder(folder: Path) -> tuple[Migration, ...]:
    """The migrations of a folder, in the order of their names. Raises MigrationError if one cannot be run."""
    migrations = [_read_file(path) for path in sorted(folder.glob("*.sql"), key=lambda path: path.name)]
    if not migrations:
        raise MigrationError(f"There are no migrations in {folder}.")
    return tuple(migrations)


def _read_file(path: Path) -> Migration:
    if not FILE_NAME.fullmatch(path.name):
        raise MigrationError(f"{path.name}: a migration is named like 0012_add_a_thing.sql.")
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    in_transaction = not text.startswith(OUTSIDE_TRANSACTION)
    control = TRANSACTION_CONTROL.search(text)
    if in_transaction and control:
        line = text.count("\n", 0, control.start(1)) + 1
        raise MigrationError(f"{path.name}, line {line}: a migration may not begin or end a transaction.")
    return Migration(path.name, text, hashlib.sha256(text.encode()).hexdigest(), in_transaction)


def plan_against(connection: Connection, migrations: Sequence[Migration]) -> Plan:
    """Compare the folder with the ledger, which is made if it is not there."""
    _refuse_tables_without_constraints(connection)
    create_ledger(connection)
    ledger = read_ledger(connection)
    known = {migration.name for migration in migrations}
    last_file = migrations[-1].name
    # An older version of the code, deployed again, finds a newer database: nothing to do, and nothing wrong.
    ahead = tuple(name for name in ledger if name > last_file)
    _refuse("is in the ledger but not in the folder", [name for name in ledger if name not in known | set(ahead)])
    edited = [item.name for item in migrations if item.name in ledger and ledger[item.name] != item.sha256]
    _refuse("was edited after it was applied; put the change into a new file", edited)
    pending = [migration for migration in migrations if migration.name not in ledger]
    last_applied = max(ledger, default="")
    late = [migration.name for migration in pending if migration.name < last_applied]
    _refuse(f"is out of order, {last_applied} is applied already; give it a higher number", late)
    return Plan(tuple(pending), tuple(name for name in ledger if name in known), ahead)


def _refuse(why: str, names: Sequence[str]) -> None:
    if names:
        raise MigrationError("\n".join(f"{name} {why}." for name in names))


def _refuse_tables_without_constraints(connection: Connection) -> None:
    problem = missing_constraints(connection)
    if problem:
        raise MigrationError(
            f"This database holds Threadkeep's tables without its constraints ({problem}), as after an import. "
            "Nothing was applied. Run db-repair, which reports and mends it; try db-repair with --dry-run first."
        )


def missing_constraints(connection: Connection) -> str:
    """What an import left out: the ledger, or foreign keys that it recorded; an empty string if nothing is missing."""
    if not has_ledger(connection):
        tables = _found_tables(connection)
        return f"{', '.join(tables)} without the ledger private.migrations" if tables else ""
    recorded = connection.execute("select foreign_keys from private.migrations order by name desc limit 1").fetchone()
    expected = recorded[0] if recorded else []
    if recorded is None and (tables := _found_tables(connection)):
        return f"{', '.join(tables)} with an empty ledger"
    assert isinstance(expected, list)
    missing = sorted(set(expected) - set(_foreign_keys(connection)))
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    return f"missing: {', '.join(missing[:SHOWN])}{more}" if missing else ""


def _found_tables(connection: Connection) -> list[str]:
    rows = connection.execute(
        """
        select c.relname::text
        from pg_catalog.pg_class c
        where c.relnamespace = 'public'::regnamespace
          and c.relkind in ('r', 'p')
          and c.relname = any(%(names)s)
        order by c.relname
        """,
        {"names": list(ROOT_TABLES)},
    )
    return [str(name) for (name,) in rows]


FOREIGN_KEYS: Final = """
    select format('%s.%s', r.relname, k.conname)
    from pg_catalog.pg_constraint k
    join pg_catalog.pg_class r on r.oid = k.conrelid
    where k.contype = 'f'
      and k.conparentid = 0
      and k.connamespace in ('public'::regnamespace, 'private'::regnamespace)
    order by 1
"""


def _foreign_keys(connection: Connection) -> list[str]:
    return [str(name) for (name,) in connection.execute(FOREIGN_KEYS)]


def has_ledger(connection: Connection) -> bool:
    """Whether the ledger is there."""
    return scalar(connection, "select to_regclass('private.migrations') is not null") is True


def create_ledger(connection: Connection) -> None:
    """Make the ledger and its schema if they are not there."""
    if has_ledger(connection):
        return
    connection.execute("create schema if not exists private")
    # `foreign_keys` is what stood after the file, so that a later run notices an import that came without them.
    connection.execute(
        """
        create table private.migrations (
            name text primary key,
            sha256 text not null,
            applied_at timestamptz not null default clock_timestamp(),
            applied_by text not null default session_user,
            duration_ms integer not null,
            foreign_keys text[] not null
        )
        """
    )
    connection.execute("alter table private.migrations enable row level security")
    connection.execute("revoke all on table private.migrations from public")


def read_ledger(connection: Connection) -> dict[str, str]:
    """The sha-256 of each applied file by its name, in order."""
    rows = connection.execute('select name, sha256 from private.migrations order by name collate "C"')
    return {str(name): str(sha256) for name, sha256 in rows}


def run(connection: Connection, migration: Migration, timeouts: Timeouts) -> AppliedMigration:
    """Run one file inside the caller's transaction and write it into the ledger."""
    started = time.monotonic()
    # Before each file, because the one before it may have set them for itself.
    configure(connection, timeouts, for_transaction=True)
    with _named_after(migration):
        _say_that_it_runs(connection, migration.name)
        connection.execute(migration.text.encode())
        check_deferred_constraints(connection)
        _say_that_it_runs(connection, "")
    return record(connection, migration, started)


def _say_that_it_runs(connection: Connection, name: str) -> None:
    """For the history of configurations: what a migration writes is a seed there."""
    connection.execute("select set_config('threadkeep.migration', %(name)s, true)", {"name": name})


def configure(connection: Connection, timeouts: Timeouts, *, for_transaction: bool) -> None:
    """Set the timeouts, and a search path that does not depend on who runs it."""
    connection.execute(
        """
        select
            set_config('lock_timeout', %(lock)s, %(local)s),
            set_config('statement_timeout', %(statement)s, %(local)s),
            set_config('search_path', 'public', %(local)s)
        """,
        {"lock": str(timeouts.lock_ms), "statement": str(timeouts.statement_ms), "local": for_transaction},
    )


def check_deferred_constraints(connection: Connection) -> None:
    """Check what was deferred now, and let each constraint be deferred again as it was declared."""
    connection.execute("set constraints all immediate")
    rows = connection.execute(
        """
        select n.nspname, k.conname
        from pg_catalog.pg_constraint k
        join pg_catalog.pg_namespace n on n.oid = k.connamespace
        where k.condeferred
          and n.nspname in ('public', 'private', 'auth')
          and k.conparentid = 0
        """
    )
    deferred = sql.SQL(", ").join(sql.Identifier(str(schema), str(name)) for schema, name in rows)
    if deferred.as_string():
        connection.execute(sql.SQL("set constraints {} deferred").format(deferred))


def record(connection: Connection, migration: Migration, started: float) -> AppliedMigration:
    """Write a file into the ledger; `started` is the monotonic clock when it began."""
    duration_ms = round((time.monotonic() - started) * 1000)
    connection.execute(
        """
        insert into private.migrations (name, sha256, duration_ms, foreign_keys)
        values (%(name)s, %(sha256)s, %(duration_ms)s, %(foreign_keys)s)
        """,
        {
            "name": migration.name,
            "sha256": migration.sha256,
            "duration_ms": duration_ms,
            "foreign_keys": _foreign_keys(connection),
        },
    )
    return AppliedMigration(name=migration.name, duration_ms=duration_ms)


def set_api_password(connection: Connection, password: str, deadline: Deadline) -> None:
    """Give the login role its password, hashed here so that no server log ever holds it.

    Neon refuses a hash, when the transaction commits and with everything in it; there the password goes over TLS.
    """
    hashed = connection.pgconn.encrypt_password(password.encode(), API_ROLE.encode(), b"scram-sha-256").decode()
    try:
        _set_api_password(connection, hashed, deadline)
    except psycopg.InternalError as error:
        if "plaintext password" not in str(error):
            raise
        _set_api_password(connection, password, deadline)


def _set_api_password(connection: Connection, password: str, deadline: Deadline) -> None:
    with locked(connection, deadline=deadline):
        connection.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(API_ROLE), sql.Literal(password)))


@contextmanager
def _named_after(migration: Migration) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        position = error.diag.statement_position
        line = f", line {migration.text.count(chr(10), 0, int(position) - 1) + 1}" if position else ""
        primary = f"{migration.name}{line}: {error.diag.message_primary or str(error)}"
        parts = [primary, error.diag.message_detail, error.diag.context]
        raise MigrationError(" | ".join(part for part in parts if part), summary=primary) from error


def scalar(connection: Connection, query: LiteralString, parameters: dict[str, object] | None = None) -> object:
    """The first column of the first row, or None."""
    row = connection.execute(query, parameters).fetchone()
    return row[0] if row else None
