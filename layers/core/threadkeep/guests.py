"""Guests: the tokens that we sign ourselves for callers without an account."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from threadkeep import addresses, tokens
from threadkeep.settings import GUEST_ISSUER, Settings

if TYPE_CHECKING:
    from threadkeep.identity import Principal

LIFETIME: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class GuestToken:
    """A guest's token and what it says; the times are UTC."""

    token: str = field(repr=False)
    user_id: UUID
    issued_at: datetime
    expires_at: datetime


def issue_guest(settings: Settings, user_id: UUID | None = None, *, now: float | None = None) -> GuestToken:
    """A token of 30 days for a guest: this one, or a new one with a random id.

    `now` is in seconds since 1970. It is signed by the first of GUEST_TOKEN_KEYS.
    """
    import jwt

    key_id, secret = next(iter(settings.guest_keys().items()))
    user_id = user_id or uuid4()
    issued_at = datetime.fromtimestamp(int(time.time() if now is None else now), UTC)
    expires_at = issued_at + LIFETIME
    token = jwt.encode(
        {"iss": GUEST_ISSUER, "sub": str(user_id), "iat": issued_at, "exp": expires_at},
        tokens.shared_key(secret, key_id),
        tokens.SHARED_KEY_ALGORITHM,
        headers={"kid": key_id},
    )
    return GuestToken(token, user_id, issued_at, expires_at)


def read_guest(settings: Settings, token: str, *, now: float | None = None) -> GuestToken:
    """What a guest's token says, if one of GUEST_TOKEN_KEYS signed it and it has not expired; else TokenError."""
    unverified = tokens.read(token)
    secret = settings.guest_keys().get(unverified.key_id or "")
    if secret is None or unverified.issuer != GUEST_ISSUER:
        raise tokens.TokenError("none of the guest keys signed it")
    moment = time.time() if now is None else now
    claims = tokens.verify(unverified, tokens.shared_key(secret), audience=None, now=moment)
    return GuestToken(
        token,
        UUID(claims["sub"]),
        datetime.fromtimestamp(claims["iat"], UTC),
        datetime.fromtimestamp(claims["exp"], UTC),
    )


def renewed_guest(settings: Settings, principal: Principal, *, now: float | None = None) -> GuestToken | None:
    """A fresh token for the same guest once half of the old one's time is spent, else None.

    To be sent with an answer that succeeded: a guest that has ended must not get another 30 days.
    """
    if principal.issuer != GUEST_ISSUER or principal.issued_at is None or principal.expires_at is None:
        return None
    moment = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    half = principal.issued_at + (principal.expires_at - principal.issued_at) / 2
    return issue_guest(settings, principal.user_id, now=now) if moment >= half else None


def address_hash(settings: Settings, address: str) -> str:
    """64 hexadecimal digits that stand for a client's address wherever guests are counted.

    Of an IPv6 address its /64 counts, which is what one client is given. What is no address shares one hash. Without
    the signing key of the guests the address cannot be found by trying all of them.
    """
    secret = next(iter(settings.guest_keys().values()))
    key = hmac.digest(secret.encode(), b"threadkeep address", hashlib.sha256)
    return hmac.digest(key, _network(address).encode(), hashlib.sha256).hex()


def _network(address: str) -> str:
    found = addresses.parsed(address)
    if found is None:
        return "unknown"
    return f"v6 {int(found) >> 64:016x}" if found.version == 6 else str(found)
