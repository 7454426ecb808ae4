"""Figures: percentiles, medians of rounds, and tables to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from statistics import median, quantiles
from typing import Any, TypeVar

Round = TypeVar("Round")


def p50(values: Sequence[float]) -> float:
    return median(values)


def p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[18] if len(values) > 1 else values[0]


def middle(rounds: Sequence[Round]) -> Round:
    """The median of each figure over rounds of the same measurement, so that one disturbed round does not count."""
    kind: Any = type(rounds[0])
    return kind(**{each.name: median(getattr(one, each.name) for one in rounds) for each in fields(kind)})  # type: ignore[no-any-return]


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, numbers to the right; floats with one digit, small ones with two."""
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in [list(headings), *texts]) for place in range(len(headings))]
    is_number = [all(not isinstance(row[place], str) for row in rows) for place in range(len(headings))]
    lines = [_line(headings, widths, is_number)]
    lines.append(
        "|"
        + "|".join("-" * (width + 1) + (":" if right else "-") for width, right in zip(widths, is_number, strict=True))
        + "|"
    )
    lines += [_line(row, widths, is_number) for row in texts]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], is_number: Sequence[bool]) -> str:
    placed = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, is_number, strict=True)
    ]
    return "| " + " | ".join(placed) + " |"


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.2f}" if abs(cell) < 1 else f"{cell:.1f}" if abs(cell) < 1000 else f"{cell:.0f}"
    return str(cell)
