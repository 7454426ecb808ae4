"""The PostgreSQL of the tests: one server for the whole run, a fresh copy of the migrated schema for each test.

`TEST_DATABASE_URL` (a superuser's address) uses a server that is there. Otherwise an embedded one is started, of
`TEST_POSTGRES_VERSION` (18 if unset) or from the programs in `TEST_POSTGRES_BINARIES`.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, LiteralString
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from local.postgres import EmbeddedPostgres, discard
from threadkeep import migrations

ROOT: Final = Path(__file__).parents[1]
SQL: Final = ROOT / "sql"
API_ROLE: Final = "threadkeep_api"
CLONE_PREFIX: Final = "threadkeep_test_"
TEMPLATE_PREFIX: Final = "threadkeep_template_"
BUILD_LOCK: Final = 7_305_001
USE_LOCK: Final = 7_305_002
ROOM: Final = 1 << 30  # bytes

# Vacuum workers would connect to the template and hold up its copies, and plans would depend on when they ran; the
# shared memory of a killed server goes with its folder.
SETTINGS: Final = {"autovacuum": "off", "dynamic_shared_memory_type": "mmap"}


class DatabaseServer:
    """A running server: its databases by name, and how to make and drop them. Safe to use from several threads."""

    def __init__(self, superuser_dsn: str, api_password: str | None = None) -> None:
        self._address = conninfo_to_dict(superuser_dsn)
        self._api_password = api_password
        self._connection = psycopg.connect(superuser_dsn, autocommit=True)
        # Copying files is the fastest (13 ms against 20), unless the server makes sure that they are on the disk.
        copies = self._ask("select current_setting('fsync') = 'off'")
        self._strategy = sql.SQL("file_copy" if copies else "wal_log")

    def dsn(self, database: str, user: str | None = None) -> str:
        """The address of a database, as the superuser or as another role."""
        address: dict[str, Any] = {**self._address, "dbname": database}
        if user:
            address |= {"user": user, "password": self._api_password}
        return _url(address)

    def create_database(self, template: str | None = None) -> str:
        """Make a database, empty or as a copy of another one to which nobody is connected; return its name."""
        name = f"{CLONE_PREFIX}{os.getpid()}_{secrets.token_hex(4)}"
        self._run("create database {} template {} strategy {}", name, template or "template1", self._strategy)
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, with whoever is still connected to it."""
        self._run("drop database if exists {} with (force)", name)

    def template(self) -> str:
        """The name of a database with all of `sql/` applied, for copying; built by whoever needs it first."""
        name = TEMPLATE_PREFIX + _fingerprint()
        ready = "select coalesce((select datistemplate from pg_database where datname = %s), false)"
        if self._ask(ready, name):
            return name
        with self._locked(BUILD_LOCK):
            if not self._ask(ready, name):
                self._build(name)
        return name

    def close(self) -> None:
        self._connection.close()

    def _build(self, name: str) -> None:
        self.drop_database(name)
        self._run("create database {}", name)
        migrations.apply(self.dsn(name), SQL)
        if self._api_password:
            statement = sql.SQL("alter role {} password {}")
            self._connection.execute(statement.format(sql.Identifier(API_ROLE), sql.Literal(self._api_password)))
        self._run("alter database {} with is_template true allow_connections false", name)

    @contextmanager
    def alone_or_shared(self) -> Iterator[None]:
        """Use a server that outlives the run: the first in and the last out drop what runs left there."""
        self._sweep_if_alone()
        self._connection.execute("select pg_advisory_lock_shared(%s)", [USE_LOCK])
        try:
            yield
        finally:
            self._connection.execute("select pg_advisory_unlock_shared(%s)", [USE_LOCK])
            self._sweep_if_alone()

    def _sweep_if_alone(self) -> None:
        if not self._ask("select pg_try_advisory_lock(%s)", USE_LOCK):
            return
        try:
            ours = f"^({CLONE_PREFIX}|{TEMPLATE_PREFIX})"
            for (name,) in self._connection.execute("select datname from pg_database where datname ~ %s", [ours]):
                self._run("alter database {} with is_template false", name)
                self.drop_database(name)
        finally:
            self._connection.execute("select pg_advisory_unlock(%s)", [USE_LOCK])

    @contextmanager
    def _locked(self, key: int) -> Iterator[None]:
        self._connection.execute("select pg_advisory_lock(%s)", [key])
        try:
            yield
        finally:
            self._connection.execute("select pg_advisory_unlock(%s)", [key])

    def _ask(self, question: LiteralString, *values: object) -> bool:
        row = self._connection.execute(question, values).fetchone()
        return row is not None and row[0] is True

    def _run(self, statement: LiteralString, *parts: str | sql.Composable) -> None:
        names = [sql.Identifier(part) if isinstance(part, str) else part for part in parts]
        self._connection.execute(sql.SQL(statement).format(*names))


