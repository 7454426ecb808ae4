"""Profiles: the root of everything a user has, made at sign-up, at sign-in or on the way, and ended once.

A profile that ends by deletion or by a claim leaves a mark for 31 days, longer than any token lives. The mark refuses
the user's tokens, and no sign-in, webhook or chat makes the profile again while it is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from threadkeep import activity, identity_deletion
from threadkeep.activity import ActivityType
from threadkeep.database import Database, Statement
from threadkeep.errors import ThreadkeepError, invalid
from threadkeep.guests import GuestToken, address_hash, issue_guest, read_guest
from threadkeep.identity import SERVICE, Principal
from threadkeep.log import logger
from threadkeep.settings import GUEST_ISSUER, Settings
from threadkeep.tokens import TokenError

MAXIMUM_PREFERENCES_BYTES: Final = 16 * 1024

IdentityDeletion = Literal["deleted", "pending", "kept"]

_READ: Final = """
    select id, email, full_name, preferences, is_guest, created_at, updated_at
    from public.user_profiles
    where id = %(user)s
"""


@dataclass(frozen=True, slots=True)
class Profile:
    """What the system knows of a user; the times are UTC."""

    id: UUID
    email: str | None
    full_name: str | None
    preferences: dict[str, Any]
    is_guest: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """What an account took over from a guest, in numbers; all are 0 when the claim is a repeated one."""

    guest_id: UUID
    sessions: int
    documents: int


async def heir(database: Database, guest: Principal) -> Principal | None:
    """The account that took a guest over, as a caller; None if none did, or it is gone or disabled itself.

    For work that a guest began: it ends as the account's.
    """
    if not guest.is_guest:
        return None
    row = await database.row(
        SERVICE,
        """
        select p.id
        from private.revoked_principals as r
        join public.user_profiles as p on p.id = r.claimed_by
        where r.user_id = %(guest)s
            and p.disabled_at is null
        """,
        {"guest": guest.user_id},
    )
    return Principal(user_id=row["id"], role="authenticated") if row else None


def ensured(user: Principal) -> Statement:
    """The statement after which the user's profile is there, and stays until the transaction ends.

    It goes first, for a profile is locked before all else, and refuses a disabled or deleted user itself.
    """
    return "select private.ensure_profile(%(email)s, %(name)s)", {"email": user.email, "name": user.name}


async def make_guest(database: Database, settings: Settings, address: str) -> GuestToken:
    """A new guest with a profile; `address` is the client's, as it was seen.

    Raises `rate_limit:guest` when the address or all together made enough of them this hour, and `unauthorized:auth`
    where guests are switched off.
    """
    if not settings.guests_enabled:
        raise ThreadkeepError("unauthorized:auth", "Guests are not let in here. Sign in and try again.")
    guest = issue_guest(settings)
    principal = Principal(user_id=guest.user_id, role="authenticated", is_guest=True)
    await database.run(
        principal,
        ("select private.take_guest(%(address)s)", {"address": address_hash(settings, address)}),
        ensured(principal),
        activity.noting(activity.note(database, "auth_guest")),
        require_active=False,
    )
    return guest


async def keep_guest(database: Database, guest: Principal) -> None:
    """Notes that a guest is still around; called whenever his token is renewed."""
    await database.rows(guest, "select private.keep_guest()")


async def own(database: Database, user: Principal, *, noted_as: ActivityType | None = None) -> Profile:
    """The user's own profile; it is made if it is missing."""
    if noted_as is None:
        return await _own(database, user)
    return await _own(database, user, activity.noting(activity.note(database, noted_as)))


async def change(database: Database, user: Principal, changes: dict[str, Any]) -> Profile:
    """The user's own profile with another `full_name` (None: none), other `preferences`, or both.

    The preferences replace those that were there.
    """
    preferences = changes.get("preferences")
    update = """
        update public.user_profiles
        set full_name = case when %(has_name)s then %(full_name)s else full_name end,
            preferences = coalesce(%(preferences)s, preferences)
        where id = %(user)s
        returning private.log_user_activity(%(activity)s)
    """
    values = {
        "user": user.user_id,
        "has_name": "full_name" in changes,
        "full_name": changes.get("full_name"),
        "preferences": None if preferences is None else Jsonb(preferences),
        "activity": activity.note(
            database, "account_update", ("account", user.user_id), metadata={"changed": sorted(changes)}
        ),
    }
    return await _own(database, user, (update, values))


