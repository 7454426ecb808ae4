"""Attached files: announced, uploaded past the functions, checked, said in a message, and gone with it.

A file is `pending` until its upload was looked at, then `ready` or `refused`. What was checked is copied to a key that
no upload form names, so what a message says is what was checked, also if the form is used again. A file belongs to the
message that first said it (`sql/0014_functions_files.sql`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from psycopg.rows import DictRow

from threadkeep import activity, file_kinds
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError, invalid, not_found
from threadkeep.file_kinds import FileType, Kind
from threadkeep.identity import SERVICE, Principal
from threadkeep.storage import Storage, UploadForm, required

State = Literal["pending", "ready", "refused"]

MAXIMUM_NAME_CHARACTERS: Final = 255
PATH: Final = "/api/files"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as its readers see it; `size` in bytes, `problem` says why a refused one was refused."""

    id: UUID
    name: str
    kind: Kind
    media_type: str
    size: int
    state: State
    problem: str | None
    created_at: datetime
    session_id: UUID | None
    message_id: UUID | None
    is_own: bool
    storage_key: str = field(repr=False)

    @property
    def url(self) -> str:
        """What a message says to name it, and where its bytes are found: a path of the API."""
        return f"{PATH}/{self.id}"

    @property
    def declared(self) -> FileType:
        return FileType(self.kind, self.media_type)


async def create(
    database: Database, storage: Storage | None, user: Principal, *, name: str, media_type: str, size: int
) -> tuple[File, UploadForm]:
    """Announces a file of `size` bytes; gives the form to upload it by.

    Raises `invalid:api` for a type that is never taken, `invalid:kind` for a kind that the chat agent does not take,
    `too_large:file` and `too_large:files` (all files of a person together), `rate_limit:files`.
    """
    declared = file_kinds.type_of(media_type, name)
    if declared is None:
        raise invalid("mediaType", f"Files of the type {media_type or 'unknown'} are not taken here.")
    maximum = file_kinds.MAXIMUM_BYTES[declared.kind]
    if size > maximum:
        raise ThreadkeepError("too_large:file", f"A file of this kind may have {maximum} bytes.")
    file_id = uuid4()
    create: Final = """
        select private.create_file(
            p_id => %(id)s,
            p_filename => %(name)s,
            p_kind => %(kind)s,
            p_media_type => %(media_type)s,
            p_size => %(size)s,
            p_email => %(email)s,
            p_name => %(full_name)s
        ), private.log_user_activity(%(activity)s)
    """
    values = {
        "id": file_id,
        "name": name,
        "kind": declared.kind,
        "media_type": declared.media_type,
        "size": size,
        "email": user.email,
        "full_name": user.name,
        "activity": activity.note(
            database, "file_upload", ("file", file_id), metadata={"kind": declared.kind, "bytes": size}
        ),
    }
    stored = required(storage)
    # The function refuses a disabled caller itself.
    read = (_READ, {"file": file_id, "activity": None})
    _, [row] = await database.run(user, (create, values), read, require_active=False)
    file = _file(row)
    return file, await stored.upload_form(file.storage_key, declared, size)


async def read(database: Database, storage: Storage | None, caller: Principal, file: UUID) -> File:
    """A file of the caller, or of a public session; one of the caller's own that waits is checked on the way.

    Whoever is given one that is ready is given its bytes (`download_url`), which is on record as a download. Raises
    `not_found:file`.
    """
    found = await _read(database, caller, file)
    if found.state == "pending" and await _check(database, required(storage), found):
        found = await _read(database, caller, file)
    return found


async def download_url(storage: Storage | None, file: File) -> str:
    """A signed address of a file's bytes; raises `conflict:upload` and `invalid:file` while it has none to give."""
    if file.state == "pending":
        raise ThreadkeepError("conflict:upload")
    if file.state == "refused":
        raise ThreadkeepError("invalid:file", file.problem)
    return await required(storage).download_url(file.storage_key, file.declared, file.name)


