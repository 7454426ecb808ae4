"""A cluster on disk: where it lives, how it is made, started and stopped. `local.postgres` decides when."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from local.postgres_programs import Account, EmbeddedPostgresError, Programs, reachable_place

SUPERUSER: Final = "postgres"
START_TIMEOUT: Final = 600  # seconds; a large database that recovers from a power cut needs minutes
PATIENCE: Final = 30  # seconds for a server to stop, or for the rest of a killed one to end

# The longest socket path is 103 bytes on macOS and 107 on Linux; commas, spaces and quotes would need PostgreSQL's
# own quoting in a list of directories.
SOCKET_PATH_LENGTH: Final = 103
PLAIN_PATH: Final = re.compile(r"[\w./-]+", re.ASCII)
SHORT_PLACE: Final = Path("/tmp")  # noqa: S108
SHORT_PREFIX: Final = "threadkeep-"
IMPOSSIBLE_PROCESS: Final = "99999999"


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running server's main process, and where it listens."""

    process_id: int
    port: int
    socket_dir: str


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of a server: cluster, log, socket; and who runs it (None: the caller)."""

    folder: Path
    account: Account | None

    @property
    def cluster(self) -> Path:
        return self.folder / "cluster"

    def version(self) -> int | None:
        try:
            return int((self.cluster / "PG_VERSION").read_text().split(".")[0])
        except FileNotFoundError:
            return None

    def give(self, path: Path) -> None:
        """Let the account, and nobody but it and root, use a folder that the caller made."""
        if self.account:
            os.chown(path, 0, self.account.group)
        path.chmod(0o770 if self.account else 0o700)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program as the account, out of reach of a Ctrl-C in the terminal and of the caller's secrets."""
        identity: dict[str, Any] = {}
        if self.account:
            identity = {"user": self.account.user, "group": self.account.group, "extra_groups": []}
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        # Without a valid LC_ALL the server on macOS becomes multithreaded and refuses to start.
        environment = {**kept, "HOME": str(self.folder), "LC_ALL": "C", "TZ": "UTC"}
        return subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=self.folder,
            env=environment,
            start_new_session=True,
            umask=0o077,
            **identity,
        )

    def remove(self, data_dir: Path) -> None:
        """Delete everything that the server kept."""
        for folder in {self.folder, data_dir}:
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)


def home_of(data_dir: Path) -> Home:
    """Where the server of this data directory lives; made on the first call. Called under the directory's lock."""
    _refuse_foreign(data_dir)
    if os.geteuid() != 0:
        home = Home(data_dir, None)
        home.give(data_dir)
        return home
    place = _noted_place(data_dir)
    owner = _owner((place or data_dir) / "cluster")
    if owner is None:
        return _new_home(data_dir, place)
    home = Home(place or data_dir, owner)
    if not owner.may_read(home.cluster):
        raise EmbeddedPostgresError(
            f"The account that owns the data in {home.folder} cannot reach it any more: a folder above is closed to "
            "others. Open that folder, or move the data directory."
        )
    return home


def _noted_place(data_dir: Path) -> Path | None:
    note = data_dir / "location"
    if note.exists() and note.lstat().st_uid == 0:
        place = Path(note.read_text().strip())
        return place if place.is_dir() else None
    return None


def _owner(cluster: Path) -> Account | None:
    try:
        status = cluster.stat()
    except FileNotFoundError:
        return None
    return Account(status.st_uid, status.st_gid)


def _new_home(data_dir: Path, place: Path | None) -> Home:
    """For root: the data directory itself if the account can reach it, else a place of its own."""
    account = Account.choose()
    if place is None and not account.reaches(data_dir):
        place = Path(tempfile.mkdtemp(prefix="postgres-", dir=reachable_place(account)))
        (data_dir / "location").write_text(f"{place}\n")
    home = Home(place or data_dir, account)
    home.give(home.folder)
    return home


