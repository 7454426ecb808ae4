"""What a model cannot know by itself."""

from __future__ import annotations

from datetime import UTC, datetime

from threadkeep_agents.tools import own_tool


@own_tool
def current_time() -> str:
    """Tells the present date and time in UTC. Call it when the answer depends on what day or time it is."""
    return datetime.now(UTC).strftime("%A, %Y-%m-%d %H:%M:%S UTC")
