"""Differences between two texts by lines: as a unified diff, and as hunks for a program.

`difflib` alone takes minutes for a megabyte in which every other line has changed. Lines that both texts have exactly
once are matched first, in the longest common order (as patience diff does), and `difflib` gets the small gaps between.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import Match, SequenceMatcher
from typing import Final, Literal

CONTEXT_LINES: Final = 3

# Pairs of lines that difflib may compare: in one gap, and in all together. A gap past that was replaced as a whole.
_PAIRS_A_GAP: Final = 40_000
_PAIRS_IN_ALL: Final = 4_000_000

ChangeKind = Literal["context", "removed", "added"]
_SIGNS: Final[dict[ChangeKind, str]] = {"context": " ", "removed": "-", "added": "+"}


@dataclass(frozen=True, slots=True)
class Change:
    """Lines one after another that stayed, went or came, with their line ends."""

    kind: ChangeKind
    text: str


@dataclass(frozen=True, slots=True)
class Hunk:
    """Changes near to one another with up to 3 lines around them; line numbers begin with 1."""

    from_line: int
    from_count: int
    to_line: int
    to_count: int
    changes: list[Change]


@dataclass(frozen=True, slots=True)
class Difference:
    """What turns one text into the other; without hunks they are the same."""

    unified: str
    hunks: list[Hunk]


def between(old: str, new: str, old_name: str, new_name: str) -> Difference:
    """The difference by lines, which end with a line feed."""
    old_lines, new_lines = _lines(old), _lines(new)
    matcher = _LineMatcher(old_lines, new_lines)
    hunks = [_hunk(group, old_lines, new_lines) for group in matcher.get_grouped_opcodes(CONTEXT_LINES)]
    unified = "".join(_unified(hunks, old_name, new_name)) if hunks else ""
    return Difference(unified, hunks)


def _lines(text: str) -> list[str]:
    """Not by `splitlines`: it also ends a line where no editor does."""
    *whole, last = text.split("\n")
    lines = [line + "\n" for line in whole]
    return [*lines, last] if last else lines


def _hunk(group: Sequence[tuple[str, int, int, int, int]], old: list[str], new: list[str]) -> Hunk:
    changes = []
    for tag, old_from, old_to, new_from, new_to in group:
        if tag == "equal":
            changes.append(Change("context", "".join(old[old_from:old_to])))
            continue
        if old_to > old_from:
            changes.append(Change("removed", "".join(old[old_from:old_to])))
        if new_to > new_from:
            changes.append(Change("added", "".join(new[new_from:new_to])))
    old_from, old_to, new_from, new_to = group[0][1], group[-1][2], group[0][3], group[-1][4]
    return Hunk(old_from + 1, old_to - old_from, new_from + 1, new_to - new_from, changes)


def _unified(hunks: list[Hunk], old_name: str, new_name: str) -> Iterator[str]:
    yield f"--- {old_name}\n+++ {new_name}\n"
    for hunk in hunks:
        old_range = _range(hunk.from_line, hunk.from_count)
        new_range = _range(hunk.to_line, hunk.to_count)
        yield f"@@ -{old_range} +{new_range} @@\n"
        for change in hunk.changes:
            sign = _SIGNS[change.kind]
            for line in _lines(change.text):
                yield sign + line
                if not line.endswith("\n"):
                    yield "\n\\ No newline at end of file\n"


def _range(line: int, count: int) -> str:
    """An empty range is named by the line before it."""
    return f"{line if count else line - 1},{count}"


class _LineMatcher(SequenceMatcher[str]):
    """The grouping of difflib over matches that are found in a bounded time."""

    def __init__(self, old: list[str], new: list[str]) -> None:
        # Without the texts difflib makes no index of them.
        super().__init__(autojunk=False)
        self._old, self._new = old, new
        self._pairs_left = _PAIRS_IN_ALL

    def get_matching_blocks(self) -> list[Match]:
        pairs = sorted(self._matches())
        blocks: list[Match] = []
        for old, new, size in pairs:
            if blocks and (blocks[-1].a + blocks[-1].size, blocks[-1].b + blocks[-1].size) == (old, new):
                last = blocks.pop()
                blocks.append(Match(last.a, last.b, last.size + size))
            else:
                blocks.append(Match(old, new, size))
        return [*blocks, Match(len(self._old), len(self._new), 0)]

    def _matches(self) -> Iterator[tuple[int, int, int]]:
        """Places in both texts and how many lines from there are the same."""
        ranges = [(0, len(self._old), 0, len(self._new))]
        while ranges:
            old_from, old_to, new_from, new_to = ranges.pop()
            head = _same_from(self._old, self._new, old_from, old_to, new_from, new_to)
            if head:
                yield old_from, new_from, head
                old_from, new_from = old_from + head, new_from + head
            tail = _same_until(self._old, self._new, old_from, old_to, new_from, new_to)
            if tail:
                old_to, new_to = old_to - tail, new_to - tail
                yield old_to, new_to, tail
            if old_from == old_to or new_from == new_to:
                continue
            anchors = _unique_in_both(self._old, self._new, old_from, old_to, new_from, new_to)
            if anchors:
                # An anchor begins the range after it, which then matches it as its head.
                for old, new in reversed(anchors):
                    ranges.append((old, old_to, new, new_to))
                    old_to, new_to = old, new
                ranges.append((old_from, old_to, new_from, new_to))
            else:
                yield from self._small_gap(old_from, old_to, new_from, new_to)

    def _small_gap(self, old_from: int, old_to: int, new_from: int, new_to: int) -> Iterator[tuple[int, int, int]]:
        pairs = (old_to - old_from) * (new_to - new_from)
        if pairs > min(_PAIRS_A_GAP, self._pairs_left):
            return
        self._pairs_left -= pairs
        gap = SequenceMatcher(None, self._old[old_from:old_to], self._new[new_from:new_to], autojunk=False)
        for old, new, size in gap.get_matching_blocks()[:-1]:
            yield old_from + old, new_from + new, size


def _same_from(old: list[str], new: list[str], old_from: int, old_to: int, new_from: int, new_to: int) -> int:
    most = min(old_to - old_from, new_to - new_from)
    return next((step for step in range(most) if old[old_from + step] != new[new_from + step]), most)


def _same_until(old: list[str], new: list[str], old_from: int, old_to: int, new_from: int, new_to: int) -> int:
    most = min(old_to - old_from, new_to - new_from)
    return next((step for step in range(most) if old[old_to - 1 - step] != new[new_to - 1 - step]), most)


def _unique_in_both(
    old: list[str], new: list[str], old_from: int, old_to: int, new_from: int, new_to: int
) -> list[tuple[int, int]]:
    """Places of lines that stand once in each range, as many as have the same order in both."""
    in_old, in_new = Counter(old[old_from:old_to]), Counter(new[new_from:new_to])
    place_in_new = {new[place]: place for place in range(new_from, new_to) if in_new[new[place]] == 1}
    pairs = [
        (place, place_in_new[old[place]])
        for place in range(old_from, old_to)
        if in_old[old[place]] == 1 and old[place] in place_in_new
    ]
    return _longest_increasing(pairs)


def _longest_increasing(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """By patience sorting: piles, and for each card the top of the pile before it."""
    tops: list[int] = []
    piles: list[int] = []
    before: list[int] = []
    for index, (_, place) in enumerate(pairs):
        pile = bisect_left(tops, place)
        before.append(piles[pile - 1] if pile else -1)
        if pile == len(tops):
            tops.append(place)
            piles.append(index)
        else:
            tops[pile], piles[pile] = place, index
    chain = []
    index = piles[-1] if piles else -1
    while index >= 0:
        chain.append(pairs[index])
        index = before[index]
    return chain[::-1]
