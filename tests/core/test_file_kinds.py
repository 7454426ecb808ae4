"""What a file says it is, and whether it is that."""

from __future__ import annotations

import zipfile
from io import BytesIO

import pytest

from tests.stores import HTML, PDF, PNG, SAMPLES, SVG, archive, presentation
from threadkeep import file_kinds
from threadkeep.file_kinds import PPTX, XLSX, FileType


@pytest.mark.parametrize(
    ("media_type", "name", "expected"),
    [
        ("image/png", "a.png", FileType("images", "image/png")),
        ("IMAGE/JPEG", "a", FileType("images", "image/jpeg")),
        ("application/pdf", "a.pdf", FileType("pdf", "application/pdf")),
        (PPTX, "a.pptx", FileType("ppt", PPTX)),
        (XLSX, "a.xlsx", FileType("excel", XLSX)),
        ("text/plain; charset=utf-8", "a.txt", FileType("textFiles", "text/plain")),
        ("application/json", "a.json", FileType("textFiles", "application/json")),
        ("text/plain", "a.py", FileType("codeFiles", "text/plain")),
        ("text/html", "a", FileType("codeFiles", "text/html")),
        # What browsers really say of these.
        ("", "a.rs", FileType("codeFiles", "text/plain")),
        ("video/mp2t", "a.ts", FileType("codeFiles", "text/plain")),
        ("application/vnd.ms-excel", "a.csv", FileType("textFiles", "text/plain")),
        ("application/octet-stream", "README.md", FileType("textFiles", "text/plain")),
    ],
)
def test_a_type_is_found_by_media_type_and_name(media_type: str, name: str, expected: FileType) -> None:
    assert file_kinds.type_of(media_type, name) == expected


@pytest.mark.parametrize(
    ("media_type", "name"),
    [
        ("image/svg+xml", "a.svg"),
        ("image/svg+xml", "a.txt"),
        ("image/heic", "a.heic"),
        ("application/msword", "a.doc"),
        ("application/vnd.ms-excel", "a.xls"),
        ("application/vnd.ms-powerpoint", "a.ppt"),
        ("application/zip", "a.zip"),
        ("application/octet-stream", "a"),
        ("", "a.exe"),
        ("text/plain\r\nx: y", "a.txt"),
        ("nonsense", "a.txt"),
    ],
)
def test_what_no_model_reads_is_not_taken(media_type: str, name: str) -> None:
    assert file_kinds.type_of(media_type, name) is None


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_file_that_is_what_it_says_has_no_problem(sample: str) -> None:
    data, name, media_type = SAMPLES[sample]
    declared = file_kinds.type_of(media_type, name)
    assert declared is not None
    assert file_kinds.problem_with(data, declared) is None


@pytest.mark.parametrize(
    "media_type", ["image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf", PPTX, XLSX]
)
@pytest.mark.parametrize("data", [SVG, HTML, b"MZ\x90\0", b"PK\x03\x04", archive({"a": "b"}), b"\0"], ids=range(6))
def test_a_file_that_is_something_else_is_found_out(media_type: str, data: bytes) -> None:
    declared = file_kinds.type_of(media_type, "a")
    assert declared is not None
    assert file_kinds.problem_with(data, declared) is not None


def test_one_office_file_is_not_the_other() -> None:
    assert file_kinds.problem_with(SAMPLES["pptx"][0], FileType("excel", XLSX)) is not None
    assert file_kinds.problem_with(SAMPLES["xlsx"][0], FileType("ppt", PPTX)) is not None


@pytest.mark.parametrize("data", [PNG, PDF, b"\xff\xfe\x00", b"a\0b", b"\xe4"])
def test_what_is_not_text_is_no_text(data: bytes) -> None:
    assert file_kinds.problem_with(data, FileType("textFiles", "text/plain")) is not None


def test_text_may_be_utf_16_with_its_mark() -> None:
    assert file_kinds.text_of("Größe".encode("utf-16")) == "Größe"
    assert file_kinds.text_of("Größe".encode("utf-8-sig")) == "Größe"


def test_an_archive_that_unpacks_to_very_much_is_refused_unread() -> None:
    data = archive({"[Content_Types].xml": "", "ppt/presentation.xml": "", "bomb": "0" * (101 * file_kinds.MEGABYTE)})
    assert len(data) < file_kinds.MEGABYTE
    assert file_kinds.problem_with(data, FileType("ppt", PPTX)) == "The file unpacks to more than 100 MB."


def test_an_archive_with_very_many_members_is_refused() -> None:
    members = {"[Content_Types].xml": "", "ppt/presentation.xml": ""} | {f"m{place}": "" for place in range(5000)}
    assert file_kinds.problem_with(archive(members), FileType("ppt", PPTX)) is not None


def test_a_protected_file_is_refused_with_the_reason() -> None:
    data = bytearray(presentation("Hello"))
    with zipfile.ZipFile(BytesIO(data)) as reader:
        start = reader.start_dir
    data[start + 8] |= 1
    assert file_kinds.problem_with(bytes(data), FileType("ppt", PPTX)) == "The file is protected by a password."


def test_only_images_and_pdf_are_shown_and_a_text_is_only_ever_text() -> None:
    page = FileType("codeFiles", "text/html")
    assert (page.is_shown, page.served_as) == (False, "text/plain; charset=utf-8")
    assert (FileType("images", "image/png").is_shown, FileType("ppt", PPTX).is_shown) == (True, False)
