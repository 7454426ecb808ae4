"""The page of scale says what its model says, and the model what can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import scale

BY_HAND = scale.Inputs(
    turn_cpu_ms=20,
    turn_database_ms=4,
    page_cpu_ms=1,
    page_database_ms=0,
    cold_start_ms=2000,
    chunk_database_ms=0.2,
    chunks_a_second=10,
    turn_seconds=10,
    pages_a_turn=0,
)


def test_the_page_is_not_older_than_its_inputs() -> None:
    page = scale.PAGE.read_text()
    assert scale.with_report(page, scale.report(scale.inputs())) == page, "run python -m bench.scale --write"


def test_environments_are_rate_times_duration() -> None:
    assert scale.load(100, BY_HAND).environments == pytest.approx(1000)


def test_the_database_works_for_the_turn_and_for_each_chunk() -> None:
    # 4 ms and 100 chunks of 0.2 ms each.
    assert scale.load(100, BY_HAND).database_cores == pytest.approx(2.4)
    assert scale.load(100, BY_HAND).writes_a_second == pytest.approx(10_200)


def test_a_turn_costs_what_its_memory_costs_while_it_waits() -> None:
    free = scale.Prices(*[0.0] * len(scale.Prices.__dataclass_fields__))
    priced = replace(BY_HAND, prices=replace(free, lambda_gb_second=0.00001))
    assert scale.load(7, priced).usd_a_thousand_turns == pytest.approx(0.1)


def test_limits_come_in_the_order_in_which_they_are_met() -> None:
    rates = [limit.turns_a_second for limit in scale.limits(scale.inputs())]
    assert rates == sorted(rates)
    by_what = {
        limit.what.split(" ")[0]: limit.turns_a_second
        for limit in scale.limits(replace(BY_HAND, pages_a_turn=2, page_cpu_ms=0))
    }
    # 1,000 environments at once, a turn of 10 s and two pages of 10 ms.
    assert by_what["Lambda's"] == pytest.approx(1000 / 10.02)


def test_a_figure_that_the_page_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="server CPU"):
        scale.inputs("| callers |\n| --- |\n| 1 |\n")