@contextmanager
def running_server() -> Iterator[DatabaseServer]:
    """The server of this run, shared by all of its processes: the first starts it, the last stops it."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        server = DatabaseServer(given, hashlib.sha256(f"{API_ROLE} {given}".encode()).hexdigest())
        try:
            with server.alone_or_shared():
                yield server
        finally:
            server.close()
        return
    _discard_leftovers()
    with _embedded(_shared_folder()) as postgres:
        server = DatabaseServer(postgres.dsn("postgres"))
        try:
            yield server
        finally:
            server.close()


@contextmanager
def own_cluster(**options: Any) -> Iterator[EmbeddedPostgres]:
    """A server for one test alone, to be killed or to have its roles changed; options as of `EmbeddedPostgres`."""
    with _embedded(own_folder(), **options) as postgres:
        yield postgres


def own_folder() -> Path:
    """A new name for a data directory of this process; if the process is killed, the next run removes it."""
    return memory() / f"{_prefix()}-of-{os.getpid()}-{secrets.token_hex(4)}"


def database_of(dsn: str) -> str:
    """The name of the database that an address means."""
    return str(conninfo_to_dict(dsn)["dbname"])


def _embedded(folder: Path, **options: Any) -> EmbeddedPostgres:
    version, binaries = os.environ.get("TEST_POSTGRES_VERSION"), os.environ.get("TEST_POSTGRES_BINARIES")
    defaults: dict[str, Any] = {
        "version": int(version) if version else None,
        "binaries": Path(binaries) if binaries else None,
        "durable": False,
        "temporary": True,
        "max_connections": 300,
        "settings": SETTINGS,
        # pytest would take the SystemExit for a failing test.
        "handle_signals": False,
    }
    return EmbeddedPostgres(folder, **{**defaults, **options})


def _shared_folder() -> Path:
    programs = f"{os.environ.get('TEST_POSTGRES_VERSION')} {os.environ.get('TEST_POSTGRES_BINARIES')}"
    return memory() / f"{_prefix()}-{hashlib.sha256(programs.encode()).hexdigest()[:8]}"


def _discard_leftovers() -> None:
    """Stop and delete the servers of killed runs."""
    for folder in memory().glob(f"{_prefix()}-*"):
        owner = re.search(r"-of-(\d+)-", folder.name)
        if not (owner and _lives(int(owner[1]))):
            discard(folder)


def _lives(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _prefix() -> str:
    return f"threadkeep-test-{os.geteuid()}-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"


def memory() -> Path:
    """A folder in memory if there is room: an ext4 without a journal takes 400 ms for the thousand files of a copy."""
    shared = Path("/dev/shm")
    if shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > ROOM:
        return shared
    return Path(tempfile.gettempdir())


def _fingerprint() -> str:
    digest = hashlib.sha256(Path(migrations.__file__).read_bytes())
    for file in sorted(SQL.glob("*.sql")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _url(address: dict[str, Any]) -> str:
    user, database = quote(str(address["user"])), quote(str(address["dbname"]))
    rest = {key: value for key, value in address.items() if key not in ("user", "dbname") and value is not None}
    return f"postgresql://{user}@/{database}?{urlencode(rest, quote_via=quote)}"
