"""Refreshes the prices of `model_config` from the installed `genai-prices`: `python -m local.prices [--apply]`.

It shows every change. A model that the library does not know, and all that is not a price, stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import psycopg
from genai_prices import data_snapshot
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, StartDateConstraint, TieredPrices
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from local.database_commands import database
from threadkeep.model_metadata import parse_model_metadata

PRICED_MEMBERS: Final = ("cachedInputPrice", "cacheWritePrice", "longContext", "priceChanges")


@dataclass(frozen=True, slots=True)
class Change:
    """New prices of one model: USD per million tokens, and the metadata with the finer ones."""

    model_id: str
    before: dict[str, Any]
    after: dict[str, Any]
    metadata: dict[str, Any]

    def lines(self) -> Iterator[str]:
        for name in sorted(self.before.keys() | self.after.keys()):
            if self.before.get(name) != self.after.get(name):
                yield f"{self.model_id}: {name}: {self.before.get(name)} -> {self.after.get(name)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m local.prices", description=__doc__)
    parser.add_argument("--apply", action="store_true", help="write the changes; without it they are only shown")
    chosen = parser.parse_args()
    with database() as dsn, psycopg.connect(dsn, row_factory=dict_row) as connection:
        if connection.execute("select from pg_tables where tablename = 'model_config'").fetchone() is None:
            print("This database has no models yet. Run db-migrate.", file=sys.stderr)
            return 1
        rows = connection.execute("select * from public.model_config order by provider, model_id for update").fetchall()
        changes = list(changed(rows, datetime.now(UTC).date()))
        for change in changes:
            print(*change.lines(), sep="\n")
            if chosen.apply:
                _write(connection, change)
    done = "written" if chosen.apply else "shown; repeat with --apply to write them"
    print(f"{len(changes)} of {len(rows)} models changed, {done}.")
    return 0


def changed(rows: list[dict[str, Any]], day: date) -> Iterator[Change]:
    """The models whose prices differ from the library's, as of a day (UTC)."""
    for row in rows:
        info = _info(row["provider"], row["model_id"])
        prices = _prices(info, day) if info else None
        if prices is None:
            continue
        before = {
            "inputPrice": float(row["input_pricing_per_million_tokens"]),
            "outputPrice": float(row["output_pricing_per_million_tokens"]),
        } | {name: row["metadata"][name] for name in PRICED_MEMBERS if name in row["metadata"]}
        if before != prices:
            kept = {name: value for name, value in row["metadata"].items() if name not in PRICED_MEMBERS}
            finer = {name: value for name, value in prices.items() if name in PRICED_MEMBERS}
            yield Change(row["model_id"], before, prices, kept | finer)


def _write(connection: psycopg.Connection[dict[str, Any]], change: Change) -> None:
    parse_model_metadata(change.metadata)
    connection.execute(
        """
        update public.model_config
        set input_pricing_per_million_tokens = %(input)s,
            output_pricing_per_million_tokens = %(output)s,
            metadata = %(metadata)s
        where model_id = %(model_id)s
        """,
        {
            "model_id": change.model_id,
            "input": change.after["inputPrice"],
            "output": change.after["outputPrice"],
            "metadata": Jsonb(change.metadata),
        },
    )


def _info(provider: str, model_id: str) -> ModelInfo | None:
    for known in data_snapshot.get_snapshot().providers:
        if known.id == provider:
            return next((model for model in known.models if model.is_match(model_id)), None)
    return None


def _prices(info: ModelInfo, day: date) -> dict[str, Any] | None:
    """What holds on a day, and what is announced; None if there is no price, or it depends on more than the day."""
    conditions = info.prices if isinstance(info.prices, list) else [ConditionalPrice(prices=info.prices)]
    current: ModelPrice | None = None
    announced: list[dict[str, Any]] = []
    for condition in conditions:
        if condition.constraint is None:
            current = condition.prices
        elif not isinstance(condition.constraint, StartDateConstraint):
            return None
        elif condition.constraint.start_date <= day:
            current = condition.prices
        else:
            announced.append({"from": condition.constraint.start_date.isoformat()} | _of(condition.prices))
    if current is None or not {"inputPrice", "outputPrice"} <= _of(current).keys():
        return None
    return _of(current) | ({"priceChanges": announced} if announced else {})


def _of(price: ModelPrice) -> dict[str, Any]:
    kinds = {
        "inputPrice": "input_mtok",
        "cachedInputPrice": "cache_read_mtok",
        "cacheWritePrice": "cache_write_mtok",
        "outputPrice": "output_mtok",
    }
    base: dict[str, Any] = {}
    long: dict[str, Any] = {}
    for name, unit in kinds.items():
        value: Decimal | TieredPrices | None = getattr(price, unit, None)
        if isinstance(value, TieredPrices):
            base[name] = float(value.base)
            long |= {"aboveInputTokens": value.tiers[0].start, name: float(value.tiers[0].price)}
        elif value is not None:
            base[name] = float(value)
    return base | ({"longContext": long} if long else {})


if __name__ == "__main__":
    sys.exit(main())
