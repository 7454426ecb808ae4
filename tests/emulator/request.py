"""A request as it reached the provider: as it was sent, and the same fields for all providers beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

from tests.emulator.script import Answer, CodeExecution, NativeStep, ToolCall, UrlContext, WebSearch

Provider = Literal["openai", "google", "anthropic"]
Api = Literal["responses", "chat", "generate", "messages"]
Role = Literal["user", "assistant"]
Native = Literal["web_search", "url_context", "code_execution"]


@dataclass(frozen=True)
class Attachment:
    """A file or image in a turn: its bytes, or where it is."""

    media_type: str
    data: bytes | None = None
    url: str | None = None


@dataclass(frozen=True)
class ToolResult:
    """What a client's function returned, as text."""

    call_id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message of the history, or one item of it where the provider's history is a list of items."""

    role: Role
    text: str = ""
    reasoning: str = ""
    attachments: tuple[Attachment, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_results: tuple[ToolResult, ...] = ()


@dataclass(kw_only=True, eq=False)
class Request:
    """One request, and what became of it.

    `headers` have lower-case names and no key in them; `body` is what was sent; `thinking` are the provider's own
    settings for it; `id` is part of the answer's id. `outcome` is `left` if the client closed the connection before
    the answer was complete.
    """

    provider: Provider
    api: Api
    path: str
    model: str
    stream: bool
    body: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    key: str = field(default="", repr=False)
    system: str = ""
    turns: tuple[Turn, ...] = ()
    tools: tuple[str, ...] = ()
    native_tools: tuple[Native, ...] = ()
    thinking: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid4().hex, repr=False)
    answer: Answer | None = field(default=None, repr=False)
    deltas_sent: int = 0
    outcome: Literal["open", "answered", "refused", "cut", "left"] = "open"

    @property
    def last_user_text(self) -> str:
        """The text of the last turn in which the user said something; tool results are not said by the user."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user" and turn.text), "")

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        return tuple(result for turn in self.turns for result in turn.tool_results)

    @property
    def returns_tools(self) -> bool:
        """Whether it goes on with the results of the calls that the model just made."""
        return bool(self.turns and self.turns[-1].tool_results)

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        return tuple(attachment for turn in self.turns for attachment in turn.attachments)

    @property
    def text(self) -> str:
        """All that was said, by which input tokens are estimated."""
        return "\n".join([self.system, *(turn.text for turn in self.turns), *(r.text for r in self.tool_results)])


class Refused(Exception):  # noqa: N818 - it is an answer to the client, in the words the provider has for it
    """The provider would not take this request."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def unpaired(turns: Sequence[Turn]) -> tuple[str | None, str | None]:
    """The first tool result without a call before it, and the first call without a result after it."""
    waiting: list[str] = []
    for turn in turns:
        for result in turn.tool_results:
            if result.call_id not in waiting:
                return result.call_id, None
            waiting.remove(result.call_id)
        waiting.extend(call.id or call.name for call in turn.tool_calls)
    return None, waiting[0] if waiting else None


def native_of(step: NativeStep) -> Native:
    """The tool that a request must offer for the provider to take this step."""
    match step:
        case WebSearch():
            return "web_search"
        case UrlContext():
            return "url_context"
        case CodeExecution():
            return "code_execution"
