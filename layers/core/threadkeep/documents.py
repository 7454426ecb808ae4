"""Documents: what a chat leaves behind, and every version of it.

Each save is a version, numbered from 1 without gaps and made under a lock on the document, so of writers at the same
time none is lost. A document belongs to its maker and, if it came out of one, to a session, for good; a later version
made elsewhere says so in its origin. A document of somebody else is as if it did not exist.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from threadkeep import activity, pages
from threadkeep.activity import ActivityType
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError, invalid, not_found
from threadkeep.identity import Principal
from threadkeep.pages import Slice

Kind = Literal["text", "python code", "mermaid code", "sheet"]
OriginKind = Literal["person", "agent", "suggestion", "revert"]
IfMatch = Sequence[UUID] | None
"""The versions one of which has to be the newest for a change to happen; None for whichever it is."""

MAXIMUM_CONTENT_BYTES: Final = 1024 * 1024
MAXIMUM_TITLE_CHARACTERS: Final = 200
# As in private.next_document_version, which refuses more.
MAXIMUM_DOCUMENTS: Final = 10_000
MAXIMUM_VERSIONS: Final = 10_000
LARGEST_VERSION: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Origin:
    """Who or what made a version, and where in which chat, as far as it is known.

    `invalid` is what the kind's parser says against what an agent wrote; the version is stored all the same.
    """

    kind: OriginKind = "person"
    agent: str | None = None
    operation: str | None = None
    session_id: UUID | None = None
    message_id: UUID | None = None
    version: int | None = None
    invalid: str | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """What a version keeps of it: `{origin, agent, operation, sessionId, messageId, version, invalid}`."""
        found = {
            "origin": self.kind,
            "agent": self.agent,
            "operation": self.operation,
            "sessionId": self.session_id and str(self.session_id),
            "messageId": self.message_id and str(self.message_id),
            "version": self.version,
            "invalid": self.invalid,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a document without its content; `created_at` is the version's time (UTC), `size` in bytes."""

    id: UUID
    version: int
    version_id: UUID
    parent_version_id: UUID | None
    title: str
    kind: Kind
    session_id: UUID | None
    created_at: datetime
    size: int
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document(Version):
    """A version of a document with its content."""

    content: str = ""


_VERSION: Final = """
        d.id, d.version_number as version, d.version_id, d.parent_version_id, d.title, d.kind,
        d.chat_id as session_id, d."createdAt" as created_at, coalesce(octet_length(d.content), 0) as size, d.metadata
"""
_READ: Final = (
    "select"
    + _VERSION
    + """
        , coalesce(d.content, '') as content, private.log_user_activity(%(activity)s) as noted
    from public."Document" as d
    where d.id = %(document)s
        and d.user_id = %(user)s
        and (%(version)s::integer is null or d.version_number = %(version)s)
    order by d.version_number desc
    limit 1
"""
)


async def create(
    database: Database,
    user: Principal,
    document: UUID,
    *,
    title: str,
    kind: Kind,
    content: str,
    session: UUID | None = None,
    origin: Origin | None = None,
) -> tuple[Document, bool]:
    """The newest version of the user's document of this id, and whether this call made the document.

    A document that began as exactly this one stays as it is. Raises `conflict:document` if it began otherwise,
    `conflict:documents` past 10,000 of them, `not_found:document` for somebody else's id, `not_found:session`, and
    `too_large:document` past 1 MB.
    """
    check_text(title, "title")
    check_content(content)
    create: Final = """
        select made.created, case when made.created then private.log_user_activity(%(document_made)s) end
        from private.create_document(
            p_id => %(document)s,
            p_title => %(title)s,
            p_kind => %(kind)s,
            p_content => %(content)s,
            p_chat => %(session)s,
            p_metadata => %(metadata)s,
            p_email => %(email)s,
            p_name => %(name)s
        ) as made (created)
    """
    values = _newest(user, document) | {
        "title": title,
        "kind": kind,
        "content": content,
        "session": session,
        "metadata": Jsonb((origin or Origin()).metadata),
        "email": user.email,
        "name": user.name,
        "document_made": _note(database, "document_create", document, origin, {"kind": kind}),
    }
    # The function refuses a disabled caller itself.
    [made], [row] = await database.run(user, (create, values), (_READ, values), require_active=False)
    return _document(row), made["created"]


