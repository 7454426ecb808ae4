"""Exactness of limits: how many of 40 callers at once pass a limit of 10."""

from __future__ import annotations

from typing import Final
from uuid import uuid4

from bench import load
from bench.chat_turns import FIRST_QUESTION, question, turns_plan
from bench.system import UNLIMITED, Server, System

LIMIT: Final = 10
CALLERS: Final = 40
TOO_MANY: Final = "HTTP/1.1 429"


def measure(system: System, server: Server, rounds: int) -> list[int]:
    """How many passed in each round, each with a user of its own; every other caller got 429.

    The limit stands for the minute, the hour and the day, so that the edge of a minute within a round changes nothing.
    """
    system.set_limits(LIMIT)
    passed = []
    for _ in range(rounds):
        token = system.token(f"bench-limited-{uuid4()}")
        requests = [question(str(uuid4()), token, FIRST_QUESTION) for _ in range(CALLERS)]
        outcome = load.run(turns_plan(server, requests, CALLERS, seconds=60))
        if set(outcome.failures) - {TOO_MANY}:
            raise RuntimeError(f"refused otherwise than by a limit: {outcome.failures}")
        passed.append(len(outcome.total))
    system.set_limits(UNLIMITED)
    return passed
