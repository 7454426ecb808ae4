"""Models whose every request is on the ledger of a turn, within what the model can read and the turn can pay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, cast

from pydantic_ai.exceptions import ModelContextWindowExceededError, ModelHTTPError, UserError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext

from threadkeep_agents.bursts import Bursts
from threadkeep_agents.history import Window, without_foreign_reasoning
from threadkeep_agents.ledger import Entry, Ledger
from threadkeep_agents.priced_models import OFFLINE, PricedModel

SHOWING_REASONING: Final = {"openai_reasoning_summary", "google_thinking_config", "anthropic_thinking"}


class MeteredModel(WrapperModel):
    """A model whose every request is on the ledger of a turn, and one that this model can read and the turn can pay."""

    def __init__(
        self,
        wrapped: Model[Any],
        ledger: Ledger,
        agent: str,
        priced: PricedModel,
        entries: list[Entry] | None = None,
        *,
        window: Window | None = None,
        own_settings: ModelSettings | None = None,
        shares: bool = False,
    ) -> None:
        """`entries` gets each request of this model besides.

        `own_settings` show the reasoning of this model, if a request that was made for another one's is to show it.
        `shares` says that other requests of the turn may run at the same time.
        """
        super().__init__(wrapped)
        self._ledger = ledger
        self._agent = agent
        self._priced = priced
        self._entries = entries if entries is not None else []
        self._window = window or Window()
        self._own_settings = own_settings
        self._shares = shares

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        try:
            return await self._request(messages, model_settings, model_request_parameters)
        except ModelContextWindowExceededError:
            if not self._shorten(messages, model_settings):
                raise
        return await self._request(messages, model_settings, model_request_parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        async with AsyncExitStack() as stack:
            try:
                stream = await stack.enter_async_context(
                    self._request_stream(messages, model_settings, model_request_parameters, run_context)
                )
            except ModelContextWindowExceededError:
                if not self._shorten(messages, model_settings):
                    raise
                stream = await stack.enter_async_context(
                    self._request_stream(messages, model_settings, model_request_parameters, run_context)
                )
            yield stream

    async def _request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        messages, entry, settings = self._enter(messages, model_settings)
        response = None
        try:
            response = await self.wrapped.request(messages, settings, model_request_parameters)
        except asyncio.CancelledError:
            self._ledger.settle(entry, None, is_whole=False)
            raise
        except Exception as error:
            self._settle_failure(entry, error, None)
            raise
        self._ledger.settle(entry, response, is_whole=True)
        return response

    @asynccontextmanager
    async def _request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None,
    ) -> AsyncGenerator[StreamedResponse]:
        messages, entry, settings = self._enter(messages, model_settings)
        stream: StreamedResponse | None = None
        try:
            async with self.wrapped.request_stream(messages, settings, model_request_parameters, run_context) as stream:
                entry.stream = stream
                bursts = Bursts(aiter(stream))
                # Whoever iterates over the stream from here on gets what `aiter` found in this place.
                stream._event_iterator = bursts
                try:
                    # A provider may accept a request and refuse it in its first event; until then nothing was said.
                    await bursts.begin()
                    yield stream
                finally:
                    await bursts.close()
        except asyncio.CancelledError:
            self._ledger.settle(entry, stream.get() if stream else None, is_whole=False)
            raise
        except Exception as error:
            self._settle_failure(entry, error, stream)
            raise
        response = stream.get()
        self._ledger.settle(entry, response, is_whole=is_whole(response))

    def _enter(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None
    ) -> tuple[list[ModelMessage], Entry, ModelSettings]:
        settings = self._adapted(model_settings)
        output = settings.get("max_tokens") or self._priced.output_tokens()
        messages = self._window.fit(self._readable(messages), self._priced, output)
        entry = self._ledger.enter(self._agent, self._priced, messages, output, shares=self._shares)
        self._entries.append(entry)
        if entry.output_bound < output:
            settings["max_tokens"] = entry.output_bound
        return messages, entry, settings

    def _adapted(self, given: ModelSettings | None) -> ModelSettings:
        settings = dict(given or {})
        if wanted := (given or {}).get("max_tokens"):
            settings["max_tokens"] = self._priced.output_tokens(wanted)
        if self._own_settings is not None:
            if not self._priced.thinking_enabled:
                settings.pop("thinking", None)
            elif settings.keys() & SHOWING_REASONING:
                settings |= self._own_settings
        return cast("ModelSettings", settings)

    def _readable(self, messages: list[ModelMessage]) -> list[ModelMessage]:
        return without_foreign_reasoning(messages, self._priced.provider)

    def _shorten(self, messages: list[ModelMessage], model_settings: ModelSettings | None) -> bool:
        output = self._adapted(model_settings).get("max_tokens") or self._priced.output_tokens()
        return self._window.shorten(self._readable(messages), self._priced, output)

    def _settle_failure(self, entry: Entry, error: Exception, stream: StreamedResponse | None) -> None:
        response = stream.get() if stream else None
        if (isinstance(error, ModelHTTPError) or _was_not_sent(error)) and not (response and response.parts):
            self._ledger.drop(entry)
        else:
            self._ledger.settle(entry, response, is_whole=False)


def is_whole(response: ModelResponse) -> bool:
    """Whether the model came to an end; a stream that ends without its last event raises nothing."""
    return response.state == "complete" and (response.finish_reason is not None or response.model_name == OFFLINE)


def _was_not_sent(error: BaseException) -> bool:
    """Whether the request reached no provider: nothing listened there, or the model takes no request like this."""
    import httpx2

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError | httpx2.ConnectError | httpx2.ConnectTimeout):
            return True
        cause = cause.__cause__
    return False
