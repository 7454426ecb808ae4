"""A model writes the text of a document: shown while it is written, judged by its own parser when it is whole."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cache

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta
from pydantic_ai.run import AgentRunResult, AgentRunResultEvent

from threadkeep import sheets
from threadkeep.documents import Kind
from threadkeep.errors import ThreadkeepError
from threadkeep_agents.assignments import Assignment
from threadkeep_agents.checks import Problem, check_mermaid, check_python
from threadkeep_agents.drafts import Draft, Unfenced
from threadkeep_agents.metering import is_whole
from threadkeep_agents.tools import TurnContext


@dataclass(slots=True)
class Written:
    """What a model has written so far, and what its parser complains about in the end."""

    text: str = ""
    complaint: str | None = None
    messages: list[ModelMessage] = field(default_factory=list)


async def write_checked(assignment: Assignment, draft: Draft | None, kind: Kind, prompt: str, written: Written) -> None:
    """Writes; if the parser refuses it, once more with the parser's message, and the better try counts."""
    await write(assignment, draft, kind, prompt, written)
    written.complaint = await complaint_about(kind, written.text)
    if written.complaint is None:
        return
    assignment.work.metadata["retries"] = 1
    again = Written(messages=written.messages)
    correction = (
        f"What you wrote is not valid: {written.complaint}\n\n"
        "Remove the cause and answer with the complete corrected content only."
    )
    try:
        await write(assignment, draft, kind, correction, again)
    except Exception:  # noqa: BLE001 - the first try is there, and is stored with its complaint
        await show_whole(draft, written.text)
        return
    written.text = again.text
    written.complaint = await complaint_about(kind, again.text)


async def write(assignment: Assignment, draft: Draft | None, kind: Kind, prompt: str, written: Written) -> None:
    """Lets the model write, shows it, and raises if the model did not come to its end."""
    unfenced = Unfenced(kind)
    written.text = ""
    if draft is not None:
        await draft.begin()
    result: AgentRunResult[str] | None = None
    async with _writer(assignment.work.agent).run_stream_events(
        prompt,
        message_history=written.messages,
        **assignment.options(),
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


async def show_whole(draft: Draft | None, text: str) -> None:
    """Shows what is stored in the place of what was written last."""
    if draft is not None:
        await draft.begin()
        await draft.add(text)


def _came_to_an_end(response: ModelResponse) -> bool:
    return is_whole(response) and response.finish_reason != "length"


async def complaint_about(kind: Kind, text: str) -> str | None:
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


@cache
def _writer(agent: str) -> Agent[TurnContext, str]:
    return Agent(name=agent, deps_type=TurnContext)
