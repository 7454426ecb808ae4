"""Who calls, as dependencies of the routes.

`Caller` is anybody, signed in or not; `SignedIn` is a user or guest, else 401; `Administrator` has that role, else 403;
`Visitor` makes a guest on the way of whoever brings no token. Each is the principal alone; a `Moment` is the request's
surroundings.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final
from uuid import UUID

from fastapi import Depends, Request

from threadkeep import profiles
from threadkeep.activity import Call
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.guests import address_hash, issue_guest, read_guest, renewed_guest
from threadkeep.identity import Principal
from threadkeep.settings import Settings
from threadkeep.tokens import TokenError
from threadkeep.web.calls import call_of
from threadkeep.web.edge import GUEST_COOKIE

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Moment:
    """What a route needs besides its input: the process's parts, and the request as the logs know it.

    What is done through its `database` is on record as this request's activity (`threadkeep.activity`).
    """

    settings: Settings
    database: Database
    call: Call
    new_guest: bool
    guest_address: str | None

    @property
    def correlation_id(self) -> UUID:
        """What joins all that is logged of the request."""
        return self.call.correlation_id


async def moment(request: Request) -> Moment:
    """The surroundings of a request; `guest_address` is a hash, and only there for a guest."""
    runtime = request.app.state.runtime
    principal: Principal | None = getattr(request.state, "principal", None)
    new_guest = getattr(request.state, "new_guest", False)
    is_guest = principal is not None and principal.is_guest
    call = call_of(request)
    return Moment(
        settings=runtime.settings,
        database=runtime.database.during(call),
        call=call,
        new_guest=new_guest,
        guest_address=address_hash(runtime.settings, call.address or "") if is_guest else None,
    )


def end_guest(request: Request, user_id: UUID) -> None:
    """The answer renews no token of this guest, and takes the cookie back if it is his."""
    request.state.guest_token = None
    cookie = request.cookies.get(GUEST_COOKIE)
    with suppress(TokenError):
        request.state.guest_cookie_ended = (
            cookie is not None and read_guest(request.app.state.runtime.settings, cookie).user_id == user_id
        )


async def _caller(request: Request) -> Principal:
    runtime = request.app.state.runtime
    bearer = _bearer(request)
    try:
        principal: Principal = await runtime.authenticator.authenticate(bearer, request.cookies.get(GUEST_COOKIE))
    except ThreadkeepError as error:
        # A page cannot remove an HttpOnly cookie: with a bad one its browser would be refused for 30 days.
        request.state.guest_cookie_ended = bearer is None and error.code == "unauthorized:auth"
        raise
    if principal.by_cookie:
        _check_origin(request, runtime.settings)
    request.state.principal = principal
    if (renewed := renewed_guest(runtime.settings, principal)) is not None:
        await profiles.keep_guest(runtime.database, principal)
        request.state.guest_token = renewed
    return principal


async def _signed_in(principal: Annotated[Principal, Depends(_caller)]) -> Principal:
    if principal.user_id is None:
        raise ThreadkeepError("unauthorized:auth")
    return principal


async def _administrator(principal: Annotated[Principal, Depends(_signed_in)]) -> Principal:
    if not principal.is_admin:
        raise ThreadkeepError("forbidden:auth")
    return principal


async def _visitor(request: Request, principal: Annotated[Principal, Depends(_caller)]) -> Principal:
    if principal.user_id is not None:
        return principal
    runtime = request.app.state.runtime
    if not runtime.settings.guests_enabled:
        raise ThreadkeepError("unauthorized:auth")
    guest = issue_guest(runtime.settings)
    principal = await runtime.authenticator.authenticate(guest.token, None)
    request.state.principal = principal
    request.state.guest_token = guest
    request.state.new_guest = True
    return principal


Caller = Annotated[Principal, Depends(_caller)]
SignedIn = Annotated[Principal, Depends(_signed_in)]
Administrator = Annotated[Principal, Depends(_administrator)]
Visitor = Annotated[Principal, Depends(_visitor)]


def _bearer(request: Request) -> str | None:
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise ThreadkeepError("unauthorized:auth", "Send the token as `Authorization: Bearer …`.")
    return token.strip()


def _check_origin(request: Request, settings: Settings) -> None:
    """A cookie comes along with whatever page makes the browser call, so that page must be an allowed one.

    Reading by navigation sends no Origin and changes nothing; its answer is readable to the same site only.
    """
    origin = request.headers.get("origin")
    if origin is None and request.method in SAFE_METHODS:
        return
    if origin is None or not settings.allows_origin(origin):
        raise ThreadkeepError("forbidden:origin")
