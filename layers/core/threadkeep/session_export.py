"""A whole session as one file: for a person to read, or for another program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from threadkeep import files, messages, sessions
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal
from threadkeep.messages import Message, Role, Status
from threadkeep.sessions import Session

# An answer of AWS Lambda has 6 MB, escapes included.
MAXIMUM_EXPORT_BYTES: Final = 4 * 1024 * 1024
MESSAGES_A_READ: Final = 100

_SPEAKERS: Final = {"user": "User", "assistant": "Assistant", "system": "System"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """A session and all of its messages, oldest first."""

    session: Session
    messages: list[Message]


async def read(database: Database, caller: Principal, session: UUID) -> Conversation:
    """The caller's session or a public one as a whole; raises `not_found:session`, and `too_large:export` past 4 MB."""
    found = await sessions.read(database, caller, session, noted_as="chat_export")
    newest_first: list[list[Message]] = []
    size = 0
    cursor = None
    while True:
        part = await messages.page(database, caller, session, limit=MESSAGES_A_READ, cursor=cursor, noted_as=None)
        newest_first.append(part.items)
        size += sum(messages.size(message.parts) for message in part.items)
        if size > MAXIMUM_EXPORT_BYTES:
            raise ThreadkeepError("too_large:export")
        if (cursor := part.next_cursor) is None:
            break
    return Conversation(found, [message for items in reversed(newest_first) for message in items])


def markdown(conversation: Conversation) -> str:
    """The conversation as a person reads it: who said what, the files by name, the tools that were called."""
    sections = (section(message.role, message.parts, message.status) for message in conversation.messages)
    return heading(conversation.session.title) + "".join(sections)


def heading(title: str) -> str:
    """The first line of a conversation."""
    return f"# {' '.join(title.split())}\n"


def section(role: Role, parts: list[dict[str, Any]], status: Status) -> str:
    """One message of a conversation, with the empty line before it."""
    paragraphs = [f"## {_SPEAKERS[role]}", *filter(None, map(_paragraph, parts))]
    if status != "complete":
        paragraphs.append(f"*This answer is {status}.*")
    return "".join(f"\n{paragraph}\n" for paragraph in paragraphs)


def _paragraph(part: dict[str, Any]) -> str:
    kind = part.get("type", "")
    if kind == "text":
        return str(part.get("text", "")).strip()
    if kind == "file":
        name = part.get("filename") or part.get("mediaType")
        url = str(part.get("url", ""))
        return f"*File: {name}* ({url})" if url.startswith(f"{files.PATH}/") else f"*File: {name}*"
    if kind.startswith("tool-"):
        return f"*Tool: {kind.removeprefix('tool-')}*"
    return ""
