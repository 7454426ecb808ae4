"""Requests, tokens and cost of all users, by any of day, user, agent, provider and model.

Without users everything comes from `usage_daily`, which each turn keeps. By user it comes from `usage_user_daily`,
which the schedule rolls up, and from the usage rows since: together they are exact at every moment. Where neither day
nor agent nor model matters, whole months come from `usage_user_monthly`, which follows the days.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, LiteralString
from uuid import UUID

from threadkeep import activity, pages
from threadkeep.database import Database
from threadkeep.errors import invalid
from threadkeep.identity import Principal

Dimension = Literal["day", "user", "agent", "provider", "model"]
DIMENSIONS: Final[tuple[Dimension, ...]] = ("day", "user", "agent", "provider", "model")


@dataclass(frozen=True, slots=True)
class Filter:
    """The days (UTC, both included), and what else the usage must be of."""

    first: date
    last: date
    user: UUID | None = None
    agent: str | None = None
    provider: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """Model requests, their tokens, and their cost in USD; cached tokens (read, written) are part of the input."""

    requests: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    total_cost: Decimal

    @property
    def total_tokens(self) -> int:
        """Input and output."""
        return self.input_tokens + self.output_tokens

    @property
    def uncached_tokens(self) -> int:
        """The same without what was read from a cache."""
        return self.total_tokens - self.cached_input_tokens


@dataclass(frozen=True, slots=True)
class Group(Figures):
    """The usage of one day, user, agent, provider and model; what was not grouped by is None."""

    day: date | None
    user_id: UUID | None
    email: str | None
    agent: str | None
    provider: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """One page of groups, and the sum over all of them.

    `as_of` says up to when usage by user is rolled up: what came later was read row by row. None if no users were
    asked for, or if nothing is rolled up yet.
    """

    items: list[Group]
    totals: Figures
    as_of: datetime | None
    next_cursor: str | None


async def read(
    database: Database,
    administrator: Principal,
    by: Iterable[Dimension],
    wanted: Filter,
    *,
    limit: int,
    cursor: str | None,
) -> Report:
    """The groups that had usage: the latest day first, then the highest cost. Raises `invalid:api`."""
    if wanted.first > wanted.last:
        raise invalid("from", "It is after `to`.")
    dimensions = tuple(dimension for dimension in DIMENSIONS if dimension in set(by))
    is_by_user = "user" in dimensions or wanted.user is not None
    belongs_to = json.dumps(["usage", dimensions, wanted.first, wanted.last, *_filters(wanted).values()], default=str)
    day, cost, key = pages.place(cursor, belongs_to, _integer, _integer, UUID)
    parameters = {
        **_filters(wanted),
        "first": wanted.first,
        "last": wanted.last,
        "limit": limit,
        "after_day": day,
        "after_cost": cost,
        "after_key": key,
    }
    figures = _OF_ALL
    if is_by_user:
        parameters |= _whole_months(wanted.first, wanted.last)
        is_of_months = set(dimensions) == {"user"} and not (wanted.agent or wanted.provider or wanted.model)
        figures = _BY_USER_AND_MONTH if is_of_months else _BY_USER
    report = (_report(dimensions, figures), parameters)
    viewed = activity.dashboard_view(database, "usage", cursor)
    if is_by_user:
        _, rows, [moment], _ = await database.run(administrator, (_ROOM, {}), report, (_THROUGH, {}), viewed)
        as_of = moment["through"]
    else:
        _, rows, _ = await database.run(administrator, (_ROOM, {}), report, viewed)
        as_of = None
    totals = Figures(**{name: rows[0][f"all_{name}"] for name in _FIGURES})
    # Without any usage there is one row all the same, which has the totals only.
    groups = [row for row in rows if row["requests"] is not None]
    items = [Group(**{name: row[name] for name in (*_KEYS, "email", *_FIGURES)}) for row in groups[:limit]]
    next_cursor = None
    if len(groups) > limit:
        last = groups[limit - 1]
        next_cursor = pages.cursor(belongs_to, last["day_place"], int(last["cost_place"]), last["key_place"])
    return Report(items, totals, as_of, next_cursor)


# A hash of all users instead of a sort on the disk, and nothing compiled for a query that is over by then.
_ROOM: Final = "select set_config('work_mem', '64MB', true), set_config('jit', 'off', true)"
_THROUGH: Final = "select private.usage_rolled_up_through() as through"

_FIGURES: Final[dict[LiteralString, LiteralString]] = {
    "requests": "bigint",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "cached_input_tokens": "bigint",
    "cache_write_tokens": "bigint",
    "reasoning_tokens": "bigint",
    "total_cost": "numeric",
}
_KEYS: Final = ("day", "user_id", "agent", "provider", "model")
_OF_DIMENSION: Final[dict[Dimension, LiteralString]] = {
    "day": "day",
    "user": "user_id",
    "agent": "agent",
    "provider": "provider",
    "model": "model",
}
_TYPES: Final[dict[Dimension, LiteralString]] = {
    "day": "date",
    "user": "uuid",
    "agent": "text",
    "provider": "text",
    "model": "text",
}

_WANTED: Final = """
        d.day between %(first)s and %(last)s
        and (%(agent)s::text is null or d.agent_type = %(agent)s)
        and (%(provider)s::text is null or d.provider = %(provider)s)
        and (%(model)s::text is null or d.model_used = %(model)s)
