"""Who calls: from the token of a request to the principal that the database sees.

A token is a bearer token of a configured issuer, or a guest token of our own. Whatever an issuer's token holds, only
normalised claims go on from here. A bad token is refused; it never makes its caller a guest or anonymous.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID, uuid5

from threadkeep import guests, issuers, tokens
from threadkeep.errors import ThreadkeepError
from threadkeep.settings import GUEST_ISSUER, IssuerSettings, Settings, SettingsError

if TYPE_CHECKING:
    from jwt import PyJWK

USERS: Final = UUID("a2882d1e-82b8-4f24-87fc-4231f13ef81f")

# Supabase's keys for whole projects (`anon`, `service_role`) do not name the project's address as their issuer.
SUPABASE_KEY_ISSUERS: Final = frozenset({"supabase", "supabase-demo"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller: a user of an issuer, a guest, or nobody in particular (`ANONYMOUS`).

    `issuer`, `subject`, `email` and `name` are the token's; the last two are for display and decide nothing. The times
    are UTC. `by_cookie` says that the token came as a cookie, which needs an allowed Origin.
    """

    user_id: UUID | None
    role: Literal["anon", "authenticated"]
    is_admin: bool = False
    is_guest: bool = False
    issuer: str | None = None
    subject: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)
    name: str | None = field(default=None, repr=False)
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    by_cookie: bool = False

    @property
    def claims(self) -> str:
        """The JSON for `request.jwt.claims`: `{sub, role, app_metadata: {role}, is_anonymous}` and nothing else."""
        return json.dumps(
            {
                "sub": str(self.user_id) if self.user_id else None,
                "role": self.role,
                "app_metadata": {"role": "admin" if self.is_admin else "user"},
                "is_anonymous": self.is_guest,
            }
        )


@dataclass(frozen=True, slots=True)
class Service:
    """The system itself, for the little code that must act beyond what its caller may do. No token leads here."""

    role: Literal["service_role"] = "service_role"
    claims: str = '{"role": "service_role"}'


ANONYMOUS: Final = Principal(user_id=None, role="anon")
SERVICE: Final = Service()


def user_id_of(settings: Settings, issuer: str, subject: str) -> UUID:
    """The user that an issuer's `sub` stands for.

    The primary issuer's lower-case UUIDs are taken as they are, so that they equal `auth.users.id` on Supabase. All
    else is hashed with the issuer's name: no other issuer can give out the id of a primary issuer's user.
    """
    if settings.auth_issuers and issuer == settings.auth_issuers[0].issuer and _LOWER_CASE_UUID.fullmatch(subject):
        return UUID(subject)
    return uuid5(USERS, f"{issuer}\n{subject}")


