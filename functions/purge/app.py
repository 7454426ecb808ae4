"""The schedule: keeps the database in order within the time that this invocation has."""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any, Final

from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from threadkeep import event_loop, upkeep
from threadkeep.database import Database
from threadkeep.settings import settings
from threadkeep.storage import storage_of

# For the last statement, for counting what remains, and for the answer.
RESERVE_SECONDS: Final = 10.0


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Gives the report of what was done; raises without a database, so that the invocation is repeated."""
    remaining = context.get_remaining_time_in_millis() / 1000
    deadline = time.monotonic() + remaining - min(RESERVE_SECONDS, remaining / 2)
    configured = settings()
    storage = storage_of(configured)
    report = event_loop.run(upkeep.run(_database(), configured, storage=storage, deadline=deadline))
    if function := os.environ.get("AWS_LAMBDA_FUNCTION_NAME"):
        publish(report, function)
    return report.model_dump()


def publish(report: upkeep.Report, function: str) -> None:
    """Prints the sums as metrics in CloudWatch's embedded format; the log and the database have each kind of work.

    Metrics are billed one by one: those of 18 kinds would cost more than all else of an installation at rest.
    """
    metrics = EphemeralMetrics(namespace="Threadkeep", service="purge")
    metrics.add_dimension("function", function)
    metrics.add_metric("UpkeepDone", MetricUnit.Count, sum(kind.done for kind in report.kinds))
    metrics.add_metric("UpkeepRemaining", MetricUnit.Count, sum(kind.remaining or 0 for kind in report.kinds))
    metrics.add_metric("UpkeepFailed", MetricUnit.Count, sum(kind.error is not None for kind in report.kinds))
    metrics.add_metric("UpkeepSeconds", MetricUnit.Seconds, report.seconds)
    metrics.flush_metrics()


@cache
def _database() -> Database:
    return Database(settings().database_url)
