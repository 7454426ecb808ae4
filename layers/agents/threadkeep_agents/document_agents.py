"""The agents that write documents: texts and sheets, Python, and diagrams.

What they write is shown while it is written and stored as a version, with its origin. What is stored is judged by its
own parser; the parser's message goes back to the agent once, and what is still wrong is stored and marked `invalid`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel
from pydantic_ai import Agent
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)
from pydantic_ai.run import AgentRunResult, AgentRunResultEvent
from pydantic_core import from_json

from threadkeep import documents, ids, sheets, suggestions
from threadkeep.configuration import Operation, fill
from threadkeep.documents import Document, Kind, Origin
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal
from threadkeep_agents.checks import Problem, check_mermaid, check_python
from threadkeep_agents.drafts import Draft, Unfenced
from threadkeep_agents.metering import is_whole
from threadkeep_agents.tools import TurnContext
from threadkeep_agents.work import Context, Work, on_record

TITLE_CHARACTERS: Final = 80
STORE_SECONDS: Final = 5.0
STORE_AGAIN_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 4.0)

_BROKEN_OFF: Final = "It was not written to its end."
_FIRST_LINE: Final = re.compile(r"\s*(text|sheet|python|diagram)\s*:[ \t]*([^\n]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Craft:
    """What an agent writes, and what the chat agent calls it."""

    agent: str
    tool: str
    noun: str
    kinds: tuple[Kind, ...]


CRAFTS: Final = (
    Craft("document_agent", "documentAgent", "text or sheet", ("text", "sheet")),
    Craft("python_agent", "pythonAgent", "Python program", ("python code",)),
    Craft("mermaid_agent", "mermaidAgent", "diagram", ("mermaid code",)),
)
_DOCUMENT, _PYTHON, _MERMAID = CRAFTS


async def document_agent(
    context: Context,
    operation: str,
    instruction: str,
    documentId: str | None = None,  # noqa: N803 - the names of tools and their parameters are the API's
    targetVersion: int | None = None,  # noqa: N803
) -> dict[str, Any]:
    """Hands work on a text or a sheet to the document agent."""
    return await _delegated(context, _DOCUMENT, operation, instruction, documentId, targetVersion)


async def python_agent(
    context: Context,
    operation: str,
    instruction: str,
    codeId: str | None = None,  # noqa: N803
    targetVersion: int | None = None,  # noqa: N803
) -> dict[str, Any]:
    """Hands work on Python to the Python agent."""
    return await _delegated(context, _PYTHON, operation, instruction, codeId, targetVersion)


async def mermaid_agent(
    context: Context,
    operation: str,
    instruction: str,
    diagramId: str | None = None,  # noqa: N803
    targetVersion: int | None = None,  # noqa: N803
) -> dict[str, Any]:
    """Hands work on a diagram to the Mermaid agent."""
    return await _delegated(context, _MERMAID, operation, instruction, diagramId, targetVersion)


@dataclass(slots=True)
class Assignment:
    """What is to be done, and on which document; `base` is None where a new one is made, or none at all."""

    work: Work
    craft: Craft
    operation: Operation
    instruction: str
    base: Document | None
    target_version: int | None

    @property
    def turn(self) -> TurnContext:
        return self.work.turn


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
    prompt = _prompt(assignment, assignment.instruction, title=title)
    store = _Creation(assignment, document, kind, title)
    written = Written()
    try:
        await _write_checked(assignment, draft, kind, prompt, written)
    except BaseException as failure:
        # Nobody has this text but we: what there is of a new document is kept, and says that it is not whole.
        kept = await _in_time(store.store(written.text, invalid=_BROKEN_OFF)) if written.text.strip() else None
        if isinstance(failure, Exception):
            await draft.finish()
            if kept is not None:
                raise ToolFailed(f"Writing broke off. What there is was stored as {document}.") from failure
        elif kept is not None:
            assignment.turn.late_results[str(assignment.work.context.tool_call_id)] = _result(kept, _BROKEN_OFF)
        raise
    stored = await store.store(written.text, invalid=written.complaint)
    await draft.finish()
    return _result(stored, written.complaint)


async def _change(assignment: Assignment) -> dict[str, Any]:
    base = _base(assignment)
    draft = Draft(assignment.work.context, base.id, base.kind, base.title)
    error = await _complaint(base.kind, base.content)
    prompt = _prompt(assignment, assignment.instruction, title=base.title, content=base.content, error=error or "")
    written = Written()
    try:
        await _write_checked(assignment, draft, base.kind, prompt, written)
    except Exception:
        await _show_whole(draft, base.content)
        await draft.finish()
        raise
    if written.text == base.content:
        await draft.finish()
        return _result(base, written.complaint) | {"unchanged": True}
    origin = _origin(assignment, invalid=written.complaint)
    stored = await _patiently(
        assignment.turn,
        lambda user: documents.save(assignment.turn.database, user, base.id, content=written.text, origin=origin),
    )
    await draft.finish()
    return _result(stored, written.complaint) | _meanwhile(base, stored)


async def _revert(assignment: Assignment) -> dict[str, Any]:
    base = _base(assignment)
    wanted = assignment.target_version if assignment.target_version is not None else base.version - 1
    if wanted < 1:
        raise ToolFailed("There is no earlier version to go back to.")
    stored = await assignment.turn.as_user(
        lambda user: documents.revert(
            assignment.turn.database, user, base.id, wanted, origin=_origin(assignment, invalid=None)
        )
    )
    draft = Draft(assignment.work.context, stored.id, stored.kind, stored.title)
    await _show_whole(draft, stored.content)
    await draft.finish()
    return _result(stored, await _complaint(stored.kind, stored.content)) | {"revertedTo": wanted}


async def _generate(assignment: Assignment) -> dict[str, Any]:
    """Code for the chat itself: nothing is stored, and the chat agent shows it."""
    [kind] = assignment.craft.kinds
    written = Written()
    await _write_checked(assignment, None, kind, _prompt(assignment, assignment.instruction), written)
    return {"kind": kind, "code": written.text} | ({"invalid": written.complaint} if written.complaint else {})


async def _explain(assignment: Assignment) -> dict[str, Any]:
    base = _base(assignment)
    prompt = _prompt(assignment, assignment.instruction, title=base.title, content=base.content)
    written = Written()
    await _write(assignment, None, "text", prompt, written)
    return {"id": str(base.id), "title": base.title, "version": base.version, "explanation": written.text}


class SuggestedEdit(BaseModel):
    """One edit: a passage of the document as it stands there, exactly once, what replaces it, and why."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    original_text: str = Field(min_length=1, max_length=suggestions.MAXIMUM_TEXT_CHARACTERS)
    suggested_text: str = Field(max_length=suggestions.MAXIMUM_TEXT_CHARACTERS)
    description: str = Field(default="", max_length=suggestions.MAXIMUM_DESCRIPTION_CHARACTERS)


