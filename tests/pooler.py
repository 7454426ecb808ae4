"""A PgBouncer in transaction mode before the tests' server: `TEST_PGBOUNCER`, or the one that is installed.

Nothing cleans a server connection between two clients: in transaction mode PgBouncer runs no reset query.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from local.postgres_programs import Account
from tests.databases import API_ROLE, DatabaseServer

OPERATOR: Final = "operator"
POOL_SIZE: Final = 4
START_SECONDS: Final = 10.0
# The first release that keeps clients' prepared statements apart in transaction mode.
PREPARES_SINCE: Final = (1, 21)

CONFIGURATION: Final = """
[databases]
* = {server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 1000
auth_type = scram-sha-256
auth_file = {folder}/users
admin_users = {operator}
logfile = {folder}/log
server_login_retry = 1
"""


class Pooler:
    """A running PgBouncer: the addresses behind it, and its console."""

    def __init__(self, port: int, password: str, operator_password: str) -> None:
        self._port = port
        self._password = password
        self._operator_password = operator_password

    def dsn(self, database: str) -> str:
        """The address of a database as the login role of the functions."""
        return f"postgresql://{API_ROLE}:{quote(self._password, safe='')}@127.0.0.1:{self._port}/{quote(database)}"

    def tell(self, command: str) -> list[dict[str, Any]]:
        """Gives an operator's command on the console; what it answers."""
        console = f"postgresql://{OPERATOR}:{self._operator_password}@127.0.0.1:{self._port}/pgbouncer"
        with psycopg.connect(console, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(command.encode())
            return cursor.fetchall() if cursor.description else []

    def servers(self, database: str) -> list[dict[str, Any]]:
        """Its connections to a database."""
        return [server for server in self.tell("show servers") if server["database"] == database]


@contextmanager
def running_pooler(
    server: DatabaseServer, *, pool_size: int = POOL_SIZE, prepared_statements: int = 0
) -> Iterator[Pooler]:
    """A PgBouncer with this many connections to each database; skips the test where there is none that can.

    `prepared_statements` is how many of the clients' own each connection keeps; before 1.21 there is no such thing.
    """
    program = _program()
    settings = ""
    if _version(program) >= PREPARES_SINCE:
        settings = f"max_prepared_statements = {prepared_statements}\n"
    elif prepared_statements:
        pytest.skip("This PgBouncer knows nothing of prepared statements.")
    address = conninfo_to_dict(server.dsn("postgres", API_ROLE))
    port, operator_password = _free_port(), secrets.token_hex(16)
    password = str(address.get("password") or secrets.token_hex(16))
    pooler = Pooler(port, password, operator_password)
    with _folder() as folder:
        place = " ".join(f"{key}={address[key]}" for key in ("host", "port") if address.get(key))
        users = f'"{API_ROLE}" "{password}"\n"{OPERATOR}" "{operator_password}"\n'
        (folder / "users").write_text(users)
        values = {"server": place, "port": port, "pool_size": pool_size, "folder": folder, "operator": OPERATOR}
        (folder / "ini").write_text(CONFIGURATION.format(**values) + settings)
        process = _start(program, folder)
        try:
            _wait(pooler, process, folder / "log")
            yield pooler
        finally:
            process.terminate()
            process.wait()


def _program() -> str:
    # Debian keeps it where only root looks.
    found = os.environ.get("TEST_PGBOUNCER") or shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if not found:
        pytest.skip("There is no PgBouncer here: neither pgbouncer nor TEST_PGBOUNCER.")
    return found


def _version(program: str) -> tuple[int, int]:
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"PgBouncer (\d+)\.(\d+)", text)
    assert number, text
    return int(number[1]), int(number[2])


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that only its owner reads, for root the account that PgBouncer runs as, because it refuses root."""
    with tempfile.TemporaryDirectory(prefix="threadkeep-pooler-") as name:
        if os.geteuid() == 0:
            os.chown(name, Account.choose().user, -1)
        yield Path(name)


def _start(program: str, folder: Path) -> subprocess.Popen[bytes]:
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        # The server's own account and group, which alone reach its socket.
        account = Account.choose()
        identity = {"user": account.user, "group": account.group, "extra_groups": []}
        for file in folder.iterdir():
            os.chown(file, account.user, account.group)
    command = [program, "--quiet", str(folder / "ini")]
    if keeper := shutil.which("setpriv"):
        # It ends with a run that is killed.
        command = [keeper, "--pdeathsig", "TERM", *command]
    # Out of reach of a Ctrl-C in the terminal, which would end it before the tests do.
    return subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **identity
    )


def _wait(pooler: Pooler, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            pooler.tell("show version")
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(log.read_text() if log.exists() else str(error)) from error
            time.sleep(0.01)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
