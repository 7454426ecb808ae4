"""Suggestions: single edits of a document that wait for its owner, each bound to the version it was made for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from threadkeep import activity, documents, pages
from threadkeep.database import Database
from threadkeep.documents import Document
from threadkeep.errors import ThreadkeepError, invalid, not_found
from threadkeep.identity import Principal
from threadkeep.pages import Slice

State = Literal["open", "accepted", "rejected"]
Outcome = Literal["accepted", "missing", "ambiguous"]

MAXIMUM_TEXT_CHARACTERS: Final = 100_000
MAXIMUM_OPEN: Final = 200
MAXIMUM_DESCRIPTION_CHARACTERS: Final = 2000

_MISSING: Final = "This text is not in that version of the document."
_AMBIGUOUS: Final = "This text is in that version more than once. Send more of what stands around it."


@dataclass(frozen=True, slots=True)
class Suggestion:
    """An edit: `original_text` of `version` becomes `suggested_text`. `made_by` is `user` or an agent; UTC."""

    id: UUID
    document_id: UUID
    version: int
    original_text: str
    suggested_text: str
    description: str | None
    state: State
    made_by: str
    created_at: datetime
    resolved_at: datetime | None


@dataclass(frozen=True, slots=True)
class Unapplied:
    """An open suggestion that could not be applied: its text is missing, or there more than once."""

    id: UUID
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class AcceptedTogether:
    """What became of all open suggestions: the accepted ones, those that stay open, and the newest version."""

    accepted: list[UUID]
    unapplied: list[Unapplied]
    document: Document


_SELECT: Final = """
    select
        s.id, s."documentId" as document_id, d.version_number as version, s."originalText" as original_text,
        s."suggestedText" as suggested_text, s.description, coalesce(s.resolution, 'open') as state, s.made_by,
        s."createdAt" as created_at, s.resolved_at
    from public."Suggestion" as s
    join public."Document" as d on d.id = s."documentId" and d."createdAt" = s."documentCreatedAt"
    where s."documentId" = %(document)s
        and s.user_id = %(user)s
"""
_READ: Final = (
    _SELECT
    + """
        and s.id = %(suggestion)s
"""
)
_OWN_DOCUMENT: Final = """
    select d.id, private.log_user_activity(%(activity)s)
    from public."Document" as d
    where d.id = %(document)s
        and d.user_id = %(user)s
    limit 1
"""


async def add(
    database: Database,
    user: Principal,
    document: UUID,
    *,
    original_text: str,
    suggested_text: str,
    description: str | None = None,
    version: int | None = None,
    made_by: str = "user",
) -> Suggestion:
    """A suggestion for a version of the user's document, without a number for the newest.

    Raises `not_found:document`, `not_found:version`, `invalid:api` unless the original text is in that version
    exactly once, and `conflict:suggestions` if 200 of them are open.
    """
    documents.check_text(original_text, "originalText")
    documents.check_text(suggested_text, "suggestedText")
    documents.check_text(description, "description")
    add: Final = """
        select added.place, case when added.place > 0 then private.log_user_activity(%(activity)s) end
        from private.add_suggestion(
            p_id => %(suggestion)s,
            p_document => %(document)s,
            p_version => %(version)s,
            p_original => %(original)s,
            p_suggested => %(suggested)s,
            p_description => %(description)s,
            p_made_by => %(made_by)s,
            p_maximum_open => %(maximum_open)s
        ) as added (place)
    """
    made = uuid4()
    values = _values(user, document, made) | {
        "version": version,
        "original": original_text,
        "suggested": suggested_text,
        "description": description,
        "made_by": made_by,
        "maximum_open": MAXIMUM_OPEN,
        "activity": activity.note(
            database,
            "suggestion_create",
            ("suggestion", made),
            metadata={"documentId": str(document), "madeBy": made_by},
        ),
    }
    [added], rows = await database.run(user, (add, values), (_READ, values))
    if not rows:
        raise invalid("originalText", _AMBIGUOUS if added["place"] else _MISSING)
    return Suggestion(**rows[0])


async def page(
    database: Database, user: Principal, document: UUID, *, state: State | None, limit: int, cursor: str | None
) -> Slice[Suggestion]:
    """The suggestions for the user's document, oldest first; raises `not_found:document`."""
    read: Final = (
        _SELECT
        + """
        and (%(state)s::text is null or coalesce(s.resolution, 'open') = %(state)s)
        and (%(made)s::timestamptz is null or (s."createdAt", s.id) > (%(made)s, %(last)s::uuid))
    order by s."createdAt", s.id
    limit %(limit)s + 1
"""
    )
    belongs_to = json.dumps(["suggestions", str(document), state])
    made, last = pages.place(cursor, belongs_to, datetime.fromisoformat, UUID)
    note = activity.note(database, "suggestion_view", ("document", document)) if cursor is None else None
    values = _values(user, document) | {"state": state, "made": made, "last": last, "limit": limit, "activity": note}
    own, rows = await database.run(user, (_OWN_DOCUMENT, values), (read, values))
    if not own:
        raise not_found("document")
    items = pages.fitting([Suggestion(**row) for row in rows], limit, _size)
    is_last = len(items) == len(rows)
    return Slice(items, None if is_last else pages.cursor(belongs_to, items[-1].created_at, items[-1].id))


