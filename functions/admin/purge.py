"""What the schedule did last, and a run of it on demand."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter

from functions.admin.query import Surroundings
from threadkeep import upkeep_reports, upkeep_start
from threadkeep.web import Administrator, ApiModel, raises

router = APIRouter(prefix="/api/admin/purge", tags=["administration"])


class KindOfWorkView(ApiModel):
    """The last report of a kind of work; `remaining` is null if it is not known."""

    kind: str
    done: int
    remaining: int | None
    seconds: float
    error: str | None
    finished_at: datetime


class LastUpkeepView(ApiModel):
    """The last run; `requestedAt` is there while one that was asked for has not ended."""

    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None
    requested_at: datetime | None
    kinds: list[KindOfWorkView]


class StartedView(ApiModel):
    """The run that was asked for; not new if one had not ended yet."""

    requested_at: datetime
    is_new: bool


@router.get("", summary="What the purge did last, kind by kind")
async def read_purge(administrator: Administrator, here: Surroundings) -> LastUpkeepView:
    return LastUpkeepView.model_validate(await upkeep_reports.last(here.database, administrator))


@router.post("", status_code=202, summary="Start the purge", responses=raises("unavailable:purge"))
async def start_purge(administrator: Administrator, here: Surroundings) -> StartedView:
    """It runs after this answer; its report is there when `requestedAt` is gone."""
    return StartedView.model_validate(await upkeep_start.start(here.database, administrator, here.settings))