async def delete(database: Database, user: Principal, file: UUID) -> None:
    """Deletes a file of the user, whatever names it; the schedule deletes its bytes. Raises `not_found:file`."""
    delete: Final = "select private.delete_file(%(file)s), private.log_user_activity(%(activity)s)"
    note = activity.note(database, "file_delete", ("file", file))
    await database.rows(user, delete, {"file": file, "activity": note})


async def check_said(database: Database, storage: Storage | None, user: Principal, files: Collection[UUID]) -> None:
    """Checks those of the user's files that a message is about to say and nobody has checked yet.

    It refuses nothing: whether the message may say them is for the transaction that stores it.
    """
    if not files:
        return
    waiting: Final = f"""
        select {_COLUMNS}
        from public.files as f
        where f.id = any (%(files)s)
            and f.user_id = %(user)s
            and f.state = 'pending'
        order by f.id
    """  # noqa: S608 - of a literal of this module
    if user.user_id is None:
        return
    for row in await database.rows(user, waiting, {"files": list(files), "user": user.user_id}):
        # One after another: each is in memory as a whole.
        await _check(database, required(storage), File(**row))


async def own(database: Database, user: Principal, files: Collection[UUID]) -> dict[UUID, File]:
    """Those of these files that are the user's and ready."""
    read: Final = f"""
        select {_COLUMNS}
        from public.files as f
        where f.id = any (%(files)s)
            and f.user_id = %(user)s
            and f.state = 'ready'
    """  # noqa: S608 - of a literal of this module
    rows = await database.rows(user, read, {"files": list(files), "user": user.user_id})
    return {row["id"]: File(**row) for row in rows}


_COLUMNS: Final = """
    f.id, f.filename as name, f.kind, f.media_type, f.size_bytes as size, f.state, f.problem, f.created_at,
    f.chat_id as session_id, f.message_id, true as is_own, f.storage_key
"""

_READ: Final = """
    select
        f.id, f.filename as name, f.kind, f.media_type, f.size_bytes as size, f.state, f.problem, f.created_at,
        f.session_id, f.message_id, f.is_own, f.storage_key,
        case when f.state = 'ready' then private.log_user_activity(%(activity)s) end as noted
    from private.readable_file(%(file)s) as f
"""


async def _read(database: Database, caller: Principal, file: UUID) -> File:
    row = await database.row(
        caller, _READ, {"file": file, "activity": activity.note(database, "file_download", ("file", file))}
    )
    if row is None:
        raise not_found("file")
    return _file(row)


def _file(row: DictRow) -> File:
    return File(**{name: value for name, value in row.items() if name != "noted"})


async def _check(database: Database, storage: Storage, file: File) -> bool:
    """Looks at an upload, and makes its file ready or refused; False if there is no upload yet."""
    data = await storage.read(file.storage_key, file.size + 1)
    if data is None:
        return False
    if len(data) != file.size:
        problem: str | None = f"The file has not the {file.size} bytes that were announced."
    else:
        # In a thread: an archive's members take a while, and others are being answered.
        problem = await asyncio.to_thread(file_kinds.problem_with, data, file.declared)
    if problem is not None:
        await _refuse(database, file, problem)
        return True
    copy = f"files/{file.id}.{secrets.token_hex(8)}"
    # Announced as one to delete before it is there: whatever happens now, it does not stay without a row.
    announce: Final = """
        insert into private.file_deletions (storage_key, due_at)
        values (%(key)s, now() + interval '1 hour')
    """
    values: dict[str, Any] = {"key": copy, "file": file.id}
    await database.rows(SERVICE, announce, values)
    await storage.write(copy, data, file.declared)
    await database.rows(SERVICE, "select private.accept_file(%(file)s, %(key)s)", values)
    return True


async def _refuse(database: Database, file: File, problem: str) -> None:
    refuse: Final = """
        update public.files as f
        set state = 'refused',
            problem = %(problem)s,
            checked_at = now()
        where f.id = %(file)s
            and f.state = 'pending'
    """
    await database.rows(SERVICE, refuse, {"file": file.id, "problem": problem[:200]})
