"""Rows of `error_logs` for what failed outside a turn, written in a transaction of their own.

The failed work was rolled back; its error row must not be. Whether there is a row, and how much of a person is in it,
`private.log_error` decides by `logging_settings`. The log line is there in any case.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from threadkeep.activity import Call
from threadkeep.addresses import network
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import SERVICE
from threadkeep.log import logger
from threadkeep.redaction import redacted

ErrorType = Literal["auth", "api", "admin", "app", "user", "permission", "system"]
Severity = Literal["info", "warning", "error", "critical"]


async def record(
    database: Database,
    *,
    correlation_id: UUID,
    category: str,
    message: str,
    error_type: ErrorType = "system",
    user_id: UUID | None = None,
    call: Call | None = None,
    cause: BaseException | None = None,
    severity: Severity = "error",
    is_refusal: bool = False,
) -> None:
    """Writes one log line, and one row where the settings want it; a row that cannot be written is no error.

    A refusal is nothing that anybody has to see to: its row is resolved from the start, and there is at most one a
    minute of each user and category.
    """
    error: dict[str, Any] = redacted(
        {
            "error_type": error_type,
            "error_category": category,
            "error_message": message,
            "error_details": _details(cause),
            "severity": severity,
        }
    )
    in_short = replace(call, address=network(call.address)) if call else None
    say = logger.warning if is_refusal else logger.error
    say(
        "refused" if is_refusal else "error",
        extra={**error, **_row(in_short), "user_id": user_id and str(user_id), "correlation_id": str(correlation_id)},
    )
    try:
        await database.rows(
            SERVICE,
            "select private.log_error(%(user_id)s, %(correlation_id)s, %(error)s)",
            {
                "user_id": user_id,
                "correlation_id": correlation_id,
                "error": Jsonb(error | redacted(_row(call)) | {"is_refusal": is_refusal}),
            },
        )
    except (ThreadkeepError, psycopg.Error) as failure:
        logger.error("error row not written", extra={"because": str(failure), "correlation_id": str(correlation_id)})


def _row(call: Call | None) -> dict[str, Any]:
    return call.row() if call else {}


def _details(cause: BaseException | None) -> dict[str, Any] | None:
    """Where it happened and of what kind; never an exception's text, which may hold what a user or provider sent."""
    if cause is None:
        return None
    origin = cause.__cause__ or cause
    frames = traceback.extract_tb(origin.__traceback__)[-5:]
    return {
        "exception": type(origin).__qualname__,
        "sqlstate": getattr(origin, "sqlstate", None),
        "frames": [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames],
    }
