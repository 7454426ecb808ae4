"""A team's own tools as the chat agent has them: registered functions, and the tools of configured tool servers.

Each call is counted and recorded like a sub-agent's. What a server offers is asked for once in a while and not in every
turn; a server that does not answer is left out, and left alone for a while.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from pydantic_ai import RunContext, Tool
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset, WrapperToolset
from pydantic_ai.toolsets.abstract import ToolsetTool

from threadkeep.configuration import ToolServer
from threadkeep.errors import ThreadkeepError
from threadkeep.log import logger
from threadkeep.settings import Settings
from threadkeep_agents import tool_servers
from threadkeep_agents.results import readable
from threadkeep_agents.tools import TurnContext, own_tools
from threadkeep_agents.work import Context, on_record

LIST_SECONDS: Final = 3.0
LISTED_FOR_SECONDS: Final = 300.0
LEFT_ALONE_SECONDS: Final = 30.0

# One tool of another name, and a provider refuses the whole request.
_FIT_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@cache
def registered_tools() -> AbstractToolset[TurnContext]:
    """The registered functions; one that has a row is on, and limited, as that says."""
    return Recorded(FunctionToolset(list(own_tools())), None)


@dataclass
class Recorded(WrapperToolset[TurnContext]):
    """Tools whose calls are counted and recorded as `tool_{name}`: the server's name, or each function's own."""

    server: str | None

    async def get_tools(self, ctx: RunContext[TurnContext]) -> dict[str, ToolsetTool[TurnContext]]:
        tools = await super().get_tools(ctx)
        return {name: tool for name, tool in tools.items() if self._is_offered(name, ctx.deps)}

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[TurnContext], tool: ToolsetTool[TurnContext]
    ) -> Any:
        own = self.server or name
        async with on_record(ctx, f"tool_{own}", name) as work:
            if own in ctx.deps.own_tools:
                await work.consume_limit()
            return readable(await super().call_tool(name, tool_args, ctx, tool))

    def _is_offered(self, name: str, turn: TurnContext) -> bool:
        own = self.server or name
        configured = turn.own_tools.get(own)
        return (configured is None or configured.enabled) and f"tool_{own}" not in turn.exhausted


class OwnServers:
    """The tool servers that are configured, and what they offered when they were asked last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._offers: dict[tuple[str, ToolServer], _Offer] = {}
        self._asking: dict[tuple[str, ToolServer], asyncio.Task[_Offer]] = {}

    async def tools(self, turn: TurnContext) -> Sequence[AbstractToolset[TurnContext]]:
        """The tools of all servers that are on and answer, each under `{server}_{tool}`."""
        servers = {name: own.server for name, own in turn.own_tools.items() if own.enabled and own.server is not None}
        offers = await asyncio.gather(*(self._offer(name, server) for name, server in servers.items()))
        taken = {tool.name for tool in own_tools()}
        toolsets = []
        for (name, server), offer in zip(servers.items(), offers, strict=True):
            tools = [self._tool(name, server, tool) for tool in offer.tools if _full_name(name, tool) not in taken]
            taken.update(tool.name for tool in tools)
            if tools:
                toolsets.append(Recorded(FunctionToolset(tools), name))
        return toolsets

    async def _offer(self, name: str, server: ToolServer) -> _Offer:
        known = self._offers.get((name, server))
        if known is not None and not known.is_stale:
            return known
        # Turns that begin together ask once, and one that is stopped takes the answer from no other.
        asking = self._asking.get((name, server))
        if asking is None:
            asking = self._asking[name, server] = asyncio.create_task(self._ask(name, server))
            asking.add_done_callback(lambda _: self._asking.pop((name, server)))
        self._offers[name, server] = offer = await asyncio.shield(asking)
        return offer

    async def _ask(self, name: str, server: ToolServer) -> _Offer:
        """What the server offers of what is allowed; nothing, for a while, if it does not answer."""
        await tool_servers.load()
        try:
            async with asyncio.timeout(LIST_SECONDS), self._session(server, connect_seconds=LIST_SECONDS) as tools:
                offered = [tool.tool_def for tool in (await tools.get_tools(_no_run())).values()]
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever it is, the chat goes on without
            reason = error.code if isinstance(error, ThreadkeepError) else type(error).__name__
            logger.warning("tool server left out", extra={"server": name, "reason": reason})
            return _Offer([], is_answer=False)
        allowed = [tool for tool in offered if tool.name in server.allowed_tools]
        unfit = [tool.name for tool in allowed if not _FIT_NAME.fullmatch(_full_name(name, tool))]
        if unfit:
            logger.warning("tools left out: no provider takes such a name", extra={"server": name, "tools": unfit})
        return _Offer([tool for tool in allowed if tool.name not in unfit], is_answer=True)

    def _tool(self, name: str, server: ToolServer, definition: ToolDefinition) -> Tool[TurnContext]:
        async def call(ctx: Context, **arguments: Any) -> Any:
            async with self._session(server) as tools:
                found = (await tools.get_tools(ctx)).get(definition.name)
                if found is None:
                    raise ThreadkeepError("unavailable:tool")
                return await tools.call_tool(definition.name, arguments, ctx, found)

        return Tool.from_schema(
            call,
            name=_full_name(name, definition),
            description=definition.description,
            json_schema=definition.parameters_json_schema,
            takes_ctx=True,
        )

    def _session(self, server: ToolServer, *, connect_seconds: float | None = None) -> Any:
        token = self._settings.tool_secret(server.secret) if server.secret else None
        return tool_servers.session(server.url, token=token, connect_seconds=connect_seconds)


@dataclass(frozen=True, slots=True)
class _Offer:
    tools: list[ToolDefinition]
    is_answer: bool
    asked_at: float = field(default_factory=time.monotonic)

    @property
    def is_stale(self) -> bool:
        return time.monotonic() - self.asked_at > (LISTED_FOR_SECONDS if self.is_answer else LEFT_ALONE_SECONDS)


def _full_name(server: str, tool: ToolDefinition) -> str:
    return f"{server}_{tool.name}"


def _no_run() -> RunContext[Any]:
    """For a question that no run asks."""
    from pydantic_ai.models.test import TestModel
    from pydantic_ai.usage import RunUsage

    return RunContext(deps=None, model=TestModel(), usage=RunUsage())
