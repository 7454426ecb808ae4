"""The chat turn: what the system adds to a call of the model, in time, CPU and memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

from bench import load
from bench.figures import middle, p50, p95
from bench.load import Outcome, Plan
from bench.processes import cpu_ms, family_cpu_ms, resident_mib
from bench.system import Server, System

USERS: Final = 64
FIRST_QUESTION: Final = "What does a session keep, and for how long?"
SECOND_QUESTION: Final = "And what happens to it when I delete my account?"
_TEN_TIMES: Final = """
    insert into public."Message_v2"
        ("chatId", role, status, parts, model_messages, metadata, model_used, input_tokens, output_tokens, cost)
    select
        m."chatId", m.role, m.status, m.parts, m.model_messages, m.metadata, m.model_used, m.input_tokens,
        m.output_tokens, m.cost
    from public."Message_v2" as m
    cross join generate_series(2, 10) as copy (number)
    where m."chatId" = any (%(sessions)s::uuid[])
    order by copy.number, m.seq
"""
# What a direct call of each provider looks like: path, body, first piece of text, end.
DIRECT: Final = {
    "openai": ("/openai/v1/responses", "gpt-6.1-terra", "response.output_text.delta", "response.completed"),
    "google": (
        "/google/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse",
        "",
        '"text":"token',
        '"finishReason":',
    ),
    "anthropic": ("/anthropic/v1/messages", "claude-sonnet-5-5", "text_delta", "message_stop"),
}


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured: rounds, and the turns and seconds of one round at most; before them sessions to warm up."""

    warm_up: int
    rounds: int
    turns: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Turns of so many callers at once. Times are milliseconds beyond those of a direct call; CPU is milliseconds a
    turn, that of the load generator beside those of the server and of PostgreSQL."""

    callers: float
    first_p50: float
    first_p95: float
    total_p50: float
    total_p95: float
    per_second: float
    server_cpu: float
    postgres_cpu: float
    client_cpu: float


@dataclass(frozen=True, kw_only=True)
class Direct:
    """Direct calls of the model by as many callers, in milliseconds."""

    callers: float
    first_p50: float
    total_p50: float
    total_p95: float
    per_second: float
    client_cpu: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """First turns (with a title), second turns in the same sessions, and direct calls; each by callers."""

    first: dict[int, Turns]
    second: dict[int, Turns]
    direct: dict[int, Direct]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The server's memory in MiB: when it was ready, after its first turn, and after all of them."""

    ready: float
    first_turn: float
    end: float


def measure(system: System, server: Server, callers: tuple[int, ...], effort: Effort) -> tuple[Measured, Memory]:
    """Rounds over all numbers of callers, one after the other, so that a disturbance meets all of them."""
    talk = Talk(system, server)
    ready = resident_mib(server.process_id)
    talk.first([str(uuid4())], 1, effort.seconds)
    first_turn = resident_mib(server.process_id)
    talk.warm_up(effort.warm_up)
    rounds: dict[int, list[tuple[Turns, Turns, Direct]]] = {number: [] for number in callers}
    for _ in range(effort.rounds):
        for number in callers:
            rounds[number].append(talk.both(number, effort))
    memory = Memory(ready=ready, first_turn=first_turn, end=resident_mib(server.process_id))
    measured = Measured(
        first={number: middle([each[0] for each in done]) for number, done in rounds.items()},
        second={number: middle([each[1] for each in done]) for number, done in rounds.items()},
        direct={number: middle([each[2] for each in done]) for number, done in rounds.items()},
    )
    return measured, memory


def measure_late(system: System, server: Server, effort: Effort) -> Turns:
    """Turn 21 of a session, by one caller: what a history of 40 messages adds."""
    talk = Talk(system, server)
    return middle([talk.late(effort) for _ in range(effort.rounds)])


