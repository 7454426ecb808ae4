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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from pydantic_ai import Tool, UsageLimits
from pydantic_ai.capabilities import AbstractCapability

from threadkeep import profiles
from threadkeep.configuration import Agent, AgentConfiguration, OwnTool, Provider
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal
from threadkeep.settings import Settings

if TYPE_CHECKING:
    from threadkeep_agents.ledger import Ledger
    from threadkeep_agents.model_choice import ModelChoice

Result = TypeVar("Result")
ToolFunction = TypeVar("ToolFunction", bound=Callable[..., Any])

_registered: dict[str, Callable[..., Any]] = {}


@dataclass(slots=True)
class TurnContext:
    """What a tool knows of the turn that calls it.

    `bounds` hold for the turn as a whole, its sub-agents included. `activity` takes the rows of
    `agent_activity_logs` of what was done besides talking. `configured` has an agent's newest configuration,
    `own_tools` that of the team's own tools, by their names.
    `capabilities` are given to every agent's run. `exhausted` names the agents and tools whose limit is used up,
    with the seconds until there is room. `late_results` takes by its id what a call had done that the turn did not wait
    for.
    """

    principal: Principal
    session: UUID
    answer: UUID
    correlation_id: UUID
    ledger: Ledger
    database: Database
    models: ModelChoice
    configured: Callable[[Agent, Provider], AgentConfiguration]
    own_tools: dict[str, OwnTool]
    provider: Provider
    guest_address: str | None
    bounds: UsageLimits
    settings: Settings
    github_token: str | None = field(default=None, repr=False)
    capabilities: list[AbstractCapability[Any]] = field(default_factory=list)
    exhausted: dict[str, int] = field(default_factory=dict)
    activity: list[dict[str, Any]] = field(default_factory=list)
    late_results: dict[str, Any] = field(default_factory=dict)

    async def as_user(self, action: Callable[[Principal], Awaitable[Result]]) -> Result:
        """Does something in the user's own rights; in the account's, if the account took the guest over meanwhile."""
        try:
            return await action(self.principal)
        except ThreadkeepError as error:
            heir = await profiles.heir(self.database, self.principal) if error.code == "forbidden:account" else None
            if heir is None:
                raise
            self.principal = heir
        return await action(self.principal)


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
