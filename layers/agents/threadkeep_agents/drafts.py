"""What a sub-agent writes, shown while it is written: the data events of a document, and the text without its fence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from pydantic_ai.messages import CustomEvent
from pydantic_ai.ui.vercel_ai.response_types import DataChunk

from threadkeep.documents import Kind
from threadkeep_agents.work import Context

DELTA_OF_KIND: Final[dict[Kind, str]] = {
    "text": "textDelta",
    "sheet": "sheetDelta",
    "python code": "codeDelta",
    "mermaid code": "codeDelta",
}

# Only Markdown may itself begin with a fence.
_FENCE: Final = re.compile(r"\s*(`{3,}|~{3,})([A-Za-z0-9_+-]*)[ \t]*\r?\n")
_MAY_BE_FENCE: Final = re.compile(r"\s*(`{0,2}|~{0,2}|`{3,}[^\n]*|~{3,}[^\n]*)\Z")
_MAY_BE_END: Final = re.compile(r"\s*[`~]*\s*\Z")
_LANGUAGES_OF_TEXT: Final = frozenset({"markdown", "md"})


@dataclass(kw_only=True)
class DataEvent(CustomEvent):
    """One `data-…` event of a document, which the client sees and no message keeps."""

    kind: str
    document: str
    payload: Any

    def to_payload(self) -> DataChunk:
        return DataChunk(type=f"data-{self.kind}", id=self.document, data=self.payload, transient=True)


class Draft:
    """Shows a document to the client: `begin`, `add` as it is written, `finish`. Beginning again clears it."""

    def __init__(self, context: Context, document: UUID, kind: Kind, title: str) -> None:
        self._context = context
        self._document = document
        self._kind = kind
        self._title = title

    async def begin(self) -> None:
        await self._say("kind", self._kind)
        await self._say("id", str(self._document))
        await self._say("title", self._title)
        await self._say("clear", None)

    async def add(self, delta: str) -> None:
        await self._say(DELTA_OF_KIND[self._kind], delta)

    async def suggest(self, suggestion: dict[str, Any]) -> None:
        await self._say("suggestion", suggestion)

    async def finish(self) -> None:
        await self._say("finish", None)

    async def _say(self, kind: str, payload: Any) -> None:
        await self._context.emit(DataEvent(kind=kind, document=str(self._document), payload=payload))


class Unfenced:
    """Takes a model's text in pieces and gives it on without a code fence around the whole of it.

    It also leaves out what PostgreSQL stores in no text.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._held = ""
        self._fence: str | None = None
        self._has_begun = False

    def feed(self, piece: str) -> str:
        """What of it can be shown now."""
        self._held += piece.replace("\0", "").encode(errors="ignore").decode()
        if not self._has_begun:
            if (found := _FENCE.match(self._held)) is not None:
                self._has_begun = True
                if self._kind != "text" or found[2].lower() in _LANGUAGES_OF_TEXT:
                    self._fence = found[1]
                    self._held = self._held[found.end() :]
            elif _MAY_BE_FENCE.match(self._held):
                return ""
            else:
                self._has_begun = True
        if self._fence is None:
            return self._take(len(self._held))
        # The last line may turn out to be the closing fence, and its line break goes with it.
        tail = _MAY_BE_END.search(self._held)
        return self._take(tail.start() if tail else len(self._held))

    def end(self) -> str:
        """What was held back, once the text is whole."""
        if self._fence is not None:
            self._held = re.sub(rf"(?:\s*\n|\A)[ \t]*{re.escape(self._fence)}\s*\Z", "", self._held)
        return self._take(len(self._held))

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken
