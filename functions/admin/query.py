"""What the lists for administrators take in their query."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Query
from pydantic import AwareDatetime, BeforeValidator

from threadkeep.errors import invalid
from threadkeep.pages import MAXIMUM_CURSOR_CHARACTERS
from threadkeep.web import Moment, moment


def _iso(text: object) -> object:
    # A number would be read as seconds since 1970.
    if isinstance(text, str) and "-" not in text[1:]:
        raise ValueError("Send a time as YYYY-MM-DDThh:mm:ss with its zone.")
    return text


Instant = Annotated[AwareDatetime, BeforeValidator(_iso)]
Surroundings = Annotated[Moment, Depends(moment)]
Limit = Annotated[int, Query(ge=1, le=200, description="How many items a page has at most.")]
Cursor = Annotated[
    str | None, Query(max_length=MAXIMUM_CURSOR_CHARACTERS, description="The `nextCursor` of the page before.")
]
Name = Annotated[str | None, Query(min_length=1, max_length=100, pattern=r"^[^\x00]*$")]
Since = Annotated[Instant | None, Query(alias="from", description="A time with its zone; included.")]
Until = Annotated[Instant | None, Query(alias="to", description="A time with its zone; excluded.")]


def in_utc(moment: datetime | None, field: str) -> datetime | None:
    """The same moment in UTC; a 422 for one at the very edge of the calendar, which has none."""
    try:
        return None if moment is None else moment.astimezone(UTC)
    except OverflowError:
        raise invalid(field, "It is no time that can be looked for.") from None
