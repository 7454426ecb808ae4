"""The one logger: JSON lines, without whole events, headers, bodies, tokens or keys.

Whatever a message, an exception or a stack trace holds, its secrets are taken out as the line is written.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aws_lambda_powertools import Logger

from threadkeep.redaction import redact, redacted


def _as_line(record: dict[str, Any]) -> str:
    return json.dumps(redacted(record), default=_text, ensure_ascii=False, separators=(",", ":"))


def _text(value: object) -> str:
    return redact(str(value))


logger: Final = Logger(service="threadkeep", use_rfc3339=True, log_uncaught_exceptions=False, json_serializer=_as_line)
