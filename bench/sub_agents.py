"""A turn that hands work on: the chat agent calls the document agent, which writes, and says that it is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from bench.chat_turns import Effort, Talk
from bench.figures import middle, p50, p95
from bench.system import Server, System
from tests.emulator.fixed import DELEGATING

# Of the chat agent, the document agent, and the chat agent once more.
MODEL_REQUESTS: Final = 3


@dataclass(frozen=True, kw_only=True)
class Delegated:
    """Turns of one caller. Times are milliseconds: to the document's first words and whole, beyond those of the
    three direct calls that such a turn makes; CPU is milliseconds a turn."""

    first_words_p50: float
    total_p50: float
    total_p95: float
    per_second: float
    server_cpu: float
    postgres_cpu: float


def measure(system: System, server: Server, effort: Effort) -> Delegated:
    """Medians of rounds, each turn in a session of its own."""
    talk = Talk(system, server)
    _turns(talk, effort.warm_up, effort.seconds)
    return middle([_turns(talk, effort.turns, effort.seconds) for _ in range(effort.rounds)])


def _turns(talk: Talk, number: int, seconds: float) -> Delegated:
    before = talk.direct(1, number)
    cost = talk.delegating([str(uuid4()) for _ in range(number)], DELEGATING, seconds)
    after = talk.direct(1, number)
    turns = cost.outcome
    direct = [*before.total, *after.total]
    return Delegated(
        first_words_p50=p50(turns.first) - 2 * p50(direct),
        total_p50=p50(turns.total) - MODEL_REQUESTS * p50(direct),
        total_p95=p95(turns.total) - MODEL_REQUESTS * p95(direct),
        per_second=turns.per_second,
        server_cpu=cost.server_cpu,
        postgres_cpu=cost.postgres_cpu,
    )
