"""Applications out of routers: for one machine, and for AWS Lambda."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from threadkeep import snapshots
from threadkeep.database import Database
from threadkeep.identity import Authenticator
from threadkeep.log import logger
from threadkeep.settings import Settings, settings
from threadkeep.storage import Storage, storage_of
from threadkeep.web import problems
from threadkeep.web.edge import CORRELATION_HEADER, Edge

# What else would reach API Gateway in base64.
TEXT_TYPES: Final = ["text/", "application/json", "application/problem+json"]


@dataclass(frozen=True)
class Runtime:
    """What lives as long as the process: its settings, its way to the database, the issuers' keys."""

    settings: Settings
    database: Database
    authenticator: Authenticator

    @cached_property
    def storage(self) -> Storage | None:
        """Where attached files are; None if that is not configured."""
        return storage_of(self.settings)

    @classmethod
    def of(cls, configured: Settings) -> Runtime:
        logger.setLevel(configured.log_level)
        database = Database(configured.database_url, pool_size=configured.database_pool_size)
        return cls(configured, database, Authenticator(configured))

    def prepare(self) -> None:
        """What is done before the first event: a secret that is missing stops the process here, and is named."""
        database_url = self.settings.database_url
        if snapshots.is_taken():
            snapshots.prepare(fetches_secrets=database_url.is_fetched)
        else:
            database_url.get_secret_value()


def create_app(*routers: APIRouter, runtime: Runtime | None = None, raw_path: str | None = None) -> FastAPI:
    """An application of these routers, with the same edge wherever it runs.

    The route at `raw_path` reads its body itself, as it is sent.
    """
    if runtime is None:
        runtime = Runtime.of(settings())
        runtime.prepare()
    app = FastAPI(title="Threadkeep", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.runtime = runtime
    problems.install(app)
    # The last one added is the outermost: an answer to a bad body needs its CORS headers as well.
    app.add_middleware(Edge, settings=runtime.settings, raw_path=raw_path)
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=runtime.settings.origin_pattern.pattern,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["authorization", "content-type", "if-match", "x-github-token", CORRELATION_HEADER],
        allow_credentials=True,
        expose_headers=[
            CORRELATION_HEADER,
            "x-session-id",
            "x-guest-token",
            "x-identity-deletion",
            "content-disposition",
            "etag",
            "retry-after",
            "x-vercel-ai-ui-message-stream",
        ],
    )
    app.include_router(_alive)
    for router in routers:
        app.include_router(router)
    return app


def lambda_handler(*routers: APIRouter) -> LambdaHandler:
    """The handler of a function behind an HTTP API; built in Lambda's init phase, elsewhere at the first event."""
    handler = LambdaHandler(*routers)
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        handler.prepare()
    return handler


class LambdaHandler:
    """Answers HTTP API events with these routers, on the runtime that the function's other events share.

    Without `guests`, for routes that no person calls, the environment needs no keys for the tokens of guests.
    """

    def __init__(self, *routers: APIRouter, guests: bool = True) -> None:
        self._routers = routers
        self._guests = guests

    @cached_property
    def runtime(self) -> Runtime:
        """The process's parts, made when first needed; SettingsError if the environment is incomplete."""
        configured = settings()
        return Runtime.of(configured if self._guests else configured.model_copy(update={"guests_enabled": False}))

    def prepare(self) -> None:
        """Builds all of it before the first event, in the init phase."""
        self.runtime.prepare()
        _ = self._mangum

    def __call__(self, event: dict[str, Any], context: Any) -> Any:
        return self._mangum(event, context)

    @cached_property
    def _mangum(self) -> Any:
        from mangum import Mangum

        app: ASGIApp = create_app(*self._routers, runtime=self.runtime)
        return Mangum(app, lifespan="off", text_mime_types=TEXT_TYPES)  # type: ignore[arg-type]


_alive = APIRouter(tags=["health"])


@_alive.get("/api/health", summary="Whether this process is alive")
async def health() -> dict[str, str]:
    """Answers without the database: a load balancer must not take a process out because of it."""
    return {"status": "ok"}
