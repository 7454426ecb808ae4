"""What a document of 10 kB costs to save and compare, and lists of 1,000 versions and of 1,000 documents to read."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from bench import load
from bench.figures import middle, p50, p95, table
from bench.load import Plan
from bench.processes import cpu_ms, family_cpu_ms
from bench.system import Server, System

LINES: Final = 100
LINE_BYTES: Final = 100
VERSIONS: Final = 1000
DOCUMENTS: Final = 1000
WRITER: Final = "bench-writer"
HISTORY: Final = UUID("00000000-0000-4000-8000-000000000018")

# By the trigger, as a save does it.
_HISTORY: Final = """
    insert into public."Document" (id, title, content, user_id, metadata)
    select %(document)s, 'History', repeat('x', 10240), %(user)s, '{"origin": "person"}'
    from generate_series(1, %(number)s::integer)
"""
_DOCUMENTS: Final = """
    insert into public."Document" (id, title, content, user_id, metadata)
    select gen_random_uuid(), 'Document ' || number, repeat('x', 10240), %(user)s, '{"origin": "person"}'
    from generate_series(1, %(number)s::integer) as number
"""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call by one caller: milliseconds over HTTP, and of CPU."""

    p50: float
    p95: float
    server_cpu: float
    postgres_cpu: float


def measure(system: System, server: Server, *, rounds: int, calls: int) -> dict[str, Call]:
    """The median round of so many calls of each kind; their names say what they are."""
    token = system.token(WRITER)
    made = _ask(server, token, "POST", "/api/documents", {"title": "A document", "content": _content(0)})
    path = f"/api/documents/{made['id']}"
    _fill(system, UUID(made["id"]))
    history = f"/api/documents/{HISTORY}/versions"
    # One after another over all rounds, and so each other than the one before.
    saves = [{"content": _content(number)} for number in range(1, calls + 1)]
    requests: dict[str, tuple[list[str], str]] = {
        "save 10 kB as a new version": (
            [load.request("PUT", path, token, save) for save in saves],
            '"parentVersionId":"',
        ),
        "its difference to version 1": (
            [load.request("GET", f"{path}/diff?from=1&to={calls}", token)] * calls,
            '"fromLine":',
        ),
        "first 50 of 1,000 versions": ([load.request("GET", history, token)] * calls, '"version":1000,'),
        "last 50 of 1,000 versions": (
            [load.request("GET", _last_page(server, token, history, 50), token)] * calls,
            '"version":1,',
        ),
        "first 20 of 1,000 documents": ([load.request("GET", "/api/documents", token)] * calls, '"nextCursor":"'),
        "last 20 of 1,000 documents": (
            [load.request("GET", _last_page(server, token, "/api/documents", 20), token)] * calls,
            '"nextCursor":null',
        ),
    }
    return {name: _measured(system, server, rounds, *request) for name, request in requests.items()}


def section(found: dict[str, Call]) -> str:
    """These figures in a report."""
    rows = [[name, call.p50, call.p95, call.server_cpu, call.postgres_cpu] for name, call in found.items()]
    headings = ["", "HTTP p50", "p95", "server CPU", "PostgreSQL CPU"]
    return f"## Documents: one caller, milliseconds\n\n{table(headings, rows)}"


def _measured(system: System, server: Server, rounds: int, requests: list[str], needed: str) -> Call:
    plan = Plan(port=server.port, callers=1, requests=requests, needed=needed)
    load.run(Plan(port=server.port, callers=1, requests=requests[:10], needed=needed)).checked()
    return middle([_round(system, server, plan) for _ in range(rounds)])


def _round(system: System, server: Server, plan: Plan) -> Call:
    server_cpu, postgres_cpu = cpu_ms(server.process_id), family_cpu_ms(system.postgres.process_id)
    outcome = load.run(plan).checked()
    number = len(outcome.total)
    return Call(
        p50=p50(outcome.total),
        p95=p95(outcome.total),
        server_cpu=(cpu_ms(server.process_id) - server_cpu) / number,
        postgres_cpu=(family_cpu_ms(system.postgres.process_id) - postgres_cpu) / number,
    )


def _content(number: int) -> str:
    """10 kB in 100 lines, of which every tenth names the version."""
    lines = [f"{line} of {0 if line % 10 else number} ".ljust(LINE_BYTES - 1, "x") for line in range(LINES)]
    return "\n".join(lines) + "\n"


def _fill(system: System, document: UUID) -> None:
    [[user]] = system.execute('select user_id from public."Document" where id = %(id)s', {"id": document})
    system.execute(_HISTORY, {"user": user, "document": HISTORY, "number": VERSIONS})
    # With the one that is saved and the one of the history.
    system.execute(_DOCUMENTS, {"user": user, "number": DOCUMENTS - 2})
    system.execute('vacuum (analyze) public."Document"')
    system.execute("checkpoint")


def _last_page(server: Server, token: str, path: str, limit: int) -> str:
    """The address of a list's last page."""
    address = f"{path}?{urlencode({'limit': limit})}"
    while (cursor := _ask(server, token, "GET", address)["nextCursor"]) is not None:
        address = f"{path}?{urlencode({'limit': limit, 'cursor': cursor})}"
    return address


def _ask(server: Server, token: str, method: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
