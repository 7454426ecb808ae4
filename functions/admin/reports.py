"""Usage and cost, errors, activity and the agents' performance, over all users."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints

from functions.admin.query import Cursor, Limit, Name, Since, Surroundings, Until, in_utc
from threadkeep import activity_reports, error_reports, usage_reports
from threadkeep.errors import invalid
from threadkeep.shapes import Day
from threadkeep.web import Administrator, ApiModel, Page, RequestModel

router = APIRouter(prefix="/api/admin", tags=["administration"])

DAYS: Final = 30
Dimension = TypeVar("Dimension", bound=str)

GroupBy = Annotated[
    list[Annotated[str, StringConstraints(max_length=100)]] | None,
    Query(alias="groupBy", max_length=10, description="One or more, comma-separated or repeated."),
]
PathBeginning = Annotated[str | None, Query(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]


class FiguresView(ApiModel):
    """Model requests, tokens and their cost in USD; cached tokens (read, written) are part of the input."""

    requests: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    total_tokens: int
    uncached_tokens: int
    total_cost: float


class UsageView(FiguresView):
    """The usage of one group; what was not grouped by is null."""

    day: date | None
    user_id: UUID | None
    email: str | None
    agent: str | None
    provider: str | None
    model: str | None


class UsageReportView(ApiModel):
    """A page of groups, and the totals of all of them; `asOf` is the age of the roll-up by user."""

    items: list[UsageView]
    totals: FiguresView
    as_of: datetime | None
    next_cursor: str | None


class ErrorView(ApiModel):
    """An error; `details` says where it happened."""

    id: UUID
    created_at: datetime
    kind: Annotated[error_reports.Kind, Field(alias="type")]
    category: str
    severity: error_reports.Severity
    message: str
    details: dict[str, Any] | None
    user_id: UUID | None
    correlation_id: UUID | None
    session_id: str | None
    path: str | None
    method: str | None
    user_agent: str | None
    ip_address: str | None
    resolved: bool
    resolved_by: UUID | None
    resolved_at: datetime | None
    notes: str | None


class ErrorChange(RequestModel):
    """Resolved, or open again; without notes those that are there stay."""

    resolved: Annotated[bool, Field(strict=True)]
    notes: Annotated[str, StringConstraints(max_length=error_reports.MAXIMUM_NOTES_CHARACTERS)] | None = None


class ActivityView(ApiModel):
    """What a user or an agent did; what only the other one has is null."""

    source: activity_reports.Source
    id: UUID
    created_at: datetime
    user_id: UUID | None
    correlation_id: UUID
    kind: Annotated[str, Field(alias="type")]
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
    total_cost: float | None
    error_type: str | None
    retry_count: int | None


class PerformanceView(ApiModel):
    """How operations did: milliseconds, success from 0 to 1, tokens, USD; what was not grouped by is null."""

    agent: str | None
    operation: str | None
    provider: str | None
    model: str | None
    operations: int
    success_rate: float
    p50_ms: float | None
    p95_ms: float | None
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_cost: float


class PerformanceReportView(ApiModel):
    """All groups of a time range, the most frequent first."""

    items: list[PerformanceView]
    since: datetime
    until: datetime


@router.get("/usage", summary="Requests, tokens and cost of all users")
async def read_usage_of_all(
    administrator: Administrator,
    here: Surroundings,
    group_by: GroupBy = None,
    first: Annotated[Day | None, Query(alias="from", description="The first day (UTC).")] = None,
    last: Annotated[Day | None, Query(alias="to", description="The last day (UTC), included.")] = None,
    user_id: Annotated[UUID | None, Query(alias="userId")] = None,
    agent: Name = None,
    provider: Name = None,
    model: Name = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> UsageReportView:
    """Grouped by any of day, user, agent, provider and model; by day if not said. The last 30 days if not said."""
    last = last or datetime.now(UTC).date()
    wanted = usage_reports.Filter(
        first=first or _days_before(last, DAYS - 1),
        last=last,
        user=user_id,
        agent=agent,
        provider=provider,
        model=model,
    )
    dimensions = _dimensions(group_by, usage_reports.DIMENSIONS) or ("day",)
    report = await usage_reports.read(here.database, administrator, dimensions, wanted, limit=limit, cursor=cursor)
    return UsageReportView.model_validate(report)


@router.get("/errors", summary="The errors of all users, newest first")
async def list_errors(
    administrator: Administrator,
    here: Surroundings,
    kind: Annotated[error_reports.Kind | None, Query(alias="type")] = None,
    category: Name = None,
    severity: error_reports.Severity | None = None,
    resolved: bool | None = None,
    user_id: Annotated[UUID | None, Query(alias="userId")] = None,
    correlation_id: Annotated[UUID | None, Query(alias="correlationId")] = None,
    since: Since = None,
    until: Until = None,
    path: PathBeginning = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[ErrorView]:
    """`path` is the beginning of a path."""
    wanted = error_reports.Filter(
        kind=kind,
        category=category,
        severity=severity,
        resolved=resolved,
        user=user_id,
        correlation_id=correlation_id,
        since=in_utc(since, "from"),
        until=in_utc(until, "to"),
        path=path,
    )
    found = await error_reports.page(here.database, administrator, wanted, limit=limit, cursor=cursor)
    return Page[ErrorView].model_validate(found)


@router.patch("/errors/{error}", summary="Resolve an error, or open it again")
async def change_error(error: UUID, change: ErrorChange, administrator: Administrator, here: Surroundings) -> ErrorView:
    changed = await error_reports.resolve(
        here.database, administrator, error, resolved=change.resolved, notes=change.notes
    )
    return ErrorView.model_validate(changed)


@router.get("/activity", summary="What users and agents did, newest first")
async def list_activity(
    administrator: Administrator,
    here: Surroundings,
    source: activity_reports.Source | None = None,
    user_id: Annotated[UUID | None, Query(alias="userId")] = None,
    kind: Annotated[Name, Query(alias="type")] = None,
    category: Name = None,
    correlation_id: Annotated[UUID | None, Query(alias="correlationId")] = None,
    success: bool | None = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[ActivityView]:
    wanted = activity_reports.Filter(
        source=source,
        user=user_id,
        kind=kind,
        category=category,
        correlation_id=correlation_id,
        success=success,
        since=in_utc(since, "from"),
        until=in_utc(until, "to"),
    )
    found = await activity_reports.page(here.database, administrator, wanted, limit=limit, cursor=cursor)
    return Page[ActivityView].model_validate(found)


@router.get("/agents", summary="How the agents do: latency, success, tokens, cost")
async def read_agents(
    administrator: Administrator,
    here: Surroundings,
    group_by: GroupBy = None,
    since: Since = None,
    until: Until = None,
    agent: Name = None,
) -> PerformanceReportView:
    """Grouped by any of agent, operation and model; by all of them if not said. The last day if not said."""
    end = in_utc(until, "to") or datetime.now(UTC)
    start = in_utc(since, "from") or _a_day_before(end)
    dimensions = _dimensions(group_by, activity_reports.DIMENSIONS) or activity_reports.DIMENSIONS
    found = await activity_reports.performance(
        here.database, administrator, dimensions, since=start, until=end, agent=agent
    )
    return PerformanceReportView(
        items=[PerformanceView.model_validate(group) for group in found], since=start, until=end
    )


def _dimensions(given: list[str] | None, known: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """What is grouped by, out of `a,b` and of repeated parameters."""
    names = [name.strip() for text in given or [] for name in text.split(",")]
    if set(names).difference(known):
        raise invalid("groupBy", f"Each of them is one of {', '.join(known)}.")
    return tuple(dimension for dimension in known if dimension in names)


def _days_before(last: date, days: int) -> date:
    return date.fromordinal(max(last.toordinal() - days, 1))


def _a_day_before(end: datetime) -> datetime:
    try:
        return end - timedelta(days=1)
    except OverflowError:
        raise invalid("to", "It is no time that can be looked for.") from None
