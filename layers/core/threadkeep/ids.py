"""The ids that clients bring, as UUIDs.

A client may name a session, a message or a document by 1 to 64 characters of `A-Z a-z 0-9 _ -`. A UUID in its
36-character form is taken as it is; any other text becomes the same UUID each time, so that a repeated request
finds what the first one made.
"""

from __future__ import annotations

import re
from typing import Annotated, Final
from uuid import UUID, uuid5

from pydantic import StringConstraints, WithJsonSchema

from threadkeep.errors import invalid

SESSIONS: Final = UUID("bb8b5337-1d04-4d4a-b55e-735dd1e09abf")
DOCUMENTS: Final = UUID("813f8e45-7ac2-48af-8d2e-a25829b6fb17")

ClientId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""A field of a request body that holds a client's id; the functions below make a UUID of it."""

PathId = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 64,
            "pattern": "^[A-Za-z0-9_-]{1,64}$",
            "examples": ["0b8e2f0a-5c1d-4b7e-9a43-6d2f1e8c7a90"],
            "description": "A UUID, or the id that a client made.",
        }
    ),
]
"""The same where the functions below are the check: in a path, and in the body of a chat."""

_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def session_id(text: str, field: str = "id") -> UUID:
    """The session that a client calls `text`; `invalid:api` names `field` if it is no id."""
    return _uuid_of(text, SESSIONS, field)


def document_id(text: str, field: str = "id") -> UUID:
    """The document that a client calls `text`; `invalid:api` names `field` if it is no id."""
    return _uuid_of(text, DOCUMENTS, field)


def message_id(session: UUID, text: str, field: str = "id") -> UUID:
    """The message that a client calls `text` in this session; `invalid:api` names `field` if it is no id.

    The session is the namespace, not the user: a guest's messages keep their ids when an account claims them.
    """
    return _uuid_of(text, session, field)


def _uuid_of(text: str, namespace: UUID, field: str) -> UUID:
    if _UUID.fullmatch(text):
        return UUID(text)
    if _CLIENT_ID.fullmatch(text):
        return uuid5(namespace, text)
    raise invalid(field, "Send a UUID, or 1 to 64 characters of A-Z, a-z, 0-9, _ and -.")
