"""What an agent that writes documents is asked to do, and the forms that follow from it: prompt, origin, result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from threadkeep.configuration import Operation, fill
from threadkeep.documents import Document, Kind, Origin
from threadkeep_agents.tools import TurnContext
from threadkeep_agents.work import Work

_TEMPLATE_OF_NEW: Final = "<title>\n{title}\n</title>\n\n<request>\n{instruction}\n</request>"
_TEMPLATE_OF_CHANGE: Final = (
    "<title>\n{title}\n</title>\n\n<current_content>\n{currentContent}\n</current_content>\n\n"
    "<error>\n{errorInfo}\n</error>\n\n<request>\n{updateInstruction}\n</request>"
)


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
DOCUMENT, PYTHON, MERMAID = CRAFTS


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

    @property
    def document(self) -> Document:
        """The one that the work is on, where the operation needs one."""
        assert self.base is not None
        return self.base

    def prompt(self, *, title: str = "", content: str = "", error: str = "") -> str:
        """The operation's template with the instruction in it."""
        template = self.operation.user_prompt_template
        if template is None:
            template = _TEMPLATE_OF_NEW if self.base is None else _TEMPLATE_OF_CHANGE
        return fill(template, instruction=self.instruction, title=title, current_content=content, error_info=error)

    def options(self) -> dict[str, Any]:
        """The turn's model, bounds and usage, for a run of the agent."""
        return {
            "instructions": self.operation.system_prompt,
            "model": self.work.model().model,
            "model_settings": self.turn.models.settings_of_sub_agents(),
            "deps": self.turn,
            "capabilities": self.turn.capabilities,
            "usage": self.work.context.usage,
            "usage_limits": self.turn.bounds,
        }

    def origin(self, *, invalid: str | None) -> Origin:
        """What a version that comes of it says about where it is from."""
        return Origin(
            "agent",
            agent=self.work.agent,
            operation=self.work.operation,
            session_id=self.turn.session,
            message_id=self.turn.answer,
            invalid=invalid,
        )


def result_of(document: Document, complaint: str | None) -> dict[str, Any]:
    """What the chat agent reads: `{id, title, kind, version}`, and `invalid` with the parser's message."""
    result = {
        "id": str(document.id),
        "title": document.title,
        "kind": document.kind,
        "version": document.version,
    }
    return result | ({"invalid": complaint} if complaint else {})
