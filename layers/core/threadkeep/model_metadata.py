"""`model_config.metadata`: what is known of a model besides its row's columns, and what a request to it pays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from threadkeep.shapes import Amount, Day, Shape, Tokens, distinct, refusal


def parse_model_metadata(data: object) -> ModelMetadata:
    """Reads `model_config.metadata`, given as decoded JSON.

    Raises ThreadkeepError `invalid:api` with paths such as `metadata.contextWindow`.
    """
    try:
        return ModelMetadata.model_validate(data)
    except ValidationError as error:
        raise refusal(error, root="metadata", prefix="metadata.") from None


UsdPerMillionTokens = Annotated[
    Amount, Field(le=10_000), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 10_000})
]


@dataclass(frozen=True, slots=True)
class Prices:
    """What one request pays, in US dollars per million tokens of each kind."""

    input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    output: Decimal


class LongContextPrices(Shape):
    """What the whole of a request pays whose input, cached or not, is longer than `above_input_tokens`."""

    above_input_tokens: Tokens
    input_price: UsdPerMillionTokens
    cached_input_price: UsdPerMillionTokens | None = None
    cache_write_price: UsdPerMillionTokens | None = None
    output_price: UsdPerMillionTokens


class FinerPrices(Shape):
    """US dollars per million tokens. A kind of input without a price of its own pays the input price."""

    cached_input_price: UsdPerMillionTokens | None = None
    cache_write_price: UsdPerMillionTokens | None = None
    long_context: LongContextPrices | None = None


class PriceChange(FinerPrices):
    """New prices that the provider has announced; they replace all earlier ones from the start of a day (UTC)."""

    starts_on: Annotated[Day, Field(alias="from")]
    input_price: UsdPerMillionTokens
    output_price: UsdPerMillionTokens


class ModelMetadata(FinerPrices):
    """What is known of a model besides the columns of its row: sizes in tokens, what it takes, finer prices."""

    context_window: Tokens | None = None
    max_output_tokens: Tokens | None = None
    capabilities: Annotated[
        tuple[Literal["images", "pdf", "tools"], ...], Field(max_length=100), AfterValidator(distinct)
    ] = ()
    price_changes: Annotated[tuple[PriceChange, ...], Field(max_length=100)] = ()

    @field_validator("price_changes")
    @classmethod
    def _ascending(cls, changes: tuple[PriceChange, ...]) -> tuple[PriceChange, ...]:
        days = [change.starts_on for change in changes]
        if days != sorted(set(days)):
            raise PydanticCustomError("unordered", "must be in the order of their days, each day once")
        return changes

    def prices(self, input_price: Decimal, output_price: Decimal, *, day: date, input_tokens: int) -> Prices:
        """What a request of `input_tokens`, cached ones included, pays on a day (UTC).

        `input_price` and `output_price` are the row's own columns.
        """
        finer: FinerPrices = self
        for change in self.price_changes:
            if change.starts_on <= day:
                finer, input_price, output_price = change, change.input_price, change.output_price
        kinds: FinerPrices | LongContextPrices = finer
        if finer.long_context and input_tokens > finer.long_context.above_input_tokens:
            kinds = finer.long_context
            input_price, output_price = kinds.input_price, kinds.output_price
        return Prices(
            input=input_price,
            cached_input=input_price if kinds.cached_input_price is None else kinds.cached_input_price,
            cache_write=input_price if kinds.cache_write_price is None else kinds.cache_write_price,
            output=output_price,
        )
