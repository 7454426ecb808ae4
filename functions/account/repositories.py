"""The caller's repositories on GitHub."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import StringConstraints

from threadkeep import repositories
from threadkeep.pages import MAXIMUM_CURSOR_CHARACTERS
from threadkeep.web import ApiModel, Moment, Page, RequestModel, SignedIn, moment, raises

router = APIRouter(prefix="/repositories")

Surroundings = Annotated[Moment, Depends(moment)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=repositories.MAXIMUM_NAME_CHARACTERS)]


class NewRepository(RequestModel):
    """A repository by its owner and name; without a branch it is `main`, or the one that it had."""

    owner: Name
    name: Name
    default_branch: (
        Annotated[str, StringConstraints(min_length=1, max_length=repositories.MAXIMUM_BRANCH_CHARACTERS)] | None
    ) = None


class RepositoryView(ApiModel):
    """A repository on GitHub, and since when it is in the caller's list."""

    id: UUID
    owner: str
    name: str
    url: str
    default_branch: str
    created_at: datetime


@router.get("", summary="The caller's repositories, last added first")
async def list_repositories(
    user: SignedIn,
    here: Surroundings,
    limit: Annotated[int, Query(ge=1, le=100, description="How many items a page has at most.")] = 100,
    cursor: Annotated[
        str | None, Query(max_length=MAXIMUM_CURSOR_CHARACTERS, description="The `nextCursor` of the page before.")
    ] = None,
) -> Page[RepositoryView]:
    found = await repositories.own_page(here.database, user, limit=limit, cursor=cursor)
    return Page[RepositoryView].model_validate(found)


@router.post(
    "",
    status_code=201,
    summary="Add a repository",
    responses={200: {"model": RepositoryView}, **raises("conflict:repositories")},
)
async def add_repository(new: NewRepository, user: SignedIn, here: Surroundings, response: Response) -> RepositoryView:
    """201 for a new one, 200 for one of the list, whose branch becomes the given one."""
    added, is_new = await repositories.add(here.database, user, new.owner, new.name, new.default_branch)
    response.status_code = 201 if is_new else 200
    return RepositoryView.model_validate(added)


@router.delete("/{repository}", status_code=204, summary="Take a repository off the list")
async def remove_repository(repository: UUID, user: SignedIn, here: Surroundings) -> Response:
    await repositories.remove(here.database, user, repository)
    return Response(status_code=204)
