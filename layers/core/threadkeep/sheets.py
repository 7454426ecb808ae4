"""Sheets: CSV as RFC 4180 has it, with commas, and what is wrong with one, by line and column.

The `csv` module of Python reads wrong quotes as if nothing were the matter, or stops without a column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from threadkeep.errors import FieldError, ThreadkeepError

MAXIMUM_PROBLEMS: Final = 20

# Possessive, so that whatever is wrong with a sheet, nothing is tried in many ways.
_QUOTED: Final = r'"[^"]*+(?:""[^"]*+)*+"'
_CELL: Final = rf'(?:{_QUOTED}|[^",\r\n]*+)'
_LINE_END: Final = r"(?:\r\n?|\n|\Z)"

_CELLS_BEFORE_OTHERS: Final = re.compile(rf"(?:{_CELL},)*+")
_QUOTED_CELL: Final = re.compile(_QUOTED)
_UP_TO_A_COMMA: Final = re.compile(r"[^,\r\n]*+")
_END_OF_ROW: Final = re.compile(_LINE_END)


@dataclass(frozen=True, slots=True)
class SheetProblem:
    """What is wrong at a place; line and column begin with 1, a column is a character."""

    line: int
    column: int
    message: str


def check(content: str) -> None:
    """Raises `invalid:api` with each problem as a field error of `content`, and in `problems` by line and column."""
    if problems := find_problems(content):
        raise ThreadkeepError(
            "invalid:api",
            "The sheet is not valid CSV.",
            fields=[
                FieldError("content", f"Line {problem.line}, column {problem.column}: {problem.message}")
                for problem in problems
            ],
            extra={
                "problems": [
                    {"line": problem.line, "column": problem.column, "message": problem.message} for problem in problems
                ]
            },
        )


def find_problems(content: str) -> list[SheetProblem]:
    """The first 20 problems of a sheet in their order; every row is to be as wide as the first one."""
    reader = _Reader(content)
    width = reader.read_row(None)
    # Rows with which nothing is wrong, of which a megabyte has up to a million, are passed over together.
    regular_rows = re.compile(rf"(?:(?!\Z){_CELL}(?:,{_CELL}){{{width - 1}}}+{_LINE_END})*+")
    reader.pass_over(regular_rows)
    while not reader.is_done:
        reader.read_row(width)
        reader.pass_over(regular_rows)
    return sorted(reader.problems, key=lambda problem: (problem.line, problem.column))


class _Reader:
    def __init__(self, content: str) -> None:
        self._content = content
        self._position = 0
        self._line = 1
        self._line_start = 0
        self.problems: list[SheetProblem] = []

    @property
    def is_done(self) -> bool:
        return self._position == len(self._content) or len(self.problems) == MAXIMUM_PROBLEMS

    def read_row(self, width: int | None) -> int:
        """Reads the next row with its line's end, and reports what is wrong with it; how many cells it has."""
        cells = 0
        too_many: tuple[int, int] | None = None
        while True:
            before = self._match(_CELLS_BEFORE_OTHERS)
            more = _QUOTED_CELL.sub("", before[0]).count(",")
            if width is not None and cells <= width <= cells + more:
                self.pass_over(re.compile(rf"(?:{_CELL},){{{width - cells}}}+"))
                too_many = self._here
            self._go_to(before.end())
            cells += more + 1
            is_closed = self._read_cell()
            if not is_closed or len(self.problems) == MAXIMUM_PROBLEMS:
                return cells
            if not self._content.startswith(",", self._position):
                break
            self._go_to(self._position + 1)
        if width is not None and cells != width:
            self._report(too_many or self._here, f"This row has {_cells(cells)}, the first one {_cells(width)}.")
        self.pass_over(_END_OF_ROW)
        return cells

    def pass_over(self, pattern: re.Pattern[str]) -> None:
        self._go_to(self._match(pattern).end())

    def _read_cell(self) -> bool:
        """Reads a cell that is its row's last one, or wrong; False if its quote is never closed."""
        if self._content.startswith('"', self._position):
            if not _QUOTED_CELL.match(self._content, self._position):
                self._report(self._here, "This quote is never closed.")
                self._go_to(len(self._content))
                return False
            self.pass_over(_QUOTED_CELL)
            if self._match(_UP_TO_A_COMMA)[0]:
                self._report(self._here, "After a closing quote comes a comma or the end of the line.")
        elif (quote := self._match(_UP_TO_A_COMMA)[0].find('"')) >= 0:
            line, column = self._here
            place = line, column + quote
            self._report(place, "A cell with a quote in it stands in quotes, each quote in it doubled.")
        self.pass_over(_UP_TO_A_COMMA)
        return True

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._content, self._position)
        assert found is not None
        return found

    def _go_to(self, position: int) -> None:
        passed = self._content[self._position : position]
        if line_ends := passed.count("\n") + passed.count("\r") - passed.count("\r\n"):
            self._line += line_ends
            self._line_start = self._position + max(passed.rfind("\n"), passed.rfind("\r")) + 1
        self._position = position

    @property
    def _here(self) -> tuple[int, int]:
        return self._line, self._position - self._line_start + 1

    def _report(self, place: tuple[int, int], message: str) -> None:
        self.problems.append(SheetProblem(*place, message))


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"
