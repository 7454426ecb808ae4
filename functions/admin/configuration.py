"""Configurations of agents, settings and logging: read, changed, put back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Self
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from threadkeep import admin_configuration
from threadkeep.pages import LARGEST_BIGINT, MAXIMUM_CURSOR_CHARACTERS
from threadkeep.web import Administrator, ApiModel, IfMatch, Moment, Page, RequestModel, entity_tag, moment, raises

router = APIRouter(prefix="/api/admin/config", tags=["administration"])

Surroundings = Annotated[Moment, Depends(moment)]
Limit = Annotated[int, Query(ge=1, le=100, description="How many items a page has at most.")]
Cursor = Annotated[
    str | None, Query(max_length=MAXIMUM_CURSOR_CHARACTERS, description="The `nextCursor` of the page before.")
]
Key = Annotated[
    str,
    Path(
        json_schema_extra={"maxLength": admin_configuration.MAXIMUM_KEY_CHARACTERS},
        examples=["chat_model_agent_google"],
    ),
]
Data = Annotated[Any, Body(description="The data itself; its JSON Schema is at `/api/admin/config/{key}/schema`.")]
MergePatch = Annotated[
    Any, Body(description="A JSON merge patch (RFC 7396) of the data: null takes a member away, a list is replaced.")
]

SCHEMA_TYPE: Final = "application/schema+json"
CHANGE: Final = ("not_found:configuration", "precondition_failed:configuration")


class Revert(RequestModel):
    """The entry of the history to go back to."""

    history_id: Annotated[int, Field(strict=True, ge=1, le=LARGEST_BIGINT)]


class PersonView(ApiModel):
    """Who changed something."""

    id: UUID
    email: str | None
    full_name: str | None


class FaultView(ApiModel):
    """What is wrong with a configuration that got in by hand, by its JSON path."""

    field: str
    message: str


class SummaryView(ApiModel):
    """A configuration without its data; one that is missing has no version, tag and times.

    `etag` is what `If-Match` takes, `isSeeded` says that it is as it was delivered, and `schemaUrl` is where its
    JSON Schema is; a key that nothing reads has none.
    """

    key: str
    version: int | None
    etag: str | None
    is_seeded: bool
    updated_at: datetime | None
    updated_by: PersonView | None
    problems: list[FaultView]
    schema_url: str | None

    @classmethod
    def of(cls, row: admin_configuration.Configuration) -> Self:
        return cls.model_validate(
            {name: getattr(row, name, None) for name in cls.model_fields}
            | {
                "etag": None if row.tag is None else entity_tag(row.tag),
                "schema_url": f"/api/admin/config/{quote(row.key, safe='')}/schema" if row.is_known else None,
            }
        )


class ConfigurationView(SummaryView):
    """A configuration with its data."""

    data: Any


class DifferenceView(ApiModel):
    """A value that was added, removed or changed; texts of more than 200 characters are cut."""

    path: str
    change: str
    before: Any
    after: Any


class EntryView(ApiModel):
    """A change: who made it and when, and in what it differs from the one before. Migrations are nobody."""

    id: int
    version: int
    operation: admin_configuration.Operation
    is_seed: bool
    changed_at: datetime
    changed_by: PersonView | None
    changes: list[DifferenceView]


class WholeEntryView(EntryView):
    """A change with all that it wrote; a deletion wrote null."""

    data: Any


@router.get("", summary="Every configuration, with what is wrong with it")
async def list_configurations(administrator: Administrator, here: Surroundings) -> Page[SummaryView]:
    """All of them are one page."""
    rows = await admin_configuration.all_rows(here.database, administrator)
    return Page[SummaryView](items=[SummaryView.of(row) for row in rows], next_cursor=None)


@router.get("/{key}", summary="A configuration", responses=raises("not_found:configuration"))
async def read_configuration(
    key: Key, administrator: Administrator, here: Surroundings, response: Response
) -> ConfigurationView:
    return _tagged(await admin_configuration.read(here.database, administrator, key), response)


@router.put(
    "/{key}", summary="Replace a configuration", responses={201: {"model": ConfigurationView}, **raises(*CHANGE)}
)
async def replace_configuration(
    key: Key, data: Data, administrator: Administrator, here: Surroundings, if_match: IfMatch, response: Response
) -> ConfigurationView:
    """The next turn uses it. 201 if it was missing."""
    row, is_new = await admin_configuration.put(here.database, administrator, key, data, if_match=if_match)
    response.status_code = 201 if is_new else 200
    return _tagged(row, response)


@router.patch("/{key}", summary="Change a part of a configuration", responses=raises(*CHANGE))
async def patch_configuration(
    key: Key, patch: MergePatch, administrator: Administrator, here: Surroundings, if_match: IfMatch, response: Response
) -> ConfigurationView:
    """Without `If-Match`, what others change at the same time stays as well."""
    row = await admin_configuration.patch(here.database, administrator, key, patch, if_match=if_match)
    return _tagged(row, response)


@router.delete(
    "/{key}",
    summary="Put a configuration back to what was delivered",
    response_model=ConfigurationView,
    responses={
        204: {"description": "It was under a key that nothing reads, and is deleted."},
        **raises(*CHANGE, "conflict:configuration"),
    },
)
async def reset_configuration(
    key: Key, administrator: Administrator, here: Surroundings, if_match: IfMatch, response: Response
) -> ConfigurationView | Response:
    """No turn works without its configuration, so none of the known ones is ever gone."""
    row = await admin_configuration.reset(here.database, administrator, key, if_match=if_match)
    return Response(status_code=204) if row is None else _tagged(row, response)


@router.get(
    "/{key}/history",
    summary="What was changed of a configuration, newest first",
    responses=raises("not_found:configuration"),
)
async def list_history(
    key: Key, administrator: Administrator, here: Surroundings, limit: Limit = 20, cursor: Cursor = None
) -> Page[EntryView]:
    found = await admin_configuration.history(here.database, administrator, key, limit=limit, cursor=cursor)
    return Page[EntryView].model_validate(found)


@router.get(
    "/{key}/history/{entry}",
    summary="A change with all that it wrote",
    responses=raises("not_found:configuration", "not_found:history"),
)
async def read_entry(
    key: Key,
    entry: Annotated[int, Path(ge=1, le=LARGEST_BIGINT)],
    administrator: Administrator,
    here: Surroundings,
) -> WholeEntryView:
    found = await admin_configuration.entry(here.database, administrator, key, entry)
    return WholeEntryView.model_validate(found)


@router.post(
    "/{key}/revert",
    summary="Put a configuration back to an entry of its history",
    responses=raises(*CHANGE, "not_found:history", "conflict:configuration"),
)
async def revert_configuration(
    key: Key, revert: Revert, administrator: Administrator, here: Surroundings, if_match: IfMatch, response: Response
) -> ConfigurationView:
    row = await admin_configuration.revert(here.database, administrator, key, revert.history_id, if_match=if_match)
    return _tagged(row, response)


@router.get(
    "/{key}/schema",
    summary="The JSON Schema of a configuration's data",
    response_class=Response,
    responses={200: {"content": {SCHEMA_TYPE: {"schema": {"type": "object"}}}}, **raises("not_found:configuration")},
)
async def read_schema(key: Key, _: Administrator) -> Response:
    return JSONResponse(admin_configuration.json_schema(key), media_type=SCHEMA_TYPE)


def _tagged(row: admin_configuration.Configuration, response: Response) -> ConfigurationView:
    if row.tag is not None:
        response.headers["etag"] = entity_tag(row.tag)
    return ConfigurationView.of(row)
