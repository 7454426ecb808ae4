"""Conditions on what a caller has seen: entity tags, and `If-Match` with them."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import Depends, Header

MAXIMUM_CONDITION_CHARACTERS: Final = 1000

_ENTITY_TAG: Final = re.compile(r'(W/)?"([^"]*)"')


async def _if_match(
    header: Annotated[str | None, Header(alias="If-Match", max_length=MAXIMUM_CONDITION_CHARACTERS)] = None,
) -> list[str] | None:
    if header is None or header.strip() == "*":
        return None if header is None else ["*"]
    # A weak tag never matches here (RFC 9110, 13.1.1).
    return [tag for weak, tag in _ENTITY_TAG.findall(header) if not weak]


IfMatch = Annotated[list[str] | None, Depends(_if_match)]
"""The tags one of which has to be the present one, `["*"]` for whichever it is; None if there is no condition."""


def entity_tag(tag: str) -> str:
    """A tag as the header ETag has it."""
    return f'"{tag}"'
