"""The messages of a session, as its readers see them: AI SDK UI message parts, and of attached files no data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from threadkeep import activity, pages
from threadkeep.activity import ActivityType
from threadkeep.database import Database, Parameters, Rows
from threadkeep.errors import not_found
from threadkeep.identity import Principal
from threadkeep.pages import Slice
from threadkeep.sessions import READ_PUBLIC

Role = Literal["user", "assistant", "system"]
Status = Literal["streaming", "complete", "interrupted", "failed"]


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of an answer and what they cost in USD."""

    input_tokens: int
    output_tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `usage` is for its session's owner, and None where no model was asked.

    `attachments` are `{filename, mediaType, size, url}` in the order in which the parts name them; sizes are in bytes.
    The `url` is a stored file's path in the API; None for one that came inline, and for one that was deleted.
    """

    id: UUID
    role: Role
    status: Status
    parts: list[dict[str, Any]]
    metadata: dict[str, Any]
    created_at: datetime
    model: str | None
    usage: Usage | None
    attachments: list[dict[str, Any]]


async def page(
    database: Database,
    caller: Principal,
    session: UUID,
    *,
    limit: int,
    cursor: str | None,
    noted_as: ActivityType | None = "chat_view",
) -> Slice[Message]:
    """The newest messages of the caller's session or of a public one, oldest first; the cursor leads to older ones.

    Raises `not_found:session`. The first page is a view. The owner's reading recovers an answer that died on the way.
    """
    belongs_to = f"messages of {session}"
    [before] = pages.place(cursor, belongs_to, pages.bigint)
    note = activity.note(database, noted_as if cursor is None else None, ("chat", session), session=session)
    values = {"session": session, "user": caller.user_id, "before": before, "limit": limit + 1, "activity": note}
    rows = await _own(database, caller, values)
    if rows is None:
        rows = await _public(database, caller, values)
    newest_first = pages.fitting(rows, limit, lambda row: size(row["parts"]))
    is_last = len(newest_first) == len(rows)
    return Slice(
        [_message(row) for row in reversed(newest_first)],
        None if is_last else pages.cursor(belongs_to, newest_first[-1]["seq"]),
    )


def size(parts: list[dict[str, Any]]) -> int:
    """The bytes of a message's parts in an answer."""
    return len(json.dumps(parts, ensure_ascii=False).encode())


async def _own(database: Database, caller: Principal, values: Parameters) -> Rows | None:
    """Newest first; None if the session is not the caller's."""
    if caller.user_id is None:
        return None
    recover = """
        select private.end_running_turn(c.id, 'lease'), private.log_user_activity(%(activity)s)
        from public."Chat" as c
        where c.id = %(session)s
            and c.user_id = %(user)s
    """
    read = """
        select
            m.id, m.seq, m.role, m.status, m.parts, m.metadata - 'recoveredStream' as metadata,
            m.model_used, m."createdAt" as created_at, m.input_tokens, m.output_tokens, m.cost,
            private.attachment_list(m.attachments) as attachments
        from public."Message_v2" as m
        where m."chatId" = (
                select c.id
                from public."Chat" as c
                where c.id = %(session)s
                    and c.user_id = %(user)s
            )
            and m.seq < coalesce(%(before)s, 9223372036854775807)
        order by m.seq desc
        limit %(limit)s
    """
    recovered, rows = await database.run(caller, (recover, values), (read, values))
    return rows if recovered else None


async def _public(database: Database, caller: Principal, values: Parameters) -> Rows:
    read = """
        select
            m.id, m.seq, m.role, m.status, m.parts, m.metadata, m.model_used, m.created_at, m.attachments,
            null as input_tokens, null as output_tokens, null as cost
        from public.get_public_messages(%(session)s, %(before)s, %(limit)s) as m
    """
    sessions, rows = await database.run(caller, (READ_PUBLIC, values), (read, values))
    if not sessions:
        raise not_found("session")
    return rows


async def delete_from(database: Database, user: Principal, session: UUID, message: UUID) -> None:
    """Deletes a message of the user's session and all after it; an answer that is being given is ended first.

    Raises `not_found:session` and `not_found:message`.
    """
    # The function refuses a disabled caller itself.
    await database.run(
        user,
        (
            "select private.delete_messages_from(%(session)s, %(message)s), private.log_user_activity(%(activity)s)",
            {
                "session": session,
                "message": message,
                "activity": activity.note(database, "chat_message_delete", ("message", message), session=session),
            },
        ),
        require_active=False,
    )


def _message(row: dict[str, Any]) -> Message:
    has_usage = row["input_tokens"] is not None or row["output_tokens"] is not None
    return Message(
        id=row["id"],
        role=row["role"],
        status=row["status"],
        parts=row["parts"],
        metadata=row["metadata"],
        created_at=row["created_at"],
        model=row["model_used"],
        usage=Usage(row["input_tokens"] or 0, row["output_tokens"] or 0, row["cost"] or Decimal(0))
        if has_usage
        else None,
        attachments=row["attachments"],
    )
