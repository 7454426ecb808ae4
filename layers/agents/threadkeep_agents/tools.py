"""A team's own tools: one registered function each.

A file in `own_tools/` is found by itself. It registers a function whose docstring is what the model reads:

    from threadkeep_agents.tools import own_tool

    @own_tool
    async def order_status(context: RunContext[TurnContext], order: str) -> str:
        '''Tells where an order is. `order` is its number.'''
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from pydantic_ai import Tool

from threadkeep.identity import Principal

if TYPE_CHECKING:
    from threadkeep_agents.metering import Ledger

ToolFunction = TypeVar("ToolFunction", bound=Callable[..., Any])

_registered: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What a tool knows of the turn that calls it."""

    principal: Principal
    session: UUID
    answer: UUID
    correlation_id: UUID
    ledger: Ledger


def own_tool(function: ToolFunction) -> ToolFunction:
    """Registers a function as a tool of the chat agent under its own name."""
    if function.__name__ in _registered:
        raise ValueError(f"two tools are called {function.__name__}")
    _registered[function.__name__] = function
    return function


@cache
def own_tools() -> tuple[Tool[TurnContext], ...]:
    """All registered tools, in the order of their names."""
    from threadkeep_agents import own_tools as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")
    return tuple(Tool(_registered[name]) for name in sorted(_registered))
