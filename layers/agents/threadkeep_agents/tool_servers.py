"""Tool servers that speak MCP: one session a run, bounded in time, and an outage is a failed call and nothing more.

The MCP library is loaded by the first call; it takes longer than everything else that a chat process loads.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.exceptions import ModelRetry, ToolFailed
from pydantic_ai.tools import ToolDefinition

from threadkeep.errors import ThreadkeepError
from threadkeep_agents.results import readable
from threadkeep_agents.tools import TurnContext
from threadkeep_agents.work import TOOL_RETRIES, Context

if TYPE_CHECKING:
    from pydantic_ai.toolsets import AbstractToolset

CONNECT_SECONDS: Final = 10.0
# One call of a tool; a search over many repositories is slow.
CALL_SECONDS: Final = 60.0


@asynccontextmanager
async def session(
    url: str,
    *,
    token: str | None,
    headers: Mapping[str, str] | None = None,
    is_offered: Callable[[ToolDefinition], bool] = lambda _: True,
    connect_seconds: float | None = None,
) -> AsyncIterator[AbstractToolset[TurnContext]]:
    """The tools of a server for one run; the session ends with the block.

    Raises `unauthorized:tool` for a token that the server refuses, `unavailable:tool` and `timeout:tool`.
    """
    await load()
    from pydantic_ai.mcp import MCPToolset

    connect_seconds = connect_seconds or CONNECT_SECONDS
    given = dict(headers or {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    await _check(url, given, connect_seconds)
    toolset: MCPToolset[TurnContext] = MCPToolset(
        url,
        headers=given,
        init_timeout=connect_seconds,
        read_timeout=CALL_SECONDS,
        tool_error_behavior="failed",
        max_retries=TOOL_RETRIES,
        process_tool_call=_bounded,
    )
    try:
        async with asyncio.timeout(connect_seconds):
            await toolset.__aenter__()
    except (Exception, BaseExceptionGroup) as error:
        raise _outage(error) from error
    try:
        yield toolset.filtered(lambda _, definition: is_offered(definition))
    finally:
        await _leave(toolset)


async def load() -> None:
    """Loads the library, beside whatever else goes on and not at the cost of a server's time."""
    await asyncio.to_thread(importlib.import_module, "pydantic_ai.mcp")


def is_read_only(definition: ToolDefinition) -> bool:
    """Whether the server says of a tool that it changes nothing."""
    annotations = (definition.metadata or {}).get("annotations") or {}
    return annotations.get("readOnlyHint") is True


async def _check(url: str, headers: Mapping[str, str], seconds: float) -> None:
    """Asks for nothing in particular: within a session a refused token cannot be told from any other fault."""
    import httpx2

    body = {"jsonrpc": "2.0", "id": 0, "method": "ping"}
    accept = {"Accept": "application/json, text/event-stream"}
    try:
        async with httpx2.AsyncClient(timeout=seconds) as client:
            response = await client.post(url, json=body, headers={**headers, **accept})
    except httpx2.TimeoutException as error:
        raise ThreadkeepError("timeout:tool") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ThreadkeepError("unavailable:tool") from error
    if response.status_code in {401, 403}:
        raise ThreadkeepError("unauthorized:tool")
    if response.status_code >= 500 or response.status_code in {404, 429}:
        raise ThreadkeepError("unavailable:tool")


async def _bounded(_: Context, call_tool: Any, name: str, arguments: dict[str, Any]) -> Any:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return readable(await call_tool(name, arguments))
    except (ModelRetry, ToolFailed):
        raise
    except (Exception, BaseExceptionGroup) as error:
        outage = _outage(error)
        raise ToolFailed(f"{outage.detail} ({outage.code})") from error


async def _leave(toolset: Any) -> None:
    """A server that is gone cannot be said goodbye to."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await toolset.__aexit__(None, None, None)
    except (Exception, BaseExceptionGroup):  # noqa: BLE001 - the run is over, and its result stands
        return


def _outage(error: BaseException) -> ThreadkeepError:
    if isinstance(error, ThreadkeepError):
        return error
    return ThreadkeepError("timeout:tool" if _is_timeout(error) else "unavailable:tool")


def _is_timeout(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_is_timeout(each) for each in error.exceptions)
    return isinstance(error, TimeoutError) or "timed out" in str(error).lower()
