"""The base of every body that the API takes or gives: camelCase on the wire, snake_case here."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

PROBLEM_TYPE: Final = "application/problem+json"

Item = TypeVar("Item")


class ApiModel(BaseModel):
    """What the API gives."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, from_attributes=True)


class RequestModel(ApiModel):
    """What the API takes; a field it does not know is refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=False, validate_by_alias=True, extra="forbid", frozen=True
    )


class Page(ApiModel, Generic[Item]):
    """One page of a list; `nextCursor` is null on the last one."""

    items: list[Item]
    next_cursor: str | None
