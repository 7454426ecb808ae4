"""Applies `sql/` at deploy time, as a custom resource of CloudFormation, or when an operator says so.

What an operator sends is `{"action": "migrate" | "dry-run" | "verify"}`.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from functions.migrate import cloudformation

# Our own libraries are loaded within the handler: for a function that cannot even start a deploy waits an hour.

SQL: Final = Path(__file__).parents[2] / "sql"
RESOURCE_ID: Final = "threadkeep-migrations"
# For rolling back, and for the answer; then for an answer without having heard of the database again.
RESERVE_SECONDS: Final = 20.0
ANSWER_SECONDS: Final = 10.0

logger = logging.getLogger("functions.migrate")
logger.setLevel(logging.INFO)


class MigrationFailed(Exception):  # noqa: N818 - it is read in an operator's terminal
    """Why nothing was applied, in words that hold no secret and nobody's data."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any] | None:
    """Gives an operator the report, or raises MigrationFailed; answers CloudFormation in every case.

    There it raises nothing, which would have Lambda repeat a request that has been answered. Going back never fails: it
    would leave the stack half way, and the code that served before needs nothing that its database does not have.
    """
    if "RequestType" not in event:
        return _in_time(str(event.get("action")), context)
    data: dict[str, Any] = {}
    reason = ""
    try:
        if event["RequestType"] != "Delete":
            report = _in_time("migrate", context)
            data = {"Applied": len(report["applied"]), "Ahead": len(report["ahead"])}
    except MigrationFailed as error:
        if not _goes_back(event):
            reason = f"{error} (log stream {context.log_stream_name})"
    cloudformation.answer(event, reason=reason, resource_id=RESOURCE_ID, data=data)
    return None


def _goes_back(event: dict[str, Any]) -> bool:
    """Whether an update is taken back: the version of the code that is to be there is older than the one that was."""
    numbers = [
        str(event.get(properties, {}).get("Code", "")).rpartition(":")[2]
        for properties in ("ResourceProperties", "OldResourceProperties")
    ]
    return all(number.isdecimal() for number in numbers) and int(numbers[0]) < int(numbers[1])


def _in_time(action: str, context: Any) -> dict[str, Any]:
    """Does it, and gives up on a database that does not even let itself be cancelled."""
    remaining = context.get_remaining_time_in_millis() / 1000
    answer = min(ANSWER_SECONDS, remaining / 4)
    seconds = remaining - answer - min(RESERVE_SECONDS - ANSWER_SECONDS, remaining / 4)
    executor = ThreadPoolExecutor(1)
    try:
        return executor.submit(_reasoned, action, seconds).result(timeout=remaining - answer)
    except TimeoutError:
        raise MigrationFailed("The database does not answer any more.") from None
    finally:
        executor.shutdown(wait=False)


def _reasoned(action: str, seconds: float) -> dict[str, Any]:
    try:
        return _do(action, seconds)
    except MigrationFailed:
        raise
    except Exception as error:
        logger.exception("%s failed", action)
        raise MigrationFailed(_reason(error)) from None


def _do(action: str, seconds: float) -> dict[str, Any]:
    if action not in {"migrate", "dry-run", "verify"}:
        raise MigrationFailed("Send an action: migrate, dry-run or verify.")
    from threadkeep import migrations
    from threadkeep.schema_check import verify
    from threadkeep.settings import MigrationSettings

    settings = MigrationSettings.load()
    address = settings.database_url.get_secret_value()
    if action == "verify":
        checked = verify(address, SQL)
        return {"ok": checked.ok, **checked.model_dump(mode="json")}
    report = migrations.apply(
        address, SQL, dry_run=action == "dry-run", api_password=settings.api_password(), seconds=seconds
    )
    logger.info("%s: %s", action, [migration.name for migration in report.applied])
    return report.model_dump(mode="json")


def _reason(error: Exception) -> str:
    """What may be told: our own words, and the server's without the rows that it quotes."""
    import psycopg

    from threadkeep.migrations import MigrationError
    from threadkeep.settings import SettingsError

    match error:
        case MigrationError():
            return error.summary
        case SettingsError():
            return str(error)
        case psycopg.OperationalError() if error.sqlstate is None:
            return "The database cannot be reached, or refused the login."
        case psycopg.Error():
            return f"The database refused: {error.diag.message_primary or type(error).__name__}"
        case _:
            return f"It failed with {type(error).__name__}; the log has the rest."