async def own_page(
    database: Database, user: Principal, *, session: UUID | None, kind: Kind | None, limit: int, cursor: str | None
) -> Slice[Version]:
    """The newest version of each of the user's documents, last changed first; raises `not_found:session`."""
    read: Final = (
        "select"
        + _VERSION
        + """
        from public."Document" as d
        where d.user_id = %(user)s
            and (d."createdAt", d.id) < (coalesce(%(changed)s::timestamptz, 'infinity'), %(id)s::uuid)
            and (%(kind)s::text is null or d.kind = %(kind)s)
            and (%(session)s::uuid is null or d.chat_id = %(session)s)
            and not exists (
                select from public."Document" as n
                where n.id = d.id
                    and n.version_number > d.version_number
            )
        order by d."createdAt" desc, d.id desc
        limit %(limit)s + 1
    """
    )
    own_session: Final = """
        select c.id
        from public."Chat" as c
        where c.id = %(session)s
            and c.user_id = %(user)s
    """
    belongs_to = json.dumps(["documents", session and str(session), kind])
    changed, last = pages.place(cursor, belongs_to, datetime.fromisoformat, UUID)
    values = {
        "user": user.user_id,
        "session": session,
        "kind": kind,
        "changed": changed,
        "id": last,
        "limit": limit,
    }
    sessions, rows = await database.run(user, (own_session, values), (read, values))
    if session is not None and not sessions:
        raise not_found("session")
    items = [Version(**row) for row in rows[:limit]]
    is_last = len(rows) <= limit
    return Slice(items, None if is_last else pages.cursor(belongs_to, items[-1].created_at, items[-1].id))


async def read(
    database: Database,
    user: Principal,
    document: UUID,
    version: int | None = None,
    *,
    noted_as: ActivityType | None = None,
) -> Document:
    """A version of the user's document, by default the newest; raises `not_found:document` and `not_found:version`.

    `noted_as` says what his reading is on record as.
    """
    exists: Final = """
        select d.id
        from public."Document" as d
        where d.id = %(document)s
            and d.user_id = %(user)s
        limit 1
    """
    note = activity.note(database, noted_as, ("document", document))
    values = _newest(user, document) | {"version": version, "activity": note}
    documents, rows = await database.run(user, (exists, values), (_READ, values))
    if not documents:
        raise not_found("document")
    if not rows:
        # Without a number it is the document itself that went between the two statements.
        raise not_found("document" if version is None else "version")
    return _document(rows[0])


async def kind_of(database: Database, user: Principal, document: UUID) -> Kind:
    """The kind of the user's document, which never changes; raises `not_found:document`."""
    read: Final = """
        select d.kind
        from public."Document" as d
        where d.id = %(document)s
            and d.user_id = %(user)s
        limit 1
    """
    row = await database.row(user, read, {"document": document, "user": user.user_id})
    if row is None:
        raise not_found("document")
    kind: Kind = row["kind"]
    return kind


async def versions(
    database: Database, user: Principal, document: UUID, *, limit: int, cursor: str | None
) -> Slice[Version]:
    """The versions of the user's document, newest first; raises `not_found:document`."""
    read: Final = (
        "select"
        + _VERSION
        + """
        from public."Document" as d
        where d.id = %(document)s
            and d.user_id = %(user)s
            and (%(last)s::integer is null or d.version_number < %(last)s)
        order by d.version_number desc
        limit %(limit)s + 1
    """
    )
    belongs_to = f"versions of {document}"
    [last] = pages.place(cursor, belongs_to, pages.bigint)
    values = {"document": document, "user": user.user_id, "last": last, "limit": limit}
    rows = await database.rows(user, read, values)
    if not rows and cursor is None:
        raise not_found("document")
    items = [Version(**row) for row in rows[:limit]]
    return Slice(items, pages.cursor(belongs_to, items[-1].version) if len(rows) > limit else None)


async def save(
    database: Database,
    user: Principal,
    document: UUID,
    *,
    content: str,
    title: str | None = None,
    origin: Origin | None = None,
    if_match: IfMatch = None,
) -> Document:
    """A new version of the user's document; without a title it keeps the one it has.

    Raises `not_found:document`, `precondition_failed:document` with the newest version as `current`,
    `conflict:versions` past 10,000 of them, and `too_large:document` past 1 MB.
    """
    check_text(title, "title")
    check_content(content)
    save: Final = """
        select private.save_document(
            p_id => %(document)s,
            p_title => %(title)s,
            p_content => %(content)s,
            p_metadata => %(metadata)s,
            p_if_match => %(if_match)s
        )
    """
    values = {
        "title": title,
        "content": content,
        "metadata": Jsonb((origin or Origin()).metadata),
        "activity": _note(database, "document_update", document, origin),
    }
    return await _changed(database, user, document, save, values, if_match)


