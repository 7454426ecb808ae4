"""The three providers' models, each SDK loaded only when its first model is made.

The SDKs' own retries are off: a request that is sent twice is billed twice, and what is retried is decided by the turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from threadkeep.configuration import Provider
from threadkeep.settings import Settings
from threadkeep_agents.standby import Resting

if TYPE_CHECKING:
    from pydantic_ai.models import Model

CONNECT_SECONDS: Final = 5.0
# Between two pieces of an answer; a model that reasons may be silent for long.
SILENCE_SECONDS: Final = 120.0


def with_key(settings: Settings) -> list[Provider]:
    """The providers that can be used here."""
    return settings.providers_with_key()


class Providers:
    """Makes models and keeps them, so that a process has one HTTP client a provider."""

    def __init__(self, settings: Settings, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._settings = settings
        self._silence_seconds = silence_seconds
        self.resting = Resting()
        self._models: dict[tuple[Provider, str, str], Model[Any]] = {}

    def model(self, provider: Provider, model_id: str) -> Model[Any]:
        """The model of a provider that has a key here."""
        secret = self._settings.provider_key(provider)
        assert secret is not None, f"{provider} has no key"
        key = secret.get_secret_value()
        known = self._models.get((provider, model_id, key))
        if known is None:
            known = self._models[provider, model_id, key] = self._make(provider, model_id, key)
        return known

    def _make(self, provider: Provider, model_id: str, key: str) -> Model[Any]:
        if provider == "openai":
            return self._openai(model_id, key)
        if provider == "anthropic":
            return self._anthropic(model_id, key)
        return self._google(model_id, key)

    def _openai(self, model_id: str, key: str) -> Model[Any]:
        from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
        from pydantic_ai.providers.openai import OpenAIProvider

        from threadkeep_agents.openai_client import OpenAIClient

        client = OpenAIClient(
            api_key=key,
            base_url=self._settings.openai_base_url,
            http_client=self._http,
            max_retries=0,
        )
        kind = OpenAIResponsesModel if self._settings.openai_api == "responses" else OpenAIChatModel
        return kind(model_id, provider=OpenAIProvider(openai_client=client))

    def _anthropic(self, model_id: str, key: str) -> Model[Any]:
        from anthropic import AsyncAnthropic
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        client = AsyncAnthropic(
            api_key=key,
            base_url=self._settings.anthropic_base_url,
            http_client=self._http,
            max_retries=0,
        )
        return AnthropicModel(model_id, provider=AnthropicProvider(anthropic_client=client))

    def _google(self, model_id: str, key: str) -> Model[Any]:
        from pydantic_ai.models.google import GoogleModel
        from pydantic_ai.providers.google import GoogleProvider

        provider = GoogleProvider(api_key=key, base_url=self._settings.gemini_base_url, http_client=self._http)
        return GoogleModel(model_id, provider=provider)

    @cached_property
    def _http(self) -> Any:
        import httpx2
        from pydantic_ai.models import create_async_httpx2_client

        client = create_async_httpx2_client(timeout=httpx2.Timeout(self._silence_seconds, connect=CONNECT_SECONDS))
        client.event_hooks = {"response": [_remember]}
        return client

    async def close(self) -> None:
        """Gives the connections back."""
        if "_http" in self.__dict__:
            await self._http.aclose()


_open_responses: ContextVar[list[Any] | None] = ContextVar("open_responses", default=None)


@contextmanager
def closing_responses() -> Iterator[Callable[[], Awaitable[None]]]:
    """Around a turn; gives what closes its responses that are still open.

    A run that is cancelled while its events are handled leaves Google's response open, and its connection with it.
    """
    responses: list[Any] = []
    token = _open_responses.set(responses)

    async def close() -> None:
        for response in responses:
            if not response.is_closed:
                await response.aclose()

    try:
        yield close
    finally:
        _open_responses.reset(token)


async def _remember(response: Any) -> None:
    responses = _open_responses.get()
    if responses is not None:
        responses.append(response)
