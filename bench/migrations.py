"""The database's commands, as a whole: on an empty database, once more, and the check."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

from bench.system import System


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Seconds of each command from its start to its end, Python's own start included, the server being up."""

    first_migrate: float
    second_migrate: float
    verify: float


def measure(system: System) -> Commands:
    """Migrates the system's database, which must be empty."""
    return Commands(
        first_migrate=_seconds(system, "migrate"),
        second_migrate=_seconds(system, "migrate"),
        verify=_seconds(system, "verify"),
    )


def _seconds(system: System, command: str) -> float:
    started = time.perf_counter()
    finished = subprocess.run(
        [sys.executable, "-m", "local.database_commands", command],
        env=system.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if finished.returncode:
        raise RuntimeError(f"{command} failed:\n{finished.stdout}{finished.stderr}")
    return time.perf_counter() - started
