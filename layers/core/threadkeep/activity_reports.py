"""What users and agents did, for administrators: the two activity logs as one list, and how the agents do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, LiteralString
from uuid import UUID

from threadkeep import activity, pages
from threadkeep.database import Database
from threadkeep.errors import invalid
from threadkeep.identity import Principal
from threadkeep.pages import Slice

Source = Literal["user", "agent"]
Dimension = Literal["agent", "operation", "model"]
DIMENSIONS: Final[tuple[Dimension, ...]] = ("agent", "operation", "model")
# Percentiles are exact: every operation of the range is read.
LONGEST_RANGE: Final = timedelta(days=31)
MOST_GROUPS: Final = 1000


@dataclass(frozen=True, slots=True)
class Filter:
    """What an activity must be; None takes all. `kind` is the type of an activity or operation; `until` is excluded."""

    source: Source | None = None
    user: UUID | None = None
    kind: str | None = None
    category: str | None = None
    correlation_id: UUID | None = None
    success: bool | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """A row of one of the logs; what the other log alone has is None. Milliseconds, tokens, USD."""

    source: Source
    id: UUID
    created_at: datetime
    user_id: UUID | None
    correlation_id: UUID
    kind: str
    category: str
    metadata: dict[str, Any]
    resource_id: UUID | None
    resource_type: str | None
    success: bool
    error_message: str | None
    path: str | None
    method: str | None
    ip_address: str | None
    user_agent: str | None
    agent: str | None
    provider: str | None
    model: str | None
    duration_ms: int | None
    input_tokens: int | None
    output_tokens: int | None
    total_cost: Decimal | None
    error_type: str | None
    retry_count: int | None


# The bounds of the time stand alone as well, because partitions are not left out by a comparison of rows.
_WANTED: Final = """
            (l.created_at, l.id) < (coalesce(%(at)s::timestamptz, 'infinity'), %(after)s::uuid)
            and l.created_at <= coalesce(%(at)s::timestamptz, 'infinity')
            and (%(since)s::timestamptz is null or l.created_at >= %(since)s)
            and (%(until)s::timestamptz is null or l.created_at < %(until)s)
            and (%(user)s::uuid is null or l.user_id = %(user)s)
            and (%(correlation_id)s::uuid is null or l.correlation_id = %(correlation_id)s)
            and (%(success)s::boolean is null or l.success = %(success)s)
"""
_NEWEST: Final = """
        order by l.created_at desc, l.id desc
        limit %(limit)s::integer + 1
"""
# Of literals of this module.
_OF_USERS: Final = f"""
    (
        select
            'user' as source, l.id, l.created_at, l.user_id, l.correlation_id, l.activity_type as kind,
            l.activity_category as category, l.activity_metadata as metadata, l.resource_id, l.resource_type,
            l.success, l.error_message, l.request_path as path, l.request_method as method, l.ip_address,
            l.user_agent, null as agent, null as provider, null as model, null::integer as duration_ms,
            null::bigint as input_tokens, null::bigint as output_tokens, null::numeric as total_cost,
            null as error_type, null::integer as retry_count
        from public.user_activity_logs as l
        where {_WANTED}
            and (%(kind)s::text is null or l.activity_type = %(kind)s)
            and (%(category)s::text is null or l.activity_category = %(category)s)
        {_NEWEST}
    )
"""  # noqa: S608
_OF_AGENTS: Final = f"""
    (
        select
            'agent' as source, l.id, l.created_at, l.user_id, l.correlation_id, l.operation_type as kind,
            l.operation_category as category, l.operation_metadata as metadata, l.resource_id, l.resource_type,
            l.success, l.error_message, null as path, null as method, null as ip_address,
            null as user_agent, l.agent_type as agent, l.provider, l.model_id as model, l.duration_ms,
            l.input_tokens, l.output_tokens, l.total_cost,
            l.error_type, l.retry_count
        from public.agent_activity_logs as l
        where {_WANTED}
            and (%(kind)s::text is null or l.operation_type = %(kind)s)
            and (%(category)s::text is null or l.operation_category = %(category)s)
        {_NEWEST}
    )
