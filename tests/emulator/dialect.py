"""What each provider's protocol must be able to say."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from tests.emulator.connection import HttpRequest
from tests.emulator.request import Provider, Request
from tests.emulator.script import Fault, Reply, ToolCall, Usage


class Frame(NamedTuple):
    """A piece of a stream; `delta` if a reader would see something of it."""

    data: bytes
    delta: bool = False


@dataclass(frozen=True)
class Refusal:
    """An HTTP answer that is an error."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class Dialect(Protocol):
    """One protocol of one provider."""

    @property
    def provider(self) -> Provider: ...

    def read(self, http: HttpRequest) -> Request:
        """The request in both forms; raises Refused with what the provider would say of it."""

    def frames(self, request: Request, reply: Reply, usage: Usage) -> list[Frame]:
        """The reply as a stream of events."""

    def whole(self, request: Request, reply: Reply, usage: Usage) -> dict[str, Any]:
        """The reply as one body."""

    def refusal(self, fault: Fault, model: str) -> Refusal:
        """The fault as an HTTP answer."""

    def broken(self, fault: Fault, request: Request, position: int) -> bytes:
        """The fault as an event inside a stream, after `position` events."""

    def garbage(self) -> bytes:
        """An event that is not JSON."""


def compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def event(name: str, value: object) -> bytes:
    """A named server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), compact(value))


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid4().hex}"


def signature_of(text: str) -> str:
    """What a provider would have signed or encrypted of its reasoning: opaque, and the same for the same text."""
    return base64.b64encode(f"signed:{text}".encode()).decode()


def arguments_text(call: ToolCall) -> str:
    return call.arguments if isinstance(call.arguments, str) else compact(call.arguments).decode()


def halves(text: str) -> tuple[str, ...]:
    """Text in the pieces in which arguments and code are streamed."""
    middle = len(text) // 2
    return (text[:middle], text[middle:]) if middle else (text,)


def plausible_usage(request: Request, reply: Reply) -> Usage:
    """Four characters to a token, for a reply whose script names no figures."""
    thought = "".join(reply.reasoning_deltas)
    said = "".join(reply.text_deltas) + "".join(arguments_text(call) for call in reply.tool_calls)
    reasoning = math.ceil(len(thought) / 4)
    return Usage(
        input=max(1, math.ceil(len(request.text) / 4)),
        output=max(1, math.ceil(len(said) / 4)) + reasoning,
        reasoning=reasoning,
    )
