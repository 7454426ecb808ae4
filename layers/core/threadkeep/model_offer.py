"""The models that a chat may name: for whoever may chat, whether or not somebody is signed in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final, Literal

from threadkeep.configuration import Provider
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal
from threadkeep.model_metadata import ModelMetadata, Prices, parse_model_metadata

OFFLINE: Final = "offline"


@dataclass(frozen=True, slots=True)
class LongContext:
    """What a request pays as a whole whose input is longer than `above_input_tokens`, in US dollars per million."""

    above_input_tokens: int
    prices: Prices


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """An active model; sizes in tokens, None where unknown; prices of today (UTC), in US dollars per million tokens.

    `is_available` says that its provider has a key here. `is_default` is the one that answers when none is named,
    `is_provider_default` the one of its provider.
    """

    id: str
    name: str
    description: str | None
    provider: Provider | Literal["offline"]
    context_window: int | None
    max_output_tokens: int | None
    capabilities: list[str]
    thinking: bool
    prices: Prices
    long_context: LongContext | None
    is_available: bool
    is_default: bool
    is_provider_default: bool


async def active(database: Database, caller: Principal, providers: list[Provider], *, day: date) -> list[OfferedModel]:
    """The active models by provider and name, with the prices of `day`; `providers` are those with a key here.

    When none of them can answer, the offline model comes first. Raises `unauthorized:auth` for nobody where guests
    are switched off.
    """
    row = await database.row(
        caller, "select private.offered_models(%(providers)s) as offered", {"providers": list(providers)}
    )
    assert row is not None
    default = row["offered"]["default"]
    models = [_model(model, default, providers, day) for model in row["offered"]["models"]]
    return models if default is not None else [_OFFLINE_MODEL, *models]


def _model(row: dict[str, Any], default: str | None, providers: list[Provider], day: date) -> OfferedModel:
    try:
        metadata = parse_model_metadata(row["metadata"])
    except ThreadkeepError:
        # A row from before the shape was checked is still a model, of which less is known.
        metadata = ModelMetadata()
    listed = _decimal(row["input_pricing_per_million_tokens"]), _decimal(row["output_pricing_per_million_tokens"])
    finer: Any = metadata
    for change in metadata.price_changes:
        if change.starts_on <= day:
            finer = change
    return OfferedModel(
        id=row["model_id"],
        name=row["name"],
        description=row["description"],
        provider=row["provider"],
        context_window=metadata.context_window,
        max_output_tokens=metadata.max_output_tokens,
        capabilities=list(metadata.capabilities),
        thinking=row["thinking_enabled"],
        prices=metadata.prices(*listed, day=day, input_tokens=0),
        long_context=LongContext(
            finer.long_context.above_input_tokens,
            metadata.prices(*listed, day=day, input_tokens=finer.long_context.above_input_tokens + 1),
        )
        if finer.long_context
        else None,
        is_available=row["provider"] in providers,
        is_default=row["model_id"] == default,
        is_provider_default=row["is_default"],
    )


def _decimal(value: float) -> Decimal:
    # Through its shortest text: 0.1 is a tenth here and not a binary fraction.
    return Decimal(str(value))


_NOTHING: Final = Decimal(0)
_OFFLINE_MODEL: Final = OfferedModel(
    id=OFFLINE,
    name="Offline model",
    description="Answers without any provider, and says so.",
    provider="offline",
    context_window=None,
    max_output_tokens=None,
    capabilities=["tools"],
    thinking=False,
    prices=Prices(_NOTHING, _NOTHING, _NOTHING, _NOTHING),
    long_context=None,
    is_available=True,
    is_default=True,
    is_provider_default=True,
)
