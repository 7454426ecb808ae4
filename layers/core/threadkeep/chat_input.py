"""What clients send to chat, and the one request that it means.

Three forms are taken: the AI SDK's `{id, messages, trigger, messageId}`, `{id, message}` with the last message only,
and a plain string as `message`. History is the server's: of `messages` only the last user message counts.
Fields that are not known here are let pass, because SDK clients send their own.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote_to_bytes
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from threadkeep import ids, sessions
from threadkeep.errors import invalid
from threadkeep.files import PATH as FILES_PATH
from threadkeep.turns import Trigger, TurnRequest, UserMessage

MAX_TEXT_CHARACTERS: Final = 200_000
MAX_PARTS: Final = 50
MAX_ATTACHMENT_BYTES: Final = 1024 * 1024
MAX_STORED_FILES: Final = 10
MAX_CONTEXT_BYTES: Final = 8 * 1024
TITLE_CHARACTERS: Final = 50
IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
TEXT_TYPES: Final = frozenset({"application/json", "application/xml", "application/yaml", "application/toml"})

_DATA_URL: Final = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?P<parameters>(?:;[\w.+=-]+)*?)(?P<base64>;base64)?,")
_KEPT_ATTACHMENT: Final = re.compile(r"attachment:(\d{1,2})")
_STORED_FILE: Final = re.compile(rf"{FILES_PATH}/([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})")
_MEDIA_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+")


class ChatBody(BaseModel):
    """The body of `POST /api/chat`."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="ignore",
        frozen=True,
        json_schema_extra={"examples": [{"message": "Hello", "context": {}}]},
    )

    id: Annotated[ids.PathId | None, Field(description="The session's id; a new one is made without it.")] = None
    message: Annotated[
        dict[str, Any] | Annotated[str, Field(json_schema_extra={"maxLength": MAX_TEXT_CHARACTERS})] | None,
        Field(description="A UI message of the user, or its text."),
    ] = None
    messages: Annotated[
        list[Any] | None, Field(description="As the AI SDK sends it: only the last user message is taken.")
    ] = None
    trigger: Annotated[
        Literal["submit-message", "regenerate-message"] | None, Field(description="What the AI SDK was asked to do.")
    ] = None
    message_id: Annotated[
        ids.PathId | None, Field(description="The message that is edited, or the answer that is made again.")
    ] = None
    model: Annotated[str | None, Field(max_length=100, description="The `model_id` of an active model.")] = None
    visibility: Annotated[
        Literal["public", "private"] | None, Field(description="Of a session that this call makes.")
    ] = None
    thinking: Annotated[
        Annotated[bool, Field(strict=True)] | None, Field(description="Whether the model reasons first, where it can.")
    ] = None
    context: Annotated[
        dict[str, Any] | None, Field(description="Kept with the session (8 kB), never sent to the model.")
    ] = None

    def turn_request(self, address: str = "") -> TurnRequest:
        """The request that this body means; raises `invalid:api` with the field that makes no sense.

        `address` is this API's own, which a stored file's URL may begin with.
        """
        session = ids.session_id(self.id) if self.id is not None else uuid4()
        if self.context is not None and len(json.dumps(self.context).encode()) > MAX_CONTEXT_BYTES:
            raise invalid("context", f"It is larger than {MAX_CONTEXT_BYTES} bytes.")
        raw, field = self._last_user_message()
        is_regenerate = self.trigger == "regenerate-message"
        if raw is None and not is_regenerate:
            raise invalid("message", "Send a message: a text, or a UI message of the user.")
        target = ids.message_id(session, self.message_id, "messageId") if self.message_id is not None else None
        trigger: Trigger = "submit"
        if is_regenerate:
            trigger = "regenerate"
        elif target is not None:
            trigger = "edit"
        message = None
        if raw is not None:
            text_id = raw.get("id")
            if text_id is not None and not isinstance(text_id, str):
                raise invalid(f"{field}.id", "It is not a text.")
            # An edit may come without the id of the message that it replaces, which is then the same.
            message_id = ids.message_id(session, text_id, f"{field}.id") if text_id else (target or uuid4())
            message = _user_message(message_id, raw, field, address)
        return TurnRequest(
            session=session,
            message=message,
            trigger=trigger,
            target=target,
            model=self.model,
            visibility=self.visibility,
            context=self.context,
            thinking=self.thinking,
        )

    def _last_user_message(self) -> tuple[dict[str, Any] | None, str]:
        if isinstance(self.message, str):
            return {"parts": [{"type": "text", "text": self.message}]}, "message"
        if self.message is not None:
            return self.message, "message"
        for position in range(len(self.messages or ()) - 1, -1, -1):
            candidate = (self.messages or [])[position]
            if isinstance(candidate, dict) and candidate.get("role") == "user":
                return candidate, f"messages[{position}]"
        return None, "message"


