"""A session's stored messages as what a model reads."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    UserContent,
    UserPromptPart,
)


def to_model(rows: Sequence[dict[str, Any]], provider: str) -> tuple[list[ModelMessage], list[UserContent]]:
    """The messages before the last one, and the last one, the user's, as the prompt.

    An answer goes back in the lossless form in which it was kept. Reasoning of another provider is left out: it
    would be sent on as if it were text.
    """
    *earlier, last = rows
    messages: list[ModelMessage] = []
    for row in earlier:
        if row["role"] == "user":
            messages.append(ModelRequest(parts=[UserPromptPart(content=user_content(row))]))
        elif row["modelMessages"]:
            messages.extend(_without_foreign_reasoning(row["modelMessages"], provider))
        elif text := "".join(part["text"] for part in row["parts"] if part["type"] == "text"):
            messages.append(ModelResponse(parts=[TextPart(text)]))
    return messages, user_content(last)


def to_store(messages: Sequence[ModelMessage]) -> list[dict[str, Any]]:
    """A run's new messages without the prompt that began it, which is stored as the person's own message.

    The instructions are left out: they are the configuration's, and would be kept once more with every message.
    """
    kept = [message for message in messages if not _is_prompt(message)]
    dumped: list[dict[str, Any]] = ModelMessagesTypeAdapter.dump_python(kept, mode="json")
    for message in dumped:
        message.pop("instructions", None)
    return dumped


def user_content(row: dict[str, Any]) -> list[UserContent]:
    """A user's message: its text, its images, its text files with their names."""
    content: list[UserContent] = []
    for part in row["parts"]:
        if part["type"] == "text":
            content.append(part["text"])
        elif part["type"] == "file" and part["url"].startswith("attachment:"):
            attachment = row["attachments"][int(part["url"].removeprefix("attachment:"))]
            content.append(_file_content(attachment))
    return content


def _file_content(attachment: dict[str, Any]) -> UserContent:
    data = base64.b64decode(attachment["data"])
    if attachment["mediaType"].startswith("image/"):
        return BinaryContent(data, media_type=attachment["mediaType"])
    name = attachment["filename"] or "file"
    return f"<file name={name!r} type={attachment['mediaType']!r}>\n{data.decode(errors='replace')}\n</file>"


def _without_foreign_reasoning(dumped: list[dict[str, Any]], provider: str) -> list[ModelMessage]:
    messages: list[ModelMessage] = ModelMessagesTypeAdapter.validate_python(dumped)
    for message in messages:
        if isinstance(message, ModelResponse) and not _is_of(message, provider):
            message.parts = [part for part in message.parts if not isinstance(part, ThinkingPart)]
    return messages


def _is_of(message: ModelResponse, provider: str) -> bool:
    return (message.provider_name or "").startswith(provider)


def _is_prompt(message: ModelMessage) -> bool:
    return isinstance(message, ModelRequest) and any(isinstance(part, UserPromptPart) for part in message.parts)
