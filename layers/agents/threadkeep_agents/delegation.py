"""How the chat agent hands work to the five others: each is a tool of it.

A tool is offered if it is on in the chat agent's configuration and in its own, and if the caller's limit for it has
room. A call that goes wrong is a failed tool call, which the chat agent can explain; it never ends the turn.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic_ai import Tool
from pydantic_ai.tools import ToolDefinition

from threadkeep.configuration import Agent, AgentConfiguration, ChatModelAgent, Provider
from threadkeep_agents import document_agents, git_mcp_agent, provider_tools_agent
from threadkeep_agents.tools import TurnContext
from threadkeep_agents.work import Context


@dataclass(frozen=True, slots=True)
class Delegate:
    """One of the five: its tool's name, its name in the chat agent's `tools`, and whether this turn can use it."""

    tool: str
    member: str
    agent: Agent
    function: Callable[..., Coroutine[Any, Any, Any]]
    is_available: Callable[[Context], bool] = lambda _: True


DELEGATES: Final = (
    Delegate(
        "providerToolsAgent",
        "provider_tools_agent",
        "provider_tools_agent",
        provider_tools_agent.provider_tools_agent,
        provider_tools_agent.is_available,
    ),
    Delegate("documentAgent", "document_agent", "document_agent", document_agents.document_agent),
    Delegate("pythonAgent", "python_agent", "python_agent", document_agents.python_agent),
    Delegate("mermaidAgent", "mermaid_agent", "mermaid_agent", document_agents.mermaid_agent),
    Delegate("gitMcpAgent", "git_mcp_agent", "git_mcp_agent", git_mcp_agent.git_mcp_agent, git_mcp_agent.is_available),
)


def delegates(
    shape: ChatModelAgent, configured: Callable[[Agent, Provider], AgentConfiguration], provider: Provider
) -> list[Tool[TurnContext]]:
    """The tools of the chat agent that are other agents, as both sides are configured."""
    return [
        Tool(
            delegate.function,
            name=delegate.tool,
            description=getattr(shape.tools, delegate.member).description,
            prepare=_prepared(delegate, enabled(configured(delegate.agent, provider))),
        )
        for delegate in DELEGATES
        if _is_on(delegate, shape, configured, provider)
    ]


def enabled(shape: AgentConfiguration) -> list[str]:
    """The operations or tools of an agent that are on, by the names of its configuration."""
    tools: Any = shape.tools  # type: ignore[attr-defined]
    return [info.alias or name for name, info in type(tools).model_fields.items() if getattr(tools, name).enabled]


def exhausted_note(context: Context) -> str | None:
    """What the chat agent is told of tools that it is not offered because their limit is used up."""
    turn = context.deps
    shape = turn.configured("chat_model_agent", turn.provider)
    assert isinstance(shape, ChatModelAgent)
    tools: dict[str, str] = {
        delegate.agent: delegate.tool
        for delegate in DELEGATES
        if _is_on(delegate, shape, turn.configured, turn.provider) and delegate.is_available(context)
    } | {f"tool_{name}": name for name, own in turn.own_tools.items() if own.enabled}
    missing = [
        f"{tool} (again in {turn.exhausted[agent]} s)" for agent, tool in tools.items() if agent in turn.exhausted
    ]
    if not missing:
        return None
    return (
        "The person has used up the limit of these tools for now, so you do not have them in this answer: "
        f"{', '.join(missing)}. If one of them is what the request needs, say when it can be used again."
    )


def _is_on(
    delegate: Delegate,
    shape: ChatModelAgent,
    configured: Callable[[Agent, Provider], AgentConfiguration],
    provider: Provider,
) -> bool:
    own = configured(delegate.agent, provider)
    return getattr(shape.tools, delegate.member).enabled and own.enabled and bool(enabled(own))


def _prepared(
    delegate: Delegate, operations: list[str]
) -> Callable[[Context, ToolDefinition], Coroutine[Any, Any, ToolDefinition | None]]:
    """Leaves the tool out if its limit is used up or it cannot work, and names only the operations that are on."""

    async def prepare(context: Context, definition: ToolDefinition) -> ToolDefinition | None:
        if delegate.agent in context.deps.exhausted or not delegate.is_available(context):
            return None
        properties = definition.parameters_json_schema["properties"]
        if "operation" not in properties:
            return definition
        operation = properties["operation"] | {"enum": operations}
        schema = definition.parameters_json_schema | {"properties": properties | {"operation": operation}}
        return replace(definition, parameters_json_schema=schema)

    return prepare
