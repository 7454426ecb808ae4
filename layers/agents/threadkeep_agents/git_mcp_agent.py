"""The agent that works on GitHub, through GitHub's own tool server and with the person's own token.

The token comes with the request, or from a secret of the person's; it is in no log, no message and no table. Tools
that change something are left out unless the installation allows them, by the server and here once more.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any, Final

from pydantic_ai import Agent
from pydantic_ai.run import AgentRunResult, AgentRunResultEvent
from pydantic_ai.tools import ToolDefinition

from threadkeep import repositories
from threadkeep.configuration import GitMcpAgent
from threadkeep.errors import ThreadkeepError
from threadkeep.repositories import Repository
from threadkeep_agents import tool_servers
from threadkeep_agents.metering import is_whole
from threadkeep_agents.tools import TurnContext
from threadkeep_agents.work import TOOL_RETRIES, Context, Work, on_record

AGENT: Final = "git_mcp_agent"

# Groups of the server that are called as in the configuration; the other two are tools of its group `repos`.
_TOOLSETS: Final = ("repos", "issues", "pull_requests", "users")
_READING: Final = {"code_search": ("search_code",), "branches": ("list_branches",)}
_WRITING: Final = {"code_search": (), "branches": ("create_branch",)}


async def git_mcp_agent(context: Context, input: str) -> dict[str, Any]:  # noqa: A002 - the tool's own name
    """Hands a question about GitHub to the agent that can look there."""
    async with on_record(context, AGENT, "run") as work:
        shape = work.turn.configured(AGENT, work.turn.provider)
        assert isinstance(shape, GitMcpAgent)
        token = await _token(work.turn)
        if token is None:
            raise ThreadkeepError("unauthorized:tool", "GitHub is not connected: the request brought no token for it.")
        await work.consume_limit()
        return {"answer": await _run(work, shape, token, input)}


def is_available(context: Context) -> bool:
    """Whether there may be a token for this person, and a model that can use it."""
    turn = context.deps
    has_token = turn.github_token is not None or turn.settings.github_token_secrets is not None
    return has_token and not turn.models.is_offline


async def _run(work: Work, shape: GitMcpAgent, token: str, question: str) -> str:
    turn = work.turn
    may_write = turn.settings.github_writes_allowed
    own = await turn.as_user(lambda user: repositories.active(turn.database, user))
    result: AgentRunResult[str] | None = None
    async with (
        tool_servers.session(
            turn.settings.github_mcp_url,
            token=token,
            headers=_headers(shape, may_write=may_write),
            is_offered=_filter(shape, may_write=may_write),
        ) as tools,
        _agent().run_stream_events(
            question,
            model=work.model().model,
            model_settings=turn.models.settings_of_sub_agents(),
            instructions=[shape.system_prompt, _repositories_note(own)],
            toolsets=[tools],
            deps=turn,
            capabilities=turn.capabilities,
            usage=work.context.usage,
            usage_limits=turn.bounds,
        ) as events,
    ):
        async for event in events:
            if isinstance(event, AgentRunResultEvent):
                result = event.result
    if result is None or not is_whole(result.response):
        raise ThreadkeepError("provider:chat", "The work on GitHub broke off before its answer was whole.")
    return result.output


def _headers(shape: GitMcpAgent, *, may_write: bool) -> dict[str, str]:
    """What the server is asked to offer."""
    toolsets = [name for name in _TOOLSETS if getattr(shape.tools, name).enabled]
    tools = _named(shape, may_write=may_write, enabled=True)
    headers = {"X-MCP-Toolsets": ",".join(toolsets)} if toolsets else {}
    if tools and "repos" not in toolsets:
        headers["X-MCP-Tools"] = ",".join(tools)
    return headers | ({} if may_write else {"X-MCP-Readonly": "true"})


def _filter(shape: GitMcpAgent, *, may_write: bool) -> Any:
    off = _named(shape, may_write=True, enabled=False)

    def is_offered(definition: ToolDefinition) -> bool:
        return definition.name not in off and (may_write or tool_servers.is_read_only(definition))

    return is_offered


def _named(shape: GitMcpAgent, *, may_write: bool, enabled: bool) -> list[str]:
    """The single tools that stand for a name of the configuration which is no group of the server's."""
    names = [name for name in _READING if getattr(shape.tools, name).enabled is enabled]
    return [tool for name in names for tool in (*_READING[name], *(_WRITING[name] if may_write else ()))]


def _repositories_note(own: list[Repository]) -> str:
    if not own:
        return "The person has connected no repositories."
    lines = [f"- {each.owner}/{each.name} (default branch {each.default_branch})" for each in own]
    return "The person's connected repositories:\n" + "\n".join(lines)


async def _token(turn: TurnContext) -> str | None:
    if turn.github_token is not None:
        return turn.github_token
    prefix = turn.settings.github_token_secrets
    if prefix is None or turn.principal.user_id is None:
        return None
    return await asyncio.to_thread(_stored_token, f"{prefix}{turn.principal.user_id}")


def _stored_token(name: str) -> str | None:
    """A person's own secret; it is not kept here, so that a token that was taken back is not used any more."""
    import boto3  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    try:
        secret: str | None = boto3.client("secretsmanager").get_secret_value(SecretId=name).get("SecretString")
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise ThreadkeepError("unavailable:tool") from error
    except BotoCoreError as error:
        raise ThreadkeepError("unavailable:tool") from error
    return secret.strip() if secret else None


@cache
def _agent() -> Agent[TurnContext, str]:
    return Agent(name=AGENT, deps_type=TurnContext, retries={"tools": TOOL_RETRIES})
