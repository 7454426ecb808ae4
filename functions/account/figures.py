"""What the caller used, what he may still use, and with which models."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from threadkeep import limits, model_offer, usage
from threadkeep.configuration import Agent, Provider
from threadkeep.errors import ThreadkeepError
from threadkeep.shapes import Day
from threadkeep.web import ApiModel, Caller, Moment, SignedIn, moment

router = APIRouter()

Surroundings = Annotated[Moment, Depends(moment)]

DEFAULT_DAYS: Final = 30


class FiguresView(ApiModel):
    """Sums over model requests: tokens, and cost in US dollars.

    Cached and written tokens are parts of the input, reasoning tokens of the output. The cost of `unpricedRequests`
    is not known and not in the sum; the figures of `estimatedRequests` are estimates.
    """

    requests: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost: float
    estimated_requests: int
    unpriced_requests: int


class DayView(FiguresView):
    """One day (UTC)."""

    day: date


class AgentView(FiguresView):
    """One agent."""

    agent: str


class ModelUsageView(FiguresView):
    """One model."""

    provider: str | None
    model: str | None


class UsageView(ApiModel):
    """The same requests summed four times; days without one are left out, models come by cost."""

    from_day: date = Field(alias="from")
    to: date
    totals: FiguresView
    days: list[DayView]
    agents: list[AgentView]
    models: list[ModelUsageView]


class WindowView(ApiModel):
    """A fixed window (UTC); `usedByAddress` is what all guests of the caller's address used, null for an account."""

    window: limits.WindowKind
    limit: int
    used: int
    used_by_address: int | None
    remaining: int
    resets_at: datetime


class AgentLimitsView(ApiModel):
    """An agent under the configuration for a provider; what was used counts for all providers."""

    provider: Provider
    agent: Agent
    enabled: bool
    windows: list[WindowView]


class TurnBoundsView(ApiModel):
    """Where one turn ends."""

    max_requests: int
    max_tool_calls: int
    max_output_tokens: int
    max_seconds: int
    max_cost_usd: float


class BudgetView(ApiModel):
    """The caller's month (UTC) in US dollars; `cap` and `remaining` are null without a bound.

    Guests share a budget besides, of which only `hasRoom` tells.
    """

    month: date
    cap: float | None
    spent: float
    reserved: float
    remaining: float | None
    has_room: bool
    resets_at: datetime


class LimitsView(ApiModel):
    """All that bounds the caller now."""

    agents: list[AgentLimitsView]
    turn: TurnBoundsView
    budget: BudgetView


class PricesView(ApiModel):
    """US dollars per million tokens."""

    input: float
    cached_input: float
    cache_write: float
    output: float


class LongContextView(ApiModel):
    """What the whole of a request pays whose input is longer than that."""

    above_input_tokens: int
    prices: PricesView


class ModelView(ApiModel):
    """A model that a chat may name.

    `isAvailable` says that its provider can be used here, `isDefault` that it answers when none is named.
    """

    id: str
    name: str
    description: str | None
    provider: str
    context_window: int | None
    max_output_tokens: int | None
    capabilities: list[str]
    thinking: bool
    prices: PricesView
    long_context: LongContextView | None
    is_available: bool
    is_default: bool
    is_provider_default: bool


class ModelsView(ApiModel):
    """The models, by provider and name."""

    items: list[ModelView]


@router.get("/usage", summary="What the caller used, by day, agent and model")
async def read_usage(
    user: SignedIn,
    here: Surroundings,
    first: Annotated[Day | None, Query(alias="from", description="YYYY-MM-DD (UTC); 29 days before `to`.")] = None,
    last: Annotated[Day | None, Query(alias="to", description="YYYY-MM-DD (UTC), included; today.")] = None,
) -> UsageView:
    """Both days are included; at most 366 at once."""
    last = last or datetime.now(UTC).date()
    first = first or last - timedelta(min(DEFAULT_DAYS - 1, (last - date.min).days))
    found = await usage.own(here.database, user, first, last)
    return UsageView(
        from_day=first,
        to=last,
        totals=FiguresView.model_validate(found.totals),
        days=[DayView(day=day, **_members(figures)) for day, figures in found.days.items()],
        agents=[AgentView(agent=agent, **_members(figures)) for agent, figures in found.agents.items()],
        models=[
            ModelUsageView(provider=provider, model=model, **_members(figures))
            for (provider, model), figures in found.models.items()
        ],
    )


@router.get("/limits", summary="What the caller may still use")
async def read_limits(user: SignedIn, here: Surroundings) -> LimitsView:
    providers = here.settings.providers_with_key()
    found = await limits.own(here.database, user, providers, guest_address=here.guest_address)
    return LimitsView.model_validate(found)


@router.get("/models", summary="The models that a chat may name")
async def list_models(caller: Caller, here: Surroundings) -> ModelsView:
    """For whoever may chat: without a token too, unless guests are switched off."""
    if caller.user_id is None and not here.settings.guests_enabled:
        raise ThreadkeepError("unauthorized:auth")
    found = await model_offer.active(
        here.database, caller, here.settings.providers_with_key(), day=datetime.now(UTC).date()
    )
    return ModelsView(items=[ModelView.model_validate(model) for model in found])


def _members(figures: usage.Figures) -> dict[str, float]:
    return {name: float(getattr(figures, name)) for name in usage.Figures.__slots__}
