"""The one event loop of a Lambda environment, for handlers of events that are not HTTP.

Mangum runs HTTP events on the thread's current loop and keeps it between invocations, and the pool of database
connections lives in it. `asyncio.run` would close that loop behind it, so it is not used anywhere in a function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine to its end on the loop that all of this environment's invocations share."""
    try:
        loop = asyncio.get_event_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop.run_until_complete(coroutine)
