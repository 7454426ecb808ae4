"""Prices are refreshed from the installed library, and nothing else of a model is."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from typing import Any

import psycopg
from psycopg.rows import dict_row

from local.prices import changed


def models(database_url: str) -> list[dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return connection.execute("select * from model_config order by model_id").fetchall()


def prices(database_url: str, *arguments: str) -> str:
    result = run(database_url, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def run(database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "local.prices", *arguments],
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_seeded_current_models_have_the_librarys_prices(database_url: str) -> None:
    of_today = {change.model_id for change in changed(models(database_url), date(2026, 11, 20))}

    assert not {name for name in of_today if name.startswith(("gpt-6", "gemini-3.8", "gemini-4", "claude-sonnet-5"))}


def test_a_wrong_price_is_shown_then_written(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update model_config set input_pricing_per_million_tokens = 7, metadata = metadata - 'cachedInputPrice' "
            "where model_id = 'gpt-6-luna'"
        )
    before = models(database_url)

    shown = prices(database_url)
    assert "gpt-6-luna: inputPrice: 7.0 -> 0.1" in shown
    assert "gpt-6-luna: cachedInputPrice: None -> 0.01" in shown
    assert models(database_url) == before

    prices(database_url, "--apply")
    [luna] = [row for row in models(database_url) if row["model_id"] == "gpt-6-luna"]
    assert float(luna["input_pricing_per_million_tokens"]) == 0.1
    assert luna["metadata"]["cachedInputPrice"] == 0.01
    assert luna["metadata"]["contextWindow"] > 0
    assert not any(line.startswith("gpt-6-luna") for line in prices(database_url).splitlines())


def test_a_database_without_models_is_told_what_to_do(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("drop table public.model_config cascade")

    result = run(database_url)

    assert (result.returncode, result.stderr) == (1, "This database has no models yet. Run db-migrate.\n")