async def revert(
    database: Database,
    user: Principal,
    document: UUID,
    version: int,
    *,
    origin: Origin | None = None,
    if_match: IfMatch = None,
) -> Document:
    """A new version with title and content of an earlier one; raises as `save` does, and `not_found:version`."""
    revert: Final = """
        select private.revert_document(
            p_id => %(document)s,
            p_version => %(wanted)s,
            p_metadata => %(metadata)s,
            p_if_match => %(if_match)s
        )
    """
    metadata = (origin or Origin()).metadata | {"origin": "revert", "version": version}
    note = _note(database, "document_revert", document, origin, {"version": version})
    values = {"wanted": version, "metadata": Jsonb(metadata), "activity": note}
    return await _changed(database, user, document, revert, values, if_match)


async def delete(database: Database, user: Principal, document: UUID, *, if_match: IfMatch = None) -> None:
    """Deletes the user's document with its versions and suggestions; raises as `save` does."""
    await _delete_after(database, user, document, 0, if_match)


async def delete_later(
    database: Database, user: Principal, document: UUID, after: int, *, if_match: IfMatch = None
) -> None:
    """Deletes the versions after this number, and the suggestions for them; raises as `save` does."""
    if after < 1:
        raise invalid("after", "The first version stays. Delete the document instead.")
    await _delete_after(database, user, document, after, if_match)


def check_content(content: str) -> None:
    """Raises `too_large:document` past 1 MB, and `invalid:api` for what PostgreSQL stores in no text."""
    check_text(content, "content")
    if len(content.encode()) > MAXIMUM_CONTENT_BYTES:
        raise ThreadkeepError("too_large:document")


def check_text(text: str | None, field: str) -> None:
    """Raises `invalid:api` for what PostgreSQL stores in no text; a model writes it as well as a person does."""
    if text is None:
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        text = "\0"
    if "\0" in text:
        raise invalid(field, "Text may not hold U+0000 or unpaired surrogates.")


async def _changed(
    database: Database,
    user: Principal,
    document: UUID,
    change: LiteralString,
    values: dict[str, Any],
    if_match: IfMatch,
) -> Document:
    values = _newest(user, document) | values | {"if_match": _array(if_match)}
    try:
        _, [row] = await database.run(user, (change, values), (_READ, values))
    except ThreadkeepError as error:
        raise await _with_current(database, user, document, error) from None
    return _document(row)


async def _delete_after(database: Database, user: Principal, document: UUID, after: int, if_match: IfMatch) -> None:
    delete: Final = """
        select private.delete_document_versions(
            p_id => %(document)s,
            p_after => %(after)s,
            p_if_match => %(if_match)s
        ), private.log_user_activity(%(activity)s)
    """
    deletion: ActivityType = "document_version_delete" if after else "document_delete"
    values = {
        "document": document,
        "after": after,
        "if_match": _array(if_match),
        "activity": activity.note(database, deletion, ("document", document), metadata={"after": after}),
    }
    try:
        await database.rows(user, delete, values)
    except ThreadkeepError as error:
        raise await _with_current(database, user, document, error) from None


async def _with_current(database: Database, user: Principal, document: UUID, error: ThreadkeepError) -> ThreadkeepError:
    """The loser of a condition is told what is there now, so that he need not ask; other errors stay as they are."""
    if error.code != "precondition_failed:document":
        return error
    return ThreadkeepError(error.code, extra={"current": current(await read(database, user, document))})


def current(document: Document) -> dict[str, Any]:
    """The newest version as an error carries it: `{id, version, versionId, title, kind, createdAt, content}`."""
    return {
        "id": str(document.id),
        "version": document.version,
        "versionId": str(document.version_id),
        "title": document.title,
        "kind": document.kind,
        "createdAt": document.created_at.isoformat(),
        "content": document.content,
    }


def _newest(user: Principal, document: UUID) -> dict[str, Any]:
    return {"document": document, "user": user.user_id, "version": None, "activity": None}


def _note(
    database: Database,
    by_a_person: ActivityType,
    document: UUID,
    origin: Origin | None,
    metadata: dict[str, object] | None = None,
) -> Jsonb | None:
    """A person's own doing, or what an agent made of what he asked for."""
    if origin is None or origin.agent is None:
        return activity.note(database, by_a_person, ("document", document), metadata=metadata)
    made: ActivityType = "artifact_create" if by_a_person == "document_create" else "artifact_update"
    by_agent = {"agent": origin.agent, "operation": origin.operation} | (metadata or {})
    return activity.note(database, made, ("document", document), session=origin.session_id, metadata=by_agent)


def _document(row: dict[str, Any]) -> Document:
    return Document(**{name: value for name, value in row.items() if name != "noted"})


def _array(if_match: IfMatch) -> list[UUID] | None:
    return None if if_match is None else list(if_match)