"""
_SUMMED: Final = """
        d.day, d.agent_type as agent, d.provider, d.model_used as model, d.requests, d.input_tokens, d.output_tokens,
        d.cached_input_tokens, d.cache_write_tokens, d.reasoning_tokens, d.total_cost
"""
# Of literals of this module, as is all that is put together below.
_OF_ALL: Final = f"""
    select null::uuid as user_id, {_SUMMED}
    from public.usage_daily as d
    where {_WANTED}
"""  # noqa: S608
_SINCE: Final = f"""
    union all
    select d.user_id, {_SUMMED}
    from private.usage_since_roll_up() as d
    where {_WANTED}
        and (%(user)s::uuid is null or d.user_id = %(user)s)
"""  # noqa: S608
_BY_USER: Final = f"""
    select d.user_id, {_SUMMED}
    from public.usage_user_daily as d
    where {_WANTED}
        and (%(user)s::uuid is null or d.user_id = %(user)s)
    {_SINCE}
"""  # noqa: S608
_BY_USER_AND_MONTH: Final = f"""
    select
        m.user_id, null::date as day, null::text as agent, null::text as provider, null::text as model, m.requests,
        m.input_tokens, m.output_tokens, m.cached_input_tokens, m.cache_write_tokens, m.reasoning_tokens, m.total_cost
    from public.usage_user_monthly as m
    where m.month >= %(first_month)s
        and m.month < %(month_after)s
        and (%(user)s::uuid is null or m.user_id = %(user)s)
    union all
    select d.user_id, {_SUMMED}
    from public.usage_user_daily as d
    where (
            (d.day >= %(first)s and d.day < %(first_month)s)
            or (d.day >= %(month_after)s and d.day <= %(last)s)
        )
        and (%(user)s::uuid is null or d.user_id = %(user)s)
    {_SINCE}
"""  # noqa: S608


def _whole_months(first: date, last: date) -> dict[str, date]:
    """The first of the months that lie between these days as a whole, and the one after them; without any, `first`."""
    begin = first if first.day == 1 else _month_after(first)
    end = _month_after(last) if last != date.max and (last + timedelta(days=1)).day == 1 else last.replace(day=1)
    return {"first_month": begin, "month_after": end} if begin < end else {"first_month": first, "month_after": first}


def _month_after(day: date) -> date:
    """The first day of the next month; the last day that there is has none."""
    try:
        return (day.replace(day=28) + timedelta(days=4)).replace(day=1)
    except OverflowError:
        return date.max


def _report(dimensions: tuple[Dimension, ...], figures: LiteralString) -> LiteralString:
    keys = [_OF_DIMENSION[dimension] for dimension in dimensions]
    selected = ", ".join(
        f"f.{_OF_DIMENSION[each]}" if each in dimensions else f"null::{_TYPES[each]} as {_OF_DIMENSION[each]}"
        for each in DIMENSIONS
    )
    sums = ", ".join(f"sum(f.{name})::{kind} as {name}" for name, kind in _FIGURES.items())
    totals = ", ".join(f"coalesce(sum(g.{name}), 0)::{kind} as all_{name}" for name, kind in _FIGURES.items())
    return f"""
        with figures as ({figures}),
        groups as (
            select {selected}, {sums}
            from figures as f
            group by {", ".join(f"f.{key}" for key in keys)}
            having sum(f.requests) <> 0 or sum(f.total_cost) <> 0
        ),
        totals as (
            select {totals}
            from groups as g
        ),
        placed as (
            select
                g.*,
                coalesce(g.day - date '2000-01-01', 0) as day_place,
                round(g.total_cost * 1000000000000) as cost_place,
                {_key(dimensions)} as key_place
            from groups as g
        )
        select t.*, p.*, u.email
        from totals as t
        left join lateral (
            select *
            from placed as p
            where %(after_key)s::uuid is null
                or (p.day_place, p.cost_place, p.key_place)
                    < (%(after_day)s::integer, %(after_cost)s::numeric, %(after_key)s::uuid)
            order by p.day_place desc, p.cost_place desc, p.key_place desc
            limit %(limit)s::integer + 1
        ) as p on true
        left join public.user_profiles as u on u.id = p.user_id
        order by p.day_place desc, p.cost_place desc, p.key_place desc
    """  # noqa: S608


def _key(dimensions: tuple[Dimension, ...]) -> LiteralString:
    """A UUID that tells a group from all others of the same day; hashed only where no column will do."""
    others = [_OF_DIMENSION[dimension] for dimension in dimensions if dimension != "day"]
    if not others:
        return "'00000000-0000-0000-0000-000000000000'::uuid"
    if others == ["user_id"]:
        return "g.user_id"
    return f"md5(jsonb_build_array({', '.join(f'g.{name}' for name in others)})::text)::uuid"


def _filters(wanted: Filter) -> dict[str, str | UUID | None]:
    return {"user": wanted.user, "agent": wanted.agent, "provider": wanted.provider, "model": wanted.model}


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError("not a number")
    return value
