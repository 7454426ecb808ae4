"""Every model request of a turn on one ledger: who asked which model, what it used, what it cost.

A request is entered before it is sent, under an id derived from the answer and its place in the turn, so that
whatever ends the turn settles it once. Input tokens are all input, cached or not, as pydantic-ai brings every
provider's counts to that one meaning. No request is sent that the turn cannot pay any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, cast
from uuid import UUID, uuid5

from pydantic_ai.exceptions import ModelContextWindowExceededError, ModelHTTPError, UsageLimitExceeded, UserError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import RequestUsage

from threadkeep.configuration import ModelMetadata, parse_model_metadata
from threadkeep.model_catalog import is_priced
from threadkeep_agents import history
from threadkeep_agents.bursts import Bursts
from threadkeep_agents.history import Window, without_foreign_reasoning

CHARACTERS_PER_TOKEN: Final = 4
PICO: Final = Decimal("0.000000000001")
OFFLINE: Final = "offline"
# Less than this is no answer; a request for fewer tokens needs what it asks for.
LEAST_OUTPUT_TOKENS: Final = 256
ASSUMED_OUTPUT_TOKENS: Final = 65_536
UNBOUNDED_TOKENS: Final = 100_000_000
SHOWING_REASONING: Final = {"openai_reasoning_summary", "google_thinking_config", "anthropic_thinking"}


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A model as its row of `model_config` has it: USD per million tokens."""

    model_id: str
    provider: str
    input_price: Decimal
    output_price: Decimal
    metadata: ModelMetadata
    thinking_enabled: bool

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> PricedModel:
        return cls(
            model_id=row["model_id"],
            provider=row["provider"],
            input_price=Decimal(str(row["input_pricing_per_million_tokens"])),
            output_price=Decimal(str(row["output_pricing_per_million_tokens"])),
            metadata=parse_model_metadata(row["metadata"]),
            thinking_enabled=row["thinking_enabled"],
        )

    @property
    def is_priced(self) -> bool:
        """Whether there is a price; without one the usage still counts, and is flagged."""
        return self.provider == OFFLINE or is_priced(self.input_price, self.output_price)

    def output_tokens(self, wanted: int | None = None) -> int:
        """The longest answer that may be asked for: what is wanted, what the model can, half of its context window."""
        window = self.metadata.context_window
        known = [wanted, self.metadata.max_output_tokens, window and max(1, window // 2)]
        return min((bound for bound in known if bound), default=ASSUMED_OUTPUT_TOKENS)


class CostBoundReachedError(UsageLimitExceeded):
    """The turn cannot pay another request: what one turn may cost is spent, or what the month's budget had left."""

    def __init__(self, *, is_of_budget: bool) -> None:
        self.is_of_budget = is_of_budget
        super().__init__("the next request would cost more than is left")


OFFLINE_MODEL: Final = PricedModel(OFFLINE, OFFLINE, Decimal(0), Decimal(0), ModelMetadata(), thinking_enabled=False)


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


def cost(model: PricedModel, usage: RequestUsage, at: datetime) -> tuple[Decimal, Decimal]:
    """What a request costs in USD, input and output, to twelve digits.

    Cached reads and cache writes are parts of the input tokens and pay their own prices, never the input price too.
    """
    prices = model.metadata.prices(
        model.input_price, model.output_price, day=at.astimezone(UTC).date(), input_tokens=usage.input_tokens
    )
    uncached = max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens)
    of_input = (
        uncached * prices.input
        + usage.cache_read_tokens * prices.cached_input
        + usage.cache_write_tokens * prices.cache_write
    )
    million = Decimal(1_000_000)
    return (of_input / million).quantize(PICO), (usage.output_tokens * prices.output / million).quantize(PICO)


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


class MeteredModel(WrapperModel):
    """A model whose every request is on the ledger of a turn, and one that this model can read and the turn can pay."""

    def __init__(
        self,
        wrapped: Model[Any],
        ledger: Ledger,
        agent: str,
        priced: PricedModel,
        entries: list[Entry] | None = None,
        *,
        window: Window | None = None,
        own_settings: ModelSettings | None = None,
        shares: bool = False,
    ) -> None:
        """`entries` gets each request of this model besides.

        `own_settings` show the reasoning of this model, if a request that was made for another one's is to show it.
        `shares` says that other requests of the turn may run at the same time.
        """
        super().__init__(wrapped)
        self._ledger = ledger
        self._agent = agent
        self._priced = priced
        self._entries = entries if entries is not None else []
        self._window = window or Window()
        self._own_settings = own_settings
        self._shares = shares

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        try:
            return await self._request(messages, model_settings, model_request_parameters)
        except ModelContextWindowExceededError:
            if not self._shorten(messages, model_settings):
                raise
        return await self._request(messages, model_settings, model_request_parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        async with AsyncExitStack() as stack:
            try:
                stream = await stack.enter_async_context(
                    self._request_stream(messages, model_settings, model_request_parameters, run_context)
                )
            except ModelContextWindowExceededError:
                if not self._shorten(messages, model_settings):
                    raise
                stream = await stack.enter_async_context(
                    self._request_stream(messages, model_settings, model_request_parameters, run_context)
                )
            yield stream

    async def _request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        messages, entry, settings = self._enter(messages, model_settings)
        response = None
        try:
            response = await self.wrapped.request(messages, settings, model_request_parameters)
        except asyncio.CancelledError:
            self._ledger.settle(entry, None, is_whole=False)
            raise
        except Exception as error:
            self._settle_failure(entry, error, None)
            raise
        self._ledger.settle(entry, response, is_whole=True)
        return response

    @asynccontextmanager
    async def _request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None,
    ) -> AsyncGenerator[StreamedResponse]:
        messages, entry, settings = self._enter(messages, model_settings)
        stream: StreamedResponse | None = None
        try:
            async with self.wrapped.request_stream(messages, settings, model_request_parameters, run_context) as stream:
                entry.stream = stream
                bursts = Bursts(aiter(stream))
                # Whoever iterates over the stream from here on gets what `aiter` found in this place.
                stream._event_iterator = bursts
                try:
                    # A provider may accept a request and refuse it in its first event; until then nothing was said.
                    await bursts.begin()
                    yield stream
                finally:
                    await bursts.close()
        except asyncio.CancelledError:
            self._ledger.settle(entry, stream.get() if stream else None, is_whole=False)
            raise
        except Exception as error:
            self._settle_failure(entry, error, stream)
            raise
        response = stream.get()
        self._ledger.settle(entry, response, is_whole=is_whole(response))

    def _enter(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None
    ) -> tuple[list[ModelMessage], Entry, ModelSettings]:
        settings = self._adapted(model_settings)
        output = settings.get("max_tokens") or self._priced.output_tokens()
        messages = self._window.fit(self._readable(messages), self._priced, output)
        entry = self._ledger.enter(self._agent, self._priced, messages, output, shares=self._shares)
        self._entries.append(entry)
        if entry.output_bound < output:
            settings["max_tokens"] = entry.output_bound
        return messages, entry, settings

    def _adapted(self, given: ModelSettings | None) -> ModelSettings:
        settings = dict(given or {})
        if wanted := (given or {}).get("max_tokens"):
            settings["max_tokens"] = self._priced.output_tokens(wanted)
        if self._own_settings is not None:
            if not self._priced.thinking_enabled:
                settings.pop("thinking", None)
            elif settings.keys() & SHOWING_REASONING:
                settings |= self._own_settings
        return cast("ModelSettings", settings)

    def _readable(self, messages: list[ModelMessage]) -> list[ModelMessage]:
        return without_foreign_reasoning(messages, self._priced.provider)

    def _shorten(self, messages: list[ModelMessage], model_settings: ModelSettings | None) -> bool:
        output = self._adapted(model_settings).get("max_tokens") or self._priced.output_tokens()
        return self._window.shorten(self._readable(messages), self._priced, output)

    def _settle_failure(self, entry: Entry, error: Exception, stream: StreamedResponse | None) -> None:
        response = stream.get() if stream else None
        if (isinstance(error, ModelHTTPError) or _was_not_sent(error)) and not (response and response.parts):
            self._ledger.drop(entry)
        else:
            self._ledger.settle(entry, response, is_whole=False)


def is_whole(response: ModelResponse) -> bool:
    """Whether the model came to an end; a stream that ends without its last event raises nothing."""
    return response.state == "complete" and (response.finish_reason is not None or response.model_name == OFFLINE)


def _was_not_sent(error: BaseException) -> bool:
    """Whether the request reached no provider: nothing listened there, or the model takes no request like this."""
    import httpx2

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError | httpx2.ConnectError | httpx2.ConnectTimeout):
            return True
        cause = cause.__cause__
    return False


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
