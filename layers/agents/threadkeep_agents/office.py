"""The text of presentations and workbooks, which no model takes as they are.

A presentation is read with the standard library: the package for it brings 40 MB of XML and picture libraries, which
the layer has no room for. Whatever a file claims, what is unpacked and walked through is bounded.
"""

from __future__ import annotations

import csv
import posixpath
import zipfile
from collections.abc import Iterator
from io import BytesIO, StringIO
from typing import Final
from xml.etree import ElementTree

MAXIMUM_PART_BYTES: Final = 10 * 1024 * 1024
MAXIMUM_SLIDES: Final = 500
MAXIMUM_ROWS: Final = 20_000
MAXIMUM_COLUMNS: Final = 200

_DRAWING: Final = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_PRESENTATION: Final = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_RELATION: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_PACKAGE: Final = "{http://schemas.openxmlformats.org/package/2006/relationships}"


class UnreadableError(Exception):
    """The file is damaged, or larger inside than is read here."""


def text_of_presentation(data: bytes, maximum: int) -> str:
    """The slides in their order, with their notes; at least `maximum` characters if there are more.

    Raises UnreadableError.
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return _joined(_slides(archive), maximum)
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, EOFError, NotImplementedError, ValueError) as error:
        raise UnreadableError from error


def text_of_workbook(data: bytes, maximum: int) -> str:
    """Each sheet as comma-separated values; at least `maximum` characters if there are more. Raises UnreadableError."""
    import openpyxl  # type: ignore[import-untyped]

    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            # Read as a whole before the first cell; the sheets themselves are read as far as they are wanted.
            for name in ("xl/sharedStrings.xml", "xl/styles.xml", "xl/workbook.xml"):
                if name in archive.namelist() and archive.getinfo(name).file_size > MAXIMUM_PART_BYTES:
                    raise UnreadableError
        workbook = openpyxl.load_workbook(BytesIO(data), read_only=True, data_only=True, keep_links=False)
        try:
            return _joined(_sheets(workbook.worksheets), maximum)
        finally:
            workbook.close()
    except Exception as error:
        raise UnreadableError from error


def _joined(pieces: Iterator[str], maximum: int) -> str:
    taken: list[str] = []
    size = 0
    for piece in pieces:
        taken.append(piece)
        size += len(piece) + 1
        if size > maximum:
            break
    return "\n".join(taken)


def _slides(archive: zipfile.ZipFile) -> Iterator[str]:
    presentation = _part(archive, "ppt/presentation.xml")
    targets = _targets(archive, "ppt/presentation.xml")
    slides = presentation.findall(f"{_PRESENTATION}sldIdLst/{_PRESENTATION}sldId")
    for number, slide in enumerate(slides[:MAXIMUM_SLIDES], start=1):
        _, name = targets[slide.attrib[_RELATION]]
        yield f"Slide {number}"
        yield from _paragraphs(_part(archive, name))
        for kind, notes in _targets(archive, name).values():
            if kind.endswith("/notesSlide"):
                yield "Notes:"
                yield from _paragraphs(_part(archive, notes))


def _paragraphs(part: ElementTree.Element) -> Iterator[str]:
    for paragraph in part.iter(f"{_DRAWING}p"):
        text = "".join(run.text or "" for run in paragraph.iter(f"{_DRAWING}t")).strip()
        if text:
            yield text


def _targets(archive: zipfile.ZipFile, name: str) -> dict[str, tuple[str, str]]:
    """What a part refers to, by the id of the reference: its kind, and the name of the part."""
    folder, base = posixpath.split(name)
    relations = f"{folder}/_rels/{base}.rels"
    if relations not in archive.namelist():
        return {}
    return {
        relation.attrib["Id"]: (
            relation.attrib["Type"],
            posixpath.normpath(posixpath.join("/" + folder, relation.attrib["Target"])).lstrip("/"),
        )
        for relation in _part(archive, relations).iter(f"{_PACKAGE}Relationship")
        if relation.attrib.get("TargetMode") != "External"
    }


def _part(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    with archive.open(name) as member:
        text = member.read(MAXIMUM_PART_BYTES + 1)
    # The format has no document types; one could define entities that grow when they are read.
    if len(text) > MAXIMUM_PART_BYTES or b"<!DOCTYPE" in text:
        raise UnreadableError
    return ElementTree.fromstring(text)  # noqa: S314 - see above


def _sheets(sheets: list[object]) -> Iterator[str]:
    for sheet in sheets:
        yield f"Sheet {sheet.title}"  # type: ignore[attr-defined]
        rows = sheet.iter_rows(max_row=MAXIMUM_ROWS, max_col=MAXIMUM_COLUMNS, values_only=True)  # type: ignore[attr-defined]
        for row in rows:
            values = list(row)
            while values and values[-1] is None:
                values.pop()
            if values:
                yield _line(values)


def _line(values: list[object]) -> str:
    line = StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()
