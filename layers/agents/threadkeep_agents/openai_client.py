"""OpenAI's client, which sends a conversation as it is.

The SDK walks through every message once for each kind of item that a message could be, to rewrite names that are the
same in both forms: 25 ms for forty messages. What the agent library makes is in the form of the API already, and what
stands in `extra_body` is not walked through.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from openai import AsyncOpenAI
from openai.resources.responses import AsyncResponses


class _Responses(AsyncResponses):
    async def create(self, **options: Any) -> Any:
        conversation = {"input": options.pop("input")} if "input" in options else {}
        body = conversation | (options.pop("extra_body", None) or {})
        return await super().create(**options, extra_body=body)


class OpenAIClient(AsyncOpenAI):
    """As the SDK's, but for how it sends a conversation."""

    @cached_property
    def responses(self) -> AsyncResponses:
        return _Responses(self)
