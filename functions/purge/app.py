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
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        publish(report)
    return report.model_dump()


def publish(report: upkeep.Report) -> None:
    """Prints what was done as metrics in CloudWatch's embedded format, of each kind of work."""
    for kind in report.kinds:
        metrics = EphemeralMetrics(namespace="Threadkeep", service="purge")
        metrics.add_dimension("kind", kind.kind)
        metrics.add_metric("UpkeepDone", MetricUnit.Count, kind.done)
        metrics.add_metric("UpkeepSeconds", MetricUnit.Seconds, kind.seconds)
        metrics.add_metric("UpkeepFailed", MetricUnit.Count, int(kind.error is not None))
        if kind.remaining is not None:
            metrics.add_metric("UpkeepRemaining", MetricUnit.Count, kind.remaining)
        metrics.flush_metrics()


@cache
def _database() -> Database:
    return Database(settings().database_url)
