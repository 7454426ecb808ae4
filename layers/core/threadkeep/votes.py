"""Votes: what a session's owner thinks of its messages, one thumb a message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from psycopg.errors import ForeignKeyViolation

from threadkeep import activity, pages
from threadkeep.database import Database
from threadkeep.errors import not_found
from threadkeep.identity import Principal
from threadkeep.pages import Slice


@dataclass(frozen=True, slots=True)
class Vote:
    """Up, or down."""

    message_id: UUID
    is_upvoted: bool


_OWN_SESSION: Final = """
    select c.id
    from public."Chat" as c
    where c.id = %(session)s
        and c.user_id = %(user)s
"""


async def page(database: Database, user: Principal, session: UUID, *, limit: int, cursor: str | None) -> Slice[Vote]:
    """The votes in the user's session, in the order of the messages' ids; raises `not_found:session`."""
    belongs_to = f"votes of {session}"
    [last] = pages.place(cursor, belongs_to, UUID)
    read = """
        select v."messageId" as message_id, v."isUpvoted" as is_upvoted
        from public."Vote_v2" as v
        join public."Chat" as c on c.id = v."chatId"
        where v."chatId" = %(session)s
            and c.user_id = %(user)s
            and (%(last)s::uuid is null or v."messageId" > %(last)s)
        order by v."messageId"
        limit %(limit)s + 1
    """
    values = {"session": session, "user": user.user_id, "last": last, "limit": limit}
    sessions, rows = await database.run(user, (_OWN_SESSION, values), (read, values))
    if not sessions:
        raise not_found("session")
    items = [Vote(**row) for row in rows[:limit]]
    return Slice(items, pages.cursor(belongs_to, items[-1].message_id) if len(rows) > limit else None)


async def put(database: Database, user: Principal, session: UUID, vote: Vote) -> None:
    """Sets the vote on a message of the user's session; raises `not_found:session` and `not_found:message`."""
    upsert = """
        insert into public."Vote_v2" ("chatId", "messageId", "isUpvoted")
        select m."chatId", m.id, %(is_upvoted)s
        from public."Message_v2" as m
        join public."Chat" as c on c.id = m."chatId"
        where m."chatId" = %(session)s
            and m.id = %(message)s
            and c.user_id = %(user)s
        on conflict ("chatId", "messageId") do update
        set "isUpvoted" = excluded."isUpvoted"
        returning "messageId", private.log_user_activity(%(activity)s)
    """
    values = {
        "session": session,
        "user": user.user_id,
        "message": vote.message_id,
        "is_upvoted": vote.is_upvoted,
        "activity": activity.note(
            database,
            "vote_message",
            ("message", vote.message_id),
            session=session,
            metadata={"isUpvoted": vote.is_upvoted},
        ),
    }
    try:
        sessions, rows = await database.run(user, (_OWN_SESSION, values), (upsert, values))
    except ForeignKeyViolation:
        # Deleted at the same moment.
        raise not_found("message") from None
    if not sessions:
        raise not_found("session")
    if not rows:
        raise not_found("message")


async def take_back(database: Database, user: Principal, session: UUID, message: UUID) -> None:
    """Removes the vote on a message of the user's session; raises `not_found:session` and `not_found:vote`."""
    delete = """
        delete from public."Vote_v2" as v
        using public."Chat" as c
        where c.id = v."chatId"
            and v."chatId" = %(session)s
            and v."messageId" = %(message)s
            and c.user_id = %(user)s
        returning v."messageId", private.log_user_activity(%(activity)s)
    """
    note = activity.note(database, "vote_remove", ("message", message), session=session)
    values = {"session": session, "user": user.user_id, "message": message, "activity": note}
    sessions, rows = await database.run(user, (_OWN_SESSION, values), (delete, values))
    if not sessions:
        raise not_found("session")
    if not rows:
        raise not_found("vote")