async def accept(database: Database, user: Principal, document: UUID, suggestion: UUID) -> tuple[Suggestion, Document]:
    """Applies a suggestion to the newest version, as a version; the suggestion, and the document's newest version.

    One that was accepted before changes nothing. Raises `not_found:document`, `not_found:suggestion`,
    `conflict:resolution` if it was rejected, `conflict:suggestion`, with the newest version as `current`, unless its
    original text is there exactly once, and what a save raises if there is no room for another version.
    """
    values = _values(user, document, suggestion) | {"activity": _note_of_acceptance(database, document)}
    outcomes, found = await database.run(user, (_ACCEPT, values), (_READ, values))
    resolved = _one_resolved(found, "accepted", bool(outcomes))
    newest = await documents.read(database, user, document)
    if resolved.state == "open":
        raise ThreadkeepError("conflict:suggestion", extra={"current": documents.current(newest)})
    return resolved, newest


async def accept_all(database: Database, user: Principal, document: UUID) -> AcceptedTogether:
    """Applies all open suggestions, oldest first, as one version; those that do not fit any more stay open.

    Raises `not_found:document`, and what a save raises if there is no room for another version.
    """
    note = _note_of_acceptance(database, document)
    rows = await database.rows(user, _ACCEPT, _values(user, document) | {"activity": note})
    return AcceptedTogether(
        accepted=[row["id"] for row in rows if row["outcome"] == "accepted"],
        unapplied=[Unapplied(row["id"], row["outcome"]) for row in rows if row["outcome"] != "accepted"],
        document=await documents.read(database, user, document),
    )


async def reject(database: Database, user: Principal, document: UUID, suggestion: UUID) -> Suggestion:
    """Resolves a suggestion without applying it; one that was rejected before stays so.

    Raises `not_found:document`, `not_found:suggestion`, and `conflict:resolution` if it was accepted.
    """
    reject: Final = "select private.reject_suggestion(p_document => %(document)s, p_suggestion => %(suggestion)s)"
    noted: Final = """
        select private.log_user_activity(%(activity)s)
        from public."Suggestion" as s
        where s.id = %(suggestion)s
            and s."documentId" = %(document)s
            and s.user_id = %(user)s
            and s.resolution = 'rejected'
            and s.resolved_at = now()
    """
    note = activity.note(
        database, "suggestion_reject", ("suggestion", suggestion), metadata={"documentId": str(document)}
    )
    values = _values(user, document, suggestion) | {"activity": note}
    _, found, _ = await database.run(user, (reject, values), (_READ, values), (noted, values))
    return _one_resolved(found, "rejected", False)


_ACCEPT: Final = """
    select
        a.id, a.outcome,
        case when a.outcome = 'accepted' then
            private.log_user_activity(%(activity)s::jsonb || jsonb_build_object('resource_id', a.id))
        end
    from private.accept_suggestions(
        p_document => %(document)s,
        p_suggestion => %(suggestion)s,
        p_maximum_bytes => %(maximum_bytes)s
    ) as a
"""


def _one_resolved(rows: list[dict[str, Any]], wanted: State, may_be_open: bool) -> Suggestion:
    if not rows:
        raise not_found("suggestion")
    suggestion = Suggestion(**rows[0])
    if suggestion.state != wanted and not (may_be_open and suggestion.state == "open"):
        raise ThreadkeepError("conflict:resolution", extra={"state": suggestion.state})
    return suggestion


def _size(suggestion: Suggestion) -> int:
    texts = suggestion.original_text, suggestion.suggested_text, suggestion.description or ""
    return sum(len(text.encode()) for text in texts)


def _values(user: Principal, document: UUID, suggestion: UUID | None = None) -> dict[str, Any]:
    return {
        "document": document,
        "user": user.user_id,
        "suggestion": suggestion,
        "maximum_bytes": documents.MAXIMUM_CONTENT_BYTES,
        "activity": None,
    }


def _note_of_acceptance(database: Database, document: UUID) -> Jsonb | None:
    return activity.note(database, "suggestion_accept", ("suggestion", None), metadata={"documentId": str(document)})
