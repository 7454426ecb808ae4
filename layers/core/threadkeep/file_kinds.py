"""The kinds of files that people attach: what each is called, how large it may be, and what its bytes must look like.

The names are those of `fileInputTypes` in a chat agent's configuration.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Literal

Kind = Literal["images", "pdf", "ppt", "excel", "codeFiles", "textFiles"]

MEGABYTE: Final = 1024 * 1024
# A photo of a telephone has up to 10 MB. The strictest provider takes requests of 20 MB, which is 14 MB in base64 with
# the conversation around it. Of text no model reads more than a megabyte.
MAXIMUM_BYTES: Final[dict[Kind, int]] = {
    "images": 10 * MEGABYTE,
    "pdf": 14 * MEGABYTE,
    "ppt": 15 * MEGABYTE,
    "excel": 10 * MEGABYTE,
    "codeFiles": MEGABYTE,
    "textFiles": MEGABYTE,
}
# What an archive may unpack to: an honest office file has pictures, which hardly shrink, and text, which does tenfold.
MAXIMUM_UNPACKED_BYTES: Final = 100 * MEGABYTE
MAXIMUM_MEMBERS: Final = 5000

PPTX: Final = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX: Final = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@dataclass(frozen=True, slots=True)
class FileType:
    """What a file says it is; the media type is in lower case and without parameters."""

    kind: Kind
    media_type: str

    @property
    def is_text(self) -> bool:
        return self.kind in {"codeFiles", "textFiles"}

    @property
    def is_shown(self) -> bool:
        """Whether a browser may show it in place; anything else is saved, so that no page of ours runs it."""
        return self.kind in {"images", "pdf"}

    @property
    def served_as(self) -> str:
        """The content type of a download: a text is only ever text, also if it is HTML or SVG."""
        return "text/plain; charset=utf-8" if self.is_text else self.media_type


def type_of(media_type: str, name: str) -> FileType | None:
    """The type of a file by its media type and, as browsers know few programs' files, its name; None: not taken."""
    media_type = media_type.partition(";")[0].strip().lower()
    if not _MEDIA_TYPE.fullmatch(media_type):
        return None
    if (kind := _BINARY.get(media_type)) is not None:
        return FileType(kind, media_type)
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    is_text = media_type.startswith("text/") or media_type in _TEXT_TYPES | _CODE_TYPES
    # Some systems call a sheet of commas an Excel file, and TypeScript a video. An SVG is no image here: it can hold
    # scripts.
    if not is_text and (media_type.startswith("image/") or ending not in _CODE_ENDINGS | _TEXT_ENDINGS):
        return None
    kind = "codeFiles" if media_type in _CODE_TYPES or ending in _CODE_ENDINGS else "textFiles"
    return FileType(kind, media_type if is_text else "text/plain")


def problem_with(data: bytes, declared: FileType) -> str | None:
    """What is wrong with a file of this type, as a sentence for its owner; None: it is what it says."""
    if declared.is_text:
        return None if text_of(data) is not None else "The file is not text in UTF-8."
    if declared.media_type in _OFFICE:
        return _office_problem(data, _OFFICE[declared.media_type])
    if not _SIGNATURES[declared.media_type].match(data):
        return f"The file is not what its type {declared.media_type} says."
    return None


def text_of(data: bytes) -> str | None:
    """The text in UTF-8, or in UTF-16 with its mark; None if it is no text."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _office_problem(data: bytes, main_part: str) -> str | None:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return "The file is not a readable Office document."
    if not {"[Content_Types].xml", main_part} <= {member.filename for member in members}:
        return "The file is not the kind of Office document that its type says."
    # A member gives no more bytes than its entry says, so the sum holds.
    if len(members) > MAXIMUM_MEMBERS or sum(member.file_size for member in members) > MAXIMUM_UNPACKED_BYTES:
        return "The file unpacks to more than 100 MB."
    if any(member.flag_bits & 0x1 for member in members):
        return "The file is protected by a password."
    return None


_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,99}/[a-z0-9][a-z0-9!#$&^_.+-]{0,99}|")

_BINARY: Final[dict[str, Kind]] = {
    "image/png": "images",
    "image/jpeg": "images",
    "image/gif": "images",
    "image/webp": "images",
    "application/pdf": "pdf",
    PPTX: "ppt",
    XLSX: "excel",
}
_OFFICE: Final = {PPTX: "ppt/presentation.xml", XLSX: "xl/workbook.xml"}
_SIGNATURES: Final = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "application/pdf": re.compile(rb"%PDF-"),
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TEXT_TYPES: Final = _words(
    """
    application/json application/ld+json application/x-ndjson application/jsonl application/xml application/yaml
    application/x-yaml application/toml application/rtf application/csv application/x-tex
    """
)
_CODE_TYPES: Final = _words(
    """
    application/javascript application/x-javascript application/ecmascript application/typescript application/x-sh
    application/x-python application/x-python-code application/x-httpd-php application/sql application/graphql
    application/xhtml+xml application/x-ipynb+json application/wasm-text text/javascript text/ecmascript text/html
    text/css text/x-python text/x-script.python text/x-c text/x-c++ text/x-csrc text/x-c++src text/x-chdr
    text/x-java text/x-java-source text/x-go text/x-rust text/x-ruby text/x-sh text/x-typescript text/typescript
    text/x-kotlin text/x-swift text/x-csharp text/x-php text/x-perl text/x-lua text/x-scala text/x-sql
    """
)
_CODE_ENDINGS: Final = _words(
    """
    py pyi ipynb js mjs cjs jsx ts mts cts tsx vue svelte html htm css scss less c h cc cpp cxx hpp cs java kt kts
    go rs rb php pl pm lua swift scala clj ex exs erl hs ml r jl dart sql sh bash zsh fish ps1 bat tf proto graphql
    gradle cmake dockerfile makefile m mm asm s v vhd zig nim
    """
)
_TEXT_ENDINGS: Final = _words(
    """
    txt text md markdown mdx rst csv tsv json jsonl ndjson xml yaml yml toml ini cfg conf env log tex bib srt vtt
    mmd diff patch properties
    """
)
