"""What the schedule reported of its runs, kept for administrators, and the runs that they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from psycopg.types.json import Jsonb

from threadkeep import activity, profiles
from threadkeep.database import Database
from threadkeep.identity import SERVICE, Principal

REPORTS_KEPT: Final = 200
SIZES_KEPT: Final = timedelta(days=35)
# A run that was asked for and of which nothing came is taken for dead; Lambda gives one no more than 15 minutes.
RUN_SECONDS: Final = 900


@dataclass(frozen=True, slots=True)
class KindOfWork:
    """The last report of one kind of work: rows done, those that remain (None: unknown), when (UTC)."""

    kind: str
    done: int
    remaining: int | None
    seconds: float
    error: str | None
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class LastUpkeep:
    """The last run, and the one that was asked for and has not ended; the times are UTC."""

    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None
    requested_at: datetime | None
    kinds: list[KindOfWork]


@dataclass(frozen=True, slots=True)
class Request:
    """A run that an administrator asked for; `is_new` is false while an earlier one has not ended."""

    requested_at: datetime
    is_new: bool


async def keep(database: Database, *, seconds: float, kinds: Sequence[dict[str, Any]]) -> None:
    """Stores the report of a run that has just ended, and once a day the size of each table."""
    await database.rows(
        SERVICE,
        "select private.keep_upkeep_report(%(seconds)s::double precision, %(kinds)s, %(kept)s, %(sizes_kept)s)",
        {"seconds": seconds, "kinds": Jsonb(list(kinds)), "kept": REPORTS_KEPT, "sizes_kept": SIZES_KEPT},
    )


async def last(database: Database, administrator: Principal) -> LastUpkeep:
    """What is known of the schedule's last runs."""
    [row], _ = await database.run(
        administrator, ("select private.last_upkeep() as found", {}), activity.dashboard_view(database, "purge")
    )
    found: dict[str, Any] = row["found"]
    run = found["run"] or {}
    return LastUpkeep(
        started_at=_moment(run.get("started_at")),
        finished_at=_moment(run.get("finished_at")),
        seconds=run.get("seconds"),
        requested_at=_moment(found["requested_at"]),
        kinds=[
            KindOfWork(**{**kind, "finished_at": datetime.fromisoformat(kind["finished_at"]).astimezone(UTC)})
            for kind in found["kinds"] or []
        ],
    )


async def request(database: Database, administrator: Principal) -> Request:
    """Notes that the administrator wants a run now; who gets a new one has to start it."""
    ask: Final = """
        select
            r.requested_at, r.is_new,
            case when r.is_new then private.log_user_activity(%(activity)s) end as noted
        from private.request_upkeep(%(every)s) as r
    """
    values = {"every": timedelta(seconds=RUN_SECONDS), "activity": activity.note(database, "admin_purge_start")}
    _, [row] = await database.run(administrator, profiles.ensured(administrator), (ask, values))
    return Request(requested_at=row["requested_at"], is_new=row["is_new"])


async def withdraw(database: Database, administrator: Principal, requested: Request) -> None:
    """Takes a request back whose run could not be started."""
    await database.rows(
        administrator,
        "select private.withdraw_upkeep_request(%(requested_at)s)",
        {"requested_at": requested.requested_at},
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
