"""Models that stand in for one that cannot answer now.

Another model is asked when a provider is overloaded, limits its rate or quota, fails or cannot be reached, and only
before it said anything. A refused key, an unknown model and a refused request are not mended by asking elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Final

from pydantic_ai.exceptions import (
    FallbackExceptionGroup,
    ModelAPIError,
    ModelConnectionError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelServerError,
    ModelUnavailableError,
    UserError,
)
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext

from threadkeep.log import logger

REST_SECONDS: Final = 15.0
LONGEST_REST_SECONDS: Final = 120.0
PASSING: Final = (
    ModelRateLimitError,
    ModelQuotaExceededError,
    ModelUnavailableError,
    ModelServerError,
    ModelConnectionError,
)


class Resting:
    """The models that failed a moment ago in this process: until their rest is over they are asked last."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def rest(self, model_id: str, seconds: float | None) -> None:
        """Lets a model rest for as long as its provider asked for, within bounds, or for 15 seconds."""
        wait = min(max(seconds or 0.0, REST_SECONDS), LONGEST_REST_SECONDS)
        self._until[model_id] = time.monotonic() + wait

    def wake(self, model_id: str) -> None:
        """A model that answered needs no more rest."""
        self._until.pop(model_id, None)

    def until(self, model_id: str) -> float:
        """When its rest ends; 0 if it does not rest."""
        ends = self._until.get(model_id, 0.0)
        return ends if ends > time.monotonic() else 0.0


class StandbyModel(FallbackModel):
    """Asks its models in their order, those that rest last, until one answers; raises what the first one raised."""

    def __init__(self, models: Sequence[Model[Any]], resting: Resting) -> None:
        super().__init__(*models, fallback_on=self._passes)
        self._chosen = tuple(models)
        self._resting = resting

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        self._order()
        try:
            return await super().request(messages, model_settings, model_request_parameters)
        except FallbackExceptionGroup as group:
            raise group.exceptions[0] from group

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        self._order()
        try:
            async with super().request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as stream:
                yield stream
        except FallbackExceptionGroup as group:
            raise group.exceptions[0] from group

    @cached_property
    def profile(self) -> ModelProfile:
        """What the first one can, by which a request is put together."""
        return self._chosen[0].profile

    def _order(self) -> None:
        self.models = sorted(self._chosen, key=lambda model: self._resting.until(model.model_name))

    def _passes(self, error: Exception) -> bool:
        if isinstance(error, UserError):
            # Another provider may lack what the first one has, such as one of its own tools.
            return True
        if not isinstance(error, PASSING):
            return False
        assert isinstance(error, ModelAPIError)
        self._resting.rest(error.model_name, error.retry_after)
        logger.warning("model cannot answer", extra={"model": error.model_name, "reason": type(error).__name__})
        return True