_EDITS: Final = TypeAdapter(list[SuggestedEdit])


async def _suggest(assignment: Assignment) -> dict[str, Any]:
    base = _base(assignment)
    work = assignment.work
    placing = _Placing(assignment, base, Draft(work.context, base.id, base.kind, base.title))
    prompt = _prompt(assignment, assignment.instruction, title=base.title, content=base.content)
    messages: Sequence[ModelMessage] = ()
    for _ in range(2):
        placing.forget_misplaced()
        result: AgentRunResult[list[SuggestedEdit]] | None = None
        arguments = ""
        async with _editor(work.agent).run_stream_events(
            prompt, message_history=messages, instructions=assignment.operation.system_prompt, **_options(assignment)
        ) as events:
            async for event in events:
                if isinstance(event, AgentRunResultEvent):
                    result = event.result
                elif isinstance(event, PartStartEvent | PartDeltaEvent):
                    arguments = _arguments_after(arguments, event)
                    # The last one may still be growing.
                    await placing.place(_edits_in(arguments)[:-1])
        assert result is not None
        await placing.place(result.output)
        if not placing.misplaced:
            break
        messages = result.all_messages()
        prompt = (
            "These passages do not stand in the document exactly once. Propose only these edits again, each with a "
            "passage copied character by character:\n\n" + "\n\n".join(edit.original_text for edit in placing.misplaced)
        )
    return _result(base, None) | {
        "suggestions": placing.placed,
        **({"notPlaced": len(placing.misplaced)} if placing.misplaced else {}),
    }


def _arguments_after(arguments: str, event: PartStartEvent | PartDeltaEvent) -> str:
    """The arguments of the model's answer as far as they are written."""
    if isinstance(event, PartStartEvent) and isinstance(event.part, ToolCallPart):
        return event.part.args_as_json_str() if event.part.args else ""
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, ToolCallPartDelta):
        more = event.delta.args_delta
        return arguments + more if isinstance(more, str) else arguments
    return arguments


