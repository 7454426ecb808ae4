"""The whole system on one machine: `python -m local.server`.

The same routers and the same edge as the deployed functions, over the embedded PostgreSQL or `DATABASE_URL`, with
the schedule on a timer. `PORT`, `DATA_DIR` and `.env` are honoured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from functions.account import app as account
from functions.admin import app as admin
from functions.auth_trigger import app as auth_trigger
from functions.chat import app as chat
from functions.documents import app as documents
from functions.files import app as files
from functions.sessions import app as sessions
from local import uploads
from local.configuration import Keys, data_dir, environment, with_defaults
from local.postgres import EmbeddedPostgres, EmbeddedPostgresError
from threadkeep import upkeep
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.log import logger
from threadkeep.migrations import MigrationError, apply
from threadkeep.settings import Settings, SettingsError
from threadkeep.storage import UPLOADS_PATH, Storage
from threadkeep.web import Runtime, create_app
from threadkeep_agents.providers import with_key

SQL: Final = Path(__file__).parents[1] / "sql"
API_ROLE: Final = "threadkeep_api"
SCHEDULE_SECONDS: Final = 60.0


def main() -> int:
    environ = environment()
    try:
        with database(environ) as url:
            settings = Settings.load(with_defaults(environ, Keys.of(data_dir(environ)), url))
            return serve(settings, int(environ.get("PORT") or 8000), is_alone=not environ.get("DATABASE_URL"))
    except (EmbeddedPostgresError, MigrationError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1


@contextmanager
def database(environ: Mapping[str, str]) -> Iterator[str]:
    """A migrated database as the functions see it: the embedded one by its login role, a given one as given."""
    if given := environ.get("DATABASE_URL"):
        apply(given, SQL)
        yield given
        return
    with EmbeddedPostgres(data_dir(environ) / "postgres") as postgres:
        apply(postgres.dsn(), SQL)
        yield postgres.dsn(user=API_ROLE)


def application(settings: Settings) -> FastAPI:
    """All functions' routers in one application."""
    return create_app(
        chat.router,
        sessions.router,
        documents.router,
        uploads.router,
        files.router,
        account.router,
        *admin.ROUTERS,
        auth_trigger.router,
        runtime=Runtime.of(settings),
        raw_path=UPLOADS_PATH,
    )


def serve(settings: Settings, port: int, *, is_alone: bool) -> int:
    """Serves until it is told to stop. `is_alone` says that no other process runs turns in this database."""
    app = application(settings)
    app.router.lifespan_context = _lifespan(app, is_alone=is_alone)
    server = Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, lifespan="on"))
    server.app = app
    models = ", ".join(with_key(settings)) or "the offline model (no provider has a key)"
    print(f"Threadkeep on http://localhost:{port} with {models}", flush=True)
    server.run()
    return 0 if server.started else 1


class Server(uvicorn.Server):
    """Ends running turns as soon as it is told to stop, so that their clients get an end and not a cut."""

    app: FastAPI

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        conversations = getattr(self.app.state, "conversations", None)
        if conversations is not None:
            self._closing = asyncio.get_running_loop().create_task(conversations.close())


def _lifespan(app: FastAPI, *, is_alone: bool) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        database = app.state.runtime.database
        recovered = await upkeep.recover_dead_turns(database, alone=is_alone)
        if recovered:
            logger.info("turns recovered that died with the last server", extra={"turns": recovered})
        runtime = app.state.runtime
        schedule = asyncio.create_task(_schedule(runtime.settings, database, runtime.storage))
        try:
            yield
        finally:
            schedule.cancel()
            if (conversations := getattr(app.state, "conversations", None)) is not None:
                await conversations.close()
            await database.close()

    return lifespan


async def _schedule(settings: Settings, database: Database, storage: Storage | None) -> None:
    """What EventBridge does on AWS."""
    while True:
        await asyncio.sleep(SCHEDULE_SECONDS)
        try:
            deadline = time.monotonic() + SCHEDULE_SECONDS / 2
            await upkeep.run(database, settings, storage=storage, deadline=deadline)
        except ThreadkeepError as error:
            logger.warning("upkeep put off", extra={"code": error.code})


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(os.EX_OK)
