"""A first deployment is asked for what it needs: the answers become secrets, and where they are, its configuration."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from local.deployment import CONFIGURATION, Deployment, asked, with_parameters
from threadkeep.settings import MigrationSettings, Settings

OWNER = "postgresql://owner:s3cret%40@db.example.com:5432/chat"


def answering(*answers: str) -> Callable[[str], str]:
    """Somebody who gives these answers; none is left over."""
    given = iter(answers)
    return lambda question: next(given)


def environ(**given: str) -> dict[str, str]:
    """What `make deploy` starts it with."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "ARCH": "arm64"} | given


def test_the_answers_become_secrets_that_the_functions_and_the_migrations_can_read(secrets_manager: Any) -> None:
    deployment = Deployment.of(CONFIGURATION.read_text(), "default")
    assert not deployment.has_database
    parameters = asked(
        deployment,
        secrets_manager,
        ask=answering("https://app.example.com", "pooler.example.com:6543", "threadkeep_api.project"),
        ask_secretly=answering("my database", OWNER, "sk-1", "", ""),
    )

    assert parameters["AllowedOrigins"] == "https://app.example.com"
    assert set(parameters) >= {"OpenAiApiKeySecretArn"}
    assert not set(parameters) & {"AnthropicApiKeySecretArn", "GeminiApiKeySecretArn"}
    migrations = MigrationSettings.load(
        {
            "MIGRATION_DATABASE_URL_SECRET_ARN": parameters["MigrationDatabaseUrlSecretArn"],
            "API_DATABASE_PASSWORD_SECRET_ARN": parameters["ApiDatabasePasswordSecretArn"],
        }
    )
    functions = Settings.load({"DATABASE_URL_SECRET_ARN": parameters["DatabaseUrlSecretArn"]})
    assert migrations.database_url.get_secret_value() == f"{OWNER}?sslmode=require"
    assert conninfo_to_dict(functions.database_url.get_secret_value()) == {
        "user": "threadkeep_api.project",
        "password": migrations.api_password(),
        "host": "pooler.example.com",
        "port": "6543",
        "dbname": "chat",
        "sslmode": "require",
    }


def test_who_is_asked_again_after_a_failure_replaces_the_secrets(secrets_manager: Any) -> None:
    deployment = Deployment("default", "again", None, {})
    first, second = (
        asked(
            deployment,
            secrets_manager,
            ask=answering("", ""),
            ask_secretly=answering(f"{OWNER}?sslmode=verify-full", key, "", ""),
        )
        for key in ("sk-1", "sk-2")
    )
    assert first == second
    assert secrets_manager.get_secret_value(SecretId="again/openai")["SecretString"] == "sk-2"
    database = secrets_manager.get_secret_value(SecretId="again/database")["SecretString"]
    assert conninfo_to_dict(database) | {"password": ""} == {
        "user": "threadkeep_api",
        "password": "",
        "host": "db.example.com",
        "port": "5432",
        "dbname": "chat",
        "sslmode": "verify-full",
    }


def test_without_an_address_a_database_is_made_and_no_secret_kept(secrets_manager: Any) -> None:
    deployment = Deployment("default", "empty", None, {"AllowedOrigins": "http://localhost:3000"})
    parameters = asked(deployment, secrets_manager, ask=answering(""), ask_secretly=answering("", "", "", ""))
    assert parameters == {"AllowedOrigins": "http://localhost:3000", "Database": "aurora"}


@pytest.mark.parametrize("name", ["default", "staging"])
def test_the_configuration_keeps_all_else(name: str) -> None:
    before = CONFIGURATION.read_text()
    given = Deployment.of(before, name).parameters
    text = with_parameters(before, name, given | {"DatabaseUrlSecretArn": "arn:aws:secretsmanager:x"})

    assert Deployment.of(text, name).has_database
    assert Deployment.of(text, name).parameters == given | {"DatabaseUrlSecretArn": "arn:aws:secretsmanager:x"}
    other = {"default": "staging", "staging": "default"}[name]
    assert tomllib.loads(text)[other] == tomllib.loads(before)[other]
    assert [line for line in before.splitlines() if line.startswith("#")] == [
        line for line in text.splitlines() if line.startswith("#")
    ]


@pytest.mark.parametrize(
    ("overrides", "has_database"),
    [
        ('"Environment=\\"a\\" DatabaseUrlSecretArn=\\"arn:aws:x\\""', True),
        ('["Database=aurora"]', True),
        ('["Database=given", "AllowedOrigins=https://a.example.com"]', False),
    ],
)
def test_a_configuration_that_names_a_database_is_not_asked_about(overrides: str, has_database: bool) -> None:
    text = f'[default.deploy.parameters]\nstack_name = "mine"\nparameter_overrides = {overrides}\n'
    assert Deployment.of(text, "default").has_database == has_database


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--config-env", "staging", "--no-confirm-changeset"], {}, "samconfig.toml names no database for staging"),
        ([], {"ARCH": "x86_64"}, "Built would be for x86_64, and deployed for arm64"),
        (["--parameter-overrides", "Database=aurora"], {}, ""),
    ],
)
def test_nobody_is_asked_who_cannot_answer(arguments: list[str], environment: dict[str, str], words: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "local.deployment", *arguments],
        env=environ(**environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (int(bool(words)), "")
    assert finished.stdout.startswith(words)


def test_who_gives_up_changes_nothing(secrets_manager: Any) -> None:
    before = CONFIGURATION.read_text()
    ours, theirs = pty.openpty()
    try:
        os.write(ours, b"\x04")
        finished = subprocess.run(
            [sys.executable, "-m", "local.deployment"],
            env=environ(),
            stdin=theirs,
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert finished.returncode == 1
    assert "Origins of the front ends" in finished.stdout
    assert CONFIGURATION.read_text() == before