class Talk:
    """64 users who talk to one server, each session with one turn at a time."""

    def __init__(self, system: System, server: Server) -> None:
        self._system = system
        self._server = server
        self._tokens = [system.token(f"bench-{number}") for number in range(USERS)]

    def warm_up(self, number: int) -> None:
        """What a process does only once is not measured: imports, first connections, the database's caches."""
        sessions = [str(uuid4()) for _ in range(number)]
        self.second(self.first(sessions, 16, 30.0)[1], 16, 30.0)

    def both(self, callers: int, effort: Effort) -> tuple[Turns, Turns, Direct]:
        """First turns in new sessions and second turns in the same, each beside direct calls."""
        number = max(effort.turns, callers * 2)
        before = self.direct(callers, number)
        first, sessions = self.first([str(uuid4()) for _ in range(number)], callers, effort.seconds)
        between = self.direct(callers, number)
        second, _ = self.second(sessions, callers, effort.seconds)
        after = self.direct(callers, number)
        direct = middle([_direct_figures(callers, calls) for calls in (before, between, after)])
        return (
            _figures(callers, first, before, between),
            _figures(callers, second, between, after),
            direct,
        )

    def late(self, effort: Effort) -> Turns:
        """Turns in sessions of 40 messages: the four of two turns, ten times over."""
        _, sessions = self.first([str(uuid4()) for _ in range(effort.turns)], 1, effort.seconds)
        _, sessions = self.second(sessions, 1, effort.seconds)
        self._system.execute(_TEN_TIMES, {"sessions": sessions})
        before = self.direct(1, effort.turns)
        cost, _ = self.second(sessions, 1, effort.seconds)
        return _figures(1, cost, before, self.direct(1, effort.turns))

    def first(self, sessions: list[str], callers: int, seconds: float) -> tuple[Cost, list[str]]:
        """A first turn in each session; what it took, and the sessions that had theirs within the time."""
        return self._turns(sessions, FIRST_QUESTION, callers, seconds)

    def second(self, sessions: list[str], callers: int, seconds: float) -> tuple[Cost, list[str]]:
        return self._turns(sessions, SECOND_QUESTION, callers, seconds)

    def delegating(self, sessions: list[str], text: str, seconds: float) -> Cost:
        """A turn in each session whose first token is that of a document; none of its tools may fail."""
        marks: dict[str, Any] = {
            "first": '"type":"data-textDelta"',
            "needed": '"type":"data-finish"',
            "forbidden": 'error",',
        }
        return self._turns(sessions, text, 1, seconds, marks)[0]

    def _turns(
        self, sessions: list[str], text: str, callers: int, seconds: float, marks: dict[str, Any] | None = None
    ) -> tuple[Cost, list[str]]:
        tokens = itertools.cycle(self._tokens)
        requests = [question(session, token, text) for session, token in zip(sessions, tokens, strict=False)]
        plan = turns_plan(self._server, requests, callers, seconds)
        server, postgres = self._server.process_id, self._system.postgres.process_id
        server_cpu, postgres_cpu = cpu_ms(server), family_cpu_ms(postgres)
        outcome = load.run(replace(plan, **marks) if marks else plan).checked()
        done = len(outcome.total)
        cost = Cost(outcome, (cpu_ms(server) - server_cpu) / done, (family_cpu_ms(postgres) - postgres_cpu) / done)
        # They are sent in their order and all that were sent came to their end.
        return cost, sessions[:done]

    def direct(self, callers: int, number: int) -> Outcome:
        path, model, first, end = DIRECT[self._server.provider]
        body = {"model": model, "input": "Hello", "stream": True}
        plan = Plan(
            port=self._system.emulator_port,
            callers=callers,
            requests=[load.request("POST", path, "bench-key", body)] * number,
            first=first,
            needed=end,
        )
        return load.run(plan).checked()


@dataclass(frozen=True)
class Cost:
    """What turns took, and milliseconds of CPU for one."""

    outcome: Outcome
    server_cpu: float
    postgres_cpu: float


def question(session: str, token: str, text: str) -> str:
    """The request of a turn, as the AI SDK sends it."""
    message = {"id": uuid4().hex[:16], "role": "user", "parts": [{"type": "text", "text": text}]}
    body = {"id": session, "message": message, "trigger": "submit-message"}
    return load.request("POST", "/api/chat", token, body)


def turns_plan(server: Server, requests: list[str], callers: int, seconds: float) -> Plan:
    return Plan(
        port=server.port,
        callers=callers,
        requests=requests,
        seconds=seconds,
        first='"type":"text-delta"',
        needed="data: [DONE]",
        forbidden='"type":"error"',
    )


def _figures(callers: int, cost: Cost, *direct: Outcome) -> Turns:
    first = [value for calls in direct for value in calls.first]
    total = [value for calls in direct for value in calls.total]
    turns = cost.outcome
    return Turns(
        callers=callers,
        first_p50=p50(turns.first) - p50(first),
        first_p95=p95(turns.first) - p95(first),
        total_p50=p50(turns.total) - p50(total),
        total_p95=p95(turns.total) - p95(total),
        per_second=turns.per_second,
        server_cpu=cost.server_cpu,
        postgres_cpu=cost.postgres_cpu,
        client_cpu=turns.cpu_ms,
    )


def _direct_figures(callers: int, calls: Outcome) -> Direct:
    return Direct(
        callers=callers,
        first_p50=p50(calls.first),
        total_p50=p50(calls.total),
        total_p95=p95(calls.total),
        per_second=calls.per_second,
        client_cpu=calls.cpu_ms,
    )
