"""Everything that is a person's own, as a ZIP of JSON and Markdown files, written while it is read.

It is read page by page, each page in a short transaction of its own, in an order in which rows never move: what is
there during the whole export is in it exactly once. It is no snapshot: what changes meanwhile is in it as it was when
its page was read, and what is deleted meanwhile may be missing. At no time is more in memory than a few pages; a single
session's or document's text waits in a temporary file once it is larger than a megabyte.
"""

from __future__ import annotations

import asyncio
import json
import re
import unicodedata
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final, Literal, LiteralString, get_args
from uuid import UUID
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from threadkeep import profiles, session_export
from threadkeep.database import Database, Parameters
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal
from threadkeep.profiles import Profile

Part = Literal["profile", "sessions", "documents", "files", "repositories", "usage", "activity"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)

ROWS_A_PAGE: Final = 200
BYTES_A_PAGE: Final = 1024 * 1024
IN_MEMORY_BYTES: Final = 1024 * 1024
MAXIMUM_SLUG_CHARACTERS: Final = 40

_NOT_IN_A_NAME: Final = re.compile(r"[^\w-]+|_+")
_ENDINGS: Final = {"text": "md", "python code": "py", "mermaid code": "mmd", "sheet": "csv"}


@dataclass(frozen=True, slots=True)
class Export:
    """An export whose caller has been let in; `chunks` reads and gives it."""

    database: Database
    user: Principal
    profile: Profile
    parts: tuple[Part, ...]
    started_at: datetime

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the ZIP, in pieces; raises when the user is deleted or the database fails on the way."""
        archive = _Archive(self.started_at)
        # Closed wherever it stands when the client leaves: an entry that is still open cannot be left to chance.
        async with aclosing(_entries(self, archive)) as steps:
            async for _ in steps:
                if data := archive.taken():
                    yield data
        await asyncio.to_thread(archive.close)
        yield archive.taken()

    async def whole(self, maximum_bytes: int) -> bytes:
        """The ZIP at once; raises `too_large:account` as soon as it is longer than that."""
        pieces: list[bytes] = []
        size = 0
        async with aclosing(self.chunks()) as chunks:
            async for piece in chunks:
                pieces.append(piece)
                size += len(piece)
                if size > maximum_bytes:
                    raise ThreadkeepError("too_large:account")
        return b"".join(pieces)


async def begin(database: Database, user: Principal, parts: Sequence[Part] = ()) -> Export:
    """An export of these parts of what is the user's own, or of all; raises `forbidden:account`."""
    profile = await profiles.own(database, user, noted_as="account_export")
    wanted = tuple(part for part in PARTS if not parts or part in parts)
    return Export(database, user, profile, wanted, datetime.now(UTC))


