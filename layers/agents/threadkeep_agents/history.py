"""A session's stored messages as what a model reads, and as much of it as fits the model's context window."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

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

from threadkeep.errors import ThreadkeepError
from threadkeep.storable import storable
from threadkeep_agents.priced_models import PricedModel

# Estimates that are rather too high: a provider refuses a conversation that is one token too long.
BYTES_PER_TOKEN: Final = {"anthropic": 2.5}
USUAL_BYTES_PER_TOKEN: Final = 3.0
IMAGE_TOKENS: Final = {"anthropic": 5_000}
USUAL_IMAGE_TOKENS: Final = 2_500
FILE_BYTES_PER_TOKEN: Final = 20
MESSAGE_TOKENS: Final = 8


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a turn asks a model: the messages before the last one, and the last one, the user's, as the prompt."""

    messages: list[ModelMessage]
    prompt: list[UserContent]


class Window:
    """What the models of one turn can read of their conversation.

    What does not fit is left out from its start, in whole turns: a person's message with all that answered it. The
    last turn always stays whole. `omitted_messages` counts the stored messages that were left out last.
    """

    def __init__(self, omitted_messages: int = 0) -> None:
        self.omitted_messages = omitted_messages
        self._unread = omitted_messages
        self._rooms: dict[str, int] = {}

    def read(self, rows: Sequence[dict[str, Any]], model: PricedModel, instructions: str, output: int) -> Conversation:
        """The stored messages of a session, of which the last one is to be answered by the model.

        The attachments of the rows have their `content` (`attachments.resolve`). Raises `too_large:context` if the
        last one alone does not fit.
        """
        *earlier, last = rows
        prompt = user_content(last)
        room = self._room(model, output)
        asked = ModelRequest(parts=[UserPromptPart(content=prompt)], instructions=instructions)
        left = None if room is None else room - tokens(asked, model.provider) - instructions_tokens([asked], model)
        if left is not None and left < 0:
            raise ThreadkeepError("too_large:context")
        kept: list[list[ModelMessage]] = []
        kept_rows = 0
        for turn in reversed(self._whole_turns(earlier)):
            messages = [message for row in turn for message in _of_row(row)]
            if left is not None:
                left -= sum(tokens(message, model.provider) for message in messages)
                if left < 0:
                    break
            kept.append(messages)
            kept_rows += len(turn)
        self._unread += len(earlier) - kept_rows
        self.omitted_messages = self._unread
        return Conversation([message for turn in reversed(kept) for message in turn], prompt)

    def fit(self, messages: list[ModelMessage], model: PricedModel, output: int) -> list[ModelMessage]:
        """What of the messages the model can read, leaving room for an answer of `output` tokens."""
        room = self._room(model, output)
        return messages if room is None else self._newest(messages, model, room)

    def shorten(self, messages: list[ModelMessage], model: PricedModel, output: int) -> bool:
        """Halves what the model is given in this turn, after it refused so much; False if that changes nothing."""
        sent = self.fit(messages, model, output)
        used = sum(tokens(message, model.provider) for message in sent) + instructions_tokens(sent, model)
        self._rooms[model.model_id] = used // 2
        return len(self.fit(messages, model, output)) < len(sent)

    def _room(self, model: PricedModel, output: int) -> int | None:
        window = model.metadata.context_window
        known = self._rooms.get(model.model_id)
        if window is None:
            return known
        # A sixteenth is for the tools, which are part of every request.
        room = window - min(output, window // 2) - window // 16
        return room if known is None else min(room, known)

    def _newest(self, messages: list[ModelMessage], model: PricedModel, room: int) -> list[ModelMessage]:
        sizes = [tokens(message, model.provider) for message in messages]
        used = sum(sizes) + instructions_tokens(messages, model)
        first = 0
        for place in range(1, len(messages)):
            if used <= room:
                break
            if is_prompt(messages[place]):
                used -= sum(sizes[first:place])
                first = place
        left_out = messages[:first]
        stored = sum(is_prompt(message) for message in left_out) + sum(
            isinstance(message, ModelResponse) and (place == 0 or is_prompt(left_out[place - 1]))
            for place, message in enumerate(left_out)
        )
        self.omitted_messages = self._unread + stored
        return messages[first:]

    def _whole_turns(self, rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        turns: list[list[dict[str, Any]]] = []
        for row in rows:
            if row["role"] == "user" or not turns:
                turns.append([])
            turns[-1].append(row)
        if turns and turns[0][0]["role"] != "user" and self._unread:
            # Its beginning was not loaded.
            return turns[1:]
        return turns


def to_store(messages: Sequence[ModelMessage]) -> list[dict[str, Any]]:
    """A run's new messages without the prompt that began it, which is stored as the person's own message.

    The instructions are left out: they are the configuration's, and would be kept once more with every message.
    """
    kept = [message for message in messages if not is_prompt(message)]
    dumped: list[dict[str, Any]] = ModelMessagesTypeAdapter.dump_python(kept, mode="json")
    for message in dumped:
        message.pop("instructions", None)
    cleaned: list[dict[str, Any]] = storable(dumped)
    return cleaned


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


def without_foreign_reasoning(messages: list[ModelMessage], provider: str) -> list[ModelMessage]:
    """The messages as a provider may read them: another one's reasoning would be sent on as if it were text."""
    if not any(_has_foreign_reasoning(message, provider) for message in messages):
        return messages
    own: list[ModelMessage] = []
    for message in messages:
        if isinstance(message, ModelResponse) and _has_foreign_reasoning(message, provider):
            parts = [part for part in message.parts if not isinstance(part, ThinkingPart)]
            own.append(replace(message, parts=parts))
        else:
            own.append(message)
    return own


def is_prompt(message: ModelMessage) -> bool:
    """Whether a turn begins with it; a tool's files stand as a prompt beside its result, which belongs to its call."""
    return isinstance(message, ModelRequest) and all(isinstance(part, UserPromptPart) for part in message.parts)


def tokens(message: ModelMessage, provider: str) -> int:
    """About how many tokens a message is, without instructions, and rather too many."""
    text = sum(_bytes(piece) for piece in texts(message))
    return (
        MESSAGE_TOKENS
        + int(text / BYTES_PER_TOKEN.get(provider, USUAL_BYTES_PER_TOKEN))
        + file_tokens(message, provider)
    )


def file_tokens(message: ModelMessage, provider: str) -> int:
    """About how many tokens a message's files are, and rather too many."""
    files = images = 0
    for piece in _pieces(message):
        if isinstance(piece, BinaryContent):
            images += piece.is_image
            files += 0 if piece.is_image else len(piece.data)
    return images * IMAGE_TOKENS.get(provider, USUAL_IMAGE_TOKENS) + files // FILE_BYTES_PER_TOKEN


def texts(message: ModelMessage) -> Iterator[str]:
    """All that is written in a message: what was said, and the arguments and results of tools."""
    for piece in _pieces(message):
        if piece is not None and not isinstance(piece, BinaryContent):
            yield piece if isinstance(piece, str) else str(piece)


def instructions(messages: Sequence[ModelMessage]) -> str:
    """Those of the newest request, which are the ones that are sent."""
    newest = next((message for message in reversed(messages) if isinstance(message, ModelRequest)), None)
    return (newest.instructions if newest else None) or ""


def instructions_tokens(messages: Sequence[ModelMessage], model: PricedModel) -> int:
    """About how many tokens the instructions are."""
    return int(_bytes(instructions(messages)) / BYTES_PER_TOKEN.get(model.provider, USUAL_BYTES_PER_TOKEN))


def _pieces(message: ModelMessage) -> Iterator[Any]:
    for part in message.parts:
        if part.part_kind in {"tool-call", "native-tool-call"}:
            yield part.args_as_json_str()
            continue
        content = getattr(part, "content", None)
        yield from content if isinstance(content, list | tuple) else [content]


def _of_row(row: dict[str, Any]) -> list[ModelMessage]:
    """A stored message; an answer in the lossless form in which it was kept."""
    if row["role"] == "user":
        return [ModelRequest(parts=[UserPromptPart(content=user_content(row))])]
    if row["modelMessages"]:
        messages: list[ModelMessage] = ModelMessagesTypeAdapter.validate_python(row["modelMessages"])
        return messages
    said = "".join(part["text"] for part in row["parts"] if part["type"] == "text")
    text = "\n\n".join(filter(None, [said, *_made(row["parts"])]))
    return [ModelResponse(parts=[TextPart(text)])] if text else []


def _made(parts: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The documents that an answer made before it broke off, by which the person may go on to call them."""
    for part in parts:
        output = part.get("output")
        if part["type"].startswith("tool-") and isinstance(output, dict) and {"id", "kind", "version"} <= output.keys():
            yield f"({part['type'].removeprefix('tool-')}: {json.dumps(output, ensure_ascii=False)})"


def _has_foreign_reasoning(message: ModelMessage, provider: str) -> bool:
    return (
        isinstance(message, ModelResponse)
        and not (message.provider_name or "").startswith(provider)
        and any(isinstance(part, ThinkingPart) for part in message.parts)
    )


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
