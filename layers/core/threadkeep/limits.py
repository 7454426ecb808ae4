"""Limits: how often a person may call an agent in a minute, an hour and a day.

What each does stands in `sql/0002_functions_limits.sql`; Begin consumes the chat agent's by itself.
"""

from __future__ import annotations

from typing import Final

from threadkeep.configuration import Provider
from threadkeep.database import Database
from threadkeep.identity import Principal

_CONSUME: Final = """
    select private.consume_limits(
        p_agent => %(agent)s,
        p_provider => %(provider)s,
        p_guest_address => %(guest_address)s
    )
"""


async def consume(
    database: Database, user: Principal, agent: str, provider: Provider, *, guest_address: str | None
) -> None:
    """Counts one call of an agent, or of a team's own tool (`tool_{name}`), in all its windows, or in none.

    Raises `rate_limit:chat` with `window`, `limit` and the seconds to wait, and `forbidden:agent` if it is off.
    """
    values = {"agent": agent, "provider": provider, "guest_address": guest_address}
    await database.run(user, (_CONSUME, values), require_active=False)
