"""The users of an installation: who they are, what they cost, and whether they may come in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from functions.admin.query import Cursor, Limit, Surroundings
from threadkeep import people
from threadkeep.web import Administrator, ApiModel, Page, RequestModel, raises

router = APIRouter(prefix="/api/admin/users", tags=["administration"])

Words = Annotated[
    str | None,
    Query(max_length=200, pattern=r"^[^\x00]*$", description="In the e-mail or the name, or the beginning of the id."),
]


class PersonView(ApiModel):
    """A user; costs in USD of this month (UTC) and of all time, `lastSeen` null for one who did nothing yet."""

    id: UUID
    email: str | None
    name: str | None
    is_guest: bool
    disabled_at: datetime | None
    created_at: datetime
    last_seen: datetime | None
    sessions: int
    month_cost: float
    total_cost: float
    total_tokens: int


class PersonChange(RequestModel):
    """Whether the account is shut out."""

    disabled: Annotated[bool, Field(strict=True)]


@router.get("", summary="The users, the newest first")
async def list_users(
    administrator: Administrator,
    here: Surroundings,
    q: Words = None,
    kind: people.Kind | None = None,
    disabled: bool | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[PersonView]:
    words = (q or "").strip() or None
    found = await people.page(
        here.database, administrator, words=words, kind=kind, disabled=disabled, limit=limit, cursor=cursor
    )
    return Page[PersonView].model_validate(found)


@router.patch("/{user}", summary="Shut an account out, or let it in again", responses=raises("conflict:account"))
async def change_user(user: UUID, change: PersonChange, administrator: Administrator, here: Surroundings) -> PersonView:
    """At once, whatever valid tokens there are; running turns are stopped."""
    person = await people.set_disabled(here.database, administrator, user, disabled=change.disabled)
    return PersonView.model_validate(person)