"""  # noqa: S608
_SOURCES: Final[dict[Source | None, LiteralString]] = {
    "user": _OF_USERS,
    "agent": _OF_AGENTS,
    None: f"{_OF_USERS} union all {_OF_AGENTS}",
}


async def page(
    database: Database, administrator: Principal, wanted: Filter, *, limit: int, cursor: str | None
) -> Slice[Activity]:
    """What was done, newest first."""
    listed = f"""
        select *
        from ({_SOURCES[wanted.source]}) as l
        {_NEWEST}
    """  # noqa: S608
    belongs_to = json.dumps(["activity", asdict(wanted)], default=str)
    at, after = pages.place(cursor, belongs_to, datetime.fromisoformat, UUID)
    parameters = asdict(wanted) | {"at": at, "after": after or UUID(int=2**128 - 1), "limit": limit}
    rows, _ = await database.run(
        administrator, (listed, parameters), activity.dashboard_view(database, "activity", cursor)
    )
    items = [Activity(**row) for row in rows[:limit]]
    is_last = len(rows) <= limit
    return Slice(items, None if is_last else pages.cursor(belongs_to, items[-1].created_at, items[-1].id))


@dataclass(frozen=True, slots=True)
class Performance:
    """How an agent's operation did with a model; what was not grouped by is None. Milliseconds, tokens, USD."""

    agent: str | None
    operation: str | None
    provider: str | None
    model: str | None
    operations: int
    succeeded: int
    p50_ms: float | None
    p95_ms: float | None
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_cost: Decimal

    @property
    def success_rate(self) -> float:
        """From 0 to 1."""
        return self.succeeded / self.operations


_GROUPED: Final[dict[Dimension, LiteralString]] = {
    "agent": "l.agent_type",
    "operation": "l.operation_type",
    "model": "l.provider, l.model_id",
}
_SELECTED: Final[dict[Dimension, tuple[LiteralString, LiteralString]]] = {
    "agent": ("l.agent_type as agent", "null as agent"),
    "operation": ("l.operation_type as operation", "null as operation"),
    "model": ("l.provider, l.model_id as model", "null as provider, null as model"),
}


async def performance(
    database: Database,
    administrator: Principal,
    by: Iterable[Dimension],
    *,
    since: datetime,
    until: datetime,
    agent: str | None = None,
) -> list[Performance]:
    """What `agent_activity_logs` say of a time range, the most frequent first; at most 1000 groups.

    Raises `invalid:api` for a range that is empty or longer than 31 days.
    """
    if since >= until:
        raise invalid("from", "It is not before `to`.")
    if until - since > LONGEST_RANGE:
        raise invalid("from", f"At most {LONGEST_RANGE.days} days can be looked at together.")
    wanted = set(by)
    selected = ", ".join(_SELECTED[each][0 if each in wanted else 1] for each in DIMENSIONS)
    grouped = ", ".join(_GROUPED[each] for each in DIMENSIONS if each in wanted)
    # Of literals of this module.
    query = f"""
        select
            {selected},
            count(*) as operations,
            count(*) filter (where l.success) as succeeded,
            percentile_cont(0.5) within group (order by l.duration_ms) as p50_ms,
            percentile_cont(0.95) within group (order by l.duration_ms) as p95_ms,
            coalesce(sum(l.input_tokens), 0)::bigint as input_tokens,
            coalesce(sum(l.output_tokens), 0)::bigint as output_tokens,
            coalesce(sum(l.reasoning_tokens), 0)::bigint as reasoning_tokens,
            coalesce(sum(l.total_cost), 0) as total_cost
        from public.agent_activity_logs as l
        where l.created_at >= %(since)s
            and l.created_at < %(until)s
            and (%(agent)s::text is null or l.agent_type = %(agent)s)
        group by {grouped}
        order by operations desc, {grouped}
        limit %(limit)s
    """  # noqa: S608
    values = {"since": since, "until": until, "agent": agent, "limit": MOST_GROUPS}
    rows, _ = await database.run(administrator, (query, values), activity.dashboard_view(database, "agents"))
    return [Performance(**row) for row in rows]
