"""What the shapes of configured JSON are made of: their kinds of members, and how a wrong one is refused."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from threadkeep.errors import FieldError, ThreadkeepError

MAXIMUM_REPORTED_ERRORS: Final = 20


def legible(text: str) -> str:
    # PostgreSQL has no NUL in text; a lone surrogate never gets past pydantic.
    if "\x00" in text:
        raise PydanticCustomError("nul", "must not hold a NUL character")
    if not text.strip(" \t\r\n\f\v"):
        raise PydanticCustomError("blank", "must not be blank")
    return text


Entry = TypeVar("Entry")


def distinct(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    if len(set(entries)) < len(entries):
        raise PydanticCustomError("repeated", "must not name anything twice")
    return entries


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise PydanticCustomError("number_type", "must be a number")
    return value


def _written_day(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        return value
    raise PydanticCustomError("day_type", "must be a day as YYYY-MM-DD")


# Pydantic reads a float into a decimal through its shortest text, so 0.1 is a tenth and not a binary fraction.
Amount = Annotated[
    Decimal,
    BeforeValidator(_number),
    Field(ge=0, allow_inf_nan=False),
    PlainSerializer(float, return_type=float, when_used="json"),
]
Usd = Annotated[Amount, Field(le=1_000_000), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1_000_000})]
Day = Annotated[date, BeforeValidator(_written_day)]
Flag = Annotated[bool, Field(strict=True)]
Limit = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Days = Annotated[int, Field(strict=True, ge=1, le=3650)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=100_000_000)]
Name = Annotated[str, Field(strict=True, max_length=100), AfterValidator(legible)]
Description = Annotated[str, Field(strict=True, max_length=4_000), AfterValidator(legible)]
Prompt = Annotated[str, Field(strict=True, max_length=100_000), AfterValidator(legible)]


class Shape(BaseModel):
    """A JSON object with exactly the known members, in camelCase; it does not change once read."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        field_title_generator=lambda name, _: name.replace("_", " ").capitalize(),
        # A process reads some of these shapes and not all; none is built before its first use.
        defer_build=True,
    )


class SnakeCaseShape(Shape):
    """As `Shape`, with the snake_case names that the source design has in some places."""

    model_config = ConfigDict(alias_generator=None)


# The sentences of the frequent errors, in the words of the database's function.
REASONS: Final = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be a text",
    "tuple_type": "must be a list",
    "model_type": "must be an object",
    "date_from_datetime_parsing": "must be a day as YYYY-MM-DD",
    "date_parsing": "must be a day as YYYY-MM-DD",
}


def refusal(error: ValidationError, *, root: str, prefix: str = "") -> ThreadkeepError:
    """`invalid:api` with the JSON path and the reason of each wrong field; `root` is that of what is no object."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return ThreadkeepError(
        "invalid:api",
        fields=[
            FieldError(prefix + _path(problem) if problem["loc"] else root, _reason(problem))
            for problem in problems[:MAXIMUM_REPORTED_ERRORS]
        ],
    )


def _path(problem: ErrorDetails) -> str:
    path = ""
    for step in problem["loc"]:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _reason(problem: ErrorDetails) -> str:
    reason = REASONS.get(problem["type"])
    if reason is None:
        reason = problem["msg"][0].lower() + problem["msg"][1:]
    return reason.replace("input should be", "must be").replace("should have", "must have")
