"""The models of one turn: which one answers, which ones stand in for it, and all of them on each agent's account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings

from threadkeep import turns
from threadkeep.configuration import AppSettings
from threadkeep_agents.activity import CHAT_AGENT
from threadkeep_agents.history import Window
from threadkeep_agents.ledger import Entry, Ledger
from threadkeep_agents.metering import MeteredModel
from threadkeep_agents.offline import offline_model
from threadkeep_agents.priced_models import OFFLINE_MODEL, PricedModel
from threadkeep_agents.providers import Providers
from threadkeep_agents.standby import StandbyModel

TITLE_AGENT: Final = "title"


@dataclass(frozen=True, slots=True)
class AgentModel:
    """A model for one run of an agent. `entries` are the requests that this run has made so far."""

    model: Model[Any]
    entries: list[Entry]
    chosen: PricedModel

    @property
    def answered(self) -> PricedModel:
        """The model that answered last; the chosen one if none did."""
        return next((entry.model for entry in reversed(self.entries) if entry.has_answered), self.chosen)


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
        self.window = Window(run.omitted)
        self._standby = [PricedModel.of_row(row) for row in run.fallback]

    @property
    def is_offline(self) -> bool:
        """Whether no provider has a key here."""
        return self.priced is OFFLINE_MODEL

    def for_agent(self, agent: str) -> AgentModel:
        """The model for one run of an agent, its requests on the turn's ledger."""
        entries: list[Entry] = []
        window = self.window if agent == CHAT_AGENT else Window()
        metered = [
            MeteredModel(
                self._model(agent, priced),
                self._ledger,
                agent,
                priced,
                entries,
                window=window,
                own_settings=None if priced is self.priced else _show_reasoning(priced.provider),
                shares=agent != CHAT_AGENT,
            )
            for priced in (self.priced, *self._standby)
        ]
        return AgentModel(self._first_that_answers(metered), entries, self.priced)

    @property
    def answered(self) -> PricedModel:
        """The model that spoke to the person last; the chosen one if none did."""
        spoke = (
            entry.model for entry in reversed(self._ledger.entries) if entry.agent == CHAT_AGENT and entry.has_answered
        )
        return next(spoke, self.priced)

    def for_title(self) -> Model[Any] | None:
        """The cheapest model of the provider, for a title, then those that may stand in; None offline."""
        if self._run.title_model is None:
            return None
        cheapest = PricedModel.of_row(self._run.title_model)
        others = [priced for priced in self._standby if priced.model_id != cheapest.model_id]
        others.sort(key=lambda priced: priced.input_price + priced.output_price)
        return self._first_that_answers(
            [
                MeteredModel(
                    self._model(TITLE_AGENT, priced),
                    self._ledger,
                    TITLE_AGENT,
                    priced,
                    own_settings=None if priced is cheapest else ModelSettings(),
                    shares=True,
                )
                for priced in (cheapest, *others)
            ]
        )

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
        return ModelSettings(max_tokens=self.priced.output_tokens(self._app_settings.turn.max_output_tokens))

    def _first_that_answers(self, models: Sequence[MeteredModel]) -> Model[Any]:
        return models[0] if len(models) == 1 else StandbyModel(models, self._providers.resting)

    def _model(self, agent: str, priced: PricedModel) -> Model[Any]:
        if priced is OFFLINE_MODEL:
            return offline_model(agent)
        return self._providers.model(priced.provider, priced.model_id)  # type: ignore[arg-type]


def _show_reasoning(provider: str) -> ModelSettings:
    """What makes a provider show its reasoning besides doing it."""
    shown: dict[str, dict[str, Any]] = {
        "openai": {"openai_reasoning_summary": "auto"},
        "google": {"google_thinking_config": {"include_thoughts": True}},
        "anthropic": {"anthropic_thinking": {"type": "adaptive", "display": "summarized"}},
    }
    return cast("ModelSettings", shown.get(provider, {}))