async def claim(database: Database, settings: Settings, account: Principal, guest_token: str) -> Claim:
    """Moves everything of a guest to an account and ends the guest's token; the ids of all rows stay.

    Can be repeated. Raises `forbidden:auth` if the caller is a guest too, `invalid:api` if the token is no guest's, and
    `conflict:guest` if another account was faster, or the guest was deleted.
    """
    if account.is_guest:
        raise ThreadkeepError("forbidden:auth", "Sign in to an account to take over what you did as a guest.")
    guest_id = _guest_of(settings, guest_token)
    row = await database.row(
        SERVICE,
        """
        select made.claimed, private.log_user_activity(%(activity)s)
        from private.claim_guest(%(account)s, %(guest)s, %(email)s, %(name)s) as made (claimed)
        """,
        {
            "account": account.user_id,
            "guest": guest_id,
            "email": account.email,
            "name": account.name,
            "activity": activity.note(database, "auth_claim", ("account", guest_id), user_id=account.user_id),
        },
    )
    assert row is not None
    return Claim(guest_id, **row["claimed"])


async def delete_own(database: Database, settings: Settings, user: Principal) -> IdentityDeletion | None:
    """Deletes the user with everything, and where he signs in; his tokens are refused from now on. Can be repeated.

    What became of him where he signs in: `deleted`, `pending` (the schedule goes on trying), or `kept` by a provider
    in which nobody is deleted from here; there he can sign in again, and has an empty profile once the mark of 31 days
    has expired. None for a guest of ours, whom nobody else knows.
    """
    delete: Statement = ("select private.delete_own_account(%(user)s)", {"user": user.user_id})
    noted = identity_deletion.wanted(settings, user)
    await database.run(SERVICE, *([delete] if noted is None else [delete, noted]))
    # What is on record of him goes with him, so that this line is all there is.
    correlation = database.call and str(database.call.correlation_id)
    logger.info("account deleted", extra={"user_id": str(user.user_id), "correlation_id": correlation})
    if noted is None:
        return None if user.issuer == GUEST_ISSUER else "kept"
    try:
        is_done = await identity_deletion.attempt(database, settings, user.user_id)
    except ThreadkeepError:
        # He is deleted here, and what is left to do is noted.
        logger.warning("a deletion at the identity provider waits for the schedule", exc_info=True)
        return "pending"
    return "deleted" if is_done else "pending"


async def record_sign_in(
    database: Database,
    user_id: UUID,
    email: str | None,
    name: str | None,
    *,
    noted_as: ActivityType = "auth_login",
) -> bool:
    """A user of an identity provider signed up or in: his profile is there afterwards, with this address.

    A registration that is told again is on record once. False for a deleted user, who is not brought back.
    """
    row = await database.row(
        SERVICE,
        """
        select
            made.recorded,
            case when made.recorded and not (
                %(is_registration)s
                and exists (
                    select from public.user_activity_logs as l
                    where l.user_id = %(user)s
                        and l.activity_type = 'auth_register'
                )
            ) then private.log_user_activity(%(activity)s) end
        from private.record_sign_in(%(user)s, %(email)s, %(name)s) as made (recorded)
        """,
        {
            "user": user_id,
            "email": email,
            "name": name,
            "is_registration": noted_as == "auth_register",
            "activity": activity.note(
                database, noted_as, ("account", user_id), user_id=user_id, metadata={"email": email}
            ),
        },
    )
    return row is not None and row["recorded"] is True


async def remove(database: Database, user_id: UUID) -> bool:
    """A user was deleted where he signs in: deletes him here with everything; whether there was a profile."""
    row = await database.row(SERVICE, "select private.remove_user(%(user)s) as removed", {"user": user_id})
    return row is not None and row["removed"] is True


async def _own(database: Database, user: Principal, *changes: Statement) -> Profile:
    read = (_READ, {"user": user.user_id})
    # The first statement refuses a disabled or deleted caller itself.
    results = await database.run(user, ensured(user), *changes, read, require_active=False)
    return Profile(**results[-1][0])


def _guest_of(settings: Settings, token: str) -> UUID:
    try:
        if settings.guest_token_keys is None:
            raise TokenError("there are no guests here")
        return read_guest(settings, token).user_id
    except TokenError:
        raise invalid("guestToken", "This is no guest's token, or it has expired.") from None
