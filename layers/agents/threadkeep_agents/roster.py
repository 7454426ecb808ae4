"""The agents as they are configured now, made once for each version of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic_ai import Agent

from threadkeep.configuration import (
    TOOL_KEY,
    AgentConfiguration,
    AppSettings,
    ChatModelAgent,
    OwnTool,
    Provider,
    config_key,
    parse_configuration,
)
from threadkeep.configuration import Agent as AgentName
from threadkeep.errors import ThreadkeepError
from threadkeep.log import logger
from threadkeep_agents.delegation import delegates, exhausted_note
from threadkeep_agents.own_servers import registered_tools
from threadkeep_agents.tools import TurnContext
from threadkeep_agents.work import TOOL_RETRIES


@dataclass(frozen=True, slots=True)
class Configuration:
    """All rows of `admin_config` of one version, the last good ones of those that are broken, and what was read."""

    version: int
    rows: dict[str, Any]
    last_good: dict[str, Any]
    read: dict[str, Any] = field(default_factory=dict)


class Roster:
    """Keeps the newest configuration and the agents made from it.

    A row that is broken leaves the last good one of its key in force, and is reported.
    """

    def __init__(self) -> None:
        self._configuration: Configuration | None = None
        self._agents: dict[str, Agent[TurnContext, str]] = {}

    @property
    def version(self) -> int | None:
        """The version at hand; None before the first turn of the process."""
        return self._configuration.version if self._configuration else None

    @property
    def app_settings(self) -> AppSettings:
        """What holds for the whole application."""
        settings = self._read("app_settings")
        assert isinstance(settings, AppSettings)
        return settings

    def take(self, configuration: dict[str, Any] | None) -> None:
        """Takes what Begin brought, if it is newer than what is at hand."""
        if configuration is not None and (self.version is None or configuration["version"] > self.version):
            self._configuration = Configuration(
                configuration["version"], configuration["rows"], configuration["lastGood"] or {}
            )
            self._agents = {}

    def chat_agent(self, provider: Provider) -> Agent[TurnContext, str]:
        """The agent that talks to the person, as configured for this provider."""
        key = config_key("chat_model_agent", provider)
        agent = self._agents.get(key)
        if agent is None:
            shape = self._read(key)
            assert isinstance(shape, ChatModelAgent)
            if not shape.enabled:
                raise ThreadkeepError("forbidden:agent")
            agent = self._agents[key] = Agent(
                name="chat_model_agent",
                deps_type=TurnContext,
                instructions=[shape.system_prompt, exhausted_note],
                tools=delegates(shape, self.configuration, provider),
                toolsets=[registered_tools()],
                retries={"tools": TOOL_RETRIES},
            )
        return agent

    def configuration(self, agent: AgentName, provider: Provider) -> AgentConfiguration:
        """How an agent is configured for a provider now."""
        shape = self._read(config_key(agent, provider))
        assert isinstance(shape, AgentConfiguration)
        return shape

    def own_tools(self) -> dict[str, OwnTool]:
        """The team's own tools that have a row, by their names."""
        assert self._configuration is not None, "Begin brings the configuration"
        found = {}
        for key in self._configuration.rows:
            if (named := TOOL_KEY.fullmatch(key)) is not None:
                try:
                    found[named[1]] = self._read(key)
                except ThreadkeepError:
                    # Broken from its first row on: it is left out, and was reported.
                    continue
        return found

    def _read(self, key: str) -> Any:
        assert self._configuration is not None, "Begin brings the configuration"
        known = self._configuration.read.get(key)
        if known is not None:
            return known
        try:
            shape = parse_configuration(key, self._configuration.rows.get(key))
        except ThreadkeepError as error:
            logger.error(
                "configuration row is broken",
                extra={"key": key, "problems": [f"{field.field}: {field.message}" for field in error.fields]},
            )
            if key not in self._configuration.last_good:
                raise ThreadkeepError("unavailable:api") from error
            shape = parse_configuration(key, self._configuration.last_good[key])
        self._configuration.read[key] = shape
        return shape
