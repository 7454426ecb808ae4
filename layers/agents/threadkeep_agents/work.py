"""One call of a sub-agent or a tool: counted, recorded, and failing only by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from pydantic_ai import RunContext
from pydantic_ai.exceptions import ModelRetry, ToolFailed

from threadkeep import limits
from threadkeep.errors import ThreadkeepError
from threadkeep.log import logger
from threadkeep_agents.activity import Category, activity_row
from threadkeep_agents.failures import as_domain_error
from threadkeep_agents.model_choice import AgentModel
from threadkeep_agents.tools import TurnContext

Context = RunContext[TurnContext]

# Of calls that make no sense or cannot be done, after which a run would fail: what ends a turn is its own bounds.
TOOL_RETRIES: Final = 50


@dataclass(slots=True)
class Work:
    """One call of a sub-agent or tool, as its record will have it; `resource` is kind and id of what it is about."""

    context: Context
    agent: str
    operation: str
    category: Category
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    resource: tuple[str, str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    used: AgentModel | None = None

    @property
    def turn(self) -> TurnContext:
        return self.context.deps

    def model(self) -> AgentModel:
        """The turn's model, on this agent's account."""
        if self.used is None:
            self.used = self.turn.models.for_agent(self.agent)
        return self.used

    async def consume_limit(self) -> None:
        """Counts the call; raises `rate_limit:chat` or `forbidden:agent`."""
        turn = self.turn
        await turn.as_user(
            lambda user: limits.consume(
                turn.database, user, self.agent, turn.provider, guest_address=turn.guest_address
            )
        )

    def row(self, error: ThreadkeepError | None) -> dict[str, Any]:
        return activity_row(
            self.agent,
            self.operation,
            self.category,
            started_at=self.started_at,
            model=self.used.answered if self.used else None,
            usage=[entry.row() for entry in self.used.entries] if self.used else [],
            error=error,
            resource=self.resource,
            metadata={"toolCallId": self.context.tool_call_id} | self.metadata,
        )


@asynccontextmanager
async def on_record(
    context: Context, agent: str, operation: str, category: Category = "tool_invocation"
) -> AsyncIterator[Work]:
    """Around one call: whatever becomes of it is a row, and what goes wrong is a failed tool call in our words."""
    work = Work(context, agent, operation, category)
    try:
        yield work
    except ModelRetry as retry:
        work.turn.activity.append(work.row(ThreadkeepError("invalid:api", retry.message)))
        raise
    except ToolFailed as failed:
        work.turn.activity.append(work.row(ThreadkeepError("invalid:api", failed.message)))
        raise
    except asyncio.CancelledError:
        work.turn.activity.append(work.row(ThreadkeepError("timeout:chat", "The turn ended before the call did.")))
        raise
    except Exception as failure:
        error = as_domain_error(failure)
        if error.code == "internal:api":
            extra = {"agent": agent, "operation": operation, "correlation_id": str(work.turn.correlation_id)}
            logger.error("tool failed", exc_info=failure, extra=extra)
        work.turn.activity.append(work.row(error))
        raise ToolFailed(_sentence(error)) from failure
    else:
        work.turn.activity.append(work.row(None))


def _sentence(error: ThreadkeepError) -> str:
    if error.retry_after is not None:
        return f"{error.detail} ({error.code}; again in {error.retry_after} s)"
    if error.fields:
        return f"{error.detail} " + " ".join(f"{each.field}: {each.message}" for each in error.fields)
    return f"{error.detail} ({error.code})"
