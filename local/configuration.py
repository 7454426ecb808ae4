"""What one machine adds to the environment: its data folder, its keys, its own issuer of tokens."""

from __future__ import annotations

import base64
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ISSUER: Final = "threadkeep-local"
AUDIENCE: Final = "threadkeep"
ENV_FILE: Final = Path(__file__).parents[1] / ".env"


@dataclass(frozen=True, slots=True)
class Keys:
    """Secrets made at the first start and kept in the data folder, readable to their owner alone."""

    issuer: str
    guests: str
    hooks: str

    @classmethod
    def of(cls, data_dir: Path) -> Keys:
        path = data_dir / "keys.json"
        data_dir.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(**json.loads(path.read_text()))
        keys = cls(
            issuer=secrets.token_urlsafe(48),
            guests=secrets.token_urlsafe(48),
            hooks="whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        )
        with os.fdopen(descriptor, "w") as file:
            json.dump({"issuer": keys.issuer, "guests": keys.guests, "hooks": keys.hooks}, file)
        return keys


def environment(given: Mapping[str, str] = os.environ, env_file: Path = ENV_FILE) -> dict[str, str]:
    """The environment with what `.env` adds to it; what is set already wins."""
    values: dict[str, str] = {}
    if env_file.exists():
        for line in env_file.read_text().splitlines():
            name, separator, value = line.strip().removeprefix("export ").partition("=")
            if separator and not name.startswith("#"):
                values[name.strip()] = value.strip().strip("\"'")
    return values | dict(given)


def data_dir(environ: Mapping[str, str]) -> Path:
    """The folder that holds everything the local system keeps."""
    return Path(environ.get("DATA_DIR") or ".data").expanduser().resolve()


def with_defaults(environ: Mapping[str, str], keys: Keys, database_url: str) -> dict[str, str]:
    """The settings of the local server: those given, and this machine's where none are."""
    defaults: dict[str, Any] = {
        "FILES_DIRECTORY": str(data_dir(environ) / "files"),
        # Of a key that is there: a data folder of an earlier version has no key for files.
        "FILES_SIGNING_KEY": hmac.digest(keys.guests.encode(), b"threadkeep files", "sha256").hex(),
        "DATABASE_POOL_SIZE": "8",
        "AUTH_ISSUERS": json.dumps([local_issuer(keys)]),
        "GUEST_TOKEN_KEYS": json.dumps({"local": keys.guests}),
        "AUTH_HOOK_SECRETS": keys.hooks,
    }
    present = {name: value for name, value in environ.items() if value}
    return defaults | present | {"DATABASE_URL": database_url}


def local_issuer(keys: Keys) -> dict[str, Any]:
    """The issuer whose tokens `make token` prints."""
    return {"issuer": ISSUER, "kind": "oidc", "audience": AUDIENCE, "secret": keys.issuer}
