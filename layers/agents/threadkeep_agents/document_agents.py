"""The agents that write documents: texts and sheets, Python, and diagrams.

What they write is shown while it is written and stored as a version, with its origin. What is stored is judged by its
own parser; the parser's message goes back to the agent once, and what is still wrong is stored and marked `invalid`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from pydantic_ai.exceptions import ToolFailed

from threadkeep import documents, ids
from threadkeep.configuration import Operation
from threadkeep.documents import Document, Kind
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal
from threadkeep_agents.assignments import CRAFTS, DOCUMENT, MERMAID, PYTHON, Assignment, Craft, result_of
from threadkeep_agents.drafts import Draft
from threadkeep_agents.suggesting import suggest
from threadkeep_agents.tools import TurnContext
from threadkeep_agents.work import Context, Work, on_record
from threadkeep_agents.writing import Written, complaint_about, show_whole, write, write_checked

TITLE_CHARACTERS: Final = 80
STORE_SECONDS: Final = 5.0
STORE_AGAIN_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 4.0)

_BROKEN_OFF: Final = "It was not written to its end."
_FIRST_LINE: Final = re.compile(r"\s*(text|sheet|python|diagram)\s*:[ \t]*([^\n]+)", re.IGNORECASE)


async def document_agent(
    context: Context,
    operation: str,
    instruction: str,
    documentId: str | None = None,  # noqa: N803 - the names of tools and their parameters are the API's
    targetVersion: int | None = None,  # noqa: N803
) -> dict[str, Any]:
    """Hands work on a text or a sheet to the document agent."""
    return await _delegated(context, DOCUMENT, operation, instruction, documentId, targetVersion)


async def python_agent(
    context: Context,
    operation: str,
    instruction: str,
    codeId: str | None = None,  # noqa: N803
    targetVersion: int | None = None,  # noqa: N803
) -> dict[str, Any]:
    """Hands work on Python to the Python agent."""
    return await _delegated(context, PYTHON, operation, instruction, codeId, targetVersion)


async def mermaid_agent(
    context: Context,
    operation: str,
    instruction: str,
    diagramId: str | None = None,  # noqa: N803
    targetVersion: int | None = None,  # noqa: N803
) -> dict[str, Any]:
    """Hands work on a diagram to the Mermaid agent."""
    return await _delegated(context, MERMAID, operation, instruction, diagramId, targetVersion)


async def _delegated(
    context: Context, craft: Craft, operation: str, instruction: str, document: str | None, target_version: int | None
) -> dict[str, Any]:
    known = operation if operation in _OPERATIONS else "unknown"
    async with on_record(context, craft.agent, known, "generation") as work:
        configured = _operation(work, craft, operation)
        base = None if operation in _WITHOUT_DOCUMENT else await _document_of(work, craft, operation, document)
        assignment = Assignment(work, craft, configured, instruction, base, target_version)
        await work.consume_limit()
        return await _OPERATIONS[operation](assignment)


def _operation(work: Work, craft: Craft, operation: str) -> Operation:
    shape = work.turn.configured(craft.agent, work.turn.provider)  # type: ignore[arg-type]
    configured = getattr(shape.tools, operation, None)  # type: ignore[attr-defined]
    if not isinstance(configured, Operation) or not configured.enabled:
        raise ToolFailed(f"{craft.tool} has no operation {operation[:40]!r}.")
    return configured


async def _document_of(work: Work, craft: Craft, operation: str, document: str | None) -> Document:
    if document is None:
        raise ToolFailed(f"The id of the {craft.noun} is missing: {operation} needs one.")
    document_id = ids.document_id(document)
    found = await work.turn.as_user(lambda user: documents.read(work.turn.database, user, document_id))
    work.resource = ("document", str(found.id))
    if found.kind not in craft.kinds:
        tool = next(other.tool for other in CRAFTS if found.kind in other.kinds)
        raise ToolFailed(f"This document is of the kind {found.kind!r}. Use {tool} for it.")
    return found


async def _create(assignment: Assignment) -> dict[str, Any]:
    kind, title = _named(assignment.craft, assignment.instruction)
    document = uuid4()
    assignment.work.resource = ("document", str(document))
    draft = Draft(assignment.work.context, document, kind, title)
    prompt = assignment.prompt(title=title)
    store = _Creation(assignment, document, kind, title)
    written = Written()
    try:
        await write_checked(assignment, draft, kind, prompt, written)
    except BaseException as failure:
        # Nobody has this text but we: what there is of a new document is kept, and says that it is not whole.
        kept = await _in_time(store.store(written.text, invalid=_BROKEN_OFF)) if written.text.strip() else None
        if isinstance(failure, Exception):
            await draft.finish()
            if kept is not None:
                raise ToolFailed(f"Writing broke off. What there is was stored as {document}.") from failure
        elif kept is not None:
            assignment.turn.late_results[str(assignment.work.context.tool_call_id)] = result_of(kept, _BROKEN_OFF)
        raise
    stored = await store.store(written.text, invalid=written.complaint)
    await draft.finish()
    return result_of(stored, written.complaint)


async def _change(assignment: Assignment) -> dict[str, Any]:
    base = assignment.document
    draft = Draft(assignment.work.context, base.id, base.kind, base.title)
    error = await complaint_about(base.kind, base.content)
    prompt = assignment.prompt(title=base.title, content=base.content, error=error or "")
    written = Written()
    try:
        await write_checked(assignment, draft, base.kind, prompt, written)
    except Exception:
        await show_whole(draft, base.content)
        await draft.finish()
        raise
    if written.text == base.content:
        await draft.finish()
        return result_of(base, written.complaint) | {"unchanged": True}
    origin = assignment.origin(invalid=written.complaint)
    stored = await _patiently(
        assignment.turn,
        lambda user: documents.save(assignment.turn.database, user, base.id, content=written.text, origin=origin),
    )
    await draft.finish()
    return result_of(stored, written.complaint) | _meanwhile(base, stored)


async def _revert(assignment: Assignment) -> dict[str, Any]:
    base = assignment.document
    wanted = assignment.target_version if assignment.target_version is not None else base.version - 1
    if wanted < 1:
        raise ToolFailed("There is no earlier version to go back to.")
    stored = await assignment.turn.as_user(
        lambda user: documents.revert(
            assignment.turn.database, user, base.id, wanted, origin=assignment.origin(invalid=None)
        )
    )
    draft = Draft(assignment.work.context, stored.id, stored.kind, stored.title)
    await show_whole(draft, stored.content)
    await draft.finish()
    return result_of(stored, await complaint_about(stored.kind, stored.content)) | {"revertedTo": wanted}


async def _generate(assignment: Assignment) -> dict[str, Any]:
    """Code for the chat itself: nothing is stored, and the chat agent shows it."""
    [kind] = assignment.craft.kinds
    written = Written()
    await write_checked(assignment, None, kind, assignment.prompt(), written)
    return {"kind": kind, "code": written.text} | ({"invalid": written.complaint} if written.complaint else {})


async def _explain(assignment: Assignment) -> dict[str, Any]:
    base = assignment.document
    prompt = assignment.prompt(title=base.title, content=base.content)
    written = Written()
    await write(assignment, None, "text", prompt, written)
    return {"id": str(base.id), "title": base.title, "version": base.version, "explanation": written.text}


_WITHOUT_DOCUMENT: Final = frozenset({"create", "generate"})
_OPERATIONS: Final = {
    "create": _create,
    "update": _change,
    "fix": _change,
    "revert": _revert,
    "generate": _generate,
    "explain": _explain,
    "suggestion": suggest,
}


@dataclass(slots=True)
class _Creation:
    """Stores a new document in the session of the turn; repeated, it changes nothing."""

    assignment: Assignment
    document: UUID
    kind: Kind
    title: str

    async def store(self, text: str, *, invalid: str | None) -> Document:
        turn = self.assignment.turn

        async def create(user: Principal) -> Document:
            stored, _ = await documents.create(
                turn.database,
                user,
                self.document,
                title=self.title,
                kind=self.kind,
                content=text,
                session=turn.session,
                origin=self.assignment.origin(invalid=invalid),
            )
            return stored

        return await _patiently(turn, create)


def _named(craft: Craft, instruction: str) -> tuple[Kind, str]:
    """Kind and title, which the first line of an instruction names."""
    found = _FIRST_LINE.match(instruction)
    kind: Kind = craft.kinds[0]
    if found is not None and found[1].lower() == "sheet" and "sheet" in craft.kinds:
        kind = "sheet"
    named = found[2] if found is not None else instruction.strip().split("\n", 1)[0]
    title = " ".join(named.replace("\0", "").encode(errors="ignore").decode().split())[:TITLE_CHARACTERS].strip()
    return kind, title or craft.noun.capitalize()


def _meanwhile(base: Document, stored: Document) -> dict[str, Any]:
    """Versions that somebody saved while this one was written: they are kept, and the newest does not contain them."""
    between = list(range(base.version + 1, stored.version))
    return {"basedOnVersion": base.version, "savedMeanwhile": between} if between else {}


async def _patiently(turn: TurnContext, store: Callable[[Principal], Awaitable[Document]]) -> Document:
    """Stores what cost a model's work, also if the database is away for a moment."""
    for seconds in STORE_AGAIN_SECONDS:
        try:
            return await turn.as_user(store)
        except ThreadkeepError as error:
            if error.code != "unavailable:database":
                raise
        await asyncio.sleep(seconds)
    return await turn.as_user(store)


async def _in_time(storing: Coroutine[Any, Any, Document]) -> Document | None:
    """Stores although the turn is being ended, which it does not hold up for long; None if it may not be stored."""
    task = asyncio.create_task(storing)
    try:
        async with asyncio.timeout(STORE_SECONDS):
            return await asyncio.shield(task)
    except (TimeoutError, ThreadkeepError):
        return None
