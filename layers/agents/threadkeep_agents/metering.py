"""Every model request of a turn on one ledger: who asked which model, what it used, what it cost.

A request is entered before it is sent, under an id derived from the answer and its place in the turn, so that
whatever ends the turn settles it once. Input tokens are all input, cached or not, as pydantic-ai brings every
provider's counts to that one meaning.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid5

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import RequestUsage

from threadkeep.configuration import ModelMetadata, parse_model_metadata
from threadkeep.model_catalog import is_priced
from threadkeep_agents.bursts import Bursts

CHARACTERS_PER_TOKEN: Final = 4
PICO: Final = Decimal("0.000000000001")
OFFLINE: Final = "offline"


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
    is_estimated: bool = False
    is_open: bool = True
    duration_ms: int | None = None
    output_characters: int = 0
    stream: StreamedResponse | None = None

    def row(self) -> dict[str, Any]:
        """The row for `private.settle_usage`; an open request carries what a recovery needs to estimate it."""
        usage = self.usage or RequestUsage(
            input_tokens=self.estimated_input, output_tokens=-(-self.output_characters // CHARACTERS_PER_TOKEN)
        )
        input_cost, output_cost = cost(self.model, usage, self.started_at)
        row: dict[str, Any] = {
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
            "source": "estimated" if self.usage is None or self.is_estimated else "provider",
            "is_priced": self.model.is_priced,
            "request_timestamp": self.started_at.isoformat(),
            "duration_ms": self.duration_ms,
        }
        if self.is_open:
            row |= {
                "open": True,
                "input_price": str(self.model.input_price),
                "output_price": str(self.model.output_price),
            }
        return row


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
    """The requests of one turn, in the order in which they were entered."""

    answer: UUID
    entries: list[Entry] = field(default_factory=list)
    is_changed: bool = False

    def enter(self, agent: str, model: PricedModel, messages: list[ModelMessage]) -> Entry:
        entry = Entry(
            request_id=uuid5(self.answer, str(len(self.entries))),
            agent=agent,
            model=model,
            estimated_input=-(-_characters(messages) // CHARACTERS_PER_TOKEN),
            started_at=datetime.now(UTC),
            started=time.perf_counter(),
        )
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
        if response is None:
            return
        entry.output_characters = _response_characters(response)
        usage = response.usage
        if usage.unmeasured_requests or not usage.has_values():
            return
        if not is_whole:
            usage = _at_least(usage, entry)
        entry.usage = usage
        entry.is_estimated = not is_whole

    def drop(self, entry: Entry) -> None:
        """Takes back a request that its provider refused, which nobody bills. Its place in the turn stays taken."""
        entry.is_open = False
        entry.usage = RequestUsage()
        entry.duration_ms = round((time.perf_counter() - entry.started) * 1000)
        self.is_changed = True

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
    """A model whose every request is on the ledger of a turn."""

    def __init__(
        self,
        wrapped: Model[Any],
        ledger: Ledger,
        agent: str,
        priced: PricedModel,
        entries: list[Entry] | None = None,
    ) -> None:
        """`entries` gets each request of this model besides."""
        super().__init__(wrapped)
        self._ledger = ledger
        self._agent = agent
        self._priced = priced
        self._entries = entries if entries is not None else []

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        entry = self._enter(messages)
        response = None
        try:
            response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        except asyncio.CancelledError:
            self._ledger.settle(entry, None, is_whole=False)
            raise
        except Exception as error:
            self._settle_failure(entry, error, None)
            raise
        self._ledger.settle(entry, response, is_whole=True)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        entry = self._enter(messages)
        stream: StreamedResponse | None = None
        try:
            async with self.wrapped.request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as stream:
                entry.stream = stream
                bursts = Bursts(aiter(stream))
                # Whoever iterates over the stream from here on gets what `aiter` found in this place.
                stream._event_iterator = bursts
                try:
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

    def _enter(self, messages: list[ModelMessage]) -> Entry:
        entry = self._ledger.enter(self._agent, self._priced, messages)
        self._entries.append(entry)
        return entry

    def _settle_failure(self, entry: Entry, error: Exception, stream: StreamedResponse | None) -> None:
        from pydantic_ai.exceptions import ModelHTTPError

        if stream is None and isinstance(error, ModelHTTPError):
            self._ledger.drop(entry)
        else:
            self._ledger.settle(entry, stream.get() if stream else None, is_whole=False)


def is_whole(response: ModelResponse) -> bool:
    """Whether the model came to an end; a stream that ends without its last event raises nothing."""
    return response.state == "complete" and (response.finish_reason is not None or response.model_name == OFFLINE)


def _at_least(usage: RequestUsage, entry: Entry) -> RequestUsage:
    """What was reported before the answer broke off, and no less than what had been said by then."""
    said = -(-entry.output_characters // CHARACTERS_PER_TOKEN)
    return RequestUsage(
        input_tokens=usage.input_tokens or entry.estimated_input,
        output_tokens=max(usage.output_tokens, said),
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        details=usage.details,
    )


def _characters(messages: list[ModelMessage]) -> int:
    total = 0
    for message in messages:
        if message.kind == "response":
            total += _response_characters(message)
            continue
        total += len(message.instructions or "")
        for part in message.parts:
            content = getattr(part, "content", None)
            pieces = [content] if isinstance(content, str) else content if isinstance(content, list | tuple) else []
            total += sum(len(piece) for piece in pieces if isinstance(piece, str))
    return total


def _response_characters(response: ModelResponse) -> int:
    total = 0
    for part in response.parts:
        if part.part_kind in {"text", "thinking"}:
            total += len(part.content)
        elif part.part_kind == "tool-call":
            total += len(part.args_as_json_str())
    return total
