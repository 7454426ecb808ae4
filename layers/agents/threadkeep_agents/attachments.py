"""Attached files in the form in which the model of a turn takes them: images and PDF as they are, the rest as text.

What the model cannot take, and what there is no room for, becomes a note that says so, which the model can pass on to
the person. The newest files come first: an old one makes room for a new one.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from pydantic_ai.messages import BinaryContent, UserContent

from threadkeep import file_kinds, files
from threadkeep.configuration import ChatModelAgent
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.file_kinds import FileType
from threadkeep.identity import Principal
from threadkeep.log import logger
from threadkeep.storage import Storage
from threadkeep_agents import office
from threadkeep_agents.priced_models import OFFLINE, PricedModel

# Of a whole request, with a third more for base64: 20 MB is what Google takes, the strictest of the three.
MAXIMUM_BINARY_BYTES: Final = 14 * 1024 * 1024
# Anthropic refuses an image of more than 5 MB in base64.
MAXIMUM_IMAGE_BYTES: Final = {"anthropic": 5 * 1024 * 1024 * 3 // 4}
UNKNOWN_IMAGES: Final = {"google": {"image/gif"}}
MAXIMUM_TEXT_CHARACTERS: Final = 200_000
MAXIMUM_TEXTS_CHARACTERS: Final = 600_000
READS_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class Reader:
    """The model that the files are for, and the agent that it speaks as."""

    model: PricedModel
    agent: ChatModelAgent

    def objection(self, declared: FileType, size: int) -> str | None:
        """Why it cannot be shown this file, in words for the model; None: it can."""
        kind, provider = declared.kind, self.model.provider
        allowed = self.agent.file_input_types.model_dump(by_alias=True)
        if not self.agent.capabilities.file_input or not allowed[kind]:
            return "files of this kind are switched off here"
        if kind not in {"images", "pdf"}:
            return None
        if provider == OFFLINE or kind not in self.model.metadata.capabilities:
            return f"this model ({self.model.model_id}) does not read {'images' if kind == 'images' else 'PDF'}"
        if declared.media_type in UNKNOWN_IMAGES.get(provider, ()):
            return f"this model does not read {declared.media_type}"
        if kind == "images" and size > MAXIMUM_IMAGE_BYTES.get(provider, size):
            return f"it is larger than the {MAXIMUM_IMAGE_BYTES[provider]} bytes that this model reads of an image"
        return None


@dataclass(slots=True, eq=False)
class _Attached:
    """A file of the conversation on its way to the model: inline with its data, or stored."""

    name: str
    declared: FileType
    size: int
    data: bytes | None = None
    storage_key: str | None = None
    objection: str | None = None
    content: UserContent = ""


async def resolve(
    history: Sequence[dict[str, Any]], reader: Reader, database: Database, storage: Storage | None, user: Principal
) -> list[dict[str, Any]]:
    """The history with the `content` of each attachment for this reader.

    Raises `unavailable:files` when the store cannot be reached: an answer that did not see the file is worth nothing.
    """
    if not any(row.get("attachments") for row in history):
        return list(history)
    named = {UUID(one["file"]) for row in history for one in row["attachments"] if "file" in one}
    stored = await files.own(database, user, named) if named else {}
    found = [[_attached(one, stored) for one in row["attachments"]] for row in history]
    newest_first = [one for row in reversed(found) for one in reversed(row)]
    _bound_binaries(newest_first, reader)
    await _read(newest_first, storage)
    room = MAXIMUM_TEXTS_CHARACTERS
    for one in newest_first:
        room -= await _give_content(one, room)
    return [
        row
        | {
            "attachments": [
                given | {"content": one.content} for given, one in zip(row["attachments"], ones, strict=True)
            ]
        }
        for row, ones in zip(history, found, strict=True)
    ]


def _attached(attachment: dict[str, Any], stored: dict[UUID, files.File]) -> _Attached:
    name = attachment.get("filename") or "file"
    if "file" not in attachment:
        data = base64.b64decode(attachment["data"])
        media_type = attachment["mediaType"]
        declared = file_kinds.type_of(media_type, name) or FileType("textFiles", media_type)
        return _Attached(name, declared, len(data), data=data)
    file = stored.get(UUID(attachment["file"]))
    if file is None:
        gone = FileType("textFiles", attachment["mediaType"])
        return _Attached(name, gone, 0, objection="it was deleted")
    return _Attached(file.name, file.declared, file.size, storage_key=file.storage_key)


def _bound_binaries(newest_first: list[_Attached], reader: Reader) -> None:
    room = MAXIMUM_BINARY_BYTES
    for one in newest_first:
        one.objection = one.objection or reader.objection(one.declared, one.size)
        if one.objection is None and one.declared.kind in {"images", "pdf"}:
            if one.size > room:
                one.objection = "the newer files of this conversation leave no room for it"
            else:
                room -= one.size


async def _read(attached: list[_Attached], storage: Storage | None) -> None:
    gate = asyncio.Semaphore(READS_AT_ONCE)

    async def read(one: _Attached, key: str) -> None:
        if storage is None:
            raise ThreadkeepError("unavailable:files")
        async with gate:
            one.data = await storage.read(key, one.size)
        if one.data is None:
            one.objection = "it was deleted"

    wanted = [(one, one.storage_key) for one in attached if one.objection is None and one.storage_key is not None]
    await asyncio.gather(*(read(one, key) for one, key in wanted))


async def _give_content(one: _Attached, room: int) -> int:
    """Sets what the model gets of a file; how many characters of text that is."""
    if one.objection is None and one.declared.kind in {"images", "pdf"}:
        assert one.data is not None
        one.content = BinaryContent(one.data, media_type=one.declared.media_type)
        return 0
    text = None if one.objection else await _text(one, min(room, MAXIMUM_TEXT_CHARACTERS))
    head = f"<file name={one.name!r} type={one.declared.media_type!r}>"
    if text is None:
        one.content = f"{head}\n[You cannot see this file: {one.objection}.]\n</file>"
        return 0
    one.content = f"{head}\n{text}\n</file>"
    return len(text)


async def _text(one: _Attached, maximum: int) -> str | None:
    """The text of a file, cut with a note if there is more; None with an objection if there is none to be had."""
    if maximum <= 0:
        one.objection = "the newer files of this conversation leave no room for it"
        return None
    assert one.data is not None
    try:
        # In a thread: to unpack and walk through a workbook takes seconds.
        text = await asyncio.to_thread(_converted, one.data, one.declared, maximum)
    except office.UnreadableError as error:
        logger.warning("attached file not readable", extra={"kind": one.declared.kind, "error": repr(error.__cause__)})
        one.objection = "it is damaged, or too large inside"
        return None
    return text if len(text) <= maximum else f"{text[:maximum]}\n[Cut off here: the file is longer.]"


def _converted(data: bytes, declared: FileType, maximum: int) -> str:
    if declared.kind == "ppt":
        return office.text_of_presentation(data, maximum)
    if declared.kind == "excel":
        return office.text_of_workbook(data, maximum)
    return file_kinds.text_of(data) or data.decode(errors="replace")
