"""Sessions: a person's threads of messages, and what anybody may read of those that he made public.

Lists are always the caller's own rows, administrators included. A session of somebody else is as if it did not exist,
except that one with visibility `public` can be read by whoever has its id, without its owner and what it cost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from threadkeep import activity, pages
from threadkeep.activity import ActivityType
from threadkeep.database import Database
from threadkeep.errors import not_found
from threadkeep.identity import Principal
from threadkeep.pages import Slice

Visibility = Literal["public", "private"]
Status = Literal["active", "archived"]

DEFAULT_TITLE: Final = "New chat"
MAXIMUM_TITLE_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Session:
    """What every reader of a session sees; the times are UTC."""

    id: UUID
    title: str
    visibility: Visibility
    status: Status
    created_at: datetime
    last_active: datetime
    message_count: int


@dataclass(frozen=True, slots=True)
class OwnSession(Session):
    """What its owner sees: also the tokens and the cost (USD) of all its answers, and the last context he sent."""

    total_input_tokens: int
    total_output_tokens: int
    total_cost: Decimal
    last_context: dict[str, Any] | None


_READ_OWN: Final = """
    select
        c.id, c.title, c.visibility, c.status, c."createdAt" as created_at, c.last_active, c.message_count,
        c.total_input_tokens, c.total_output_tokens, c.total_cost, c."lastContext" as last_context,
        private.log_user_activity(%(activity)s) as noted
    from public."Chat" as c
    where c.id = %(session)s
        and c.user_id = %(user)s
"""


async def create(
    database: Database,
    user: Principal,
    session: UUID,
    *,
    title: str,
    visibility: Visibility,
    guest_address: str | None,
    new_guest: bool,
) -> tuple[OwnSession, bool]:
    """The user's session of this id, and whether this call made it; one that is there already stays as it is.

    Raises `not_found:session` for somebody else's id, and `rate_limit:guest` when the new guest is one too many.
    """
    create = """
        select
            made.created,
            private.log_user_activity(%(guest_made)s),
            case when made.created then private.log_user_activity(%(session_made)s) end
        from private.create_session(
            p_id => %(session)s,
            p_title => %(title)s,
            p_visibility => %(visibility)s,
            p_guest_address => %(guest_address)s,
            p_new_guest => %(new_guest)s,
            p_email => %(email)s,
            p_name => %(name)s
        ) as made (created)
    """
    values = {
        "session": session,
        "user": user.user_id,
        "title": title,
        "visibility": visibility,
        "guest_address": guest_address,
        "new_guest": new_guest,
        "email": user.email,
        "name": user.name,
        "guest_made": activity.note(database, "auth_guest") if new_guest else None,
        "session_made": activity.note(database, "chat_create", ("chat", session), session=session),
        "activity": None,
    }
    # The function refuses a disabled caller itself.
    [made], [row] = await database.run(user, (create, values), (_READ_OWN, values), require_active=False)
    return _own(row), made["created"]


async def own_page(
    database: Database, user: Principal, *, words: str | None, status: Status | None, limit: int, cursor: str | None
) -> Slice[Session]:
    """The user's sessions, most recently active first.

    With `words` those whose title holds them as they are, or that have a message with all of these words, the last
    one as the beginning of a word.
    """
    listed: Final = """
        select c.id, c.title, c.visibility, c.status, c."createdAt" as created_at, c.last_active, c.message_count
        from public."Chat" as c
        where c.user_id = %(user)s
            and (c.last_active, c.id) < (coalesce(%(active)s::timestamptz, 'infinity'), %(id)s::uuid)
            and (%(status)s::text is null or c.status = %(status)s)
    """
    matching: Final = """
            and c.id in (select private.sessions_matching(%(words)s))
    """
    ordered: Final = """
        order by c.last_active desc, c.id desc
        limit %(limit)s + 1
    """
    belongs_to = json.dumps(["sessions", words, status])
    active, last = pages.place(cursor, belongs_to, datetime.fromisoformat, UUID)
    values = {"user": user.user_id, "active": active, "id": last, "status": status, "words": words, "limit": limit}
    if words is None:
        rows = await database.rows(user, listed + ordered, values)
    else:
        note = activity.note(database, "chat_search", metadata={"characters": len(words)}) if cursor is None else None
        rows, _ = await database.run(user, (listed + matching + ordered, values), activity.noting(note))
    items = [Session(**row) for row in rows[:limit]]
    is_last = len(rows) <= limit
    return Slice(items, None if is_last else pages.cursor(belongs_to, items[-1].last_active, items[-1].id))


async def read(
    database: Database, caller: Principal, session: UUID, *, noted_as: ActivityType = "chat_view"
) -> OwnSession | Session:
    """The caller's session, or somebody's public one; raises `not_found:session`."""
    note = activity.note(database, noted_as, ("chat", session), session=session)
    if caller.user_id is not None:
        values = {"session": session, "user": caller.user_id, "activity": note}
        own = await database.row(caller, _READ_OWN, values)
        if own is not None:
            return _own(own)
    public = await database.row(caller, READ_PUBLIC, {"session": session, "activity": note})
    if public is None:
        raise not_found("session")
    return Session(**_unnoted(public))


READ_PUBLIC: Final = """
    select
        s.id, s.title, s.visibility, s.status, s.created_at, s.last_active, s.message_count,
        private.log_user_activity(%(activity)s) as noted
    from public.get_public_session(%(session)s) as s
