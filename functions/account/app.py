"""The caller himself: his guest token, his profile, taking over what he did as a guest, taking it along, leaving."""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field, StringConstraints, field_validator

from functions.account import figures, repositories
from threadkeep import account_export, profiles
from threadkeep.web import (
    ApiModel,
    Moment,
    RequestModel,
    SignedIn,
    client_address,
    end_guest,
    lambda_handler,
    moment,
    raises,
)

router = APIRouter(prefix="/api", tags=["account"])
router.include_router(figures.router)
router.include_router(repositories.router)

Surroundings = Annotated[Moment, Depends(moment)]

# An answer of AWS Lambda has 6 MB, and carries what is not text in base64.
MAXIMUM_LAMBDA_EXPORT_BYTES: Final = 4 * 1024 * 1024
ZIP: Final = "application/zip"


class GuestView(ApiModel):
    """A guest's token, whom it stands for, and when it expires (UTC)."""

    token: str
    user_id: UUID
    expires_at: datetime


class ProfileView(ApiModel):
    """The caller's profile."""

    id: UUID
    email: str | None
    full_name: str | None
    preferences: dict[str, Any]
    is_guest: bool
    is_admin: bool
    created_at: datetime
    updated_at: datetime


class ProfileChange(RequestModel):
    """What a person may change of the profile; the preferences replace those that were there."""

    full_name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)] | None = None
    preferences: dict[str, Any] = Field(default_factory=dict)

    @field_validator("preferences")
    @classmethod
    def _bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
        if size > profiles.MAXIMUM_PREFERENCES_BYTES:
            raise ValueError(f"Preferences are at most {profiles.MAXIMUM_PREFERENCES_BYTES} bytes of JSON.")
        return value


class ClaimRequest(RequestModel):
    """The token of the guest whose things the account takes over."""

    guest_token: Annotated[str, StringConstraints(min_length=1, max_length=8192)]


class ClaimView(ApiModel):
    """How many sessions and documents moved; 0 when the claim was made before."""

    sessions: int
    documents: int


@router.post(
    "/auth/guest",
    status_code=201,
    summary="Make a guest",
    responses=raises("unauthorized:auth", "rate_limit:guest", "unavailable:database"),
)
async def make_guest(request: Request, here: Surroundings) -> GuestView:
    guest = await profiles.make_guest(here.database, here.settings, client_address(request))
    return GuestView(token=guest.token, user_id=guest.user_id, expires_at=guest.expires_at)


@router.get("/me", summary="The caller's profile")
async def read_profile(user: SignedIn, here: Surroundings) -> ProfileView:
    return _view(await profiles.own(here.database, user), user)


@router.patch("/me", summary="Change the caller's profile")
async def change_profile(change: ProfileChange, user: SignedIn, here: Surroundings) -> ProfileView:
    return _view(await profiles.change(here.database, user, change.model_dump(exclude_unset=True)), user)


@router.delete("/me", status_code=204, summary="Delete the caller with everything, and where he signs in")
async def delete_account(request: Request, user: SignedIn, here: Surroundings) -> Response:
    """`X-Identity-Deletion` says what became of him where he signs in: `deleted`, `pending` or `kept`.

    Pending is tried again until it is done; an identity provider in which nobody is deleted from here keeps him.
    """
    outcome = await profiles.delete_own(here.database, here.settings, user)
    assert user.user_id is not None
    end_guest(request, user.user_id)
    return Response(status_code=204, headers={} if outcome is None else {"x-identity-deletion": outcome})


@router.get(
    "/me/export",
    summary="Everything of the caller as a ZIP",
    response_class=Response,
    responses={
        200: {"content": {ZIP: {"schema": {"type": "string", "format": "binary"}}}},
        **raises("too_large:account"),
    },
)
async def export_account(
    user: SignedIn,
    here: Surroundings,
    parts: Annotated[
        list[account_export.Part] | None, Query(alias="part", max_length=20, description="Only these; all without.")
    ] = None,
) -> Response:
    """Streamed on one machine; on Lambda 4 MB at most, else 413."""
    export = await account_export.begin(here.database, user, parts or ())
    headers = {
        "content-disposition": f'attachment; filename="threadkeep-{export.started_at:%Y-%m-%d}.zip"',
        "cache-control": "no-store",
    }
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        return Response(await export.whole(MAXIMUM_LAMBDA_EXPORT_BYTES), media_type=ZIP, headers=headers)
    return StreamingResponse(export.chunks(), media_type=ZIP, headers=headers)


@router.post(
    "/me/claim",
    summary="Take over what the caller did as a guest",
    responses=raises("forbidden:auth", "conflict:guest"),
)
async def claim_guest(claim: ClaimRequest, request: Request, user: SignedIn, here: Surroundings) -> ClaimView:
    claimed = await profiles.claim(here.database, here.settings, user, claim.guest_token)
    end_guest(request, claimed.guest_id)
    return ClaimView(sessions=claimed.sessions, documents=claimed.documents)


def _view(profile: profiles.Profile, user: SignedIn) -> ProfileView:
    return ProfileView(
        id=profile.id,
        email=profile.email,
        full_name=profile.full_name,
        preferences=profile.preferences,
        is_guest=profile.is_guest,
        is_admin=user.is_admin,
        created_at=profile.created_at,
        updated_at=profile.updated_at,
    )


handler = lambda_handler(router)
