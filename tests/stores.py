"""The two stores of attached files as tests use them, and small files of every kind."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.chat_server import ChatServer
from threadkeep.file_kinds import PPTX, XLSX

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(32))
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(32))
GIF = b"GIF89a" + bytes(range(32))
WEBP = b"RIFF\x20\x00\x00\x00WEBPVP8 " + bytes(range(32))
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!DOCTYPE html><script>alert(1)</script>"

_RELATIONSHIPS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """S3 over HTTP; its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, to which the environment of the process points."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3  # type: ignore[import-untyped]

    name = f"files-{uuid4().hex}"
    client = boto3.client("s3")
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    client.close()
    return name


@pytest.fixture
def on_disk(tmp_path: Path) -> dict[str, str]:
    """The variables of a store in a folder of this test."""
    return {"FILES_DIRECTORY": str(tmp_path / "files"), "FILES_SIGNING_KEY": "f" * 48}


@pytest.fixture(params=["disk", "bucket"])
def store(request: pytest.FixtureRequest) -> dict[str, str]:
    """The variables of each store in turn."""
    if request.param == "bucket":
        return {"FILES_BUCKET": request.getfixturevalue("bucket")}
    variables: dict[str, str] = request.getfixturevalue("on_disk")
    return variables


async def announced(
    server: ChatServer,
    data: bytes = PNG,
    name: str = "dot.png",
    media_type: str = "image/png",
    user: str | None = "ada",
) -> dict[str, Any]:
    """A file that is to be uploaded."""
    body = {"name": name, "mediaType": media_type, "size": len(data)}
    answer = await server.http.post("/api/files", json=body, headers=server.headers(user))
    assert answer.status_code == 201, answer.text
    file: dict[str, Any] = answer.json()
    return file


async def post_form(
    server: ChatServer, file: dict[str, Any], data: bytes = PNG, changed: dict[str, str] | None = None
) -> httpx.Response:
    """Posts the form of an announced file, as a page does."""
    form = file["upload"]
    fields = form["fields"] | (changed or {})
    return await server.http.request(
        form["method"], form["url"], data=fields, files={"file": (file["name"], data, file["mediaType"])}
    )


async def uploaded(
    server: ChatServer,
    data: bytes = PNG,
    name: str = "dot.png",
    media_type: str = "image/png",
    user: str | None = "ada",
) -> dict[str, Any]:
    """A file whose bytes are in the store, which nobody has looked at yet."""
    file = await announced(server, data, name, media_type, user)
    answer = await post_form(server, file, data)
    assert answer.status_code == 204, answer.text
    return file


def file_part(file: dict[str, Any]) -> dict[str, Any]:
    """What a message says to name a file."""
    return {"type": "file", "mediaType": file["mediaType"], "filename": file["name"], "url": file["url"]}


def presentation(*slides: str, notes: str = "") -> bytes:
    """A presentation of these slides, listed in the reverse order of their files; the last one has the notes."""
    drawing = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'

    def shape(text: str) -> str:
        return (
            f"<p {drawing}>" + "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in text.split("\n")) + "</p>"
        )

    def relations(*targets: tuple[str, str]) -> str:
        entries = [
            f'<Relationship Id="r{place}" Type="{_RELATIONSHIPS}/{kind}" Target="{target}"/>'
            for place, (kind, target) in enumerate(targets)
        ]
        return f'<Relationships xmlns="{_PACKAGE}">{"".join(entries)}</Relationships>'

    numbers = list(range(len(slides), 0, -1))
    listed = "".join(f'<p:sldId id="{256 + place}" r:id="r{place}"/>' for place in range(len(slides)))
    parts = {
        "[Content_Types].xml": "<Types/>",
        "ppt/presentation.xml": (
            '<p:presentation xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"'
            f' xmlns:r="{_RELATIONSHIPS}"><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>'
        ),
        "ppt/_rels/presentation.xml.rels": relations(*[("slide", f"slides/slide{number}.xml") for number in numbers]),
    }
    for number, text in zip(numbers, slides, strict=True):
        parts[f"ppt/slides/slide{number}.xml"] = shape(text)
    if notes:
        parts["ppt/slides/_rels/slide1.xml.rels"] = relations(("notesSlide", "../notesSlides/notesSlide1.xml"))
        parts["ppt/notesSlides/notesSlide1.xml"] = shape(notes)
    return archive(parts)


def archive(parts: dict[str, str]) -> bytes:
    """A zip archive of these members."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, content in parts.items():
            writer.writestr(name, content)
    return buffer.getvalue()


def workbook(**sheets: list[list[object]]) -> bytes:
    """A workbook of these sheets."""
    import openpyxl  # type: ignore[import-untyped]

    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    buffer = BytesIO()
    book.save(buffer)
    return buffer.getvalue()


SAMPLES: dict[str, tuple[bytes, str, str]] = {
    "png": (PNG, "dot.png", "image/png"),
    "jpeg": (JPEG, "dot.jpg", "image/jpeg"),
    "gif": (GIF, "dot.gif", "image/gif"),
    "webp": (WEBP, "dot.webp", "image/webp"),
    "pdf": (PDF, "paper.pdf", "application/pdf"),
    "pptx": (presentation("Hello", "World"), "talk.pptx", PPTX),
    "xlsx": (workbook(Numbers=[["a", 1]]), "sums.xlsx", XLSX),
    "python": (b"print('hello')\n", "hello.py", "text/x-python"),
    "text": ("Größe\n".encode(), "note.txt", "text/plain"),
}
"""Each kind: its bytes, a name, its media type."""
