"""Sheets: CSV as RFC 4180 has it, with commas, and what is wrong with one, by line and column.

The `csv` module of Python reads wrong quotes as if nothing were the matter, or stops without a column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import repeat
from typing import Final

from threadkeep.errors import FieldError, ThreadkeepError

MAXIMUM_PROBLEMS: Final = 20

_QUOTED: Final = re.compile(r'"((?:[^"]|"")*+)"')
_PLAIN: Final = re.compile(r"[^,\r\n]*")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_WHOLE_QUOTED: Final = re.compile(r'(?<![^,\r\n])"[^"]*+(?:""[^"]*+)*+"(?![^,\r\n])')


@dataclass(frozen=True, slots=True)
class SheetProblem:
    """What is wrong at a place; line and column begin with 1, a column is a character."""

    line: int
    column: int
    message: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """The cells by rows, as far as they could be read, and at most 20 problems in their order."""

    rows: list[list[str]]
    problems: list[SheetProblem]


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
    """At most 20 problems of a sheet in their order; a megabyte takes 0.2 s if there are none, else seconds."""
    return [] if _is_regular(content) else parse(content).problems


def parse(content: str) -> Sheet:
    """The cells of a sheet, and what is wrong with it; a row is as long as the first one, an empty sheet has none."""
    reader = _Reader(content)
    rows: list[list[str]] = []
    while not reader.is_at_end and len(reader.problems) < MAXIMUM_PROBLEMS:
        rows.append(reader.row(len(rows[0]) if rows else None))
    return Sheet(rows, sorted(reader.problems, key=lambda problem: (problem.line, problem.column)))


def _is_regular(content: str) -> bool:
    """Whether there is nothing wrong with it, told without reading it cell by cell."""
    plain = _WHOLE_QUOTED.sub("x", content) if '"' in content else content
    if '"' in plain:
        return False
    lines = plain.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    return len(set(map(str.count, lines, repeat(",")))) == 1


class _Reader:
    def __init__(self, content: str) -> None:
        self._content = content
        self._position = 0
        self._line = 1
        self._line_start = 0
        self._is_unclosed = False
        self.problems: list[SheetProblem] = []

    @property
    def is_at_end(self) -> bool:
        return self._position >= len(self._content)

    def row(self, width: int | None) -> list[str]:
        """The next row with its line's end; reports one that is not as wide."""
        cells: list[str] = []
        too_many: tuple[int, int] | None = None
        while True:
            if len(cells) == width:
                too_many = self._here
            cells.append(self._cell())
            if not self._content.startswith(",", self._position):
                break
            self._position += 1
        if width is not None and len(cells) != width and not self._is_unclosed:
            line, column = too_many or self._here
            self._report(line, column, f"This row has {_cells(len(cells))}, the first one {_cells(width)}.")
        if ending := _LINE_END.match(self._content, self._position):
            self._position = ending.end()
            self._next_line(self._position)
        return cells

    def _cell(self) -> str:
        if self._content.startswith('"', self._position):
            return self._quoted_cell()
        found = _PLAIN.match(self._content, self._position)
        assert found is not None
        quote = found[0].find('"')
        if quote >= 0:
            line, column = self._here
            self._report(line, column + quote, "A cell with a quote in it stands in quotes, each quote in it doubled.")
        self._position = found.end()
        return found[0]

    def _quoted_cell(self) -> str:
        found = _QUOTED.match(self._content, self._position)
        if found is None:
            self._report(*self._here, "This quote is never closed.")
            self._is_unclosed = True
            rest = self._content[self._position + 1 :]
            self._position = len(self._content)
            return rest
        for ending in _LINE_END.finditer(self._content, found.start(), found.end()):
            self._next_line(ending.end())
        self._position = found.end()
        cell = found[1].replace('""', '"')
        trailing = _PLAIN.match(self._content, self._position)
        assert trailing is not None
        if trailing[0]:
            self._report(*self._here, "After a closing quote comes a comma or the end of the line.")
            self._position = trailing.end()
        return cell + trailing[0]

    @property
    def _here(self) -> tuple[int, int]:
        return self._line, self._position - self._line_start + 1

    def _next_line(self, start: int) -> None:
        self._line += 1
        self._line_start = start

    def _report(self, line: int, column: int, message: str) -> None:
        self.problems.append(SheetProblem(line, column, message))


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"
