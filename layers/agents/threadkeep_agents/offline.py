"""The model that answers when no provider has a key: deterministic, streaming, and open about what it is."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

QUOTED_CHARACTERS = 200


def offline_model(_agent: str) -> FunctionModel:
    """A model that needs no network, for one of the agents."""
    return FunctionModel(_answer, stream_function=_stream, model_name="offline")


def _answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[TextPart(_text(messages))])


async def _stream(messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
    for word in re.findall(r"\S+\s*", _text(messages)):
        yield word


def _text(messages: list[ModelMessage]) -> str:
    said = _last_prompt(messages)
    quoted = said[:QUOTED_CHARACTERS] + ("…" if len(said) > QUOTED_CHARACTERS else "")
    return (
        "I am Threadkeep's offline model: no provider has a key here, so nothing thinks behind these words. "
        f"You said: “{quoted}” "
        "Set OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY and start again to talk to a real model."
    )


def _last_prompt(messages: list[ModelMessage]) -> str:
    for message in reversed(messages):
        if not isinstance(message, ModelRequest):
            continue
        for part in message.parts:
            if isinstance(part, UserPromptPart):
                pieces = [part.content] if isinstance(part.content, str) else part.content
                return " ".join(piece for piece in pieces if isinstance(piece, str))
    return ""
