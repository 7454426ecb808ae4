"""Prints a bearer token for the local server: `python -m local.token --role admin`."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, uuid5

import jwt

from local.configuration import AUDIENCE, ISSUER, Keys, data_dir, environment


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.token", description=__doc__)
    parser.add_argument("--role", choices=["user", "admin"], default="user")
    parser.add_argument("--user", default="", help="a name; the same name is the same user")
    chosen = parser.parse_args()
    name = chosen.user or f"local-{chosen.role}"
    print(token(Keys.of(data_dir(environment())), name, is_admin=chosen.role == "admin"))


def token(keys: Keys, name: str, *, is_admin: bool) -> str:
    """A token of the local issuer, good for 12 hours; each name is a user of its own."""
    now = datetime.now(UTC)
    return jwt.encode(
        {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(uuid5(NAMESPACE_URL, f"threadkeep:{name}")),
            "iat": now,
            "exp": now + timedelta(hours=12),
            "role": "authenticated",
            "email": f"{name}@example.com",
            "app_metadata": {"role": "admin" if is_admin else "user"},
        },
        keys.issuer,
        "HS256",
    )


if __name__ == "__main__":
    main()
