"""Whether a chat process grows: its memory while it answers turn after turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from bench.chat_turns import Talk
from bench.processes import resident_mib
from bench.system import System

CALLERS: Final = 16
PATIENCE_SECONDS: Final = 100.0


@dataclass(frozen=True, kw_only=True)
class Growth:
    """A new server's memory in MiB: when it was ready, and after so many turns."""

    ready: float
    after: dict[int, float]


def measure(system: System, turns: int) -> Growth:
    """In a server of its own; the turns in ten parts, each in new sessions."""
    with system.server() as server:
        talk = Talk(system, server)
        ready = resident_mib(server.process_id)
        talk.first([str(uuid4())], 1, PATIENCE_SECONDS)
        after = {1: resident_mib(server.process_id)}
        done = 1
        for _ in range(10):
            _, sessions = talk.first([str(uuid4()) for _ in range(turns // 10)], CALLERS, PATIENCE_SECONDS)
            done += len(sessions)
            after[done] = resident_mib(server.process_id)
    return Growth(ready=ready, after=after)
