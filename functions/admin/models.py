"""The models that may be asked, and what they cost."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Depends, Path, Response
from pydantic import Field, StringConstraints

from threadkeep import model_catalog
from threadkeep.configuration import Provider
from threadkeep.model_metadata import UsdPerMillionTokens
from threadkeep.shapes import Flag
from threadkeep.web import Administrator, ApiModel, IfMatch, Moment, Page, RequestModel, entity_tag, moment, raises

router = APIRouter(prefix="/api/admin/models", tags=["administration"])

Surroundings = Annotated[Moment, Depends(moment)]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=model_catalog.MAXIMUM_NAME_CHARACTERS),
]
ModelId = Annotated[
    str, Path(json_schema_extra={"maxLength": model_catalog.MAXIMUM_ID_CHARACTERS}, examples=["gpt-6.1-terra"])
]
Description = Annotated[str, StringConstraints(max_length=model_catalog.MAXIMUM_DESCRIPTION_CHARACTERS)]
Price = Annotated[UsdPerMillionTokens, Field(decimal_places=model_catalog.PRICE_DIGITS)]

# What is left out is not read, and null is refused where a model must have a value.
UNCHANGED: Final[Any] = Field(default_factory=lambda: None)


class NewModel(RequestModel):
    """A model to add, with its prices in US dollars per million tokens; 0 and 0 is unpriced."""

    model_id: Annotated[str, Field(json_schema_extra={"maxLength": model_catalog.MAXIMUM_ID_CHARACTERS})]
    provider: Provider
    name: Name
    description: Description | None = None
    is_active: Flag = True
    is_default: Flag = False
    thinking_enabled: Flag = True
    input_price: Price
    output_price: Price
    metadata: dict[str, Any] = Field(default_factory=dict)


class ModelChange(RequestModel):
    """What to change of a model; of the metadata as by a JSON merge patch (RFC 7396)."""

    name: Name = UNCHANGED
    description: Description | None = UNCHANGED
    is_active: Flag = UNCHANGED
    is_default: Flag = UNCHANGED
    thinking_enabled: Flag = UNCHANGED
    input_price: Price = UNCHANGED
    output_price: Price = UNCHANGED
    metadata: dict[str, Any] = UNCHANGED


class ModelView(ApiModel):
    """A model, with its prices in US dollars per million tokens.

    `isPriced` is false if both are 0: the usage then counts, and is flagged. `etag` is what `If-Match` takes.
    """

    model_id: str
    provider: Provider
    name: str
    description: str | None
    is_active: bool
    is_default: bool
    thinking_enabled: bool
    input_price: float
    output_price: float
    is_priced: bool
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    etag: str

    @classmethod
    def of(cls, model: model_catalog.Model) -> Self:
        return cls.model_validate(
            {name: getattr(model, name, None) for name in cls.model_fields} | {"etag": entity_tag(model.tag)}
        )


@router.get("", summary="Every model, also those that are not active")
async def list_all_models(administrator: Administrator, here: Surroundings) -> Page[ModelView]:
    """All of them are one page."""
    found = await model_catalog.all_models(here.database, administrator)
    return Page[ModelView](items=[ModelView.of(model) for model in found], next_cursor=None)


@router.post(
    "", status_code=201, summary="Add a model", responses={200: {"model": ModelView}, **raises("conflict:model")}
)
async def create_model(
    new: NewModel, administrator: Administrator, here: Surroundings, response: Response
) -> ModelView:
    """201 for a new one, 200 for one that is just this."""
    fields = model_catalog.ModelFields(**new.model_dump(exclude={"model_id", "provider"}))
    made, is_new = await model_catalog.create(here.database, administrator, new.model_id, new.provider, fields)
    response.status_code = 201 if is_new else 200
    return _tagged(made, response)


# A model's id may hold slashes, so the rest of the path is the id; they may be sent as they are or as %2F.
@router.get("/{model:path}", summary="A model")
async def read_model(model: ModelId, administrator: Administrator, here: Surroundings, response: Response) -> ModelView:
    return _tagged(await model_catalog.read(here.database, administrator, model), response)


@router.patch("/{model:path}", summary="Change a model", responses=raises("conflict:model"))
async def change_model(
    model: ModelId,
    change: ModelChange,
    administrator: Administrator,
    here: Surroundings,
    if_match: IfMatch,
    response: Response,
) -> ModelView:
    """Turns that run keep the prices that they began with."""
    changes = change.model_dump(exclude_unset=True)
    return _tagged(
        await model_catalog.change(here.database, administrator, model, changes, if_match=if_match), response
    )


@router.delete("/{model:path}", status_code=204, summary="Delete a model", responses=raises("conflict:model"))
async def delete_model(model: ModelId, administrator: Administrator, here: Surroundings, if_match: IfMatch) -> Response:
    await model_catalog.delete(here.database, administrator, model, if_match=if_match)
    return Response(status_code=204)


@router.post(
    "/{model:path}/default", summary="Make a model the default of its provider", responses=raises("conflict:model")
)
async def make_default(
    model: ModelId, administrator: Administrator, here: Surroundings, if_match: IfMatch, response: Response
) -> ModelView:
    return _tagged(await model_catalog.make_default(here.database, administrator, model, if_match=if_match), response)


def _tagged(model: model_catalog.Model, response: Response) -> ModelView:
    response.headers["etag"] = entity_tag(model.tag)
    return ModelView.of(model)
