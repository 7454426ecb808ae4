"""The history page: 20 of a user's 1,000 sessions, alone in the table and among those of others."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final, LiteralString, cast
from uuid import UUID

import psycopg

from bench import load
from bench.figures import middle, p50, p95
from bench.load import Plan
from bench.processes import cpu_ms, family_cpu_ms
from bench.system import Server, System
from local.server import API_ROLE
from threadkeep import sessions
from threadkeep.database import Database, Rows
from threadkeep.identity import Principal

OWN_SESSIONS: Final = 1000
OTHER_USERS: Final = 1000
READER: Final = "bench-reader"

# The table is filled past its triggers and foreign keys; what they would have made is made here.
_FILL: Final = (
    """
    insert into public.user_profiles (id)
    select ('00000000-0000-4000-8000-' || lpad(to_hex(u.number), 12, '0'))::uuid
    from generate_series(1, %(users)s::integer) as u (number)
    """,
    """
    insert into public."Chat" (id, user_id, title, "createdAt", last_active, updated_at, message_count, last_seq)
    select
        gen_random_uuid(),
        ('00000000-0000-4000-8000-' || lpad(to_hex(1 + s.number %% %(users)s::integer), 12, '0'))::uuid,
        'Session ' || s.number,
        t.moment, t.moment, t.moment, 4, 4
    from generate_series(1, %(sessions)s::integer) as s (number)
    cross join lateral (select now() - random() * interval '365 days' as moment) as t
    """,
)
_OWN: Final = """
    insert into public."Chat" (user_id, title, "createdAt", last_active, updated_at, message_count, last_seq)
    select %(user)s, 'Session ' || s.number, t.moment, t.moment, t.moment, 4, 4
    from generate_series(1, %(sessions)s::integer) as s (number)
    cross join lateral (select now() - s.number * interval '1 hour' as moment) as t
"""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page over HTTP by one caller, and its SQL alone; milliseconds, CPU a page."""

    http_p50: float
    http_p95: float
    server_cpu: float
    postgres_cpu: float
    sql_p50: float
    sql_p95: float


def add_reader(system: System, server: Server) -> UUID:
    """A user with 1,000 sessions, whose history is read; his id."""
    wire = load.request("GET", "/api/me", system.token(READER))
    load.run(Plan(port=server.port, callers=1, requests=[wire], needed="@example.com")).checked()
    address = f"{READER}@example.com"
    [[user]] = system.execute("select id from public.user_profiles where email = %(email)s", {"email": address})
    system.execute(_OWN, {"user": user, "sessions": OWN_SESSIONS})
    _settle(system)
    return cast("UUID", user)


def add_others(system: System, number: int) -> float:
    """So many sessions of 1,000 other users; the seconds that it took."""
    started = time.perf_counter()
    with psycopg.connect(system.postgres.dsn()) as connection:
        connection.execute("set local session_replication_role = replica")
        for statement in _FILL:
            connection.execute(statement, {"users": OTHER_USERS, "sessions": number})
    _settle(system)
    return time.perf_counter() - started


def measure(system: System, server: Server, reader: UUID, *, rounds: int, pages: int) -> Page:
    """The median round of so many pages each."""
    wire = load.request("GET", "/api/sessions?limit=20", system.token(READER))
    plan = Plan(port=server.port, callers=1, requests=[wire] * pages, needed='"nextCursor":"')
    load.run(plan).checked()
    statement, parameters = asyncio.run(_statement(reader))
    return middle([_round(system, server, plan, statement, parameters) for _ in range(rounds)])


def _round(system: System, server: Server, plan: Plan, statement: LiteralString, parameters: dict[str, Any]) -> Page:
    server_cpu, postgres_cpu = cpu_ms(server.process_id), family_cpu_ms(system.postgres.process_id)
    outcome = load.run(plan).checked()
    number = len(outcome.total)
    server_cpu = (cpu_ms(server.process_id) - server_cpu) / number
    postgres_cpu = (family_cpu_ms(system.postgres.process_id) - postgres_cpu) / number
    bare = _bare(system, statement, parameters, number)
    return Page(
        http_p50=p50(outcome.total),
        http_p95=p95(outcome.total),
        server_cpu=server_cpu,
        postgres_cpu=postgres_cpu,
        sql_p50=p50(bare),
        sql_p95=p95(bare),
    )


def _bare(system: System, statement: LiteralString, parameters: dict[str, Any], number: int) -> list[float]:
    """The statement alone, as the role and with the claims that the function takes."""
    claims = json.dumps({"sub": str(parameters["user"]), "role": "authenticated", "app_metadata": {"role": "user"}})
    taken = []
    with psycopg.connect(system.postgres.dsn(user=API_ROLE), prepare_threshold=None) as connection:
        become = "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true)"
        connection.execute(become, [claims])
        for _ in range(number):
            started = time.perf_counter()
            rows = connection.execute(statement, parameters).fetchall()
            taken.append((time.perf_counter() - started) * 1000)
            assert len(rows) == 21
        connection.rollback()
    return taken


async def _statement(user: UUID) -> tuple[LiteralString, dict[str, Any]]:
    """The very statement that the function runs for a page."""
    listener = _Listener()
    await sessions.own_page(
        cast("Database", listener),
        Principal(user_id=user, role="authenticated"),
        words=None,
        status=None,
        limit=20,
        cursor=None,
    )
    return listener.heard[0]


class _Listener:
    """Stands where the database stands, and keeps what it is asked."""

    def __init__(self) -> None:
        self.heard: list[tuple[LiteralString, dict[str, Any]]] = []

    async def rows(self, _actor: object, sql: LiteralString, parameters: dict[str, Any]) -> Rows:
        self.heard.append((sql, parameters))
        return []


def _settle(system: System) -> None:
    """What the autovacuum would do at some moment of its own, done now."""
    system.execute('vacuum (analyze) public."Chat"')
    system.execute("analyze public.user_profiles")
    system.execute("checkpoint")
