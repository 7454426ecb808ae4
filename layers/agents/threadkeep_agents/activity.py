"""Rows of `agent_activity_logs`: what an agent or a tool did, for how long, at what price, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

from threadkeep.errors import ThreadkeepError
from threadkeep_agents.priced_models import PricedModel

CHAT_AGENT: Final = "chat_model_agent"
# What the column takes; a longer one would cost the turn all its rows.
OPERATION_CHARACTERS: Final = 50

Category = Literal["generation", "tool_invocation", "code_execution"]


def activity_row(
    agent: str,
    operation: str,
    category: Category,
    *,
    started_at: datetime,
    model: PricedModel | None,
    usage: Sequence[dict[str, Any]],
    error: ThreadkeepError | None,
    resource: tuple[str, str] | None = None,
    metadata: dict[str, Any] | None = None,
    thinking: bool = False,
) -> dict[str, Any]:
    """One row, as `private.log_agent_activity` takes it.

    `usage` has the rows of the requests that this operation made itself, `resource` is kind and id of what it was
    about, `model` is None if none was asked.
    """
    now = datetime.now(UTC)
    resource_type, resource_id = resource or (None, None)
    return {
        "agent_type": agent,
        "operation_type": operation[:OPERATION_CHARACTERS],
        "operation_category": category,
        "operation_metadata": {"requests": len(usage)} | (metadata or {}),
        "resource_id": resource_id,
        "resource_type": resource_type,
        "duration_ms": round((now - started_at).total_seconds() * 1000),
        "start_time": started_at.isoformat(),
        "end_time": now.isoformat(),
        "model_id": model.model_id if model else None,
        "provider": model.provider if model else None,
        "thinking_mode": thinking,
        "input_tokens": sum(row["input_tokens"] for row in usage),
        "output_tokens": sum(row["output_tokens"] for row in usage),
        "reasoning_tokens": sum(row["reasoning_tokens"] for row in usage),
        "input_cost": str(total(usage, "input_cost")),
        "output_cost": str(total(usage, "output_cost")),
        "success": error is None,
        "error_type": error.code if error else None,
        "error_message": error.detail if error else None,
    }


def total(rows: Sequence[dict[str, Any]], column: str) -> Decimal:
    """The sum of a cost of usage rows, in USD."""
    return sum((Decimal(row[column]) for row in rows), Decimal(0))
