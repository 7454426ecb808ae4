"""Usage: what a person's model requests took in tokens and money, by day, agent and model."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Final

from threadkeep.database import Database
from threadkeep.errors import invalid
from threadkeep.identity import Principal

MAXIMUM_DAYS: Final = 366


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums over model requests; the cost is in US dollars.

    Cached and written tokens are parts of the input, reasoning tokens of the output. `estimated_requests` are those
    whose provider gave no figures, `unpriced_requests` those of a model without a price: their cost is not in the sum.
    """

    requests: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost: Decimal
    estimated_requests: int
    unpriced_requests: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The same requests, summed four times: together, by day (UTC), by agent, by model.

    Days without a request are left out. A model is (provider, id), each None where it was not known.
    """

    totals: Figures
    days: dict[date, Figures] = field(default_factory=dict)
    agents: dict[str, Figures] = field(default_factory=dict)
    models: dict[tuple[str | None, str | None], Figures] = field(default_factory=dict)


async def own(database: Database, user: Principal, first: date, last: date) -> Usage:
    """The user's usage from the day `first` to the day `last`, both included; `invalid:api` past 366 days."""
    if last < first:
        raise invalid("to", "It is before `from`.")
    if (last - first).days >= MAXIMUM_DAYS:
        raise invalid("to", f"Ask for at most {MAXIMUM_DAYS} days at once.")
    read: Final = """
        with requests as (
            select (u.request_timestamp at time zone 'UTC')::date as day, u.*
            from public.usage_logs as u
            where u.user_id = %(user)s
                and u.request_timestamp >= %(first)s::timestamp at time zone 'UTC'
                and u.request_timestamp < (%(last)s::date + 1)::timestamp at time zone 'UTC'
        )
        select
            grouping(r.day, r.agent_type, r.model_used) as kind,
            r.day, r.agent_type as agent, r.provider, r.model_used as model,
            count(*) as requests,
            coalesce(sum(r.input_tokens), 0)::bigint as input_tokens,
            coalesce(sum(r.cached_input_tokens), 0)::bigint as cached_input_tokens,
            coalesce(sum(r.cache_write_tokens), 0)::bigint as cache_write_tokens,
            coalesce(sum(r.output_tokens), 0)::bigint as output_tokens,
            coalesce(sum(r.reasoning_tokens), 0)::bigint as reasoning_tokens,
            coalesce(sum(r.total_cost), 0) as cost,
            count(*) filter (where r.source = 'estimated') as estimated_requests,
            count(*) filter (where not r.is_priced) as unpriced_requests
        from requests as r
        group by grouping sets ((), (r.day), (r.agent_type), (r.provider, r.model_used))
        order by kind desc, r.day, r.agent_type, cost desc, r.provider, r.model_used
    """
    rows = await database.rows(user, read, {"user": user.user_id, "first": first, "last": last})
    # Of the columns (day, agent, model) a bit is set for each that the row sums over.
    usage = Usage(_figures(rows[0]))
    for row in rows[1:]:
        match row["kind"]:
            case 0b011:
                usage.days[row["day"]] = _figures(row)
            case 0b101:
                usage.agents[row["agent"]] = _figures(row)
            case 0b110:
                usage.models[row["provider"], row["model"]] = _figures(row)
    return usage


def _figures(row: dict[str, Any]) -> Figures:
    return Figures(**{name: row[name] for name in Figures.__slots__})
