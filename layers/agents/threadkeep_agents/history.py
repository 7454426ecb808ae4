"""A session's stored messages as what a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_ai.messages import (
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

    The attachments of the rows have their `content` (`attachments.resolve`).

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
    """A user's message: its text and its files, in the order of its parts."""
    content: list[UserContent] = []
    attachments = iter(row["attachments"])
    for part in row["parts"]:
        if part["type"] == "text":
            content.append(part["text"])
        elif part["type"] == "file":
            content.append(next(attachments)["content"])
    return content


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
