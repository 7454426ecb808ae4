"""JSON web tokens: reading one, and the rules that it must keep whoever signed it.

A key carries its one algorithm. A token's header only chooses among the keys of its issuer; it is compared with the
key's algorithm and never decides it, so neither `alg: none` nor HS256 with a public key for a secret can pass.

PyJWT is loaded where it is used, because its cryptography takes longer to load than all the rest of the core layer
and the functions that never see a token import this layer too.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jwt import PyJWK

MAXIMUM_TOKEN_BYTES: Final = 8192
LEEWAY_SECONDS: Final = 30

SHARED_KEY_ALGORITHM: Final = "HS256"
PUBLIC_KEY_ALGORITHMS: Final[Mapping[tuple[str, str | None], tuple[str, ...]]] = {
    # By type and curve; the first is that of a key whose issuer does not say.
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("EdDSA",),
}

# The last second of the year 9999, the last that a datetime can hold.
_LATEST: Final = 253402300799


class TokenError(Exception):
    """A token is not to be believed; the text says why, for the log and not for the caller."""


@dataclass(frozen=True, slots=True, repr=False)
class UnverifiedToken:
    """What a token says of itself, to find the key that it must have been signed with. Nothing in it is proven."""

    text: str
    issuer: str
    algorithm: str
    key_id: str | None


def read(text: str) -> UnverifiedToken:
    """Parse a token without believing it; TokenError if it is none."""
    import jwt

    if len(text) > MAXIMUM_TOKEN_BYTES or not text.isascii():
        raise TokenError("it is too long, or has characters that no token has")
    try:
        parts = jwt.decode_complete(text, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise TokenError("it is not a JSON web token") from error
    issuer = parts["payload"].get("iss")
    algorithm = parts["header"].get("alg")
    if not isinstance(issuer, str) or not isinstance(algorithm, str):
        raise TokenError("it names no issuer or no algorithm")
    return UnverifiedToken(text, issuer, algorithm, parts["header"].get("kid"))


def verify(token: UnverifiedToken, key: PyJWK, *, audience: Sequence[str] | None, now: float) -> dict[str, Any]:
    """The claims of a token that this key signed, for one of these audiences (None: not compared), at this time.

    `now` is in seconds since 1970. An expiry is required; clocks may differ by 30 seconds. TokenError says what is
    wrong.
    """
    import jwt

    try:
        claims: dict[str, Any] = jwt.decode(
            token.text,
            key,
            algorithms=[key.algorithm_name],
            audience=audience,
            issuer=token.issuer,
            options={
                "enforce_minimum_key_length": True,
                "verify_aud": audience is not None,
                # PyJWT reads the machine's clock; the times are compared with `now` below.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except jwt.PyJWTError as error:
        raise TokenError(str(error)) from error
    _check_times(claims, now)
    return claims


def _check_times(claims: dict[str, Any], now: float) -> None:
    expires_at = seconds(claims, "exp")
    if expires_at is None:
        raise TokenError("it never expires")
    if expires_at <= now - LEEWAY_SECONDS:
        raise TokenError("it has expired")
    for claim in ("nbf", "iat"):
        since = seconds(claims, claim)
        if since is not None and since > now + LEEWAY_SECONDS:
            raise TokenError(f"it is not valid yet ({claim})")


def seconds(claims: Mapping[str, Any], claim: str) -> float | None:
    """A time of the claims in seconds since 1970, or None if it is absent; TokenError if it is no time."""
    if claim not in claims:
        return None
    value = claims[claim]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise TokenError(f"{claim} is not a time")
    return value


def public_key(jwk: object) -> PyJWK | None:
    """A public key for signatures from an issuer's key set, or None for anything else that may be in there."""
    import jwt

    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or not isinstance(jwk.get("kid"), str):
        return None
    try:
        allowed = PUBLIC_KEY_ALGORITHMS[jwk["kty"], jwk.get("crv")]
        algorithm = jwk.get("alg", allowed[0])
        return jwt.PyJWK(jwk, algorithm) if algorithm in allowed else None
    except (KeyError, TypeError, ValueError, jwt.PyJWTError):
        return None


def is_public_key_algorithm(algorithm: str) -> bool:
    """Whether any public key could have made such a signature; if not, no issuer needs to be asked."""
    return any(algorithm in algorithms for algorithms in PUBLIC_KEY_ALGORITHMS.values())


def shared_key(secret: str, key_id: str | None = None) -> PyJWK:
    """The HS256 key of a secret text."""
    import jwt

    encoded = base64.urlsafe_b64encode(secret.encode()).rstrip(b"=").decode()
    return jwt.PyJWK({"kty": "oct", "k": encoded, "kid": key_id}, SHARED_KEY_ALGORITHM)
