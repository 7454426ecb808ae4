"""How the installation does."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from functions.admin.query import Surroundings
from threadkeep import health
from threadkeep.web import Administrator, ApiModel

router = APIRouter(prefix="/api/admin/health", tags=["administration"])


class PartView(ApiModel):
    """One part: its status, what is wrong if anything is, and its figures."""

    status: health.Status
    detail: str | None
    figures: dict[str, Any]


class HealthView(ApiModel):
    """The worst status of all parts, and the parts by name."""

    status: health.Status
    parts: dict[str, PartView]


@router.get("", summary="How each part of the installation does")
async def read_health(
    administrator: Administrator,
    here: Surroundings,
    providers: Annotated[bool, Query(description="Whether to ask the providers' addresses for an answer.")] = False,
) -> HealthView:
    """Always 200 for an administrator: a part that fails says so."""
    found = await health.read(here.database, administrator, here.settings, with_providers=providers)
    return HealthView.model_validate(found)
