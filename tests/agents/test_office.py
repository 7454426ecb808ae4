"""The text of presentations and workbooks, and files that are made to do harm."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.stores import archive, presentation, workbook
from threadkeep_agents.office import UnreadableError, text_of_presentation, text_of_workbook

PLENTY = 1_000_000
MEGABYTE = 1024 * 1024
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def test_slides_come_in_the_order_in_which_they_are_shown_with_their_notes() -> None:
    data = presentation("First\nof two", "Second &amp; last", notes="Speak up")
    assert text_of_presentation(data, PLENTY) == "\n".join(
        ["Slide 1", "First", "of two", "Slide 2", "Second & last", "Notes:", "Speak up"]
    )


def test_sheets_come_as_comma_separated_values() -> None:
    data = workbook(Sums=[["name", "n"], ['a, "b"', 1.5], [None, True], []], Empty=[], More=[[None, None, "c"]])
    assert text_of_workbook(data, PLENTY) == "\n".join(
        ["Sheet Sums", "name,n", '"a, ""b""",1.5', ",True", "Sheet Empty", "Sheet More", ",,c"]
    )


def test_a_formula_comes_as_its_value_if_it_was_kept() -> None:
    assert text_of_workbook(workbook(Sums=[["=1+1", "x"]]), PLENTY) == "Sheet Sums\n,x"


def test_no_more_is_read_than_is_wanted() -> None:
    slides = presentation(*[f"Slide of number {number}" for number in range(100)])
    assert len(text_of_presentation(slides, 200)) < 300
    rows = workbook(Sums=[["x" * 100]] * 1000)
    assert len(text_of_workbook(rows, 500)) < 700


@pytest.mark.parametrize("read", [text_of_presentation, text_of_workbook])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        archive({}),
        archive({"ppt/presentation.xml": "<broken", "xl/workbook.xml": "<broken", "[Content_Types].xml": "<broken"}),
        presentation("Hello")[:-30],
        archive(
            {
                "ppt/presentation.xml": '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><x>&a;</x>',
                "[Content_Types].xml": '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><x>&a;</x>',
            }
        ),
    ],
    ids=["empty", "cut", "no parts", "broken", "cut off", "entities"],
)
def test_a_damaged_file_is_unreadable_and_no_more(read: Callable[[bytes, int], str], data: bytes) -> None:
    with pytest.raises(UnreadableError):
        read(data, PLENTY)


def test_a_part_that_unpacks_to_very_much_is_not_read() -> None:
    big = "<a>" + " " * 11 * MEGABYTE + "</a>"
    with pytest.raises(UnreadableError):
        text_of_presentation(archive({"ppt/presentation.xml": big}), PLENTY)
    with pytest.raises(UnreadableError):
        text_of_workbook(archive({"xl/sharedStrings.xml": big, "xl/workbook.xml": "<a/>"}), PLENTY)


def test_a_slide_elsewhere_is_not_fetched() -> None:
    data = presentation("Hello")
    outside = data.replace(b"slides/slide1.xml", b"../../etc/passwd_")
    with pytest.raises(UnreadableError):
        text_of_presentation(outside, PLENTY)


# The walk would take hours.
@pytest.mark.timeout(60)
def test_a_cell_in_the_farthest_corner_does_not_make_a_walk_of_all_cells() -> None:
    from io import BytesIO

    import openpyxl  # type: ignore[import-untyped]

    book = openpyxl.Workbook()
    book.active.cell(1_048_576, 16_384, "far")
    buffer = BytesIO()
    book.save(buffer)
    assert text_of_workbook(buffer.getvalue(), PLENTY) == "Sheet Sheet"