def _refuse_foreign(data_dir: Path) -> None:
    """Keep off what is not ours: in a folder like /tmp, somebody else may have made the directory in advance."""
    open_to_all = data_dir.parent.stat().st_mode & stat.S_ISVTX
    if data_dir.stat().st_uid != os.geteuid() and (os.geteuid() != 0 or open_to_all):
        raise EmbeddedPostgresError(f"{data_dir} belongs to another user. Choose another data directory.")
    names = {path.name for path in data_dir.iterdir()}
    if names and not names & {"cluster", "cluster.new", "users", "location"}:
        raise EmbeddedPostgresError(f"{data_dir} holds other files. Choose an empty folder for PostgreSQL's data.")


@dataclass(frozen=True, slots=True)
class Cluster:
    home: Home

    @property
    def log(self) -> Path:
        return self.home.folder / "postgres.log"

    def postmaster(self) -> Postmaster | None:
        """The running server, or None if postmaster.pid is missing or was left by one that is gone."""
        try:
            lines = (self.home.cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        if len(lines) < 5 or not _servers(self.home.cluster, int(lines[0])):
            return None
        return Postmaster(int(lines[0]), int(lines[3]), lines[4])

    def initialise(self, programs: Programs) -> None:
        """Make the cluster if there is none, under another name first: a killed initdb leaves no half cluster."""
        if self.home.cluster.exists():
            return
        draft = self.home.folder / "cluster.new"
        shutil.rmtree(draft, ignore_errors=True)
        result = self.home.run(
            programs.folder / "initdb",
            f"--pgdata={draft}",
            f"--username={SUPERUSER}",
            "--encoding=UTF8",
            *_locale(programs.version),
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--no-sync",
            "--no-instructions",
        )
        if result.returncode:
            raise EmbeddedPostgresError(f"PostgreSQL's initdb failed in {self.home.folder}:\n{result.stdout}")
        draft.rename(self.home.cluster)

    def launch(self, programs: Programs, settings: Mapping[str, str], *, listen_tcp: bool) -> None:
        """Start the server and return when it takes connections."""
        self._bury()
        addresses = {
            "listen_addresses": "127.0.0.1" if listen_tcp else "",
            "unix_socket_directories": str(self._socket_dir()),
        }
        all_settings = {**settings, **addresses, "timezone": "UTC", "log_timezone": "UTC"}
        deadline = time.monotonic() + PATIENCE
        while True:
            port = str(_free_port() if listen_tcp else 5432)
            text = self._try(programs, {**all_settings, "port": port})
            if text is None:
                return
            # Backends of a killed server live on for a moment, and a free port may be taken by somebody else.
            passing = "pre-existing shared memory block" in text or "could not bind" in text
            if not passing or time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"PostgreSQL did not start:\n{text[-4000:]}")
            time.sleep(0.05)

    def _try(self, programs: Programs, settings: Mapping[str, str]) -> str | None:
        """What the server said if it did not start; pg_ctl waits for it, and gives it a session of its own."""
        self._set_log_aside()
        result = self.home.run(
            programs.folder / "pg_ctl",
            "start",
            "--wait",
            "--silent",
            f"--timeout={START_TIMEOUT}",
            f"--pgdata={self.home.cluster}",
            f"--log={self.log}",
            "--options=" + " ".join(f"-c {name}={shlex.quote(value)}" for name, value in settings.items()),
        )
        if result.returncode == 0:
            return None
        return result.stdout + (self.log.read_text(errors="replace") if self.log.exists() else "")

    def halt(self, *, gently: bool) -> None:
        """Stop whatever server runs on this cluster, and wait for its end; gently, it writes everything out first.

        They are found by their command and not by postmaster.pid alone, because the data may have been deleted under
        a server: ending by itself a minute later, it would remove the socket of the next one.
        """
        running = _servers(self.home.cluster)
        socket_dir = self._noted_socket_dir()
        for way in (signal.SIGINT, signal.SIGQUIT) if gently else (signal.SIGQUIT,):
            for process_id in running:
                with suppress(ProcessLookupError):
                    os.kill(process_id, way)
            deadline = time.monotonic() + PATIENCE
            while running and time.monotonic() < deadline:
                time.sleep(0.002)
                running = [process_id for process_id in running if _servers(self.home.cluster, process_id)]
        if running:
            raise EmbeddedPostgresError(f"PostgreSQL (process {running[0]}) does not stop; see {self.log}.")
        self._remove(socket_dir)

    def has_ended(self, process_id: int) -> bool:
        """Whether a server that took no connection is gone within the time that a killed process needs for it."""
        deadline = time.monotonic() + PATIENCE
        while _servers(self.home.cluster, process_id):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def delete(self) -> None:
        """Delete the data."""
        shutil.rmtree(self.home.cluster, ignore_errors=True)

    def ensure_database(self, name: str) -> bool:
        """Make a database that is not there; whether the server listens on TCP."""
        server = self.postmaster()
        if server is None:
            raise EmbeddedPostgresError(f"PostgreSQL ended right after its start; its log is {self.log}.")
        with psycopg.connect(
            host=server.socket_dir, port=server.port, user=SUPERUSER, dbname="postgres", autocommit=True
        ) as connection:
            if not connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
            return connection.execute("select current_setting('listen_addresses') <> ''").fetchone() == (True,)

    def password(self) -> str:
        """The password of this cluster's roles over TCP, made once."""
        path = self.home.folder / "password"
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(24))
            if self.home.account:
                os.chown(path, self.home.account.user, self.home.account.group)
        return path.read_text()

    def _bury(self) -> None:
        """Make what a dead server left harmless: PostgreSQL would not start if its process id is in use again.

        postmaster.pid stays, with an id that no process can have, because it names the shared memory by which a new
        server learns whether backends of the dead one still run.
        """
        self._remove(self._noted_socket_dir())
        for socket_or_lock in self.home.folder.glob(".s.PGSQL.*"):
            socket_or_lock.unlink()
        path = self.home.cluster / "postmaster.pid"
        with suppress(FileNotFoundError):
            lines = path.read_text().splitlines()
            if len(lines) < 5:
                path.unlink()
            else:
                path.write_text("\n".join([IMPOSSIBLE_PROCESS, *lines[1:]]) + "\n")

    def _set_log_aside(self) -> None:
        """Keep the log of the last run and of this one, not of all."""
        with suppress(FileNotFoundError):
            self.log.replace(self.log.with_suffix(".log.1"))

    def _socket_dir(self) -> Path:
        """The home, or a short folder with the same rights where the home's path is too long for a socket."""
        folder = self.home.folder
        longest = folder / ".s.PGSQL.65535"
        if len(os.fsencode(longest)) <= SOCKET_PATH_LENGTH and PLAIN_PATH.fullmatch(str(folder)):
            return folder
        short = Path(tempfile.mkdtemp(prefix=SHORT_PREFIX, dir=SHORT_PLACE))
        self.home.give(short)
        return short

    def _noted_socket_dir(self) -> Path | None:
        with suppress(FileNotFoundError, IndexError):
            return Path((self.home.cluster / "postmaster.pid").read_text().splitlines()[4])
        return None

    def _remove(self, socket_dir: Path | None) -> None:
        if socket_dir and socket_dir.parent == SHORT_PLACE and socket_dir.name.startswith(SHORT_PREFIX):
            shutil.rmtree(socket_dir, ignore_errors=True)


