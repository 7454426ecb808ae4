"""OpenAI's client, which takes requests and events of the Responses API for what they are.

The SDK walks through every message and tool once for each kind of item that it could be, to rewrite names that are the
same in both forms: 25 ms for forty messages. What the agent library makes is in the form of the API already, and what
stands in `extra_body` is not walked through. It also tries an event of a stream as each of its 59 kinds, 140 µs for
every piece of text; the event's own `type` says which one it is.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache, cached_property
from typing import Any, Final, get_args

from openai import AsyncOpenAI, BaseModel, Omit
from openai.resources.responses import AsyncResponses
from openai.types.responses import ResponseStreamEvent
from pydantic import ValidationError

_AS_IT_IS: Final = ("input", "tools")


class _Responses(AsyncResponses):
    async def create(self, **options: Any) -> Any:
        given = {name: options.pop(name) for name in _AS_IT_IS if not isinstance(options.get(name, Omit()), Omit)}
        body = given | (options.pop("extra_body", None) or {})
        return await super().create(**options, extra_body=body)


class OpenAIClient(AsyncOpenAI):
    """As the SDK's, but for how it sends a conversation and reads an answer's events."""

    @cached_property
    def responses(self) -> AsyncResponses:
        return _Responses(self)

    def _process_response_data(self, *, data: Any, cast_to: Any, response: Any) -> Any:
        if cast_to is ResponseStreamEvent and (kind := _event_kinds().get(data.get("type"))) is not None:
            # One that OpenAI sends in another form by now is read as loosely as the SDK can.
            with suppress(ValidationError):
                return kind.model_validate(data)
        return super()._process_response_data(data=data, cast_to=cast_to, response=response)


@cache
def _event_kinds() -> dict[str, type[BaseModel]]:
    """The kinds of events, by the `type` that each of them has alone."""
    union, _ = get_args(ResponseStreamEvent)
    return {name: kind for kind in get_args(union) for name in get_args(kind.model_fields["type"].annotation)}
