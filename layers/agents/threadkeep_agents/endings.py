"""What is written down of a turn when it ends: its metadata, its activity, its error."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from threadkeep import turns
from threadkeep.errors import ThreadkeepError
from threadkeep_agents.metering import PricedModel

CHAT_AGENT = "chat_model_agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a turn ended. `usage` has the rows of all its model requests; `failure` is what was raised."""

    run: turns.Run
    model: PricedModel
    status: turns.Status
    finish_reason: str
    usage: list[dict[str, Any]]
    started_at: datetime
    thinking: bool
    title: str | None
    error: ThreadkeepError | None
    failure: BaseException | None

    def metadata(self) -> dict[str, Any]:
        """What the message tells its reader about itself."""
        metadata: dict[str, Any] = {
            "sessionId": str(self.run.session),
            "model": self.model.model_id,
            "provider": self.model.provider,
            "finishReason": self.finish_reason,
            "usage": _usage_summary(self.usage),
        }
        if self.title:
            metadata["title"] = self.title
        if self.error:
            metadata["error"] = {"code": self.error.code, "detail": self.error.detail}
        return metadata

    def activity(self) -> dict[str, Any]:
        """The row of `agent_activity_logs`."""
        own = [row for row in self.usage if row["agent_type"] == CHAT_AGENT]
        now = datetime.now(UTC)
        return {
            "agent_type": CHAT_AGENT,
            "operation_type": "streaming",
            "operation_category": "generation",
            "operation_metadata": {"requests": len(own), "status": self.status},
            "resource_id": str(self.run.session),
            "resource_type": "chat",
            "duration_ms": round((now - self.started_at).total_seconds() * 1000),
            "start_time": self.started_at.isoformat(),
            "end_time": now.isoformat(),
            "model_id": self.model.model_id,
            "provider": self.model.provider,
            "thinking_mode": self.thinking,
            "input_tokens": sum(row["input_tokens"] for row in own),
            "output_tokens": sum(row["output_tokens"] for row in own),
            "reasoning_tokens": sum(row["reasoning_tokens"] for row in own),
            "input_cost": str(_sum(own, "input_cost")),
            "output_cost": str(_sum(own, "output_cost")),
            "success": self.status == "complete",
            "error_type": self.error.code if self.error else None,
            "error_message": self.error.detail if self.error else None,
        }

    def error_row(self) -> dict[str, Any] | None:
        """The row of `error_logs`, in our words and with the kind of what was raised."""
        if self.error is None:
            return None
        return {
            "error_type": "app",
            "error_category": self.error.code,
            "error_message": self.error.detail,
            "error_details": {
                "exception": type(self.failure).__qualname__,
                "provider": self.model.provider,
                "model": self.model.model_id,
                "providerStatus": getattr(self.failure, "status_code", None),
            },
            "request_path": "/api/chat",
            "request_method": "POST",
            "session_id": str(self.run.session),
        }


def _usage_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    total = {
        "inputTokens": sum(row["input_tokens"] for row in rows),
        "outputTokens": sum(row["output_tokens"] for row in rows),
        "cachedInputTokens": sum(row["cached_input_tokens"] for row in rows),
        "reasoningTokens": sum(row["reasoning_tokens"] for row in rows),
        "cost": float(_sum(rows, "input_cost") + _sum(rows, "output_cost")),
    }
    if any(row["source"] == "estimated" for row in rows):
        total["isEstimated"] = True
    return total


def _sum(rows: list[dict[str, Any]], column: str) -> Decimal:
    return sum((Decimal(row[column]) for row in rows), Decimal(0))
