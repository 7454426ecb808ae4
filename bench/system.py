"""What is measured: the local server as `make run` starts it, on a durable PostgreSQL, over the provider emulator."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg

from bench.processes import cpu_ms, family_cpu_ms
from local.configuration import Keys
from local.postgres import EmbeddedPostgres, discard
from local.token import token

PROVIDERS: Final = {"openai": "OPENAI", "google": "GEMINI", "anthropic": "ANTHROPIC"}
BASE_PATHS: Final = {"openai": "/openai/v1", "google": "/google", "anthropic": "/anthropic"}
TOKENS: Final = 50
EMULATOR: Final = ("tests.emulator", "--port", "0", "--fixed-tokens", str(TOKENS))
PATIENCE_SECONDS: Final = 60.0
UNLIMITED: Final = 1_000_000


@dataclass(frozen=True)
class System:
    """A data folder with a running PostgreSQL, the emulator beside it, and the way to start servers on both."""

    data_dir: Path
    postgres: EmbeddedPostgres
    emulator_id: int
    emulator_port: int
    keys: Keys

    def token(self, user: str) -> str:
        """A bearer token of the local issuer."""
        return token(self.keys, user, is_admin=False)

    def execute(self, statement: LiteralString, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Runs a statement as the database's owner; its rows."""
        with psycopg.connect(self.postgres.dsn(), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def set_limits(self, limit: int) -> None:
        """Gives all agents of all providers this limit in each window."""
        self.execute(
            """
            update public.admin_config
            set config_data = jsonb_set(
                config_data, '{rateLimit}',
                jsonb_build_object(
                    'perMinute', %(limit)s::integer, 'perHour', %(limit)s::integer, 'perDay', %(limit)s::integer
                )
            )
            where config_data ? 'rateLimit'
            """,
            {"limit": limit},
        )

    def cpu_seconds(self) -> float:
        """What the processes have used that are still there and are no children of this one's that will have ended."""
        return (family_cpu_ms(self.postgres.process_id) + cpu_ms(self.emulator_id)) / 1000

    def environment(self, provider: str | None = None) -> dict[str, str]:
        """The environment of a command on this data folder, with a key for this provider alone."""
        # Empty and not missing, so that nothing of a .env comes in.
        switched_off = dict.fromkeys([f"{name}_API_KEY" for name in PROVIDERS.values()] + ["DATABASE_URL"], "")
        environ = {**os.environ, **switched_off, "DATA_DIR": str(self.data_dir), "LOG_LEVEL": "INFO"}
        if provider is not None:
            name = PROVIDERS[provider]
            base_url = f"http://127.0.0.1:{self.emulator_port}{BASE_PATHS[provider]}"
            environ |= {f"{name}_API_KEY": "bench-key", f"{name}_BASE_URL": base_url}
        return environ

    @contextmanager
    def server(self, provider: str = "openai", *, module: str = "local.server") -> Iterator[Server]:
        """A server process with one worker, from ready to stopped; `module` is what is run as it."""
        port = _free_port()
        log = self.data_dir / f"server-{port}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                env=self.environment(provider) | {"PORT": str(port)},
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        try:
            started = time.perf_counter()
            _wait_until_alive(process, port, log)
            yield Server(process.pid, port, provider, time.perf_counter() - started)
        finally:
            _stop(process)


@dataclass(frozen=True)
class Server:
    """A server process with one provider's key, and how long it took to be ready."""

    process_id: int
    port: int
    provider: str
    ready_seconds: float


@contextmanager
def running_system(emulator: Sequence[str] = EMULATOR) -> Iterator[System]:
    """PostgreSQL and the emulator (a module and its arguments) on a temporary data folder, which goes with them."""
    data_dir = Path(tempfile.mkdtemp(prefix="threadkeep-bench-"))
    # Open to the account that PostgreSQL runs as when this is root.
    data_dir.chmod(0o755)
    try:
        with EmbeddedPostgres(data_dir / "postgres") as postgres, _emulator(emulator) as (emulator_id, emulator_port):
            yield System(data_dir, postgres, emulator_id, emulator_port, Keys.of(data_dir))
    finally:
        discard(data_dir / "postgres")
        shutil.rmtree(data_dir)


@contextmanager
def _emulator(module: Sequence[str]) -> Iterator[tuple[int, int]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
    finally:
        _stop(process)


def _wait_until_alive(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-4000:]}")


def _stop(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
