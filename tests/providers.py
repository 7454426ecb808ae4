"""The identity providers of the tests: a Cognito user pool as the primary issuer, and another one that signs here."""

from __future__ import annotations

from typing import Any

import jwt

POOL = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Xy7dE9pQa"
OTHER_ISSUER = "https://issuer.example.com"
OTHER_SECRET = "i" * 48
HOOK_SECRET = "whsec_aG9vay1zZWNyZXQtb2YtMzItYnl0ZXMtaW4tdGVzdHM="
OLD_HOOK_SECRET = "whsec_b2xkLWhvb2stc2VjcmV0LW9mLTMyLWJ5dGVzLWhlcmU="

ISSUERS: list[dict[str, Any]] = [
    {"issuer": POOL, "kind": "cognito", "audience": "5q1v8k3m2n7r4t6w9y0z1x2c3b"},
    {"issuer": OTHER_ISSUER, "kind": "oidc", "audience": "threadkeep", "secret": OTHER_SECRET},
]


def bearer(subject: str, **claims: Any) -> dict[str, str]:
    """The header of a user whom the other issuer signed in."""
    said = {"iss": OTHER_ISSUER, "aud": "threadkeep", "sub": subject, "exp": 4_000_000_000} | claims
    return {"authorization": f"Bearer {jwt.encode(said, OTHER_SECRET, 'HS256')}"}