def _edits_in(arguments: str) -> list[SuggestedEdit]:
    """The edits in arguments that may break off anywhere."""
    try:
        found = from_json(arguments, allow_partial=True) if arguments else None
        return _EDITS.validate_python(found["response"]) if isinstance(found, dict) else []
    except (ValueError, KeyError):
        return []


_WITHOUT_DOCUMENT: Final = frozenset({"create", "generate"})
_OPERATIONS: Final = {
    "create": _create,
    "update": _change,
    "fix": _change,
    "revert": _revert,
    "generate": _generate,
    "explain": _explain,
    "suggestion": _suggest,
}


@dataclass(slots=True)
class Written:
    """What a model has written so far, and what its parser complains about in the end."""

    text: str = ""
    complaint: str | None = None
    messages: list[ModelMessage] = field(default_factory=list)


async def _write_checked(
    assignment: Assignment, draft: Draft | None, kind: Kind, prompt: str, written: Written
) -> None:
    """Writes; if the parser refuses it, once more with the parser's message, and the better try counts."""
    await _write(assignment, draft, kind, prompt, written)
    written.complaint = await _complaint(kind, written.text)
    if written.complaint is None:
        return
    assignment.work.metadata["retries"] = 1
    again = Written(messages=written.messages)
    correction = (
        f"What you wrote is not valid: {written.complaint}\n\n"
        "Remove the cause and answer with the complete corrected content only."
    )
    try:
        await _write(assignment, draft, kind, correction, again)
    except Exception:  # noqa: BLE001 - the first try is there, and is stored with its complaint
        await _show_whole(draft, written.text)
        return
    written.text = again.text
    written.complaint = await _complaint(kind, again.text)


async def _write(assignment: Assignment, draft: Draft | None, kind: Kind, prompt: str, written: Written) -> None:
    """Lets the model write, shows it, and raises if the model did not come to its end."""
    unfenced = Unfenced(kind)
    written.text = ""
    if draft is not None:
        await draft.begin()
    result: AgentRunResult[str] | None = None
    async with _writer(assignment.work.agent).run_stream_events(
        prompt,
        message_history=written.messages,
        instructions=assignment.operation.system_prompt,
        **_options(assignment),
    ) as events:
        async for event in events:
            if isinstance(event, AgentRunResultEvent):
                result = event.result
            elif text := _text_in(event):
                await _show(draft, written, unfenced.feed(text))
    await _show(draft, written, unfenced.end())
    if result is None or not _came_to_an_end(result.response):
        raise ThreadkeepError("provider:chat", "The model broke off before it had written everything.")
    if not written.text.strip():
        raise ThreadkeepError("provider:chat", "The model wrote nothing.")
    written.messages = result.all_messages()


def _text_in(event: object) -> str:
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
        return event.part.content
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        return event.delta.content_delta
    return ""


async def _show(draft: Draft | None, written: Written, text: str) -> None:
    if text:
        written.text += text
        if draft is not None:
            await draft.add(text)


async def _show_whole(draft: Draft | None, text: str) -> None:
    """Shows what is stored in the place of what was written last."""
    if draft is not None:
        await draft.begin()
        await draft.add(text)


def _came_to_an_end(response: ModelResponse) -> bool:
    return is_whole(response) and response.finish_reason != "length"


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
                origin=_origin(self.assignment, invalid=invalid),
            )
            return stored

        return await _patiently(turn, create)


@dataclass(slots=True)
class _Placing:
    """Stores suggestions as they come, and shows those that could be placed."""

    assignment: Assignment
    base: Document
    draft: Draft
    placed: list[dict[str, Any]] = field(default_factory=list)
    misplaced: list[SuggestedEdit] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)

    async def place(self, edits: Sequence[SuggestedEdit]) -> None:
        """Those of them that are new."""
        for edit in edits:
            passage = (edit.original_text, edit.suggested_text)
            if passage not in self.seen and edit.original_text != edit.suggested_text:
                self.seen.add(passage)
                await self._place_one(edit)

    def forget_misplaced(self) -> None:
        """So that they can be proposed again, and are counted again if they are no better then."""
        self.seen -= {(edit.original_text, edit.suggested_text) for edit in self.misplaced}
        self.misplaced.clear()

    async def _place_one(self, edit: SuggestedEdit) -> None:
        turn = self.assignment.turn
        try:
            added = await turn.as_user(
                lambda user: suggestions.add(
                    turn.database,
                    user,
                    self.base.id,
                    original_text=edit.original_text,
                    suggested_text=edit.suggested_text,
                    description=edit.description or None,
                    version=self.base.version,
                    made_by=self.assignment.work.agent,
                )
            )
        except ThreadkeepError as error:
            if error.code != "invalid:api":
                raise
            self.misplaced.append(edit)
            return
        shown = {"id": str(added.id), "description": added.description}
        self.placed.append(shown)
        await self.draft.suggest(
            shown
            | {
                "documentId": str(self.base.id),
                "version": added.version,
                "originalText": added.original_text,
                "suggestedText": added.suggested_text,
            }
        )


