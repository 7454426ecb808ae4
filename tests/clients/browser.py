"""A browser that a test drives: pages out of the documentation's own examples, on an origin of their own."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
SECONDS = 60
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass(frozen=True)
class View:
    """What a person sees: all text, what alerts say, and how wide each image really is (0: it is broken)."""

    text: str
    alert: list[str]
    images: list[int]


class Browser:
    """One page at a time; each call returns what is seen once it is done."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def open(self, name: str) -> View:
        """The page of this name, as a visitor who was never there: `example` or `page`."""
        return await self._do("open", name=name)

    async def reload(self) -> View:
        return await self._do("reload")

    async def send(self, text: str) -> View:
        return await self._do("send", text=text)

    async def attach(self, *files: tuple[str, str, bytes]) -> View:
        """Chooses files, each as name, media type and bytes."""
        chosen = [
            {"name": name, "mimeType": media_type, "data": base64.b64encode(data).decode()}
            for name, media_type, data in files
        ]
        return await self._do("attach", files=chosen)

    async def until(self, text: str) -> View:
        """Once this text shows."""
        return await self._do("until", text=text)

    async def idle(self) -> View:
        """Once the next message may be sent."""
        return await self._do("idle")

    async def _do(self, act: str, **given: Any) -> View:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps({'act': act, **given})}\n".encode())
        async with asyncio.timeout(SECONDS):
            line = await self._process.stdout.readline()
        assert line, "the browser's process has ended"
        answer = json.loads(line)
        assert "failure" not in answer, answer["failure"]
        return View(**answer)


@asynccontextmanager
async def running_browser(api: str, folder: Path) -> AsyncIterator[Browser]:
    """A browser for the pages that talk to this API (`http://…/api`), which are made in the folder."""
    assert CHROMIUM is not None
    example, *_ = blocks("front-end.md", "jsx")
    [documents] = [block for block in blocks("front-end.md", "js") if "withEvent" in block]
    [files] = blocks("files.md", "js")
    assert "http://localhost:8000/api" in example
    names = "api, credentials, id"
    made = {
        "example.jsx": example.replace("http://localhost:8000/api", api),
        "documents.js": documents,
        "files.js": f'import {{ {names} }} from "./session.js";\n' + files.partition("\n\n")[0],
        "session.js": f'const [api, credentials] = ["{api}", "include"];\n'
        f"const id = (location.hash ||= `#${{crypto.randomUUID()}}`).slice(1);\nexport {{ {names} }};\n",
        "page.jsx": (HERE / "page.jsx").read_text(),
    }
    for name, text in made.items():
        (folder / name).write_text(text)
    process = await asyncio.create_subprocess_exec(
        "node",
        str(HERE / "browser.mjs"),
        str(folder),
        CHROMIUM,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Browser(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def blocks(page: str, language: str) -> list[str]:
    """The examples in this language of a page of the documentation."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
