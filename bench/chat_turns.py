"""The chat turn: what the system adds to a call of the model, in time, CPU and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from bench import load
from bench.load import Outcome, Plan
from bench.processes import cpu_ms, family_cpu_ms
from bench.system import Server, System

USERS: Final = 64
FIRST_QUESTION: Final = "What does a session keep, and for how long?"
SECOND_QUESTION: Final = "And what happens to it when I delete my account?"


@dataclass(frozen=True)
class Turns:
    """Turns of so many callers at once, and direct calls of the model by as many; CPU is milliseconds a turn."""

    callers: int
    turns: Outcome
    direct: Outcome
    server_cpu: float
    postgres_cpu: float


class Sessions:
    """Who talks: sessions of 64 users, each session with one turn at a time."""

    def __init__(self, system: System) -> None:
        self._tokens = [system.token(f"bench-{number}") for number in range(USERS)]

    def questions(self, sessions: list[str], text: str) -> list[str]:
        return [self._question(session, position, text) for position, session in enumerate(sessions)]

    def _question(self, session: str, position: int, text: str) -> str:
        message = {"id": uuid4().hex[:16], "role": "user", "parts": [{"type": "text", "text": text}]}
        body = {"id": session, "message": message, "trigger": "submit-message"}
        return load.request("POST", "/api/chat", self._tokens[position % USERS], body)


def measure(system: System, server: Server, requests: list[str], callers: int) -> Turns:
    """The turns that these requests ask for, between two halves of direct calls."""
    direct = Plan(
        port=system.emulator_port,
        callers=callers,
        requests=[system.direct()] * max(len(requests) // 2, callers),
        first="response.output_text.delta",
        needed="response.completed",
    )
    plan = Plan(
        port=server.port,
        callers=callers,
        requests=requests,
        first='"type":"text-delta"',
        needed="data: [DONE]",
        forbidden='"type":"error"',
    )
    before = load.run(direct).checked()
    server_cpu, postgres_cpu = cpu_ms(server.process_id), family_cpu_ms(system.postgres.process_id)
    turns = load.run(plan).checked()
    server_cpu = cpu_ms(server.process_id) - server_cpu
    postgres_cpu = family_cpu_ms(system.postgres.process_id) - postgres_cpu
    after = load.run(direct).checked()
    calls = Outcome(
        before.first + after.first,
        before.total + after.total,
        before.seconds + after.seconds,
        before.cpu_seconds + after.cpu_seconds,
    )
    return Turns(callers, turns, calls, server_cpu / len(requests), postgres_cpu / len(requests))
