"""Profiles at sign-up and at sign-in: Cognito's triggers, and the signed webhook of any identity provider."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Annotated, Any, Final
from uuid import uuid4

from aws_lambda_powertools.utilities.data_classes.cognito_user_pool_event import PostConfirmationTriggerEvent
from fastapi import APIRouter, Depends, Request

from threadkeep import error_log, event_loop, profiles, webhooks
from threadkeep.activity import ActivityType, Call
from threadkeep.identity import display_text, user_id_of
from threadkeep.log import logger
from threadkeep.web import LambdaHandler, Moment, Runtime, moment, raises

# Cognito waits 5 seconds, and the environment may have just started.
PATIENCE_SECONDS: Final = 3.0
RESERVE_SECONDS: Final = 1.0
HANDLED_TRIGGERS: Final = ("PostConfirmation_", "PostAuthentication_")

ACTIVITIES: Final[dict[str, ActivityType]] = {
    "PostConfirmation_ConfirmSignUp": "auth_register",
    "PostConfirmation_ConfirmForgotPassword": "auth_password_reset",
}
# The other form is Supabase's before-user-created hook.
EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"type": {"type": "string"}, "data": {"type": "object"}},
    "examples": [{"type": "user.created", "data": {"id": "0b8e2f0a-5c1d-4b7e-9a43-6d2f1e8c7a90"}}],
}

router = APIRouter(prefix="/api/hooks", tags=["auth_trigger"])

# Not built in the init phase: an environment that cannot start would refuse the sign-in.
http: Final = LambdaHandler(router, guests=False)


@router.post(
    "/auth",
    summary="What an identity provider tells of its users, signed by Standard Webhooks",
    responses=raises("unauthorized:hook", "unavailable:database"),
    openapi_extra={
        "security": [{"webhookSignature": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": EVENT}}},
    },
)
async def receive_webhook(request: Request, here: Annotated[Moment, Depends(moment)]) -> dict[str, Any]:
    body = await request.body()
    webhooks.verify(here.settings, request.headers, body)
    # It is the provider who calls, from an address that is not the user's.
    database = here.database.during(replace(here.call, address=None, user_agent=None))
    return await webhooks.receive(database, here.settings, body)


def handler(event: dict[str, Any], context: Any) -> Any:
    """Answers an HTTP API event; gives an event of Cognito back as it came, whatever happened."""
    if "triggerSource" not in event:
        return http(event, context)
    if event["triggerSource"].startswith(HANDLED_TRIGGERS):
        remaining = context.get_remaining_time_in_millis() / 1000
        event_loop.run(sign_in_or_log(http, event, min(PATIENCE_SECONDS, remaining - RESERVE_SECONDS)))
    return event


async def sign_in_or_log(handler: LambdaHandler, event: dict[str, Any], patience: float) -> None:
    """Makes the profile within so many seconds; a failure is logged, since raising it would refuse the sign-in."""
    try:
        await _within(patience, sign_in(handler.runtime, event))
    except TimeoutError:
        logger.exception("the profile was not made in time", extra={"trigger": event["triggerSource"]})
    except Exception as error:  # noqa: BLE001 - the first chat makes the profile as well
        logger.exception("the profile was not made", extra={"trigger": event["triggerSource"]})
        await _record(handler, event, error)


async def sign_in(runtime: Runtime, event: dict[str, Any]) -> None:
    """Makes the profile of the user that a trigger of Cognito is about."""
    trigger = PostConfirmationTriggerEvent(event)
    attributes = trigger.request.user_attributes
    issuer = f"https://cognito-idp.{trigger.region}.amazonaws.com/{trigger.user_pool_id}"
    await profiles.record_sign_in(
        runtime.database.during(Call(correlation_id=uuid4())),
        user_id_of(runtime.settings, issuer, attributes["sub"]),
        display_text(attributes.get("email"), 320),
        display_text(attributes.get("name"), 200),
        noted_as=ACTIVITIES.get(event["triggerSource"], "auth_login"),
    )


async def _record(handler: LambdaHandler, event: dict[str, Any], error: Exception) -> None:
    try:
        row = error_log.record(
            handler.runtime.database,
            correlation_id=uuid4(),
            category="profile_creation",
            error_type="auth",
            message=f"The profile of a user was not made at {event['triggerSource']}.",
            cause=error,
        )
        await _within(RESERVE_SECONDS / 2, row)
    except Exception:  # noqa: BLE001 - without settings or a database there is the log line before this
        logger.exception("error row not written")


async def _within(seconds: float, work: Coroutine[Any, Any, object]) -> None:
    """Waits so long and no longer: a cancelled driver asks the server first, which may be what does not answer."""
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait({task}, timeout=max(seconds, 0))
    if not done:
        task.cancel()
        raise TimeoutError
    task.result()
