"""The answer of a custom resource.

By hand, for crhelper would add a library that has to be watched for forty lines, and polls and schedules that are not
needed here.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request, UnknownHandler

# CloudFormation takes 4096 bytes in all.
MAXIMUM_REASON_CHARACTERS: Final = 700
TIMEOUT_SECONDS: Final = 2.5
ATTEMPTS: Final = 3
PAUSE_SECONDS: Final = 0.5

logger = logging.getLogger(__name__)


class AnswerRefusedError(OSError):
    """The answer was refused, with this status."""


def answer(event: Mapping[str, Any], *, reason: str, resource_id: str, data: Mapping[str, Any]) -> None:
    """Tells CloudFormation that the request succeeded, or why it failed; logs it if that cannot be told."""
    body = {
        "Status": "FAILED" if reason else "SUCCESS",
        "Reason": _short(reason),
        # The same one for ever: CloudFormation deletes a resource whose id changed.
        "PhysicalResourceId": event.get("PhysicalResourceId") or resource_id,
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
        "Data": dict(data),
    }
    logger.info("answering %s %s", body["Status"], body["Reason"])
    content = json.dumps(body).encode()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _put(event["ResponseURL"], content)
        except (OSError, ValueError) as error:
            # Another error's text may hold the address, and whoever has that may answer in our place.
            told = error if isinstance(error, AnswerRefusedError) else type(error).__name__
            logger.warning("attempt %d of %d to answer: %s", attempt, ATTEMPTS, told)
            if attempt < ATTEMPTS:
                time.sleep(PAUSE_SECONDS * attempt)
        else:
            return


def _put(url: str, content: bytes) -> None:
    # Without the handlers of other schemes, and without redirects: the address is one object of Amazon's storage.
    opener = OpenerDirector()
    for each in (HTTPHandler(), HTTPSHandler(), UnknownHandler()):
        opener.add_handler(each)
    # It is signed for an empty content type.
    request = Request(url, data=content, method="PUT", headers={"Content-Type": ""})  # noqa: S310
    with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
        if response.status >= 300:
            raise AnswerRefusedError(f"status {response.status}")


def _short(reason: str) -> str:
    return reason if len(reason) <= MAXIMUM_REASON_CHARACTERS else reason[: MAXIMUM_REASON_CHARACTERS - 1] + "…"
