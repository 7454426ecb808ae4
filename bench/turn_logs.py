"""`python -m bench.turn_logs`: what it costs a turn that everything is logged which logging_settings can switch on.

Takes about three minutes, and prints one table in Markdown. The same server, the same sessions' second turns, one
caller; settings take turns round by round, so that a disturbance meets both.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal
from uuid import uuid4

from bench import migrations
from bench.chat_turns import Cost, Talk
from bench.figures import p50, p95, table
from bench.system import UNLIMITED, System, running_system

Logs = Literal["off", "on"]

ROUNDS: Final = 7
TURNS: Final = 60
WARM_UP: Final = 32
SECONDS: Final = 60.0
# An idle connection says how many transactions it made within ten seconds.
COUNTED_SECONDS: Final = 11.0

_SWITCH: Final = """
    update public.admin_config
    set config_data = config_data || jsonb_build_object(
        'error_logging_enabled', %(on)s::boolean,
        'user_activity_logging_enabled', %(on)s::boolean,
        'agent_activity_logging_enabled', %(on)s::boolean,
        'category_toggles', (
            select jsonb_object_agg(t.key, %(on)s::boolean)
            from jsonb_each(config_data -> 'category_toggles') as t
        )
    )
    where config_key = 'logging_settings'
"""
_TRANSACTIONS: Final = "select xact_commit from pg_stat_database where datname = current_database()"
_ROWS: Final = """
    select (select count(*) from public.user_activity_logs) + (select count(*) from public.agent_activity_logs)
"""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Second turns under one setting: milliseconds, CPU milliseconds, and what the database had to do for one."""

    first_p50: float
    total_p50: float
    total_p95: float
    server_cpu: float
    postgres_cpu: float
    transactions: float
    rows: float


def main() -> None:
    with running_system() as system:
        migrations.measure(system)
        system.set_limits(UNLIMITED)
        found = _measure(system)
    headings = [
        "logs",
        "first token p50",
        "whole p50",
        "p95",
        "server CPU",
        "PostgreSQL CPU",
        "transactions",
        "log rows",
    ]
    rows: list[list[object]] = [[name, *vars(turns).values()] for name, turns in found.items()]
    off, on = vars(found["off"]), vars(found["on"])
    rows.append(["difference", *(on[name] - off[name] for name in off)])
    print(f"Second turns of one caller, milliseconds; of each turn.\n\n{table(headings, rows)}")


def _measure(system: System) -> dict[Logs, Turns]:
    costs: dict[Logs, list[Cost]] = {"off": [], "on": []}
    counted: dict[Logs, tuple[float, float]] = {}
    with system.server() as server:
        talk = Talk(system, server)
        talk.warm_up(WARM_UP)
        for number in range(ROUNDS):
            _say(f"round {number + 1} of {ROUNDS}")
            settings: tuple[Logs, Logs] = ("off", "on") if number % 2 else ("on", "off")
            for logs in settings:
                costs[logs].append(_turns(system, talk, logs))
        _say("transactions")
        for logs in costs:
            # The schedule has some transactions of its own each minute: not in both counts.
            counted[logs] = min(_counted(system, talk, logs) for _ in range(2))
    return {logs: _figures(done, *counted[logs]) for logs, done in costs.items()}


def _turns(system: System, talk: Talk, logs: Logs) -> Cost:
    system.execute(_SWITCH, {"on": logs == "on"})
    # The first turns learn the new setting.
    _, sessions = talk.first([str(uuid4()) for _ in range(TURNS)], 1, SECONDS)
    cost, _ = talk.second(sessions, 1, SECONDS)
    return cost


def _counted(system: System, talk: Talk, logs: Logs) -> tuple[float, float]:
    """Transactions and log rows of a turn: each transaction is one round trip."""
    system.execute(_SWITCH, {"on": logs == "on"})
    _, sessions = talk.first([str(uuid4()) for _ in range(TURNS)], 1, SECONDS)
    time.sleep(COUNTED_SECONDS)
    [[transactions]], [[rows]] = system.execute(_TRANSACTIONS), system.execute(_ROWS)
    _, done = talk.second(sessions, 1, SECONDS)
    time.sleep(COUNTED_SECONDS)
    [[after]], [[rows_after]] = system.execute(_TRANSACTIONS), system.execute(_ROWS)
    return (after - transactions) / len(done), (rows_after - rows) / len(done)


def _figures(costs: list[Cost], transactions: float, rows: float) -> Turns:
    return Turns(
        first_p50=median(p50(cost.outcome.first) for cost in costs),
        total_p50=median(p50(cost.outcome.total) for cost in costs),
        total_p95=median(p95(cost.outcome.total) for cost in costs),
        server_cpu=median(cost.server_cpu for cost in costs),
        postgres_cpu=median(cost.postgres_cpu for cost in costs),
        transactions=transactions,
        rows=rows,
    )


def _say(what: str) -> None:
    print(f"measuring {what} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
