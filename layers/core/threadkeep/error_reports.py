"""What is in `error_logs`, for administrators: found, read, resolved and opened again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from threadkeep import activity, pages
from threadkeep.database import Database
from threadkeep.errors import not_found
from threadkeep.identity import Principal
from threadkeep.pages import Slice

Kind = Literal["auth", "api", "admin", "app", "user", "permission", "system"]
Severity = Literal["info", "warning", "error", "critical"]

MAXIMUM_NOTES_CHARACTERS: Final = 4000


@dataclass(frozen=True, slots=True)
class Filter:
    """What an error must be; None takes all. `path` is the beginning of a path, the times are UTC, `until` excluded."""

    kind: Kind | None = None
    category: str | None = None
    severity: Severity | None = None
    resolved: bool | None = None
    user: UUID | None = None
    correlation_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class LoggedError:
    """One row of `error_logs`; `details` holds where it happened, never what a user or a provider said."""

    id: UUID
    created_at: datetime
    kind: Kind
    category: str
    severity: Severity
    message: str
    details: dict[str, Any] | None
    user_id: UUID | None
    correlation_id: UUID | None
    session_id: str | None
    path: str | None
    method: str | None
    user_agent: str | None
    ip_address: str | None
    resolved: bool
    resolved_by: UUID | None
    resolved_at: datetime | None
    notes: str | None


_COLUMNS: Final = """
    e.id, e.created_at, e.error_type as kind, e.error_category as category, e.severity, e.error_message as message,
    e.error_details as details, e.user_id, e.correlation_id, e.session_id, e.request_path as path,
    e.request_method as method, e.user_agent, e.ip_address, e.resolved, e.resolved_by, e.resolved_at,
    e.resolution_notes as notes
"""


async def page(
    database: Database, administrator: Principal, wanted: Filter, *, limit: int, cursor: str | None
) -> Slice[LoggedError]:
    """The errors of all users, newest first."""
    listed: Final = f"""
        select {_COLUMNS}
        from public.error_logs as e
        where (e.created_at, e.id) < (coalesce(%(at)s::timestamptz, 'infinity'), %(after)s::uuid)
            and (%(since)s::timestamptz is null or e.created_at >= %(since)s)
            and (%(until)s::timestamptz is null or e.created_at < %(until)s)
            and (%(kind)s::text is null or e.error_type = %(kind)s)
            and (%(category)s::text is null or e.error_category = %(category)s)
            and (%(severity)s::text is null or e.severity = %(severity)s)
            and (%(resolved)s::boolean is null or e.resolved = %(resolved)s)
            and (%(user)s::uuid is null or e.user_id = %(user)s)
            and (%(correlation_id)s::uuid is null or e.correlation_id = %(correlation_id)s)
            and (%(path)s::text is null or starts_with(e.request_path, %(path)s))
        order by e.created_at desc, e.id desc
        limit %(limit)s::integer + 1
    """  # noqa: S608 - of literals of this module
    belongs_to = json.dumps(["errors", asdict(wanted)], default=str)
    at, after = pages.place(cursor, belongs_to, datetime.fromisoformat, UUID)
    parameters = asdict(wanted) | {"at": at, "after": after or _HIGHEST, "limit": limit}
    rows, _ = await database.run(
        administrator, (listed, parameters), activity.dashboard_view(database, "errors", cursor)
    )
    items = [LoggedError(**row) for row in rows[:limit]]
    is_last = len(rows) <= limit
    return Slice(items, None if is_last else pages.cursor(belongs_to, items[-1].created_at, items[-1].id))


# Without a cursor; a row of the moment `infinity` would be before it.
_HIGHEST: Final = UUID(int=2**128 - 1)


async def resolve(
    database: Database, administrator: Principal, error: UUID, *, resolved: bool, notes: str | None
) -> LoggedError:
    """The error, resolved by this administrator, or open again; notes that are not given stay.

    The same again changes nothing, so that it stays the first one's work. Raises `not_found:error`.
    """
    change: Final = """
        update public.error_logs as e
        set resolved = %(resolved)s,
            resolved_by = case when %(resolved)s then %(administrator)s::uuid end,
            resolved_at = case when %(resolved)s then clock_timestamp() end,
            resolution_notes = coalesce(%(notes)s, e.resolution_notes)
        where e.id = %(error)s
            and (
                e.resolved <> %(resolved)s
                or (%(notes)s::text is not null and e.resolution_notes is distinct from %(notes)s)
            )
        returning private.log_user_activity(%(activity)s)
    """
    read: Final = f"select {_COLUMNS} from public.error_logs as e where e.id = %(error)s"  # noqa: S608
    values = {
        "error": error,
        "resolved": resolved,
        "notes": notes,
        "administrator": administrator.user_id,
        "activity": activity.note(database, "admin_error_resolve", ("error", error), metadata={"resolved": resolved}),
    }
    # Of the administrator there is a profile, so that it stays known whose work this was.
    ensured = (
        """
        select private.ensure_profile(%(email)s, %(name)s)
        from public.error_logs as e
        where e.id = %(error)s
        """,
        {"email": administrator.email, "name": administrator.name, "error": error},
    )
    _, _, rows = await database.run(administrator, ensured, (change, values), (read, values))
    if not rows:
        raise not_found("error")
    return LoggedError(**rows[0])
