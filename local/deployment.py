"""What a deployment has to know before it begins: `python -m local.deployment [ARGUMENTS OF SAM DEPLOY]`.

The first one is asked for its database: what is answered goes into AWS Secrets Manager, and where it is there into
`samconfig.toml`. A configuration that names a database is left as it is, and nothing is asked.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from threadkeep.settings import API_ROLE

CONFIGURATION: Final = Path(__file__).resolve().parents[1] / "samconfig.toml"
PROVIDERS: Final = {
    "OpenAI": "OpenAiApiKeySecretArn",
    "Anthropic": "AnthropicApiKeySecretArn",
    "Google": "GeminiApiKeySecretArn",
}

Ask = Callable[[str], str]


@dataclass(frozen=True)
class Deployment:
    """One installation of the configuration: the stack's name, its region if it says one, and its parameters."""

    name: str
    stack: str
    region: str | None
    parameters: dict[str, str]

    @classmethod
    def of(cls, configuration: str, name: str) -> Deployment:
        """Raises KeyError if the configuration has none of this name."""
        given = tomllib.loads(configuration)[name]["deploy"]["parameters"]
        overrides = given.get("parameter_overrides", [])
        # `sam deploy --guided` writes one text.
        pairs = re.findall(r'(\w+)="?([^"\s]*)"?', overrides) if isinstance(overrides, str) else None
        pairs = pairs or [pair.split("=", 1) for pair in overrides]
        return cls(name, given["stack_name"], given.get("region"), dict(pairs))

    @property
    def has_database(self) -> bool:
        return self.parameters.get("Database") == "aurora" or "DatabaseUrlSecretArn" in self.parameters


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if the deployment may begin."""
    parser = argparse.ArgumentParser(prog="python -m local.deployment", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config-env", default="default")
    chosen, others = parser.parse_known_args(arguments)
    if {"--guided", "-g", "--parameter-overrides"} & set(others):
        return 0
    configuration = CONFIGURATION.read_text()
    deployment = Deployment.of(configuration, chosen.config_env)
    built = os.environ.get("ARCH") or "arm64"
    if built != (told := deployment.parameters.get("Architecture", "arm64")):
        print(f"Built would be for {built}, and deployed for {told}: say Architecture={built} in samconfig.toml.")
        return 1
    if deployment.has_database:
        return 0
    if not sys.stdin.isatty():
        print(f"samconfig.toml names no database for {deployment.name}: docs/deploy.md says how, a terminal is asked.")
        return 1
    import boto3  # type: ignore[import-untyped]

    session = boto3.session.Session(region_name=deployment.region)
    if session.region_name is None:
        print("Say which region of AWS: region in samconfig.toml, or AWS_DEFAULT_REGION.")
        return 1
    try:
        parameters = asked(deployment, session.client("secretsmanager"), ask=input, ask_secretly=getpass)
    except (EOFError, KeyboardInterrupt):
        print("\nsamconfig.toml is as it was.")
        return 1
    CONFIGURATION.write_text(with_parameters(configuration, deployment.name, deployment.parameters | parameters))
    print("samconfig.toml has it; more that can be set stands in docs/deploy.md.")
    return 0


def asked(deployment: Deployment, store: Any, *, ask: Ask, ask_secretly: Ask) -> dict[str, str]:
    """The parameters that follow from the answers; what is secret is kept in the `store`, Secrets Manager's client."""

    def keep(name: str, value: str) -> str:
        arn: str
        name = f"{deployment.stack}/{name}"
        try:
            arn = store.create_secret(Name=name, SecretString=value)["ARN"]
        except store.exceptions.ResourceExistsException:
            # Of a try before.
            arn = store.put_secret_value(SecretId=name, SecretString=value)["ARN"]
        return arn

    origins = deployment.parameters.get("AllowedOrigins", "http://localhost:3000")
    parameters = {"AllowedOrigins": ask(f"Origins of the front ends, by commas [{origins}]: ").strip() or origins}
    owner = _database(ask_secretly)
    if owner is None:
        parameters["Database"] = "aurora"
    else:
        password = secrets.token_hex(24)
        place = ask("Host and port of its pooler, such as pooler.example.com:6543; empty for none: ").strip()
        user = place and ask(f"User name there, at Supabase {API_ROLE}.PROJECT [{API_ROLE}]: ").strip()
        api = f"{user or API_ROLE}:{password}@{place or owner.netloc.rpartition('@')[2]}"
        parameters["Database"] = "given"
        parameters["MigrationDatabaseUrlSecretArn"] = keep("migration", owner.geturl())
        parameters["ApiDatabasePasswordSecretArn"] = keep("api-password", password)
        parameters["DatabaseUrlSecretArn"] = keep("database", owner._replace(netloc=api).geturl())
    for provider, parameter in PROVIDERS.items():
        if key := ask_secretly(f"Key of {provider}, not shown; empty for none: ").strip():
            parameters[parameter] = keep(provider.lower(), key)
    return parameters


def _database(ask_secretly: Ask) -> SplitResult | None:
    print("A PostgreSQL that is there, as its owner: postgresql://OWNER:PASSWORD@HOST:5432/DATABASE.")
    print("Empty: an Aurora is made, about 170 USD a month while nobody chats.")
    while text := ask_secretly("Its address, not shown: ").strip():
        address = urlsplit(text)
        named = (address.username, address.password, address.hostname, address.path.strip("/"))
        if address.scheme in {"postgresql", "postgres"} and all(named):
            query = address.query if "sslmode=" in address.query else f"{address.query}&sslmode=require".lstrip("&")
            return address._replace(query=query)
        print("That names no postgresql://, user, password, host or database.")
    return None


def with_parameters(configuration: str, name: str, parameters: dict[str, str]) -> str:
    """The configuration with these parameters for an installation, all else as it stands."""
    lines = "".join(f"    {json.dumps(f'{key}={value}')},\n" for key, value in parameters.items())
    section = rf"(^\[{re.escape(name)}\.deploy\.parameters\]$.*?^parameter_overrides = \[\n).*?(^\]$)"
    changed, found = re.subn(
        section, lambda match: match[1] + lines + match[2], configuration, count=1, flags=re.MULTILINE | re.DOTALL
    )
    if not found:
        raise ValueError(f"samconfig.toml has no list of parameter_overrides for {name}.")
    return changed


if __name__ == "__main__":
    sys.exit(main())
