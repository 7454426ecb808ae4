"""Every model request of a turn on one ledger: who asked which model, what it used, what it cost.

A request is entered before it is sent, under an id derived from the answer and its place in the turn, so that
whatever ends the turn settles it once. Input tokens are all input, cached or not, as pydantic-ai brings every
provider's counts to that one meaning. No request is entered that the turn cannot pay any more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid5

from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import StreamedResponse
from pydantic_ai.usage import RequestUsage

from threadkeep_agents import history
from threadkeep_agents.priced_models import PricedModel, cost

CHARACTERS_PER_TOKEN: Final = 4
# Less than this is no answer; a request for fewer tokens needs what it asks for.
LEAST_OUTPUT_TOKENS: Final = 256
UNBOUNDED_TOKENS: Final = 100_000_000


@dataclass(slots=True)
class Ledger:
    """The requests of one turn, in the order in which they were entered.

    `max_cost` in USD bounds them all together; None is without bound. `is_of_budget` says that the month's budget
    left no more for the turn than that.
    """

    answer: UUID
    max_cost: Decimal | None = None
    is_of_budget: bool = False
    entries: list[Entry] = field(default_factory=list)
    is_changed: bool = False

    def enter(
        self, agent: str, model: PricedModel, messages: list[ModelMessage], output_tokens: int, *, shares: bool = False
    ) -> Entry:
        """Enters a request for at most `output_tokens`, which are lowered to what is left (`Entry.output_bound`).

        One that `shares` with others at the same time takes at most half of it, so that there is some left for them.
        Raises `CostBoundReachedError` if that is not enough for an answer.
        """
        entry = Entry(
            request_id=uuid5(self.answer, str(len(self.entries))),
            agent=agent,
            model=model,
            estimated_input=_input_estimate(messages, model.provider),
            started_at=datetime.now(UTC),
            started=time.perf_counter(),
        )
        entry.output_bound = min(output_tokens, self._payable(entry, shares=shares))
        if entry.output_bound < min(output_tokens, LEAST_OUTPUT_TOKENS):
            raise CostBoundReachedError(is_of_budget=self.is_of_budget)
        self.entries.append(entry)
        self.is_changed = True
        return entry

    def settle(self, entry: Entry, response: ModelResponse | None, *, is_whole: bool) -> None:
        """Closes a request with what its provider said it used, or with an estimate if that was not all."""
        if not entry.is_open:
            return
        entry.is_open = False
        entry.duration_ms = round((time.perf_counter() - entry.started) * 1000)
        self.is_changed = True
        if response is not None:
            entry.hear(response)
        if is_whole:
            entry.usage = entry.reported

    def drop(self, entry: Entry) -> None:
        """Takes back a request that its provider refused or never got. Its place in the turn stays taken."""
        entry.is_open = False
        entry.usage = RequestUsage()
        entry.duration_ms = round((time.perf_counter() - entry.started) * 1000)
        self.is_changed = True

    def _payable(self, entry: Entry, *, shares: bool) -> int:
        """How many output tokens can be paid after the request's input and all that the others cost or may cost."""
        if self.max_cost is None or not (entry.model.input_price or entry.model.output_price):
            return UNBOUNDED_TOKENS
        left = self.max_cost - sum((other.most() for other in self.entries), Decimal(0)) - entry.most()
        prices = entry.model.metadata.prices(
            entry.model.input_price,
            entry.model.output_price,
            day=entry.started_at.date(),
            input_tokens=entry.estimated_input,
        )
        if left < 0 or not prices.output:
            return 0 if left < 0 else UNBOUNDED_TOKENS
        return int(left * 1_000_000 / prices.output) // (2 if shares else 1)

    @property
    def has_news(self) -> bool:
        """Whether `rows` would say more than it did last; of a request that is open it may at any time."""
        return self.is_changed or any(entry.is_open for entry in self.entries)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all requests that used anything or may have."""
        self.is_changed = False
        return [
            entry.row() for entry in self.entries if entry.is_open or entry.usage is None or entry.usage.has_values()
        ]

    def close(self) -> None:
        """At the turn's end nothing is open any more: a run that was cancelled may leave its stream to itself."""
        for entry in self.entries:
            self.settle(entry, entry.stream.get() if entry.stream else None, is_whole=False)


class CostBoundReachedError(UsageLimitExceeded):
    """The turn cannot pay another request: what one turn may cost is spent, or what the month's budget had left."""

    def __init__(self, *, is_of_budget: bool) -> None:
        self.is_of_budget = is_of_budget
        super().__init__("the next request would cost more than is left")


@dataclass(slots=True, eq=False)
class Entry:
    """One model request. It is open until its usage is known or it is sure that nothing was used."""

    request_id: UUID
    agent: str
    model: PricedModel
    estimated_input: int
    started_at: datetime
    started: float
    usage: RequestUsage | None = None
    is_open: bool = True
    duration_ms: int | None = None
    output_characters: int = 0
    output_bound: int = 0
    has_answered: bool = False
    stream: StreamedResponse | None = None
    reported: RequestUsage | None = None

    def hear(self, response: ModelResponse) -> None:
        """Takes what was said and reported by now, of an answer that may not be whole yet."""
        self.has_answered = bool(response.parts)
        self.output_characters = _response_characters(response)
        if response.usage.has_values() and not response.usage.unmeasured_requests:
            self.reported = response.usage

    def most(self) -> Decimal:
        """What it cost, or the most that it may cost while it is open."""
        if self.is_open:
            usage = RequestUsage(input_tokens=self.estimated_input, output_tokens=self.output_bound)
        else:
            usage = self.usage or self.estimate
        return sum(cost(self.model, usage, self.started_at), Decimal(0))

    @property
    def estimate(self) -> RequestUsage:
        """What an answer that is not whole used: what was reported of it by now, and no less than what was said."""
        reported = self.reported or RequestUsage()
        return replace(
            reported,
            input_tokens=reported.input_tokens or self.estimated_input,
            output_tokens=max(reported.output_tokens, -(-self.output_characters // CHARACTERS_PER_TOKEN)),
        )

    def row(self) -> dict[str, Any]:
        """The row for `private.settle_usage`; of an open request, what it used if it came to no other end."""
        if self.is_open and self.stream is not None:
            self.hear(self.stream.get())
        usage = self.usage or self.estimate
        input_cost, output_cost = cost(self.model, usage, self.started_at)
        return {
            "request_id": str(self.request_id),
            "agent_type": self.agent,
            "model_used": self.model.model_id,
            "provider": self.model.provider,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cached_input_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "reasoning_tokens": getattr(usage, "output_reasoning_tokens", 0) or 0,
            "input_cost": str(input_cost),
            "output_cost": str(output_cost),
            "source": "estimated" if self.usage is None else "provider",
            "is_priced": self.model.is_priced,
            "request_timestamp": self.started_at.isoformat(),
            "duration_ms": self.duration_ms,
        }


def _input_estimate(messages: list[ModelMessage], provider: str) -> int:
    characters = len(history.instructions(messages))
    characters += sum(len(text) for message in messages for text in history.texts(message))
    files = sum(history.file_tokens(message, provider) for message in messages)
    return -(-characters // CHARACTERS_PER_TOKEN) + files


def _response_characters(response: ModelResponse) -> int:
    total = 0
    for part in response.parts:
        if part.part_kind in {"text", "thinking"}:
            total += len(part.content)
        elif part.part_kind == "tool-call":
            total += len(part.args_as_json_str())
    return total
