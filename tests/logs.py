"""`logging_settings` as a test wants it, and what it finds in the logs then."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tests.crowd import Owner
from threadkeep.log import logger


async def configure(owner: Owner, **members: Any) -> None:
    """Switches activity logging on and changes these members; objects are merged into those that are there."""
    for name, value in ({"user_activity_logging_enabled": True} | members).items():
        await owner.rows(
            """
            update public.admin_config as a
            set config_data = jsonb_set(
                a.config_data, array[%(name)s],
                case when jsonb_typeof(%(value)s::jsonb) = 'object' then a.config_data -> %(name)s || %(value)s::jsonb
                else %(value)s::jsonb end
            )
            where a.config_key = 'logging_settings'
            """,
            {"name": name, "value": json.dumps(value)},
        )


async def break_settings(owner: Owner, path: str, value: Any) -> None:
    """Writes what no check would let in, as somebody with a superuser's rights can."""
    await owner.rows("set session_replication_role = replica")
    await owner.rows(
        """
        update public.admin_config as a
        set config_data = jsonb_set(a.config_data, %(path)s::text[], %(value)s)
        where a.config_key = 'logging_settings'
        """,
        {"path": path, "value": json.dumps(value)},
    )
    await owner.rows("set session_replication_role = origin")


async def activities(owner: Owner) -> list[str]:
    """The types of what is on record, in their order."""
    rows = await owner.rows("select activity_type from public.user_activity_logs order by created_at, activity_type")
    return [row["activity_type"] for row in rows]


class LogLines:
    """What the process's logger has written, as it was written."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def of(self, message: str) -> list[dict[str, Any]]:
        """The lines with this message."""
        return [line for line in map(json.loads, self.text.splitlines()) if line["message"] == message]


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> LogLines:
    """The lines of the logger from now on."""
    lines = LogLines()
    monkeypatch.setattr(logger.registered_handler, "stream", lines.stream)
    return lines
