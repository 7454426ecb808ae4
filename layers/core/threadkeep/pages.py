"""Keyset pages: a list is read on from the last item's place in its order, at the same cost however deep.

A cursor holds that place and a checksum over it and the list that it belongs to, so that a cursor of another list, of
other filters or with a changed character is refused. It is no secret and grants nothing: every query says by itself
whose rows it reads.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from threadkeep.errors import invalid

MAXIMUM_CURSOR_CHARACTERS: Final = 300
LARGEST_BIGINT: Final = 2**63 - 1
# An answer of AWS Lambda has 6 MB; what is left is for what JSON makes of a text, twice.
MAXIMUM_BYTES: Final = 3 * 1024 * 1024

_CHECKSUM_BYTES: Final = 8

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Slice(Generic[Item]):
    """One page of a list; `next_cursor` is None on the last one."""

    items: list[Item]
    next_cursor: str | None


def cursor(belongs_to: str, *place: UUID | datetime | int) -> str:
    """The cursor of the list `belongs_to` that reads on after `place`."""
    values = [step if isinstance(step, int) else str(step) for step in place]
    payload = json.dumps(values, separators=(",", ":")).encode()
    return urlsafe_b64encode(_checksum(belongs_to, payload) + payload).rstrip(b"=").decode()


def place(text: str | None, belongs_to: str, *steps: Callable[[Any], Any]) -> tuple[Any, ...]:
    """What a cursor of this list holds, each step read by its function; Nones without a cursor.

    Raises `invalid:api` for anything that `cursor` did not make for this list.
    """
    if text is None:
        return (None,) * len(steps)
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        checksum, payload = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
        # Decoding lets stray characters pass, so the text itself must be the one that was given out.
        is_ours = checksum == _checksum(belongs_to, payload) and urlsafe_b64encode(raw).rstrip(b"=").decode() == text
        if is_ours and len(text) <= MAXIMUM_CURSOR_CHARACTERS:
            return tuple(step(value) for step, value in zip(steps, json.loads(payload), strict=True))
    except (ValueError, TypeError, AttributeError):
        pass
    raise invalid("cursor", "It is no cursor of this list. Start again without one.")


def fitting(items: Sequence[Item], limit: int, size: Callable[[Item], int]) -> list[Item]:
    """The first items, at most `limit` and no more than one answer carries by their sizes in bytes; one at least."""
    left = MAXIMUM_BYTES
    fit: list[Item] = []
    for item in items[:limit]:
        left -= size(item)
        if fit and left < 0:
            break
        fit.append(item)
    return fit


def bigint(value: object) -> int:
    """A place in a sequence of PostgreSQL."""
    if not isinstance(value, int) or not 0 <= value <= LARGEST_BIGINT:
        raise ValueError("not a place in a sequence")
    return value


def _checksum(belongs_to: str, payload: bytes) -> bytes:
    return sha256(json.dumps(belongs_to).encode() + payload).digest()[:_CHECKSUM_BYTES]
