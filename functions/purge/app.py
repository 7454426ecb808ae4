"""The schedule: keeps the database in order within the time that this invocation has."""

from __future__ import annotations

import time
from functools import cache
from typing import Any, Final

from threadkeep import event_loop, upkeep
from threadkeep.database import Database
from threadkeep.settings import settings
from threadkeep.storage import storage_of

# For the last statement, for counting what remains, and for the answer.
RESERVE_SECONDS: Final = 10.0


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Gives the report of what was done; raises without a database, so that the invocation is repeated."""
    remaining = context.get_remaining_time_in_millis() / 1000
    deadline = time.monotonic() + remaining - min(RESERVE_SECONDS, remaining / 2)
    configured = settings()
    storage = storage_of(configured)
    return event_loop.run(upkeep.run(_database(), configured, storage=storage, deadline=deadline)).model_dump()


@cache
def _database() -> Database:
    return Database(settings().database_url.get_secret_value)