def _base(assignment: Assignment) -> Document:
    assert assignment.base is not None
    return assignment.base


def _named(craft: Craft, instruction: str) -> tuple[Kind, str]:
    """Kind and title, which the first line of an instruction names."""
    found = _FIRST_LINE.match(instruction)
    kind: Kind = craft.kinds[0]
    if found is not None and found[1].lower() == "sheet" and "sheet" in craft.kinds:
        kind = "sheet"
    named = found[2] if found is not None else instruction.strip().split("\n", 1)[0]
    title = " ".join(named.replace("\0", "").encode(errors="ignore").decode().split())[:TITLE_CHARACTERS].strip()
    return kind, title or craft.noun.capitalize()


_TEMPLATE_OF_NEW: Final = "<title>\n{title}\n</title>\n\n<request>\n{instruction}\n</request>"
_TEMPLATE_OF_CHANGE: Final = (
    "<title>\n{title}\n</title>\n\n<current_content>\n{currentContent}\n</current_content>\n\n"
    "<error>\n{errorInfo}\n</error>\n\n<request>\n{updateInstruction}\n</request>"
)


def _prompt(assignment: Assignment, instruction: str, *, title: str = "", content: str = "", error: str = "") -> str:
    template = assignment.operation.user_prompt_template
    if template is None:
        template = _TEMPLATE_OF_NEW if assignment.base is None else _TEMPLATE_OF_CHANGE
    return fill(template, instruction=instruction, title=title, current_content=content, error_info=error)


def _origin(assignment: Assignment, *, invalid: str | None) -> Origin:
    return Origin(
        "agent",
        agent=assignment.work.agent,
        operation=assignment.work.operation,
        session_id=assignment.turn.session,
        message_id=assignment.turn.answer,
        invalid=invalid,
    )


def _result(document: Document, complaint: str | None) -> dict[str, Any]:
    """What the chat agent reads: `{id, title, kind, version}`, and `invalid` with the parser's message."""
    result = {
        "id": str(document.id),
        "title": document.title,
        "kind": document.kind,
        "version": document.version,
    }
    return result | ({"invalid": complaint} if complaint else {})


def _meanwhile(base: Document, stored: Document) -> dict[str, Any]:
    """Versions that somebody saved while this one was written: they are kept, and the newest does not contain them."""
    between = list(range(base.version + 1, stored.version))
    return {"basedOnVersion": base.version, "savedMeanwhile": between} if between else {}


async def _complaint(kind: Kind, text: str) -> str | None:
    """What the kind's own parser says against it."""
    problem: Problem | None = None
    if kind == "python code":
        problem = check_python(text)
    elif kind == "mermaid code":
        problem = await check_mermaid(text)
    elif kind == "sheet":
        found = await asyncio.to_thread(sheets.find_problems, text)
        problem = Problem(found[0].message, found[0].line, found[0].column) if found else None
    return str(problem) if problem else None


def _options(assignment: Assignment) -> dict[str, Any]:
    """The turn's model, bounds and usage, for a run of a sub-agent."""
    context = assignment.work.context
    return {
        "model": assignment.work.model().model,
        "model_settings": assignment.turn.models.settings_of_sub_agents(),
        "deps": assignment.turn,
        "capabilities": assignment.turn.capabilities,
        "usage": context.usage,
        "usage_limits": assignment.turn.bounds,
    }


@cache
def _writer(agent: str) -> Agent[TurnContext, str]:
    return Agent(name=agent, deps_type=TurnContext)


@cache
def _editor(agent: str) -> Agent[TurnContext, list[SuggestedEdit]]:
    return Agent(name=agent, deps_type=TurnContext, output_type=list[SuggestedEdit])


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
