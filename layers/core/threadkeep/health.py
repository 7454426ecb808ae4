"""How an installation does, part by part. A part that cannot be looked at says so and stops no other one.

Nothing here holds a secret: of a provider only whether it has a key, of a query its text without its values.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, LiteralString
from uuid import UUID

import psycopg

from threadkeep import activity, upkeep_reports
from threadkeep.configuration import PROVIDERS, Provider
from threadkeep.database import Database, Rows
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal
from threadkeep.log import logger
from threadkeep.migrations import MigrationError, read_folder
from threadkeep.settings import Settings
from threadkeep.storage import storage_of
from threadkeep.upkeep import MONTHS_AHEAD

Status = Literal["ok", "degraded", "down"]

# Here where the repository is at hand; a deployed layer does not carry it.
SQL: Final = Path(__file__).parents[3] / "sql"
SLOW_ROUND_TRIP_MS: Final = 250.0
SLOW_QUERY_MS: Final = 1000.0
SLOW_QUERIES: Final = 10
LARGEST_TABLES: Final = 40
STATEMENT_SECONDS: Final = 5.0
PROVIDER_SECONDS: Final = 2.0
# The schedule runs every minute locally and every few minutes on AWS.
UPKEEP_OVERDUE: Final = timedelta(hours=2)
BASE_URLS: Final[dict[Provider, str]] = {
    "openai": "https://api.openai.com",
    "anthropic": "https://api.anthropic.com",
    "google": "https://generativelanguage.googleapis.com",
}

# On AWS the admin function may read this one object.
NO_FILE: Final = f"files/{UUID(int=0)}"

_LIMITS: Final = "select set_config('statement_timeout', %(milliseconds)s::text, true)"
_MILLISECONDS: Final = {"milliseconds": int(STATEMENT_SECONDS * 1000)}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the whole: how it is, a sentence about what is wrong, and its figures in camelCase."""

    status: Status
    detail: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Health:
    """The worst status of all parts, and the parts by name."""

    status: Status
    parts: dict[str, Part]


Check = Callable[[], Awaitable[Part]]


async def read(
    database: Database,
    administrator: Principal,
    settings: Settings,
    *,
    with_providers: bool,
) -> Health:
    """Looks at everything.

    Raises only what refuses the caller: without a database all of its parts are `down`, and that is the answer.
    """
    looks = _Looks(database, administrator)
    parts = {"database": await _looked_at("database", looks.database)}
    of_database: dict[str, Check] = {
        "migrations": looks.migrations,
        "policies": looks.policies,
        "partitions": looks.partitions,
        "turns": looks.turns,
        "purge": looks.purge,
        "tables": looks.tables,
        "slowQueries": looks.slow_queries,
    }
    for name, look in of_database.items():
        # Each would wait for a connection in vain.
        is_down = parts["database"].status == "down"
        parts[name] = Part("down", "The database cannot be reached.") if is_down else await _looked_at(name, look)
    parts["storage"] = await _looked_at("storage", lambda: _storage(settings))
    parts["providers"] = await _looked_at("providers", lambda: _providers(settings, reach=with_providers))
    order: tuple[Status, ...] = ("ok", "degraded", "down")
    return Health(max((part.status for part in parts.values()), key=order.index), parts)


async def _storage(settings: Settings) -> Part:
    """Whether the store of files answers: the object that is asked for need not be there."""
    storage = storage_of(settings)
    if storage is None:
        return Part("ok", "No store of files is configured.")
    started = time.perf_counter()
    await storage.read(NO_FILE, 1)
    return Part("ok", None, {"milliseconds": round((time.perf_counter() - started) * 1000, 1)})


async def _looked_at(name: str, look: Check) -> Part:
    try:
        return await look()
    except ThreadkeepError as error:
        if error.status in (401, 403):
            raise
        return Part("down" if name in {"database", "storage"} else "degraded", error.detail)
    except (psycopg.Error, OSError) as error:
        logger.warning("a part of the health could not be looked at", extra={"part": name}, exc_info=error)
        return Part("degraded", f"It could not be looked at: {type(error).__name__}.")


