"""What is written down of a turn when it ends: its metadata, its activity, its error."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from threadkeep import turns
from threadkeep.errors import ThreadkeepError
from threadkeep_agents.activity import CHAT_AGENT, activity_row, total
from threadkeep_agents.priced_models import PricedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a turn ended.

    `model` is the one that answered, `chosen` the one that was to answer. `usage` has the rows of all its model
    requests; `failure` is what was raised. `omitted_messages` is how many stored messages the model could not read.
    """

    run: turns.Run
    model: PricedModel
    chosen: PricedModel
    omitted_messages: int
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
        if self.model is not self.chosen:
            metadata["insteadOf"] = self.chosen.model_id
        if self.omitted_messages:
            metadata["context"] = {"omittedMessages": self.omitted_messages}
        if self.title:
            metadata["title"] = self.title
        if self.error:
            metadata["error"] = {"code": self.error.code, "detail": self.error.detail}
        return metadata

    def activity(self) -> dict[str, Any]:
        """The row of `agent_activity_logs`."""
        row = activity_row(
            CHAT_AGENT,
            "streaming",
            "generation",
            started_at=self.started_at,
            model=self.model,
            usage=[row for row in self.usage if row["agent_type"] == CHAT_AGENT],
            error=self.error,
            resource=("chat", str(self.run.session)),
            metadata={"status": self.status},
            thinking=self.thinking,
        )
        return row | {"success": self.status == "complete"}

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
    summary = {
        "inputTokens": sum(row["input_tokens"] for row in rows),
        "outputTokens": sum(row["output_tokens"] for row in rows),
        "cachedInputTokens": sum(row["cached_input_tokens"] for row in rows),
        "reasoningTokens": sum(row["reasoning_tokens"] for row in rows),
        "cost": float(total(rows, "input_cost") + total(rows, "output_cost")),
    }
    if any(row["source"] == "estimated" for row in rows):
        summary["isEstimated"] = True
    return summary
