"""What others need for the same, measured elsewhere on a like machine, and what Threadkeep aims at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One worker on 2 cores, 50 tokens at once: milliseconds beyond the model's at one caller, CPU milliseconds a
    turn, turns a second at 16 callers, MiB, and milliseconds of a history page."""

    name: str
    first_token: float
    cpu: float
    per_second: float
    memory: str
    page: str


REFERENCES: Final = (
    Reference(
        name="ai-chatbot (Next.js, PostgreSQL)",
        first_token=24.9,
        cpu=30.0,
        per_second=34.0,
        memory="345 to 515",
        page="4.0; four times that with 100,000 of others",
    ),
    Reference(
        name="LiteLLM proxy (stores nothing)", first_token=10.4, cpu=32.0, per_second=28.0, memory="400", page="none"
    ),
    Reference(
        name="Open WebUI (chat not saved)", first_token=12.1, cpu=13.0, per_second=84.0, memory="400", page="none"
    ),
    Reference(
        name="100 lines of Python: HTTP client of the SDK, two SQL calls",
        first_token=2.5,
        cpu=4.2,
        per_second=240.0,
        memory="45",
        page="none",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """In the units of `Reference`; the page is to be the same among the sessions of others."""

    first_token: float
    cpu: float
    per_second: float
    memory: float
    page: float


AIM: Final = Aim(first_token=8.0, cpu=12.0, per_second=80.0, memory=200.0, page=1.5)