class _Looks:
    """Each look at the database, as the administrator, with a limit of its own."""

    def __init__(self, database: Database, administrator: Principal) -> None:
        self._database = database
        self._administrator = administrator

    async def _rows(self, sql: LiteralString, **parameters: Any) -> Rows:
        return (await self._database.run(self._administrator, (_LIMITS, _MILLISECONDS), (sql, parameters)))[1]

    async def database(self) -> Part:
        # Who is refused is refused here; the second one has its connection already.
        about = "select current_setting('server_version') as version, private.require_administrator()"
        _, [row], _ = await self._database.run(
            self._administrator,
            (_LIMITS, _MILLISECONDS),
            (about, {}),
            activity.dashboard_view(self._database, "health"),
        )
        started = time.perf_counter()
        await self._database.rows(self._administrator, "select 1 as one")
        milliseconds = round((time.perf_counter() - started) * 1000, 1)
        figures = {"roundTripMs": milliseconds, "version": row["version"], "pool": self._database.pool()}
        if milliseconds > SLOW_ROUND_TRIP_MS:
            return Part("degraded", f"A round trip takes more than {SLOW_ROUND_TRIP_MS:.0f} ms.", figures)
        return Part("ok", figures=figures)

    async def migrations(self) -> Part:
        ledger = [row["name"] for row in await self._rows("select m.name from private.migration_ledger() as m")]
        figures: dict[str, Any] = {"last": ledger[-1] if ledger else None, "applied": len(ledger), "pending": None}
        if not SQL.is_dir():
            return Part("ok", "The files of this version are not at hand here.", figures)
        try:
            files = [migration.name for migration in read_folder(SQL)]
        except MigrationError:
            return Part("degraded", "The folder of migrations cannot be read.", figures)
        figures["pending"] = pending = [name for name in files if name not in ledger]
        if pending:
            return Part("degraded", "Files of this version were not applied: run `make db-migrate`.", figures)
        return Part("ok", figures=figures)

    async def policies(self) -> Part:
        rows = await self._rows("select t.name from private.tables_without_policies() as t")
        without = [row["name"] for row in rows]
        figures = {"withoutRowLevelSecurity": without}
        return Part("degraded", "Tables have no row level security.", figures) if without else Part("ok", None, figures)

    async def partitions(self) -> Part:
        rows = await self._rows("select m.log, m.months_ahead, m.default_rows from private.log_months() as m")
        logs = [
            {"log": row["log"], "monthsAhead": row["months_ahead"], "defaultRows": row["default_rows"]} for row in rows
        ]
        if any(row["default_rows"] for row in rows):
            return Part("degraded", "Log rows wait for their month to be made; the purge does it.", {"logs": logs})
        if any(row["months_ahead"] < MONTHS_AHEAD for row in rows):
            return Part("degraded", f"Fewer than {MONTHS_AHEAD} months are made ahead.", {"logs": logs})
        return Part("ok", figures={"logs": logs})

    async def turns(self) -> Part:
        [row] = await self._rows("select t.running, t.dead, t.oldest from private.dead_turns() as t")
        figures = {"running": row["running"], "dead": row["dead"], "oldestDeadSince": row["oldest"]}
        if row["dead"]:
            return Part("degraded", "Turns died with their process; the purge ends them.", figures)
        return Part("ok", figures=figures)

    async def purge(self) -> Part:
        # That he looks at the purge as well is no view of its own.
        found = await upkeep_reports.last(self._database.during(None), self._administrator)
        remaining = {kind.kind: kind.remaining for kind in found.kinds if kind.remaining}
        failed = {kind.kind: kind.error for kind in found.kinds if kind.error}
        figures = {"lastFinishedAt": found.finished_at, "remaining": remaining, "failed": failed}
        if found.finished_at is None:
            return Part("degraded", "It has not run yet.", figures)
        if datetime.now(UTC) - found.finished_at > UPKEEP_OVERDUE:
            return Part("degraded", "It has not run for two hours.", figures)
        if failed:
            return Part("degraded", "Some of its work failed; see the errors.", figures)
        if remaining:
            return Part("degraded", "It has a backlog.", figures)
        return Part("ok", figures=figures)

    async def tables(self) -> Part:
        rows = await self._rows("""
            select g.name, g.bytes, g.estimated_rows, g.measured_on, g.bytes_then
            from private.table_growth() as g
        """)
        tables = [
            {
                "name": row["name"],
                "bytes": row["bytes"],
                "estimatedRows": row["estimated_rows"],
                "grownBy": None if row["bytes_then"] is None else row["bytes"] - row["bytes_then"],
                "grownSince": row["measured_on"],
            }
            for row in rows[:LARGEST_TABLES]
        ]
        return Part("ok", figures={"totalBytes": sum(row["bytes"] for row in rows), "tables": tables})

    async def slow_queries(self) -> Part:
        try:
            rows = await self._rows(
                "select q.query, q.calls, q.mean_ms, q.total_ms from private.slow_queries(%(limit)s) as q",
                limit=SLOW_QUERIES,
            )
        except ThreadkeepError as error:
            if error.code != "not_found:statistics":
                raise
            return Part("ok", error.detail, {"queries": None})
        queries = [
            {
                "query": row["query"],
                "calls": row["calls"],
                "meanMs": round(row["mean_ms"], 1),
                "totalMs": round(row["total_ms"], 1),
            }
            for row in rows
        ]
        if any(query["meanMs"] > SLOW_QUERY_MS for query in queries):
            return Part("degraded", "Some queries take more than a second.", {"queries": queries})
        return Part("ok", figures={"queries": queries})


async def _providers(settings: Settings, *, reach: bool) -> Part:
    """Whether each provider has a key, and if asked for whether its address answers, whatever it answers."""
    given = {
        "openai": (settings.openai_api_key, settings.openai_base_url),
        "anthropic": (settings.anthropic_api_key, settings.anthropic_base_url),
        "google": (settings.gemini_api_key, settings.gemini_base_url),
    }
    with_key = [provider for provider in PROVIDERS if given[provider][0] is not None]
    reached: dict[str, bool | None] = dict.fromkeys(PROVIDERS)
    if reach:
        urls = [given[provider][1] or BASE_URLS[provider] for provider in with_key]
        answers = await asyncio.gather(*[asyncio.to_thread(_answers, url) for url in urls])
        reached.update(zip(with_key, answers, strict=True))
    figures = {
        "providers": [
            {"provider": provider, "hasKey": provider in with_key, "isReachable": reached[provider]}
            for provider in PROVIDERS
        ]
    }
    if any(answer is False for answer in reached.values()):
        return Part("degraded", "A provider with a key cannot be reached.", figures)
    if not with_key:
        return Part("ok", "No provider has a key: the offline model answers.", figures)
    return Part("ok", figures=figures)


def _answers(url: str) -> bool:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    request = Request(url, method="HEAD", headers={"User-Agent": "threadkeep"})  # noqa: S310 - an operator's setting
    try:
        with urlopen(request, timeout=PROVIDER_SECONDS):  # noqa: S310
            return True
    except HTTPError as error:
        error.close()
        return True
    except (OSError, HTTPException, ValueError):
        return False
