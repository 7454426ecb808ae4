"""The one logger: JSON lines, without whole events, headers, bodies or tokens."""

from __future__ import annotations

from typing import Final

from aws_lambda_powertools import Logger

logger: Final = Logger(service="threadkeep", use_rfc3339=True, log_uncaught_exceptions=False)
