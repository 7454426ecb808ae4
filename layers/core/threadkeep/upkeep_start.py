"""Starts the upkeep because an administrator asked for it: here beside the requests, on Lambda in its own function."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Final

from threadkeep import upkeep, upkeep_reports
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal
from threadkeep.log import logger
from threadkeep.settings import Settings
from threadkeep.storage import storage_of
from threadkeep.upkeep_reports import Request

SECONDS_HERE: Final = 30.0
INVOKE_SECONDS: Final = 5

# A task that nobody holds may be collected before it ends.
_tasks: Final[set[asyncio.Task[None]]] = set()


async def start(database: Database, administrator: Principal, settings: Settings) -> Request:
    """A run that begins now, or the one that was asked for before and has not ended.

    With `PURGE_FUNCTION_NAME` that function is invoked and nothing is left to do here. Raises `unavailable:purge` when
    it cannot be, and on Lambda without that setting, where nothing may go on after the answer.
    """
    if settings.purge_function_name is None and "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        raise ThreadkeepError("unavailable:purge", "PURGE_FUNCTION_NAME is not set, so the purge cannot be started.")
    requested = await upkeep_reports.request(database, administrator)
    if not requested.is_new:
        return requested
    if settings.purge_function_name is None:
        task = asyncio.create_task(_run_here(database, settings))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        return requested
    try:
        await asyncio.to_thread(_invoke, settings.purge_function_name)
    except ThreadkeepError:
        await upkeep_reports.withdraw(database, administrator, requested)
        raise
    return requested


async def _run_here(database: Database, settings: Settings) -> None:
    deadline = time.monotonic() + SECONDS_HERE
    try:
        await upkeep.run(database, settings, storage=storage_of(settings), deadline=deadline)
    except ThreadkeepError as error:
        logger.warning("upkeep that was asked for did not run", extra={"code": error.code})


def _invoke(function_name: str) -> None:
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    limits = Config(connect_timeout=INVOKE_SECONDS, read_timeout=INVOKE_SECONDS, retries={"total_max_attempts": 2})
    try:
        boto3.client("lambda", config=limits).invoke(
            FunctionName=function_name, InvocationType="Event", Payload=json.dumps({"source": "administrator"})
        )
    except (BotoCoreError, ClientError) as error:
        logger.error("the purge function was not invoked", extra={"error": type(error).__name__})
        raise ThreadkeepError("unavailable:purge", retry_after=INVOKE_SECONDS) from error
