"""Rows of `error_logs` for what failed outside a turn, written in a transaction of their own.

The failed work was rolled back; its error row must not be.
"""

from __future__ import annotations

import traceback
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import SERVICE
from threadkeep.log import logger


async def record(
    database: Database,
    *,
    correlation_id: UUID,
    category: str,
    message: str,
    user_id: UUID | None = None,
    path: str | None = None,
    method: str | None = None,
    user_agent: str | None = None,
    address: str | None = None,
    cause: BaseException | None = None,
    severity: str = "error",
) -> None:
    """Writes one error row; if the database cannot take it, the log line has it all."""
    error: dict[str, Any] = {
        "error_type": "api" if path else "system",
        "error_category": category,
        "error_message": message,
        "error_details": _details(cause),
        "request_path": path,
        "request_method": method,
        "user_agent": user_agent,
        "ip_address": address,
        "severity": severity,
    }
    try:
        await database.rows(
            SERVICE,
            "select private.log_error(%(user_id)s, %(correlation_id)s, %(error)s)",
            {"user_id": user_id, "correlation_id": correlation_id, "error": Jsonb(error)},
        )
    except ThreadkeepError:
        logger.error("error row not written", extra={**error, "correlation_id": str(correlation_id)})


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
