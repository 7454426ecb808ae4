"""Costs out of our price rows, beside what `genai-prices` says of the same requests."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import genai_prices
import psycopg
import pytest
from psycopg.rows import dict_row
from pydantic_ai.usage import RequestUsage

from threadkeep_agents.priced_models import OFFLINE_MODEL, PricedModel, cost

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = datetime(2027, 2, 1, tzinfo=UTC)
CURRENT = (
    "gemini-3.8-flash",
    "gemini-4-argon",
    "gemini-3.5-flash-lite",
    "gpt-6.1-sol",
    "gpt-6.1-terra",
    "gpt-6-luna",
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
    "claude-opus-5-5",
)
USAGES = {
    "plain": RequestUsage(input_tokens=1_000, output_tokens=500),
    "nothing said": RequestUsage(input_tokens=1_000, output_tokens=0),
    "cached": RequestUsage(input_tokens=10_000, cache_read_tokens=9_000, output_tokens=100),
    "cache written": RequestUsage(input_tokens=10_000, cache_write_tokens=4_000, output_tokens=100),
    "read and written": RequestUsage(
        input_tokens=10_000, cache_read_tokens=5_000, cache_write_tokens=4_000, output_tokens=100
    ),
    "reasoned": RequestUsage(input_tokens=1_000, output_tokens=900, output_reasoning_tokens=700),
    "the longest that is not long": RequestUsage(input_tokens=272_000, output_tokens=100),
    "the shortest that is long": RequestUsage(input_tokens=272_001, output_tokens=100),
    "the same of another model": RequestUsage(input_tokens=100_000, output_tokens=100),
    "and just long": RequestUsage(input_tokens=100_001, output_tokens=100),
    "long": RequestUsage(input_tokens=300_000, output_tokens=2_000),
    "long and cached": RequestUsage(input_tokens=300_000, cache_read_tokens=250_000, output_tokens=2_000),
    "three tokens": RequestUsage(input_tokens=2, output_tokens=1),
}


@pytest.fixture
def models(database_url: str) -> dict[str, PricedModel]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        rows = connection.execute("select * from model_config").fetchall()
    return {row["model_id"]: PricedModel.of_row(row) for row in rows}


@pytest.mark.parametrize("at", [NOW, LATER], ids=["now", "after announced changes"])
def test_every_current_model_costs_what_genai_prices_says(models: dict[str, PricedModel], at: datetime) -> None:
    differences = []
    for name in CURRENT:
        model = models[name]
        for kind, usage in USAGES.items():
            if model.provider == "google" and usage.cache_write_tokens:
                continue  # Google reports no cache writes.
            expected = genai_prices.calc_price(
                usage, model_ref=name, provider_id=model.provider, genai_request_timestamp=at
            ).total_price
            ours = sum(cost(model, usage, at), Decimal(0))
            if abs(ours - expected) > Decimal("0.000000000002"):
                differences.append((name, kind, ours, expected))
    assert differences == []


def test_three_tokens_of_a_cheap_model_are_not_free(models: dict[str, PricedModel]) -> None:
    assert sum(cost(models["gpt-6-luna"], USAGES["three tokens"], NOW)) > 0


def test_the_offline_model_is_free_and_not_flagged() -> None:
    assert sum(cost(OFFLINE_MODEL, USAGES["plain"], NOW)) == 0
    assert OFFLINE_MODEL.is_priced
