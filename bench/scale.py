"""`python -m bench.scale [--write]`: what 1 to 10,000 turns a second would take, by the figures measured here.

The measured inputs are read out of docs/performance.md; the others stand below with where they come from. `--write`
puts the result into docs/scale.md, where a test compares it with what this module says.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
MEASURED: Final = ROOT / "docs" / "performance.md"
PAGE: Final = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- python -m bench.scale --write -->", "<!-- end -->"
RATES: Final = (1, 10, 100, 1_000, 10_000)

SECONDS_A_MONTH: Final = 730 * 3600


@dataclass(frozen=True)
class Prices:
    """List prices of us-east-1 in USD, as known in January 2026: to be checked before anybody relies on them."""

    lambda_gb_second: float = 0.0000133334  # arm64
    lambda_request: float = 0.20 / 1e6
    rest_request: float = 3.50 / 1e6
    http_request: float = 1.00 / 1e6
    log_gb: float = 0.50
    aurora_acu_hour: float = 0.12
    aurora_io: float = 0.20 / 1e6
    proxy_acu_hour: float = 0.015
    proxy_minimum_acus: float = 8
    nat_hour: float = 0.045
    nat_gb: float = 0.045


@dataclass(frozen=True)
class Inputs:
    """What the model is fed with. Milliseconds of CPU are of a core as it was measured on."""

    # Measured, docs/performance.md.
    turn_cpu_ms: float
    turn_database_ms: float
    page_cpu_ms: float
    page_database_ms: float
    cold_start_ms: float
    # Measured: 2,000 writes of 6 tokens and one request's usage each, CPU of the PostgreSQL process (November 2026).
    chunk_database_ms: float = 0.3
    # The code's own: threadkeep_agents.keeper.COALESCE_SECONDS.
    chunks_a_second: float = 10
    # Assumed of people and models.
    turn_seconds: float = 12
    pages_a_turn: float = 3
    events_kb_a_turn: float = 60
    log_kb_a_request: float = 0.6
    # The template's defaults.
    chat_gb: float = 1.0
    page_gb: float = 0.5
    requests_a_second: float = 100
    maximum_acus: float = 8
    # Of AWS: an account's concurrency to begin with, Lambda's pace of growing, an ACU in processors, NAT's connections.
    account_concurrency: float = 1_000
    new_environments_a_second: float = 100
    cores_an_acu: float = 0.25
    busy: float = 0.6
    most_acus: float = 256
    nat_connections: float = 55_000
    prices: Prices = field(default_factory=Prices)


# max_connections of Aurora PostgreSQL Serverless v2 by its largest capacity (AWS's table). With 0.5 as the smallest
# there are never more than 2,000.
CONNECTIONS: Final = ((1, 189), (4, 823), (8, 1669), (16, 3360), (256, 5000))
# The share of them that RDS Proxy may use.
PROXY_SHARE: Final = 0.9


@dataclass(frozen=True)
class Load:
    """What a rate of turns takes, all the time."""

    turns_a_second: float
    environments: float
    writes_a_second: float
    database_cores: float
    acus: float
    shared_connections: float
    usd_a_second: float

    @property
    def usd_a_thousand_turns(self) -> float:
        return self.usd_a_second / self.turns_a_second * 1000


@dataclass(frozen=True)
class Limit:
    """Something that ends somewhere: at how many turns a second, and what is done then."""

    what: str
    turns_a_second: float
    remedy: str


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into docs/scale.md")
    text = report(inputs())
    if parser.parse_args().write:
        PAGE.write_text(with_report(PAGE.read_text(), text))
    else:
        print(text)


def inputs(page: str | None = None) -> Inputs:
    """The inputs, the measured ones out of the page of figures; ValueError names one that it does not have."""
    text = MEASURED.read_text() if page is None else page
    return Inputs(
        turn_cpu_ms=_figure(text, {"": "second turn", "callers": "1"}, "server CPU"),
        turn_database_ms=_figure(text, {"": "second turn", "callers": "1"}, "PostgreSQL CPU"),
        page_cpu_ms=_figure(text, {"the table holds": "alone"}, "server CPU"),
        page_database_ms=_figure(text, {"the table holds": "alone"}, "PostgreSQL CPU"),
        cold_start_ms=_figure(text, {"cold import": "functions/chat with a model of openai"}, "ms"),
    )


def load(turns: float, given: Inputs) -> Load:
    """What so many turns a second take."""
    prices = given.prices
    chunks = given.chunks_a_second * given.turn_seconds
    database_ms = (
        given.turn_database_ms + chunks * given.chunk_database_ms + given.pages_a_turn * given.page_database_ms
    )
    cores = turns * database_ms / 1000
    acus = max(0.5, cores / given.busy / given.cores_an_acu)
    # A request's own time on a share of a core as large as its memory (1.769 GB are one).
    page_seconds = given.page_cpu_ms / 1000 / (given.page_gb / 1.769) + 0.01
    requests = 1 + given.pages_a_turn
    usd_a_turn = (
        given.turn_seconds * given.chat_gb * prices.lambda_gb_second
        + given.pages_a_turn * page_seconds * given.page_gb * prices.lambda_gb_second
        + requests * prices.lambda_request
        + prices.rest_request
        + given.pages_a_turn * prices.http_request
        + requests * given.log_kb_a_request / 1e6 * prices.log_gb
        + given.events_kb_a_turn / 1e6 * prices.nat_gb
        + (2 + chunks) * prices.aurora_io
    )
    standing = (
        acus * prices.aurora_acu_hour + max(acus, prices.proxy_minimum_acus) * prices.proxy_acu_hour + prices.nat_hour
    )
    return Load(
        turns_a_second=turns,
        environments=turns * (given.turn_seconds + given.pages_a_turn * page_seconds),
        writes_a_second=turns * (2 + chunks),
        database_cores=cores,
        acus=acus,
        # What is in use at one moment, if every transaction gives its connection back.
        shared_connections=cores / given.busy,
        usd_a_second=turns * usd_a_turn + standing / 3600,
    )


def limits(given: Inputs) -> list[Limit]:
    """What ends first comes first; each as the template has it by default."""
    one = load(1, given)
    database_a_turn = one.database_cores
    pinned = PROXY_SHARE * _connections(given.maximum_acus) / one.environments
    found = [
        Limit(
            f"the HTTP API's throttle (`RequestsASecond` {given.requests_a_second:.0f})",
            given.requests_a_second / given.pages_a_turn,
            "raise the parameter; the account's own limit is 10,000 a second",
        ),
        Limit(
            f"the database's processors at `AuroraMaximumCapacity` {given.maximum_acus:.0f}",
            given.maximum_acus * given.cores_an_acu * given.busy / database_a_turn,
            "raise the parameter, up to 256; write chunks less often (`COALESCE_SECONDS` 0.25 more than halves it); "
            "a fixed instance is cheaper than capacity units where the load is steady",
        ),
        Limit(
            f"Lambda's concurrency of a new account ({given.account_concurrency:,.0f})",
            given.account_concurrency / one.environments,
            "ask for more in Service Quotas, tens of thousands are given; set `ChatConcurrency` so that chat cannot "
            "starve the rest",
        ),
        Limit(
            f"connections at {given.maximum_acus:.0f} ACUs, if each environment pins one",
            pinned,
            "raise the capacity and restart the instance (5,000 connections from 32 ACUs on, but 2,000 while "
            "`AuroraMinimumCapacity` is 0.5); find what pins in the proxy's log; "
            "shared, the pool lasts as long as the processors",
        ),
        Limit(
            "connections at most (5,000), if each environment pins one",
            PROXY_SHARE * 5000 / one.environments,
            "the pinning has to go, or sessions are spread over several databases by user",
        ),
        Limit(
            f"the database's processors at {given.most_acus:.0f} ACUs",
            given.most_acus * given.cores_an_acu * given.busy / database_a_turn,
            "keep running streams elsewhere than in PostgreSQL (they are most of its work); "
            "spread sessions over several databases by user",
        ),
        Limit(
            f"NAT: connections to one provider ({given.nat_connections:,.0f} to one address)",
            given.nat_connections / given.turn_seconds,
            "more addresses on the NAT gateway (eight make it eight times as many)",
        ),
        Limit(
            "the REST API's rate of an account (10,000 a second)",
            10_000,
            "ask for more in Service Quotas",
        ),
    ]
    return sorted(found, key=lambda limit: limit.turns_a_second)


def report(given: Inputs) -> str:
    """The whole result, in Markdown."""
    loads = [load(rate, given) for rate in RATES]
    chunk_share = (
        given.chunks_a_second * given.turn_seconds * given.chunk_database_ms / (loads[0].database_cores * 1000)
    )
    parts = [
        "### What goes in",
        _table(("input", "value", "from"), _input_rows(given)),
        "### What comes out",
        _table(
            (
                "turns a second",
                "environments at once",
                "writes/s",
                "database cores",
                "ACUs at 60 %",
                "connections shared",
                "connections pinned",
                "USD per 1,000 turns",
                "USD a month, held day and night",
            ),
            [_load_row(each, given) for each in loads],
        ),
        f"A turn computes for {given.turn_cpu_ms:g} ms and waits for {given.turn_seconds:g} s: what is paid is memory "
        f"held while waiting. Of the database's work {chunk_share:.0%} is keeping running streams. A burst grows by "
        f"{given.new_environments_a_second:.0f} environments a second (Lambda's pace for one function), and a new one "
        f"answers its first turn about {given.cold_start_ms / 1000:.1f} s later. What the models cost is not in it.",
        "### What ends first",
        _table(
            ("limit", "turns a second", "remedy"),
            [(each.what, _number(each.turns_a_second), each.remedy) for each in limits(given)],
        ),
    ]
    return "\n\n".join(parts)


def with_report(page: str, text: str) -> str:
    """The page with this result between its two marks."""
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError("the page has lost the marks of the result")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def _input_rows(given: Inputs) -> list[tuple[str, str, str]]:
    page = "[performance](performance.md)"
    people = "assumed"
    template = "template.yaml"
    return [
        ("CPU of a turn", f"{given.turn_cpu_ms:g} ms", page),
        ("PostgreSQL's CPU of a turn that comes at once", f"{given.turn_database_ms:g} ms", page),
        ("PostgreSQL's CPU of one write of a running stream", f"{given.chunk_database_ms:g} ms", "measured, see below"),
        ("a history page, function and PostgreSQL", f"{given.page_cpu_ms:g} ms, {given.page_database_ms:g} ms", page),
        ("a cold environment's first turn (imports)", f"{given.cold_start_ms:g} ms", page),
        ("writes a second of a running stream, at most", f"{given.chunks_a_second:g}", "`COALESCE_SECONDS`"),
        ("how long a turn lasts", f"{given.turn_seconds:g} s", people),
        ("other requests a turn", f"{given.pages_a_turn:g}", people),
        ("a turn's traffic with the model", f"{given.events_kb_a_turn:g} kB", people),
        ("memory of chat, of the others", f"{given.chat_gb:g} GB, {given.page_gb:g} GB", template),
        ("processors of one ACU", f"{given.cores_an_acu:g}", "AWS gives 2 GiB an ACU; assumed from its instances"),
    ]


def _load_row(each: Load, given: Inputs) -> tuple[str, ...]:
    acus = "more than there are" if each.acus > given.most_acus else f"{each.acus:,.1f}"
    pinned = "more than there are" if each.environments > PROXY_SHARE * 5000 else _number(each.environments)
    return (
        f"{each.turns_a_second:,.0f}",
        _number(each.environments),
        _number(each.writes_a_second),
        f"{each.database_cores:,.2f}",
        acus,
        _number(math.ceil(each.shared_connections)),
        pinned,
        f"{each.usd_a_thousand_turns:,.2f}",
        f"{each.usd_a_second * SECONDS_A_MONTH:,.0f}",
    )


def _connections(acus: float) -> int:
    return next(connections for most, connections in CONNECTIONS if acus <= most)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(page: str, row: dict[str, str], column: str) -> float:
    """The number in this column of the first table row in which the named columns read so."""
    head: list[str] = []
    for line in page.splitlines():
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not head:
            head = cells
        elif column in head and set(row) <= set(head) and _reads(dict(zip(head, cells, strict=False)), row):
            return float(re.sub(r"[^\d.]", "", cells[head.index(column)]))
    raise ValueError(f"the page of figures has no {column!r} of {row}")


def _reads(cells: dict[str, str], row: dict[str, str]) -> bool:
    return all(cells[name] == value for name, value in row.items())


if __name__ == "__main__":
    main()
