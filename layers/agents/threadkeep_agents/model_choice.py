"""The models of one turn: which one answers, and for each agent the same one on that agent's account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings

from threadkeep import turns
from threadkeep.configuration import AppSettings
from threadkeep_agents.metering import OFFLINE_MODEL, Entry, Ledger, MeteredModel, PricedModel
from threadkeep_agents.offline import offline_model
from threadkeep_agents.providers import Providers

TITLE_AGENT: Final = "title"


@dataclass(frozen=True, slots=True)
class AgentModel:
    """A model for one run of an agent. `entries` are the requests that this run has made so far."""

    model: Model[Any]
    entries: list[Entry]


class ModelChoice:
    """What Begin chose, ready to be asked."""

    def __init__(
        self,
        run: turns.Run,
        providers: Providers,
        ledger: Ledger,
        app_settings: AppSettings,
        *,
        thinking: bool | None,
    ) -> None:
        self._run = run
        self._providers = providers
        self._ledger = ledger
        self._app_settings = app_settings
        self._thinking = thinking
        self.priced = PricedModel.of_row(run.model) if run.model else OFFLINE_MODEL

    def for_agent(self, agent: str) -> AgentModel:
        """The model for one run of an agent, its requests on the turn's ledger."""
        model = self._model(agent)
        entries: list[Entry] = []
        return AgentModel(MeteredModel(model, self._ledger, agent, self.priced, entries), entries)

    def for_title(self) -> Model[Any] | None:
        """The cheapest model of the provider, for a title; None offline."""
        if self._run.title_model is None:
            return None
        priced = PricedModel.of_row(self._run.title_model)
        model = self._providers.model(priced.provider, priced.model_id)  # type: ignore[arg-type]
        return MeteredModel(model, self._ledger, TITLE_AGENT, priced)

    def settings(self) -> ModelSettings:
        """What the chat agent asks its model for."""
        model_settings = self.settings_of_sub_agents()
        if self._thinking is not None and self.priced.thinking_enabled:
            model_settings["thinking"] = self._thinking
            if self._thinking:
                model_settings |= _show_reasoning(self.priced.provider)
        return model_settings

    def settings_of_sub_agents(self) -> ModelSettings:
        """The same without reasoning to be shown: a sub-agent's is not passed on."""
        bounds = [self._app_settings.turn.max_output_tokens]
        if self.priced.metadata.max_output_tokens:
            bounds.append(self.priced.metadata.max_output_tokens)
        return ModelSettings(max_tokens=min(bounds))

    def _model(self, agent: str) -> Model[Any]:
        if self._run.model is None:
            return offline_model(agent)
        return self._providers.model(self.priced.provider, self.priced.model_id)  # type: ignore[arg-type]


def _show_reasoning(provider: str) -> ModelSettings:
    """What makes a provider show its reasoning besides doing it."""
    shown: dict[str, dict[str, Any]] = {
        "openai": {"openai_reasoning_summary": "auto"},
        "google": {"google_thinking_config": {"include_thoughts": True}},
        "anthropic": {"anthropic_thinking": {"type": "adaptive", "display": "summarized"}},
    }
    return cast("ModelSettings", shown.get(provider, {}))
