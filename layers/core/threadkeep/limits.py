"""Limits: how often a person may call an agent in a minute, an hour and a day, and what is left of that.

What each does stands in `sql/0002_functions_limits.sql`; Begin consumes the chat agent's by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import groupby
from typing import Final, Literal

from threadkeep.configuration import AGENTS, Agent, Provider, TurnBounds, parse_configuration
from threadkeep.database import Database, Rows
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal

WindowKind = Literal["minute", "hour", "day"]

_WINDOWS: Final[dict[str, WindowKind]] = {"minutely": "minute", "hourly": "hour", "daily": "day"}


@dataclass(frozen=True, slots=True)
class Window:
    """A fixed window (UTC): what may be called in it, was, and still may be.

    `used_by_address` is what all guests of the caller's address used, None for whoever is no guest; the larger of the
    two counts.
    """

    window: WindowKind
    limit: int
    used: int
    used_by_address: int | None
    remaining: int
    resets_at: datetime


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """What an agent's configuration for a provider allows the caller; `used` is the same for all providers."""

    provider: Provider
    agent: Agent
    enabled: bool
    windows: list[Window]


@dataclass(frozen=True, slots=True)
class Budget:
    """What the caller may spend this month (UTC), in US dollars; without a cap, `cap` and `remaining` are None.

    Guests share a budget besides. What all of them spent is not for a guest to know, so of it only `has_room` tells.
    """

    month: date
    cap: Decimal | None
    spent: Decimal
    reserved: Decimal
    remaining: Decimal | None
    has_room: bool
    resets_at: datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """All that bounds the caller now."""

    agents: list[AgentLimits]
    turn: TurnBounds
    budget: Budget


_CONSUME: Final = """
    select private.consume_limits(
        p_agent => %(agent)s,
        p_provider => %(provider)s,
        p_guest_address => %(guest_address)s
    )
"""


async def consume(
    database: Database, user: Principal, agent: str, provider: Provider, *, guest_address: str | None
) -> None:
    """Counts one call of an agent, or of a team's own tool (`tool_{name}`), in all its windows, or in none.

    Raises `rate_limit:chat` with `window`, `limit` and the seconds to wait, and `forbidden:agent` if it is off.
    """
    values = {"agent": agent, "provider": provider, "guest_address": guest_address}
    await database.run(user, (_CONSUME, values), require_active=False)


async def own(database: Database, user: Principal, providers: list[Provider], *, guest_address: str | None) -> Limits:
    """What the caller may still do: for the `providers` with a key here, or for the active one if none has.

    Nothing is consumed. Raises `unavailable:api` if `app_settings` was never valid.
    """
    windows: Final = """
        select provider, agent, enabled, limit_type, allowed, used, used_by_address, resets_at
        from private.caller_limits(%(agents)s, %(providers)s, %(guest_address)s)
    """
    budget: Final = "select settings, month, cap, spent, reserved, has_room from private.caller_budget()"
    values = {"agents": list(AGENTS), "providers": list(providers), "guest_address": guest_address}
    rows, [money] = await database.run(user, (windows, values), (budget, {}))
    try:
        settings = parse_configuration("app_settings", money["settings"])
    except ThreadkeepError as error:
        raise ThreadkeepError("unavailable:api") from error
    return Limits(_agents(rows), settings.turn, _budget(**{name: money[name] for name in money if name != "settings"}))


def _agents(rows: Rows) -> list[AgentLimits]:
    return [
        AgentLimits(
            provider,
            agent,
            enabled,
            [
                Window(
                    _WINDOWS[row["limit_type"]],
                    row["allowed"],
                    row["used"],
                    row["used_by_address"],
                    max(0, row["allowed"] - max(row["used"], row["used_by_address"] or 0)),
                    row["resets_at"],
                )
                for row in group
            ],
        )
        for (provider, agent, enabled), group in groupby(
            rows, key=lambda row: (row["provider"], row["agent"], row["enabled"])
        )
    ]


def _budget(month: date, cap: Decimal | None, spent: Decimal, reserved: Decimal, has_room: bool) -> Budget:
    remaining = None if cap is None else max(Decimal(0), cap - spent - reserved)
    resets_at = datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)
    return Budget(month, cap, spent, reserved, remaining, has_room, resets_at)
