"""Edits that an agent proposes to a document, stored and shown one by one as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, PartDeltaEvent, PartStartEvent, ToolCallPart, ToolCallPartDelta
from pydantic_ai.run import AgentRunResult, AgentRunResultEvent
from pydantic_core import from_json

from threadkeep import suggestions
from threadkeep.documents import Document
from threadkeep.errors import ThreadkeepError
from threadkeep_agents.assignments import Assignment, result_of
from threadkeep_agents.drafts import Draft
from threadkeep_agents.tools import TurnContext


class SuggestedEdit(BaseModel):
    """One edit: a passage of the document as it stands there, exactly once, what replaces it, and why."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    original_text: str = Field(min_length=1, max_length=suggestions.MAXIMUM_TEXT_CHARACTERS)
    suggested_text: str = Field(max_length=suggestions.MAXIMUM_TEXT_CHARACTERS)
    description: str = Field(default="", max_length=suggestions.MAXIMUM_DESCRIPTION_CHARACTERS)


_EDITS: Final = TypeAdapter(list[SuggestedEdit])


async def suggest(assignment: Assignment) -> dict[str, Any]:
    """Lets the agent propose edits to the document of its assignment; what the chat agent reads of it."""
    base = assignment.document
    work = assignment.work
    placing = _Placing(assignment, base, Draft(work.context, base.id, base.kind, base.title))
    prompt = assignment.prompt(title=base.title, content=base.content)
    messages: Sequence[ModelMessage] = ()
    for _ in range(2):
        placing.forget_misplaced()
        result: AgentRunResult[list[SuggestedEdit]] | None = None
        arguments = ""
        async with _editor(work.agent).run_stream_events(
            prompt, message_history=messages, **assignment.options()
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
    return result_of(base, None) | {
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


@cache
def _editor(agent: str) -> Agent[TurnContext, list[SuggestedEdit]]:
    return Agent(name=agent, deps_type=TurnContext, output_type=list[SuggestedEdit])