"""


async def change(database: Database, user: Principal, session: UUID, changes: dict[str, str]) -> OwnSession:
    """The user's session with another `title`, `visibility` or `status`; raises `not_found:session`.

    It keeps its place in the list: only messages make a session active.
    """
    update = """
        update public."Chat" as c
        set title = coalesce(%(title)s, c.title),
            visibility = coalesce(%(visibility)s, c.visibility),
            status = coalesce(%(status)s, c.status)
        where c.id = %(session)s
            and c.user_id = %(user)s
    """
    values = {name: changes.get(name) for name in ("title", "visibility", "status")} | {
        "session": session,
        "user": user.user_id,
        "activity": _note_of_change(database, session, changes),
    }
    _, rows = await database.run(user, (update, values), (_READ_OWN, values))
    if not rows:
        raise not_found("session")
    return _own(rows[0])


async def delete(database: Database, user: Principal, session: UUID) -> None:
    """Deletes the user's session with its messages, votes, streams and documents; raises `not_found:session`.

    What it used stays in the usage, that of an answer which is being given included.
    """
    note = activity.note(database, "chat_delete", ("chat", session), session=session)
    row = await database.row(user, _DELETE, {"session": session, "activity": note})
    if row is None or row["deleted"] == 0:
        raise not_found("session")


async def delete_all(database: Database, user: Principal) -> None:
    """Deletes all of the user's sessions, each as `delete` does."""
    await database.row(
        user, _DELETE, {"session": None, "activity": activity.note(database, "chat_delete", metadata={"all": True})}
    )


_DELETE: Final = """
    select d.deleted, case when d.deleted > 0 then private.log_user_activity(%(activity)s) end
    from private.delete_sessions(%(session)s) as d (deleted)
"""


def _own(row: dict[str, Any]) -> OwnSession:
    return OwnSession(**_unnoted(row))


def _unnoted(row: dict[str, Any]) -> dict[str, Any]:
    """The row without what its note came to."""
    return {name: value for name, value in row.items() if name != "noted"}


def _note_of_change(database: Database, session: UUID, changes: dict[str, str]) -> Jsonb | None:
    """What was changed, and to what unless it is the title, which a person wrote."""
    archives = changes.get("status") == "archived"
    return activity.note(
        database,
        "chat_archive" if archives else "chat_update",
        ("chat", session),
        session=session,
        metadata={"changed": sorted(changes)} | {name: value for name, value in changes.items() if name != "title"},
    )
