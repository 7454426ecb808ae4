"""Models with their prices, and what a request to one costs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from pydantic_ai.usage import RequestUsage

from threadkeep.model_catalog import is_priced
from threadkeep.model_metadata import ModelMetadata, parse_model_metadata

OFFLINE: Final = "offline"
ASSUMED_OUTPUT_TOKENS: Final = 65_536
PICO: Final = Decimal("0.000000000001")


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


OFFLINE_MODEL: Final = PricedModel(OFFLINE, OFFLINE, Decimal(0), Decimal(0), ModelMetadata(), thinking_enabled=False)


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