class _Archive:
    """A ZIP that is written to nowhere: what has been written so far can be taken away."""

    def __init__(self, moment: datetime) -> None:
        self._pieces: list[bytes] = []
        self._moment = moment.timetuple()[:6]
        # Without `seek` and `tell` the library writes each entry's sizes after it.
        self._zip = ZipFile(self, "w", ZIP_DEFLATED)

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """There is nothing below to flush."""

    def taken(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

    def entry(self, name: str) -> IO[bytes]:
        info = ZipInfo(name, self._moment)
        info.compress_type = ZIP_DEFLATED
        info.external_attr = 0o600 << 16
        return self._zip.open(info, "w")

    async def add(self, name: str, text: str) -> None:
        await asyncio.to_thread(self._add, name, text.encode())

    async def copy(self, name: str, file: SpooledTemporaryFile[bytes]) -> AsyncGenerator[None, None]:
        """An entry of all that is in the file; gives way after each piece."""
        file.seek(0)
        with self.entry(name) as entry:
            while piece := await asyncio.to_thread(file.read, BYTES_A_PAGE):
                await asyncio.to_thread(entry.write, piece)
                yield

    def _add(self, name: str, data: bytes) -> None:
        with self.entry(name) as entry:
            entry.write(data)

    def close(self) -> None:
        self._zip.close()


async def _entries(export: Export, archive: _Archive) -> AsyncGenerator[None, None]:
    """Writes the whole archive; each step is a piece that can be taken from it."""
    await archive.add("README.md", _README.format(moment=_written(export.started_at), parts=", ".join(export.parts)))
    yield
    for part in export.parts:
        for writing in _WRITERS[part]:
            async with aclosing(writing(export, archive)) as steps:
                async for _ in steps:
                    yield


async def _profile(export: Export, archive: _Archive) -> AsyncGenerator[None, None]:
    profile = {
        "id": export.profile.id,
        "email": export.profile.email,
        "fullName": export.profile.full_name,
        "preferences": export.profile.preferences,
        "isGuest": export.profile.is_guest,
        "createdAt": export.profile.created_at,
        "updatedAt": export.profile.updated_at,
    }
    await archive.add("profile.json", _json(profile))
    yield


async def _sessions(export: Export, archive: _Archive) -> AsyncGenerator[None, None]:
    async for sessions in _SESSIONS.read(export, {}):
        for session in sessions:
            name = _name("sessions", session["createdAt"], session["title"], session["id"])
            with SpooledTemporaryFile(IN_MEMORY_BYTES) as text:
                text.write(session_export.heading(session["title"]).encode())
                with archive.entry(f"{name}.json") as entry:
                    entry.write(_json(session).removesuffix("\n}\n").encode() + b',\n "messages": [')
                    separator = "\n"
                    async for messages in _MESSAGES.read(export, {"session": session["id"]}):
                        data = separator + ",\n".join(map(_line, messages))
                        await asyncio.to_thread(entry.write, data.encode())
                        text.writelines(
                            session_export.section(message["role"], message["parts"], message["status"]).encode()
                            for message in messages
                        )
                        separator = ",\n"
                        yield
                    entry.write(b"\n]}\n")
                async with aclosing(archive.copy(f"{name}.md", text)) as steps:
                    async for _ in steps:
                        yield


async def _documents(export: Export, archive: _Archive) -> AsyncGenerator[None, None]:
    async for documents in _DOCUMENTS.read(export, {}):
        for document in documents:
            folder = _name("documents", document["createdAt"], document["title"], document["id"])
            with SpooledTemporaryFile(IN_MEMORY_BYTES) as index:
                index.write(_json(document).removesuffix("\n}\n").encode() + b',\n "versions": [')
                separator = "\n"
                async for versions in _VERSIONS.read(export, {"document": document["id"]}):
                    for version in versions:
                        file = f"versions/{version['version']:04}.{_ENDINGS[document['kind']]}"
                        await archive.add(f"{folder}/{file}", version.pop("content"))
                        index.write(f"{separator}{_line(version | {'file': file})}".encode())
                        separator = ",\n"
                    yield
                index.write(b'\n],\n "suggestions": [')
                separator = "\n"
                async for suggestions in _SUGGESTIONS.read(export, {"document": document["id"]}):
                    index.write((separator + ",\n".join(map(_line, suggestions))).encode())
                    separator = ",\n"
                index.write(b"\n]}\n")
                async with aclosing(archive.copy(f"{folder}/document.json", index)) as steps:
                    async for _ in steps:
                        yield


async def _list(export: Export, archive: _Archive, name: str, pages: _Pages) -> AsyncGenerator[None, None]:
    """A JSON file with one list."""
    with archive.entry(name) as entry:
        entry.write(b"[")
        separator = "\n"
        async for items in pages.read(export, {}):
            await asyncio.to_thread(entry.write, (separator + ",\n".join(map(_line, items))).encode())
            separator = ",\n"
            yield
        entry.write(b"\n]\n")
    yield


@dataclass(frozen=True, slots=True)
class _Pages:
    """A list in the order of `(place, id)`, which no row of it ever changes; `size` is about its bytes.

    The statement has the place, the id and the size as columns `place`, `key` and `size`, which are not exported.
    """

    statement: LiteralString
    first: tuple[Any, UUID]

    async def read(self, export: Export, parameters: Parameters) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Pages of at most 200 rows; one of more than a megabyte has a single row beyond that."""
        # Of literals of this module.
        page: LiteralString = f"""
            with page as ({self.statement} limit %(rows)s),
            sized as (
                select page.*, sum(page.size) over (order by page.place, page.key) - page.size as before
                from page
            )
            select *
            from sized
            where before < %(bytes)s
            order by place, key
        """  # noqa: S608
        place, key = self.first
        values = {"user": export.user.user_id, "rows": ROWS_A_PAGE, "bytes": BYTES_A_PAGE, **parameters}
        while rows := await export.database.rows(export.user, page, values | {"place": place, "key": key}):
            place, key = rows[-1]["place"], rows[-1]["key"]
            for row in rows:
                for name in ("place", "key", "size", "before"):
                    del row[name]
            yield rows


_EARLIEST: Final = (datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))

_SESSIONS: Final = _Pages(
    """
    select
        c.id, c.title, c.visibility, c.status, c."createdAt", c.last_active as "lastActive",
        c.message_count as "messageCount", c.total_input_tokens as "totalInputTokens",
        c.total_output_tokens as "totalOutputTokens", c.total_cost as "totalCost", c."lastContext",
        c."createdAt" as place, c.id as key, 500 + coalesce(octet_length(c."lastContext"::text), 0) as size
    from public."Chat" as c
    where c.user_id = %(user)s
        and (c."createdAt", c.id) > (%(place)s, %(key)s)
    order by c."createdAt", c.id
    """,
    _EARLIEST,
)
_MESSAGES: Final = _Pages(
    """
    select
        m.id, m.role, m.status, m.parts, m.attachments, m.metadata - 'recoveredStream' as metadata, m."createdAt",
        m.model_used as model, m.input_tokens as "inputTokens", m.output_tokens as "outputTokens", m.cost,
        v."isUpvoted", m.seq as place, m.id as key,
        500 + octet_length(m.parts::text) + octet_length(m.attachments::text) as size
    from public."Message_v2" as m
    left join public."Vote_v2" as v on v."chatId" = m."chatId" and v."messageId" = m.id
    where m."chatId" = (
            select c.id
            from public."Chat" as c
            where c.id = %(session)s
                and c.user_id = %(user)s
        )
        and m.seq > %(place)s
    order by m.seq
    """,
    (-1, UUID(int=0)),
)
_DOCUMENTS: Final = _Pages(
    """
    select
        d.id, n.title, d.kind, d.chat_id as "sessionId", d."createdAt",
        d."createdAt" as place, d.id as key, 500 as size
    from public."Document" as d
    cross join lateral (
        select n.title
        from public."Document" as n
        where n.id = d.id
            and n.user_id = d.user_id
        order by n.version_number desc
        limit 1
    ) as n
    where d.user_id = %(user)s
        and (d."createdAt", d.id) > (%(place)s, %(key)s)
        and not exists (
            select from public."Document" as o
            where o.id = d.id
                and o.version_number < d.version_number
        )
    order by d."createdAt", d.id
    """,
    _EARLIEST,
)
_VERSIONS: Final = _Pages(
    """
    select
        d.version_number as version, d.version_id as "versionId", d.parent_version_id as "parentVersionId", d.title,
        d."createdAt", d.metadata, coalesce(d.content, '') as content,
        d.version_number as place, d.version_id as key, 500 + coalesce(octet_length(d.content), 0) as size
    from public."Document" as d
    where d.id = %(document)s
        and d.user_id = %(user)s
        and d.version_number > %(place)s
    order by d.version_number
    """,
    (0, UUID(int=0)),
)
_SUGGESTIONS: Final = _Pages(
    """
    select
        s.id, d.version_number as version, s."originalText", s."suggestedText", s.description,
        coalesce(s.resolution, 'open') as state, s.made_by as "madeBy", s."createdAt",
        s.resolved_at as "resolvedAt", s."createdAt" as place, s.id as key,
        500 + octet_length(s."originalText") + octet_length(s."suggestedText") as size
    from public."Suggestion" as s
    join public."Document" as d on d.id = s."documentId" and d."createdAt" = s."documentCreatedAt"
    where s."documentId" = %(document)s
        and s.user_id = %(user)s
        and (s."createdAt", s.id) > (%(place)s, %(key)s)
    order by s."createdAt", s.id
    """,
    _EARLIEST,
)
_FILES: Final = _Pages(
    """
    select
        f.id, f.chat_id as "sessionId", f.filename, f.kind, f.media_type as "mediaType", f.size_bytes as "sizeBytes",
        f.state, f.created_at as "createdAt",
        f.created_at as place, f.id as key, 500 as size
    from public.files as f
    where f.user_id = %(user)s
        and (f.created_at, f.id) > (%(place)s, %(key)s)
    order by f.created_at, f.id
    """,
    _EARLIEST,
)
_REPOSITORIES: Final = _Pages(
    """
    select
        r.id, r.repo_owner as owner, r.repo_name as name, r.repo_url as url, r.default_branch as "defaultBranch",
        r.is_active as "isActive", r.created_at as "createdAt",
        r.created_at as place, r.id as key, 500 as size
    from public.github_repositories as r
    where r.user_id = %(user)s
        and (r.created_at, r.id) > (%(place)s, %(key)s)
    order by r.created_at, r.id
    """,
    _EARLIEST,
)
_USAGE: Final = _Pages(
    """
    select
        u.id, u.chat_id as "sessionId", u.message_id as "messageId", u.agent_type as agent, u.provider,
        u.model_used as model, u.input_tokens as "inputTokens", u.cached_input_tokens as "cachedInputTokens",
        u.cache_write_tokens as "cacheWriteTokens", u.output_tokens as "outputTokens",
        u.reasoning_tokens as "reasoningTokens", u.total_cost as cost, u.source, u.is_priced as "isPriced",
        u.request_timestamp as "requestedAt", u.duration_ms as "durationMs",
        u.request_timestamp as place, u.id as key, 500 as size
    from public.usage_logs as u
    where u.user_id = %(user)s
        and (u.request_timestamp, u.id) > (%(place)s, %(key)s)
    order by u.request_timestamp, u.id
    """,
    _EARLIEST,
)
_ACTIVITY: Final = _Pages(
    """
    select
        l.id, l.activity_type as type, l.activity_category as category, l.activity_metadata as metadata,
        l.resource_id as "resourceId", l.resource_type as "resourceType", l.ip_address as "ipAddress",
        l.user_agent as "userAgent", l.request_path as path, l.request_method as method, l.success,
        l.created_at as "createdAt",
        l.created_at as place, l.id as key, 1000 + octet_length(l.activity_metadata::text) as size
    from public.user_activity_logs as l
    where l.user_id = %(user)s
        and (l.created_at, l.id) > (%(place)s, %(key)s)
    order by l.created_at, l.id
    """,
    _EARLIEST,
)
_AGENT_ACTIVITY: Final = _Pages(
    """
    select
        l.id, l.agent_type as agent, l.operation_type as type, l.operation_category as category,
        l.operation_metadata as metadata, l.resource_id as "resourceId", l.resource_type as "resourceType",
        l.provider, l.model_id as model, l.duration_ms as "durationMs", l.success, l.created_at as "createdAt",
        l.created_at as place, l.id as key, 1000 + octet_length(l.operation_metadata::text) as size
    from public.agent_activity_logs as l
    where l.user_id = %(user)s
        and (l.created_at, l.id) > (%(place)s, %(key)s)
    order by l.created_at, l.id
    """,
    _EARLIEST,
)
# Where an error happened in our code is no more the person's than the code is.
_ERRORS: Final = _Pages(
    """
    select
        e.id, e.error_type as type, e.error_category as category, e.error_message as message, e.severity,
        e.request_path as path, e.request_method as method, e.ip_address as "ipAddress",
        e.user_agent as "userAgent", e.created_at as "createdAt",
        e.created_at as place, e.id as key, 1000 + octet_length(e.error_message) as size
    from public.error_logs as e
    where e.user_id = %(user)s
        and (e.created_at, e.id) > (%(place)s, %(key)s)
    order by e.created_at, e.id
    """,
    _EARLIEST,
)
_WRITERS: Final[dict[Part, tuple[Callable[[Export, _Archive], AsyncGenerator[None, None]], ...]]] = {
    "profile": (_profile,),
    "sessions": (_sessions,),
    "documents": (_documents,),
    "files": (partial(_list, name="files.json", pages=_FILES),),
    "repositories": (partial(_list, name="repositories.json", pages=_REPOSITORIES),),
    "usage": (partial(_list, name="usage.json", pages=_USAGE),),
    "activity": (
        partial(_list, name="activity/person.json", pages=_ACTIVITY),
        partial(_list, name="activity/agents.json", pages=_AGENT_ACTIVITY),
        partial(_list, name="activity/errors.json", pages=_ERRORS),
    ),
}

_README: Final = """# What Threadkeep keeps of you

Exported from {moment} on (UTC). In it: {parts}.

- `profile.json`: who you are here, and your preferences.
- `sessions/`: each conversation twice, as Markdown to read, and as JSON with votes and inline files.
- `documents/`: a folder each, with every version as a file and `document.json` about versions and suggestions.
- `files.json`: what you attached, without the contents. `repositories.json`: your GitHub repositories.
- `usage.json`: each model request, with tokens and cost (US dollars).
- `activity/`: what was logged of what you and the agents did.

It was read piece by piece. What was there all the time is in it once; what changed meanwhile is in it as it was when it
was read, and what was deleted meanwhile may be missing. Times are UTC, texts are UTF-8.
"""


def _name(folder: str, moment: datetime, title: str, item: UUID) -> str:
    """A path that is safe everywhere: of the title only letters, digits and hyphens stay; the id makes it unique."""
    words = _NOT_IN_A_NAME.sub("-", unicodedata.normalize("NFC", title))
    slug = words[:MAXIMUM_SLUG_CHARACTERS].strip("-")
    return f"{folder}/{moment:%Y-%m-%d}-{slug}-{item}" if slug else f"{folder}/{moment:%Y-%m-%d}-{item}"


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1, default=_written) + "\n"


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_written)


_WRITTEN: Final[dict[type, Callable[[Any], Any]]] = {
    UUID: str,
    datetime: lambda moment: moment.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    # As text: a cost has twelve digits after the point.
    Decimal: lambda number: format(number, "f"),
}


def _written(value: object) -> Any:
    return _WRITTEN[type(value)](value)