def _user_message(message_id: Any, raw: dict[str, Any], field: str, address: str) -> UserMessage:
    if raw.get("role", "user") != "user":
        raise invalid(f"{field}.role", "Only messages of the user are taken.")
    given = raw.get("parts")
    if given is None and isinstance(raw.get("content"), str):
        given = [{"type": "text", "text": raw["content"]}]
    if not isinstance(given, list) or not given:
        raise invalid(f"{field}.parts", "It needs at least one part.")
    if len(given) > MAX_PARTS:
        raise invalid(f"{field}.parts", f"There are more than {MAX_PARTS}.")
    parts: list[dict[str, Any]] = []
    attachments: list[dict[str, Any]] = []
    for position, part in enumerate(given):
        place = f"{field}.parts[{position}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise invalid(place, "It is not a part with a type.")
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise invalid(f"{place}.text", "It is not a text.")
            parts.append({"type": "text", "text": part["text"]})
        elif kind == "file":
            attachment = _attachment(part, place, address)
            attachments.append(attachment)
            stored = attachment.get("file")
            parts.append(
                {
                    "type": "file",
                    "mediaType": attachment["mediaType"],
                    "filename": attachment["filename"],
                    "url": f"{FILES_PATH}/{stored}" if stored else f"attachment:{len(attachments) - 1}",
                }
            )
    texts = [part["text"] for part in parts if part["type"] == "text"]
    if sum(map(len, texts)) > MAX_TEXT_CHARACTERS:
        raise invalid(f"{field}.parts", f"The text is longer than {MAX_TEXT_CHARACTERS} characters.")
    if sum(attachment.get("size", 0) for attachment in attachments) > MAX_ATTACHMENT_BYTES:
        raise invalid(f"{field}.parts", f"The files are larger than {MAX_ATTACHMENT_BYTES} bytes together.")
    stored_files = [attachment["file"] for attachment in attachments if "file" in attachment]
    if len(stored_files) > MAX_STORED_FILES or len(set(stored_files)) < len(stored_files):
        raise invalid(f"{field}.parts", f"A message has at most {MAX_STORED_FILES} files, and each of them once.")
    if not attachments and not any(text.strip() for text in texts):
        raise invalid(f"{field}.parts", "There is nothing to answer: no text and no file.")
    return UserMessage(message_id, parts, attachments, first_words(texts))


def _attachment(part: dict[str, Any], place: str, address: str) -> dict[str, Any]:
    url = part.get("url")
    filename = part.get("filename")
    if not isinstance(url, str):
        raise invalid(f"{place}.url", "It is not a text.")
    if filename is not None and (not isinstance(filename, str) or len(filename) > 255):
        raise invalid(f"{place}.filename", "It is not a text of at most 255 characters.")
    if (kept := _KEPT_ATTACHMENT.fullmatch(url)) is not None:
        # A message that is sent again names its files as they were given out.
        return {"keep": int(kept[1]), "mediaType": part.get("mediaType"), "filename": filename}
    if (stored := _STORED_FILE.fullmatch(url.removeprefix(address.rstrip("/")))) is not None:
        return _stored_file(UUID(stored[1]), part, place)
    head = _DATA_URL.match(url)
    if head is None:
        raise invalid(f"{place}.url", "Only files that were uploaded here and data: URLs are taken.")
    media_type = (head["type"] or part.get("mediaType") or "text/plain").lower()
    if media_type not in IMAGE_TYPES | TEXT_TYPES and not media_type.startswith("text/"):
        raise invalid(f"{place}.mediaType", f"Files of the type {media_type} are not taken here.")
    data = _decoded(url[head.end() :], is_base64=head["base64"] is not None, place=place)
    return {
        "mediaType": media_type,
        "filename": filename,
        "size": len(data),
        "data": base64.b64encode(data).decode(),
    }


def _stored_file(file: UUID, part: dict[str, Any], place: str) -> dict[str, Any]:
    # What the file really is, its row says; this is what the client called it, and calls it when it sends it again.
    media_type = part.get("mediaType")
    if media_type is None:
        media_type = "application/octet-stream"
    elif not isinstance(media_type, str) or not _MEDIA_TYPE.match(media_type) or len(media_type) > 120:
        raise invalid(f"{place}.mediaType", "It is not a media type.")
    return {"file": str(file), "mediaType": media_type, "filename": part.get("filename")}


def _decoded(payload: str, *, is_base64: bool, place: str) -> bytes:
    if not is_base64:
        return unquote_to_bytes(payload)
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error:
        raise invalid(f"{place}.url", "Its data is not valid base64.") from None


def first_words(texts: list[str]) -> str:
    """A title out of what was said: its first characters, on one line, until something better is known."""
    return " ".join(" ".join(texts).split())[:TITLE_CHARACTERS].rstrip() or sessions.DEFAULT_TITLE
