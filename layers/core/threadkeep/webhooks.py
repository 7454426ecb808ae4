"""The auth webhook: what an identity provider tells us of its users, signed by Standard Webhooks.

The payload is `{"type": "user.created" | "user.deleted", "data": {"id", "email"?, "name"?, "issuer"?}}`: `id` is the
user's `sub`, `issuer` one of AUTH_ISSUERS, and the first of them if it is not given. Other types that a provider sends
are answered as done, so that it does not repeat them for ever; they change nothing. Members that are not named here
are ignored.

Supabase's before-user-created hook comes to the same address and is always accepted. The user is not in the database
yet; there the trigger on `auth.users` makes the profile. Another hook of Supabase is refused: its answer would decide
something that was never considered here.

A call is believed for five minutes around its timestamp. Within these the same call again changes nothing, as a
provider must be able to repeat one whose answer was lost, and a deleted user is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints, ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from threadkeep import profiles
from threadkeep.database import Database
from threadkeep.errors import FieldError, ThreadkeepError, invalid
from threadkeep.identity import display_text, user_id_of
from threadkeep.log import logger
from threadkeep.settings import Settings

# As in a token: what could not be a `sub` there would make a profile that nobody can ever reach.
Subject = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class _User(BaseModel):
    id: Subject
    email: str | None = None
    name: str | None = None
    issuer: str | None = None


class _UserEvent(BaseModel):
    data: _User


def verify(settings: Settings, headers: Mapping[str, str], body: bytes) -> None:
    """Raises `unauthorized:hook` unless one of AUTH_HOOK_SECRETS signed this body within the last five minutes."""
    if settings.auth_hook_secrets is None:
        logger.warning("a call of the auth webhook was refused, because AUTH_HOOK_SECRETS is not set")
        raise ThreadkeepError("unauthorized:hook")
    if not is_signed(settings.hook_secrets(), headers, body):
        raise ThreadkeepError("unauthorized:hook")


def is_signed(secrets: Sequence[str], headers: Mapping[str, str], body: bytes) -> bool:
    """Whether one of these secrets (`whsec_…`) signed this body within the last five minutes."""
    for secret in secrets:
        try:
            Webhook(secret).verify(body, dict(headers), json_parse=False)
        except (WebhookVerificationError, ValueError):
            # ValueError: the library takes a malformed header for a well-formed one.
            continue
        return True
    return False


async def receive(database: Database, settings: Settings, body: bytes) -> dict[str, Any]:
    """Does what a verified call says, and gives the JSON to answer with.

    Raises `bad_request:api` if the body is no JSON object, and `invalid:api` if it is none of the above.
    """
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        raise ThreadkeepError("bad_request:api")
    match payload:
        case {"type": "user.created" | "user.deleted" as kind}:
            return {"handled": await _user_event(database, settings, kind, payload)}
        case {"type": str()}:
            return {"handled": False}
        case {"metadata": {"name": "before-user-created"}}:
            return {}
    raise invalid("type", "Send user.created or user.deleted, or Supabase's before-user-created hook.")


async def _user_event(database: Database, settings: Settings, kind: str, payload: dict[str, Any]) -> bool:
    user = _user(payload)
    user_id = user_id_of(settings, _issuer(settings, user.issuer), user.id)
    if kind == "user.deleted":
        return await profiles.remove(database, user_id)
    email, name = display_text(user.email, 320), display_text(user.name, 200)
    return await profiles.record_sign_in(database, user_id, email, name, noted_as="auth_register")


def _user(payload: dict[str, Any]) -> _User:
    try:
        user = _UserEvent.model_validate(payload).data
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        fields = [FieldError(".".join(map(str, problem["loc"])), problem["msg"]) for problem in problems]
        raise ThreadkeepError("invalid:api", fields=fields) from None
    if not user.id.isprintable():
        raise invalid("data.id", "This is not a plain text.")
    return user


def _issuer(settings: Settings, given: str | None) -> str:
    """One of those whose tokens are let in: under another name the call would be for a user that cannot exist."""
    known = [issuer.issuer for issuer in settings.auth_issuers]
    if given is None and known:
        return known[0]
    if given not in known:
        raise invalid("data.issuer", "This is not one of the issuers of AUTH_ISSUERS.")
    return given