def _locale(version: int) -> list[str]:
    """Sort by code point and know the letters of all languages, the same on every machine."""
    letters = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
    provider = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if version >= 17 else []
    return ["--locale=C", f"--lc-ctype={letters}", *provider]


def _servers(cluster: Path, process_id: int | None = None) -> list[int]:
    """The processes (or the one) that are servers on this cluster, and neither zombies nor newcomers with a used id."""
    if sys.platform == "linux":
        return [number for number, words in _commands(process_id) if _serves(words, cluster)]
    selection = ["-p", str(process_id)] if process_id else ["-ax"]
    answer = subprocess.run(["ps", "-ww", *selection, "-o", "pid=,command="], capture_output=True, text=True)
    lines = (line.strip() for line in answer.stdout.splitlines())
    return [int(line.split()[0]) for line in lines if f"postgres -D {cluster} " in f"{line} "]


def _commands(process_id: int | None) -> Iterator[tuple[int, list[bytes]]]:
    for folder in Path("/proc").glob(str(process_id or "[0-9]*")):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield int(folder.name), (folder / "cmdline").read_bytes().split(b"\0")


def _serves(words: list[bytes], cluster: Path) -> bool:
    return words[0].endswith(b"postgres") and words[1:3] == [b"-D", os.fsencode(cluster)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
