"""What the soak looks at while it runs: the server's process, its connections, and the rows of what comes and goes."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import psycopg

from bench.processes import resident_mib
from bench.soak.server import TASKS_FILE
from bench.system import Server, System

INTERVAL_SECONDS: Final = 3.0

# What is there for a while only. Everything else grows with people, or is kept on purpose.
PASSING: Final = {
    "running streams": """select count(*) from public."Stream" where status = 'running'""",
    "streams": 'select count(*) from public."Stream"',
    "stream_chunks": "select count(*) from public.stream_chunks",
    "budget_reservations": "select count(*) from public.budget_reservations",
    "rate limits past their time": """
        select count(*)
        from public.rate_limit_tracking
        where period_end < now() - interval '2 days'
    """,
    "guest windows past their time": """
        select count(*)
        from private.guest_windows
        where period_start < now() - interval '2 days'
    """,
    "file deletions": "select count(*) from private.file_deletions",
    "unfinished uploads": "select count(*) from public.files where state in ('pending', 'refused')",
    "unused files": "select count(*) from public.files where state = 'ready' and message_id is null",
    "turns without a sign of life": """
        select count(*)
        from public."Stream"
        where status = 'running'
            and lease_until < now()
    """,
    "log rows in a default partition": """
        select (select count(*) from private.user_activity_logs_default)
            + (select count(*) from private.agent_activity_logs_default)
    """,
}
KEPT: Final = {
    "people": "select count(*) from public.user_profiles",
    "sessions": 'select count(*) from public."Chat"',
    "messages": 'select count(*) from public."Message_v2"',
    "document versions": 'select count(*) from public."Document"',
    "usage rows": "select count(*) from public.usage_logs",
    "error rows": "select count(*) from public.error_logs",
}
CONNECTIONS: Final = """
    select count(*)
    from pg_stat_activity
    where datname = current_database()
        and usename = 'threadkeep_api'
"""

# The clock of what the schedule deletes goes faster: what rested for some seconds has rested for as long as it needs.
AGEING: Final = (
    """
    update public."Stream"
    set closed_at = closed_at - interval '10 minutes'
    where status = 'closed'
        and closed_at between now() - interval '10 minutes' and now() - %(rested)s::interval
    """,
    """
    update public.rate_limit_tracking
    set period_start = period_start - interval '3 days',
        period_end = period_end - interval '3 days'
    where period_end between now() - interval '2 days' and now() - %(rested)s::interval
    """,
    """
    update private.guest_windows
    set period_start = period_start - interval '3 days'
    where limit_type = 'minutely'
        and period_start between now() - interval '2 days' and now() - interval '1 minute' - %(rested)s::interval
    """,
    """
    update private.file_deletions
    set due_at = now()
    where due_at between now() and now() + interval '20 minutes' - %(rested)s::interval
    """,
    """
    update public.files
    set created_at = created_at - interval '1 hour'
    where state in ('pending', 'refused')
        and created_at between now() - interval '1 hour' and now() - 2 * %(rested)s::interval
    """,
    """
    update public.files
    set checked_at = checked_at - interval '1 day'
    where state = 'ready'
        and message_id is null
        and checked_at between now() - interval '1 day' and now() - 2 * %(rested)s::interval
    """,
)
RESTED_SECONDS: Final = 30


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look; `second` since the start, `memory` in MiB."""

    second: float
    memory: float
    tasks: int
    files: int
    sockets: int
    threads: int
    connections: int
    passing: dict[str, int]
    kept: dict[str, int]


class Watch:
    """Looks at a server every few seconds, and lets the schedule's clock go faster."""

    def __init__(self, system: System, server: Server) -> None:
        self._system = system
        self._server = server
        self._started = time.monotonic()
        self.samples: list[Sample] = []

    @property
    def second(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.to_thread(self._step)
            await asyncio.sleep(INTERVAL_SECONDS)

    def age(self, rested_seconds: float = RESTED_SECONDS) -> None:
        with self._connect() as connection:
            for statement in AGEING:
                connection.execute(statement, {"rested": f"{rested_seconds} seconds"})

    def look(self) -> Sample:
        process = self._server.process_id
        targets = _open_files(process)
        with self._connect() as connection:
            return Sample(
                second=self.second,
                memory=resident_mib(process),
                tasks=int((self._system.data_dir / TASKS_FILE).read_text() or 0),
                files=len(targets),
                sockets=sum(target.startswith("socket:") for target in targets),
                threads=len(list(Path(f"/proc/{process}/task").iterdir())),
                connections=_number(connection, CONNECTIONS),
                passing={name: _number(connection, sql) for name, sql in PASSING.items()},
                kept={name: _number(connection, sql) for name, sql in KEPT.items()},
            )

    def _step(self) -> None:
        self.age()
        self.samples.append(self.look())

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._system.postgres.dsn(), autocommit=True)


def slope(points: list[tuple[float, float]]) -> float:
    """The growth of the second by the first, by the median of all pairs, which a few jumps do not move."""
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for place, earlier in enumerate(points)
        for later in points[place + 1 :]
        if later[0] > earlier[0]
    ]
    return median(slopes) if slopes else 0.0


def _number(connection: psycopg.Connection[Any], sql: str) -> int:
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return int(row[0])


def _open_files(process: int) -> list[str]:
    targets = []
    folder = Path(f"/proc/{process}/fd")
    for entry in folder.iterdir():
        try:
            targets.append(os.readlink(entry))
        except FileNotFoundError:
            continue
    return targets
