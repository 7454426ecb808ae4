"""One run: what is measured, in which order, and how much of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from bench import chat_turns, document_calls, growth, history_page, imports, limits, migrations, sub_agents
from bench.chat_turns import Effort, Measured, Memory, Turns
from bench.document_calls import Call
from bench.growth import Growth
from bench.history_page import Page
from bench.imports import Import
from bench.machine import Surroundings, Watch
from bench.migrations import Commands
from bench.sub_agents import Delegated
from bench.system import PROVIDERS, UNLIMITED, Server, System, running_system

CALLERS: Final = (1, 16, 64)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of each subject is measured."""

    turns: Effort
    provider_turns: Effort
    comparison_turns: Effort
    page_rounds: int
    pages: int
    others_sessions: int
    limit_rounds: int
    document_rounds: int
    document_calls: int
    import_rounds: int
    turns_of_growth: int


FULL: Final = Scale(
    turns=Effort(warm_up=32, rounds=3, turns=120, seconds=6.0),
    provider_turns=Effort(warm_up=16, rounds=3, turns=60, seconds=2.0),
    comparison_turns=Effort(warm_up=8, rounds=3, turns=60, seconds=2.0),
    page_rounds=3,
    pages=300,
    others_sessions=1_000_000,
    limit_rounds=5,
    document_rounds=3,
    document_calls=200,
    import_rounds=5,
    turns_of_growth=1000,
)
QUICK: Final = Scale(
    turns=Effort(warm_up=8, rounds=1, turns=40, seconds=2.0),
    provider_turns=Effort(warm_up=4, rounds=1, turns=20, seconds=1.0),
    comparison_turns=Effort(warm_up=4, rounds=1, turns=20, seconds=1.0),
    page_rounds=1,
    pages=200,
    others_sessions=100_000,
    limit_rounds=1,
    document_rounds=1,
    document_calls=100,
    import_rounds=1,
    turns_of_growth=200,
)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a run has found."""

    commands: Commands
    providers: dict[str, Measured]
    delegated: dict[str, Delegated]
    growth: Growth
    ready_seconds: float
    turns: Measured
    late_turn: Turns
    memory: Memory
    passed: list[int]
    documents: dict[str, Call]
    page_alone: Page
    page_among_others: Page
    turn_alone: Turns
    turn_among_others: Turns
    imports: dict[str, Import]
    postgres: str
    surroundings: Surroundings


def measure(scale: Scale) -> Findings:
    """Carries a run out; it says on standard error where it is."""
    watch = Watch()
    with running_system() as system:
        _say("the database's commands")
        commands = migrations.measure(system)
        system.set_limits(UNLIMITED)
        of_providers = {name: _of_provider(system, name, scale.provider_turns) for name in PROVIDERS}
        _say("a server's memory")
        grown = growth.measure(system, scale.turns_of_growth)
        with system.server() as server:
            _say("the history page of a user alone")
            reader = history_page.add_reader(system, server)
            page_alone = history_page.measure(system, server, reader, rounds=scale.page_rounds, pages=scale.pages)
            _say("chat turns")
            turns, memory = chat_turns.measure(system, server, CALLERS, scale.turns)
            late_turn = chat_turns.measure_late(system, server, scale.comparison_turns)
            _say("limits")
            passed = limits.measure(system, server, scale.limit_rounds)
            _say("documents")
            documents = _documents(system, server, scale)
            turn_alone = chat_turns.measure(system, server, (1,), scale.comparison_turns)[0].second[1]
            _say(f"filling in {scale.others_sessions:,} sessions of others")
            history_page.add_others(system, scale.others_sessions)
            page_among = history_page.measure(system, server, reader, rounds=scale.page_rounds, pages=scale.pages)
            turn_among = chat_turns.measure(system, server, (1,), scale.comparison_turns)[0].second[1]
        _say("cold imports")
        imported = imports.measure(scale.import_rounds)
        [[postgres]] = system.execute("show server_version")
        surroundings = watch.read(besides=system.cpu_seconds())
    return Findings(
        commands=commands,
        providers={name: measured for name, (measured, _) in of_providers.items()},
        delegated={name: delegated for name, (_, delegated) in of_providers.items()},
        growth=grown,
        ready_seconds=server.ready_seconds,
        turns=turns,
        late_turn=late_turn,
        memory=memory,
        passed=passed,
        documents=documents,
        page_alone=page_alone,
        page_among_others=page_among,
        turn_alone=turn_alone,
        turn_among_others=turn_among,
        imports=imported,
        postgres=postgres,
        surroundings=surroundings,
    )


def measure_documents(scale: Scale) -> dict[str, Call]:
    """The part of a run that is about documents."""
    with running_system() as system:
        migrations.measure(system)
        with system.server() as server:
            return _documents(system, server, scale)


def _documents(system: System, server: Server, scale: Scale) -> dict[str, Call]:
    return document_calls.measure(system, server, rounds=scale.document_rounds, calls=scale.document_calls)


def _of_provider(system: System, name: str, effort: Effort) -> tuple[Measured, Delegated]:
    _say(f"chat turns with {name}")
    with system.server(name) as server:
        return chat_turns.measure(system, server, (1,), effort)[0], sub_agents.measure(system, server, effort)


def _say(what: str) -> None:
    print(f"measuring {what} ...", file=sys.stderr, flush=True)
