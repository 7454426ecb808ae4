"""Leaving where one signs in as well: a user who was deleted here is deleted at his identity provider.

What is to be done stands in `private.identity_deletions`, written by the transaction that deletes the user. It is
tried at once, and by the schedule until it has succeeded; whoever is not there any more counts as deleted. So it does
not matter at which point a process dies or a provider fails.

Cognito is asked through boto3, Supabase through its admin API with the service role key. Users of other issuers stay
where they sign in: there is no common way to delete them.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID, uuid4

from threadkeep import error_log
from threadkeep.database import Database, Statement
from threadkeep.identity import SERVICE, Principal
from threadkeep.log import logger
from threadkeep.settings import IssuerSettings, Settings, SettingsError

CONNECT_SECONDS: Final = 3
READ_SECONDS: Final = 5
ATTEMPT_SECONDS: Final = 10.0
MAXIMUM_ANSWER_BYTES: Final = 64 * 1024


class NotDeletedError(Exception):
    """The provider did not delete the user; the text says why in a few words, and holds no secret."""


def wanted(settings: Settings, user: Principal) -> Statement | None:
    """The statement that notes the user's deletion at his provider; None for one whom we do not delete there."""
    issuer = _issuer(settings, user.issuer)
    if issuer is None or user.subject is None or not _is_deleted_there(settings, issuer):
        return None
    note: Final = """
        insert into private.identity_deletions (user_id, issuer, subject)
        values (%(user)s, %(issuer)s, %(subject)s)
        on conflict (user_id) do nothing
    """
    return note, {"user": user.user_id, "issuer": issuer.issuer, "subject": user.subject}


async def attempt(database: Database, settings: Settings, user_id: UUID | None = None) -> bool | None:
    """Tries the deletion of this user, or the one that is due; whether it succeeded, None if there is none to try.

    A failure is recorded and tried again later: after 1, 2, 4 … minutes, at most a day.
    """
    take = "select user_id, issuer, subject from private.take_identity_deletion(%(user)s)"
    row = await database.row(SERVICE, take, {"user": user_id})
    if row is None:
        return None
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            await asyncio.to_thread(_delete, settings, row["issuer"], row["subject"])
    except Exception as error:  # noqa: BLE001 - whatever it was, it is recorded and tried again
        await _put_off(database, row["user_id"], row["issuer"], error)
        return False
    await database.rows(
        SERVICE, "delete from private.identity_deletions where user_id = %(user)s", {"user": row["user_id"]}
    )
    return True


async def _put_off(database: Database, user_id: UUID, issuer: str, error: Exception) -> None:
    # Another exception's text may hold what the provider said.
    is_ours = isinstance(error, NotDeletedError | SettingsError)
    reason = str(error)[:200] if is_ours else type(error).__name__
    logger.warning("a user was not deleted at his identity provider", extra={"issuer": issuer, "reason": reason})
    await database.rows(
        SERVICE,
        "update private.identity_deletions set last_error = %(reason)s where user_id = %(user)s",
        {"reason": reason, "user": user_id},
    )
    await error_log.record(
        database,
        correlation_id=uuid4(),
        category="upkeep:identity_deletions",
        message=f"A deleted user is still known where he signs in ({issuer}): {reason}",
        cause=error,
    )


def _issuer(settings: Settings, name: str | None) -> IssuerSettings | None:
    return next((issuer for issuer in settings.auth_issuers if issuer.issuer == name), None)


def _is_deleted_there(settings: Settings, issuer: IssuerSettings) -> bool:
    if not settings.delete_identities:
        return False
    if issuer.kind == "supabase":
        # The key is that of one project.
        first = next(other for other in settings.auth_issuers if other.kind == "supabase")
        return settings.supabase_service_role_key is not None and issuer is first
    return issuer.kind == "cognito"


def _delete(settings: Settings, issuer_name: str, subject: str) -> None:
    issuer = _issuer(settings, issuer_name)
    if issuer is None or not _is_deleted_there(settings, issuer):
        raise NotDeletedError("the settings have no way to delete users of this issuer any more")
    if issuer.kind == "cognito":
        _delete_in_cognito(issuer.issuer.rstrip("/").rpartition("/")[2], subject)
    else:
        _delete_in_supabase(settings, issuer, subject)


def _delete_in_cognito(pool: str, subject: str) -> None:
    # Loaded here: it takes longer than everything else that the function loads.
    from boto3.session import Session  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 1, "mode": "standard"},
    )
    try:
        # A session of its own: the default one is not to be shared between threads.
        client = Session().client("cognito-idp", region_name=pool.partition("_")[0], config=config)
        try:
            for username in _usernames(client, pool, subject):
                client.admin_delete_user(UserPoolId=pool, Username=username)
        except client.exceptions.UserNotFoundException:
            return
        finally:
            client.close()
    except ClientError as error:
        raise NotDeletedError(error.response["Error"]["Code"]) from error
    except (BotoCoreError, ValueError) as error:
        raise NotDeletedError(type(error).__name__) from error


def _usernames(client: Any, pool: str, subject: str) -> list[str]:
    """The name under which the pool knows the subject: only a local user is also found by his subject as a name."""
    quoted = subject.replace("\\", "\\\\").replace('"', '\\"')
    found = client.list_users(UserPoolId=pool, Filter=f'sub = "{quoted}"', Limit=2)["Users"]
    return [user["Username"] for user in found if {"Name": "sub", "Value": subject} in user["Attributes"]]


def _delete_in_supabase(settings: Settings, issuer: IssuerSettings, subject: str) -> None:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class NoRedirects(HTTPRedirectHandler):
        """The key is for the project's own address, and for no other."""

        def redirect_request(self, *_: Any) -> None:
            return None

    assert settings.supabase_service_role_key is not None
    key = settings.supabase_service_role_key.get_secret_value()
    base = settings.supabase_url or issuer.issuer.rstrip("/").removesuffix("/auth/v1")
    if not base.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise NotDeletedError("SUPABASE_URL is missing, and the issuer is no https:// address")
    request = Request(  # noqa: S310
        f"{base.rstrip('/')}/auth/v1/admin/users/{quote(subject, safe='')}",
        method="DELETE",
        headers={"apikey": key, "Authorization": f"Bearer {key}", "User-Agent": "threadkeep"},
    )
    try:
        with build_opener(NoRedirects).open(request, timeout=READ_SECONDS):
            return
    except HTTPError as error:
        with error:
            if error.code == 404 and _says_not_found(error.read(MAXIMUM_ANSWER_BYTES)):
                return
        raise NotDeletedError(f"HTTP {error.code}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise NotDeletedError(type(error).__name__) from error


def _says_not_found(body: bytes) -> bool:
    """Whether it is the user who is not there, and not the address that is wrong."""
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and (
        answer.get("error_code") == "user_not_found" or answer.get("msg") == "User not found"
    )