class Authenticator:
    """Checks tokens against the settings; one for a process, because it keeps the issuers' keys.

    `clock` gives seconds since 1970.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        # Loaded here, at the cold start, rather than in the first request.
        import jwt  # noqa: F401

        if settings.guests_enabled and settings.guest_token_keys is None:
            raise SettingsError("GUEST_TOKEN_KEYS: missing or empty, and GUESTS_ENABLED is not false")
        self._settings = settings
        self._clock = clock
        self._issuers = {issuer.issuer: issuer for issuer in settings.auth_issuers}
        self._key_sets = {
            issuer.issuer: issuers.KeySet(issuer.key_set_url, clock)
            for issuer in settings.auth_issuers
            if issuer.key_set_url
        }

    async def authenticate(self, bearer: str | None, cookie: str | None) -> Principal:
        """The caller with this bearer token and this guest cookie, each without prefix, or None.

        The bearer token wins, except one that stands for nobody (Supabase's `anon` key); a cookie holds a guest token
        only. Raises `unauthorized:auth` for a bad token and `unavailable:auth` while the issuer's keys cannot be had.
        """
        try:
            principal = ANONYMOUS if bearer is None else await self._of_bearer(tokens.read(bearer))
            if principal is ANONYMOUS and cookie:
                principal = replace(self._of_guest(cookie), by_cookie=True)
        except tokens.TokenError as error:
            raise ThreadkeepError("unauthorized:auth") from error
        if principal.is_guest and not self._settings.guests_enabled:
            raise ThreadkeepError("unauthorized:auth", "Guests are not let in here. Sign in and try again.")
        return principal

    async def _of_bearer(self, token: tokens.UnverifiedToken) -> Principal:
        if token.issuer == GUEST_ISSUER:
            return self._of_guest(token.text)
        issuer = self._issuers.get(token.issuer)
        if issuer is None:
            return self._of_project_key(token)
        claims = tokens.verify(
            token,
            await self._key(issuer, token),
            audience=None if issuer.kind == "cognito" else issuer.audience,
            now=self._clock(),
        )
        if issuer.kind == "cognito":
            _check_cognito_access(issuer, claims)
        return _principal(self._settings, issuer, claims)

    def _of_guest(self, text: str) -> Principal:
        if self._settings.guest_token_keys is None:
            raise tokens.TokenError("there are no guests here")
        guest = guests.read_guest(self._settings, text, now=self._clock())
        return Principal(
            user_id=guest.user_id,
            role="authenticated",
            is_guest=True,
            issuer=GUEST_ISSUER,
            subject=str(guest.user_id),
            issued_at=guest.issued_at,
            expires_at=guest.expires_at,
        )

    async def _key(self, issuer: IssuerSettings, token: tokens.UnverifiedToken) -> PyJWK:
        if token.algorithm == tokens.SHARED_KEY_ALGORITHM:
            if issuer.shared_secret is None:
                raise tokens.TokenError("its issuer has no secret to sign with")
            return tokens.shared_key(issuer.shared_secret.get_secret_value())
        key_set = self._key_sets.get(issuer.issuer)
        if key_set is None or token.key_id is None or not tokens.is_public_key_algorithm(token.algorithm):
            raise tokens.TokenError("its issuer has no such key")
        return await key_set.key(token.key_id)

    def _of_project_key(self, token: tokens.UnverifiedToken) -> Principal:
        """Supabase's clients send the project's `anon` key as their token while nobody is signed in."""
        if token.issuer not in SUPABASE_KEY_ISSUERS or token.algorithm != tokens.SHARED_KEY_ALGORITHM:
            raise tokens.TokenError("its issuer is not let in")
        for issuer in self._settings.auth_issuers:
            if issuer.kind != "supabase" or issuer.shared_secret is None:
                continue
            try:
                key = tokens.shared_key(issuer.shared_secret.get_secret_value())
                claims = tokens.verify(token, key, audience=None, now=self._clock())
            except tokens.TokenError:
                continue
            if claims.get("role") == "anon":
                return ANONYMOUS
        raise tokens.TokenError("it is not the anon key of a project that is let in")


_LOWER_CASE_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _check_cognito_access(issuer: IssuerSettings, claims: Mapping[str, Any]) -> None:
    """A Cognito access token has no `aud` to compare; an id token has one, but is not meant for an API."""
    if claims.get("token_use") != "access":
        raise tokens.TokenError("it is not an access token")
    if claims.get("client_id") not in issuer.audience:
        raise tokens.TokenError("it is for another app client")


def _principal(settings: Settings, issuer: IssuerSettings, claims: Mapping[str, Any]) -> Principal:
    role = claims.get("role", "authenticated")
    if role == "anon":
        return ANONYMOUS
    if role != "authenticated":
        raise tokens.TokenError("its role is not one of a user")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
        raise tokens.TokenError("its subject is missing or not a plain text")
    is_guest = claims.get("is_anonymous") is True
    return Principal(
        user_id=user_id_of(settings, issuer.issuer, subject),
        role="authenticated",
        is_admin=not is_guest and _is_admin(issuer, claims),
        is_guest=is_guest,
        issuer=issuer.issuer,
        subject=subject,
        email=display_text(claims.get("email"), 320),
        name=display_text(claims.get("name") or _member(claims, "user_metadata", "full_name"), 200),
        issued_at=_time(claims, "iat"),
        expires_at=_time(claims, "exp"),
    )


def _is_admin(issuer: IssuerSettings, claims: Mapping[str, Any]) -> bool:
    """By what only the issuer's administrators can set; `user_metadata` is the user's own to edit."""
    groups = claims.get("cognito:groups") if issuer.kind == "cognito" else None
    in_group = isinstance(groups, list) and "admin" in groups
    return in_group or _member(claims, "app_metadata", "role") == "admin"


def _member(claims: Mapping[str, Any], claim: str, member: str) -> object:
    value = claims.get(claim)
    return value.get(member) if isinstance(value, dict) else None


def display_text(value: object, maximum: int) -> str | None:
    """A name or an address, without what PostgreSQL cannot store (NUL, lone surrogates) or does not fit on one line."""
    if not isinstance(value, str):
        return None
    return "".join(character for character in value if character.isprintable()).strip()[:maximum] or None


def _time(claims: Mapping[str, Any], claim: str) -> datetime | None:
    value = tokens.seconds(claims, claim)
    return None if value is None else datetime.fromtimestamp(value, UTC)
