"""Traces: a span for each turn, and below it those of agents, tools and model requests, sent by OTLP.

Without an address to send them to nothing is recorded, and OpenTelemetry's SDK is not loaded. Prompts, answers and
arguments stay out of them unless `TRACE_CONTENT` says otherwise.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pydantic_ai.capabilities import AbstractCapability

from threadkeep import turns
from threadkeep.log import logger
from threadkeep.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span
    from pydantic_ai.models.instrumented import InstrumentationSettings

FLUSH_MILLISECONDS: Final = 2000


@dataclass
class Tracing:
    """What a process traces with."""

    settings: Settings
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    @property
    def is_on(self) -> bool:
        return self.settings.otel_exporter_otlp_endpoint is not None

    @contextmanager
    def turn(self, run: turns.Run) -> Iterator[Span | None]:
        """Around a turn; the correlation id joins its spans to the logs."""
        if not self.is_on:
            yield None
            return
        attributes = {
            "threadkeep.correlation_id": str(run.correlation_id),
            "threadkeep.session_id": str(run.session),
            "threadkeep.message_id": str(run.answer),
        }
        with self._provider.get_tracer("threadkeep").start_as_current_span("turn", attributes=attributes) as span:
            yield span

    def capabilities(self) -> list[AbstractCapability[Any]]:
        """What an agent's run is given, so that it is traced."""
        if self.instrumentation is None:
            return []
        from pydantic_ai.capabilities import Instrumentation

        return [Instrumentation(self.instrumentation)]

    @cached_property
    def instrumentation(self) -> InstrumentationSettings | None:
        """What a single request of a model is given."""
        if not self.is_on:
            return None
        from pydantic_ai.models.instrumented import InstrumentationSettings

        return InstrumentationSettings(
            tracer_provider=self._provider,
            include_content=self.settings.trace_content,
            include_binary_content=False,
            include_model_request_parameters=False,
        )

    async def after_turn(self) -> None:
        """On Lambda nothing may wait past the response, so what there is is sent; elsewhere it goes in batches."""
        if self.is_on and "AWS_LAMBDA_FUNCTION_NAME" in self.environ:
            await asyncio.to_thread(self._provider.force_flush, FLUSH_MILLISECONDS)

    async def close(self) -> None:
        """Sends what is left."""
        if "_provider" in self.__dict__:
            await asyncio.to_thread(self._provider.shutdown)

    @cached_property
    def _provider(self) -> TracerProvider:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create(
            {"service.name": "threadkeep", "deployment.environment.name": self.settings.environment}
        )
        endpoint = str(self.settings.otel_exporter_otlp_endpoint).rstrip("/") + "/v1/traces"
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, headers=self._headers())))
        logger.info("traces are sent", extra={"content": self.settings.trace_content})
        return provider

    def _headers(self) -> dict[str, str] | None:
        secret = self.settings.otel_exporter_otlp_headers
        if secret is None:
            return None
        pairs = (pair.partition("=") for pair in secret.get_secret_value().split(",") if pair.strip())
        return {name.strip().lower(): value.strip() for name, _, value in pairs}
