from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from typing import Any
from uuid import uuid4

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from threadkeep.settings import MigrationSettings, Settings, SettingsError

DATABASE_URL = "postgresql://threadkeep_api:hunter2@127.0.0.1:5432/threadkeep"
KEY = "hunter2-" * 5
HOOK = "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg=="
OTHER_HOOK = "whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI="
ISSUER = {"issuer": "https://example.com", "kind": "oidc", "audience": "threadkeep"}


def load(**environ: str) -> Settings:
    return Settings.load({"DATABASE_URL": DATABASE_URL} | environ)


def issuers(*changes: dict[str, Any]) -> str:
    return json.dumps([ISSUER | {"issuer": f"https://{n}.example.com"} | change for n, change in enumerate(changes)])


def refusal(**environ: str) -> str:
    """The text of the refusal; whatever is refused, no secret of these tests may be in it or in its trace."""
    with pytest.raises(SettingsError) as caught:
        load(**environ)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_a_database_is_all_that_must_be_given() -> None:
    settings = load()
    assert settings.database_url.get_secret_value() == DATABASE_URL
    assert settings.database_pool_size == 1
    assert settings.auth_issuers == ()
    assert settings.guests_enabled is True
    assert settings.environment == "local"
    assert settings.log_level == "INFO"
    assert settings.openai_api == "responses"
    assert settings.openai_api_key is None
    assert settings.openai_base_url is None
    assert settings.max_body_bytes == 4 * 1024 * 1024


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p%40%2f@db.example.com:5432/app?sslmode=require&application_name=a%20b",
        "postgresql://u@/app?host=%2Ftmp%2Fa&port=5432",
        "postgresql://u:p@[::1]:5432/app",
        "postgresql://u:p@a:1,b:2/app?target_session_attrs=read-write",
        "postgresql://%2Fvar%2Frun/app",
        "postgresql:///none",
        "postgresql://localhost",
    ],
)
def test_an_address_of_a_database_may_have_any_form_that_the_driver_takes(url: str) -> None:
    assert load(DATABASE_URL=url).database_url.get_secret_value() == url
    assert conninfo_to_dict(url)


@pytest.mark.parametrize("environ", [{}, {"DATABASE_URL": ""}, {"DATABASE_URL": "  \n"}])
def test_a_missing_database_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ)
    assert str(caught.value) == "DATABASE_URL: missing or empty"


def test_an_empty_variable_counts_as_absent() -> None:
    names = [name.upper() for name in Settings.model_fields if name != "database_url"]
    assert load(**dict.fromkeys(names, "")).model_dump(exclude={"database_url"}) == load().model_dump(
        exclude={"database_url"}
    )


def test_the_settings_are_read_from_the_environment() -> None:
    settings = load(
        DATABASE_POOL_SIZE="8",
        GUESTS_ENABLED="false",
        OPENAI_API_KEY="sk-1",
        OPENAI_API="chat",
        OPENAI_BASE_URL="http://10.0.0.7:8080/v1",
        ENVIRONMENT="production",
        LOG_LEVEL="debug",
        MAX_BODY_BYTES="65536",
    )
    assert settings.database_pool_size == 8
    assert settings.guests_enabled is False
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-1"
    assert settings.openai_api == "chat"
    assert settings.openai_base_url == "http://10.0.0.7:8080/v1"
    assert settings.environment == "production"
    assert settings.log_level == "DEBUG"
    assert settings.max_body_bytes == 65536


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "mysql://hunter2@localhost/x"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "postgresql://u:hunter2"),
        ("DATABASE_URL", "postgresql://u:hunter2%zz@db/x"),
        ("DATABASE_URL", "postgresql://u:hunter2@1@db/x"),
        ("DATABASE_URL", "postgresql://u:hunter2/1@db/x"),
        ("DATABASE_URL", "postgresql://u:hunter2?1@db/x"),
        ("DATABASE_URL", "postgresql://u:hunter2#1@db/x"),
        ("DATABASE_URL", "postgresql://u@db:hunter2/x"),
        ("DATABASE_POOL_SIZE", "0"),
        ("DATABASE_POOL_SIZE", "many"),
        ("GUESTS_ENABLED", "perhaps"),
        ("GUEST_TOKEN_KEYS", "hunter2"),
        ("GUEST_TOKEN_KEYS", "{}"),
        ("GUEST_TOKEN_KEYS", '["hunter2-hunter2-hunter2-hunter2-hunter2"]'),
        ("GUEST_TOKEN_KEYS", '{"k1": "hunter2-too-short"}'),
        ("GUEST_TOKEN_KEYS", '{"hunter2-hunter2-hunter2-hunter2-hunter2": "k1"}'),
        ("GUEST_TOKEN_KEYS", '{"k 1": "hunter2-hunter2-hunter2-hunter2-hunter2"}'),
        ("GUEST_TOKEN_KEYS", '{"k1": 12345678901234567890123456789012}'),
        ("GUEST_TOKEN_KEYS", "[" * 100_000),
        ("AUTH_HOOK_SECRETS", "hunter2"),
        ("AUTH_HOOK_SECRETS", "whsec_aHVudGVyMg=="),
        ("AUTH_HOOK_SECRETS", "whsec_hunter2!"),
        ("AUTH_HOOK_SECRETS", "v1,"),
        ("OPENAI_API_KEY", "sk-hunter2 with a blank"),
        ("ANTHROPIC_API_KEY", "sk-hunter2\u2026"),
        ("GEMINI_API_KEY", "hunter2\nhunter2"),
        ("OPENAI_BASE_URL", "ftp://example.com"),
        ("ANTHROPIC_BASE_URL", "example.com"),
        ("GEMINI_BASE_URL", "https://user:hunter2@example.com"),
        ("OPENAI_BASE_URL", "https://example.com:port"),
        ("OPENAI_API", "completions"),
        ("ENVIRONMENT", "Blue Green"),
        ("LOG_LEVEL", "LOUD"),
        ("MAX_BODY_BYTES", "-1"),
        ("MAX_BODY_BYTES", "1000000000"),
        ("ALLOWED_ORIGINS", "*"),
        ("ALLOWED_ORIGINS", "https://app.example.com/"),
        ("ALLOWED_ORIGINS", "app.example.com"),
        ("ALLOWED_ORIGINS", "https://a.example.com,,https://b.example.com"),
        ("AUTH_ISSUERS", "hunter2"),
        ("AUTH_ISSUERS", "{}"),
        ("AUTH_ISSUERS", '["hunter2"]'),
    ],
)
def test_a_wrong_value_is_named_by_its_variable_alone_and_never_shown(variable: str, value: str) -> None:
    lines = refusal(**{variable: value}).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(variable)


def test_everything_that_is_wrong_is_named_at_once() -> None:
    lines = refusal(DATABASE_URL="hunter2", LOG_LEVEL="LOUD", OPENAI_API_KEY="hunter2 2").splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == ["DATABASE_URL", "LOG_LEVEL", "OPENAI_API_KEY"]


def test_the_settings_show_no_secret_and_cannot_be_changed() -> None:
    settings = load(
        GUEST_TOKEN_KEYS=json.dumps({"k1": KEY}),
        AUTH_HOOK_SECRETS=HOOK,
        OPENAI_API_KEY="sk-hunter2",
        AUTH_ISSUERS=issuers({"secret": KEY}),
    )
    for shown in (repr(settings), str(settings), f"{settings.model_dump()}", f"{settings.database_url}"):
        assert "hunter2" not in shown
        assert HOOK not in shown
    with pytest.raises(ValidationError):
        settings.guests_enabled = False  # type: ignore[misc]


def test_the_first_guest_key_stays_first() -> None:
    settings = load(GUEST_TOKEN_KEYS=json.dumps({"z": KEY, "a": KEY[::-1]}))
    assert list(settings.guest_keys().items()) == [("z", KEY), ("a", KEY[::-1])]


@pytest.mark.parametrize("variable", ["GUEST_TOKEN_KEYS", "AUTH_HOOK_SECRETS"])
def test_a_secret_that_is_needed_and_missing_is_named(variable: str) -> None:
    read = {"GUEST_TOKEN_KEYS": load().guest_keys, "AUTH_HOOK_SECRETS": load().hook_secrets}[variable]
    with pytest.raises(SettingsError, match=f"^{variable}: missing or empty$"):
        read()


@pytest.mark.parametrize(
    "text", [f"{HOOK},{OTHER_HOOK}", f"{HOOK} {OTHER_HOOK}", f"v1,{HOOK}|v1,{OTHER_HOOK}", f"{HOOK}\n{OTHER_HOOK}"]
)
def test_webhook_secrets_are_a_list_as_standard_webhooks_and_supabase_write_it(text: str) -> None:
    assert load(AUTH_HOOK_SECRETS=text).hook_secrets() == [HOOK, OTHER_HOOK]


def test_issuers_are_read_in_their_order_with_the_address_of_their_keys() -> None:
    settings = load(
        AUTH_ISSUERS=issuers(
            {"issuer": "https://cognito-idp.eu-west-1.amazonaws.com/pool", "kind": "cognito", "audience": ["a", "b"]},
            {"issuer": "https://tenant.example.com/", "jwksUrl": "https://keys.example.com/set"},
            {"issuer": "https://p.supabase.co/auth/v1", "kind": "supabase", "audience": None},
            {"issuer": "https://tenant.example.org/"},
            {"issuer": "local", "secret": KEY},
        )
        .replace('"audience": null, ', "")
        .replace(', "audience": null', "")
    )
    cognito, given, supabase, slash, secret = settings.auth_issuers
    assert cognito.audience == ("a", "b")
    assert cognito.key_set_url == "https://cognito-idp.eu-west-1.amazonaws.com/pool/.well-known/jwks.json"
    assert given.key_set_url == "https://keys.example.com/set"
    assert supabase.audience == ("authenticated",)
    assert supabase.key_set_url == "https://p.supabase.co/auth/v1/.well-known/jwks.json"
    assert slash.issuer == "https://tenant.example.org/"
    assert slash.key_set_url == "https://tenant.example.org/.well-known/jwks.json"
    assert secret.key_set_url is None


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": ""},
        {"issuer": "http://example.com"},
        {"issuer": "not an address"},
        {"issuer": "https://user:hunter2@example.com"},
        {"issuer": "threadkeep-guest", "secret": KEY},
        {"issuer": "a\nb", "secret": KEY},
        {"kind": "google"},
        {"audience": []},
        {"audience": ""},
        {"audience": [1]},
        {"jwksUrl": "http://example.com/keys"},
        {"jwksUrl": "file:///etc/passwd"},
        {"jwksUri": "https://example.com/keys"},
        {"secret": "hunter2"},
        {"secret": ""},
        {"secret": ["hunter2"]},
        {"secret": "-----BEGIN PUBLIC KEY-----" + KEY},
        {"secretArn": "hunter2"},
        {"secret": KEY, "secretArn": "arn:aws:secretsmanager:eu-west-1:1:secret:s"},
        {"kind": "cognito", "secret": KEY},
    ],
)
def test_a_wrong_issuer_is_named_by_its_place(change: dict[str, Any]) -> None:
    lines = refusal(AUTH_ISSUERS=issuers({}, change)).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("AUTH_ISSUERS[1]")


def test_an_issuer_must_say_whom_its_tokens_are_for() -> None:
    assert "AUTH_ISSUERS[0]: audience: missing" in refusal(
        AUTH_ISSUERS='[{"issuer": "https://example.com", "kind": "oidc"}]'
    )


def test_an_issuer_cannot_be_given_twice() -> None:
    assert "twice" in refusal(AUTH_ISSUERS=json.dumps([ISSUER, ISSUER]))


def test_keys_may_come_without_tls_from_this_machine_only() -> None:
    for host in ("127.0.0.1", "localhost", "[::1]"):
        load(AUTH_ISSUERS=issuers({"issuer": f"http://{host}:9999"}))
    assert "AUTH_ISSUERS" in refusal(AUTH_ISSUERS=issuers({"issuer": "http://127.0.0.1.example.com"}))


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("http://localhost:3000.example.com", False),
        ("http://localhost:", False),
        ("https://localhost:3000", False),
        ("https://appxexample.com", False),
        ("https://app.example.com.evil.org", False),
        ("https://evil.org/https://app.example.com", False),
        ("https://app.example.com\n", False),
        ("null", False),
        ("", False),
    ],
)
def test_an_origin_is_allowed_only_in_full(origin: str, allowed: bool) -> None:
    settings = load(ALLOWED_ORIGINS="https://app.example.com, http://localhost:*")
    assert settings.allows_origin(origin) is allowed


def test_pages_of_this_machine_may_call_locally_and_nobody_may_elsewhere_unless_told() -> None:
    assert load().allows_origin("http://localhost:5173")
    assert not load(ENVIRONMENT="production").allows_origin("http://localhost:5173")
    assert not load(ENVIRONMENT="production").allows_origin("")
    assert not load(ALLOWED_ORIGINS="https://app.example.com").allows_origin("http://localhost:5173")


def test_reading_settings_loads_neither_the_aws_sdk_nor_cryptography() -> None:
    program = (
        "import sys, threadkeep.identity as identity\n"
        "identity.Settings.load({'DATABASE_URL': 'postgresql://localhost/x'})\n"
        "print(sorted({'boto3', 'cryptography', 'aws_lambda_powertools', 'pydantic_settings'} & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout == "[]\n"


def test_the_service_role_key_goes_nowhere_in_the_clear() -> None:
    assert load(SUPABASE_URL="http://127.0.0.1:54321").supabase_url == "http://127.0.0.1:54321"
    for url in ("http://project.example.com", "ftp://127.0.0.1", "https://user:hunter2@project.example.com"):
        assert refusal(SUPABASE_URL=url).startswith("SUPABASE_URL: ")
    assert refusal(SUPABASE_SERVICE_ROLE_KEY="hunter2 2").startswith("SUPABASE_SERVICE_ROLE_KEY: ")


def test_the_providers_that_can_be_used_are_those_with_a_key() -> None:
    assert load().providers_with_key() == []
    assert load(ANTHROPIC_API_KEY="sk-b", GEMINI_API_KEY="sk-a").providers_with_key() == ["google", "anthropic"]


def test_a_secret_is_given_by_value_or_by_arn_but_not_by_both() -> None:
    assert "not both" in refusal(
        OPENAI_API_KEY="sk-hunter2", OPENAI_API_KEY_SECRET_ARN="arn:aws:secretsmanager:eu-west-1:1:secret:s"
    )


def test_an_arn_that_is_none_is_named() -> None:
    assert refusal(OPENAI_API_KEY_SECRET_ARN="hunter2") == "OPENAI_API_KEY: is not an ARN"


def test_a_secret_given_by_arn_is_fetched_when_it_is_needed(secrets_manager: Any) -> None:
    arn = secrets_manager.create_secret(Name="guests", SecretString=json.dumps({"k1": KEY}))["ARN"]
    settings = load(GUEST_TOKEN_KEYS_SECRET_ARN=arn)
    assert "k1" not in repr(settings)
    assert settings.guest_keys() == {"k1": KEY}


def test_the_secret_of_an_issuer_may_be_given_by_arn(secrets_manager: Any) -> None:
    arn = secrets_manager.create_secret(Name="issuer", SecretString=KEY)["ARN"]
    shared = load(AUTH_ISSUERS=issuers({"secretArn": arn})).auth_issuers[0].shared_secret
    assert shared is not None
    assert shared.get_secret_value() == KEY


def test_a_fetched_secret_that_is_wrong_is_named_and_not_shown(secrets_manager: Any) -> None:
    arn = secrets_manager.create_secret(Name="database", SecretString="hunter2")["ARN"]
    settings = Settings.load({"DATABASE_URL_SECRET_ARN": arn})
    with pytest.raises(SettingsError) as caught:
        settings.database_url.get_secret_value()
    assert str(caught.value) == "DATABASE_URL: its secret does not start with postgresql://"
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_secret_that_cannot_be_fetched_is_named(secrets_manager: Any) -> None:
    settings = load(OPENAI_API_KEY_SECRET_ARN="arn:aws:secretsmanager:eu-west-1:123456789012:secret:gone-abcdef")
    assert settings.openai_api_key is not None
    with pytest.raises(SettingsError, match=r"^OPENAI_API_KEY: its secret cannot be read"):
        settings.openai_api_key.get_secret_value()


MASTER = {"username": "owner", "password": "hunter2@/?% :'"}
PLACE = {"host": "cluster.example.com", "port": 5433, "dbname": "threadkeep"}
QUOTED = "hunter2%40%2F%3F%25%20%3A%27"


@pytest.mark.parametrize(
    ("secret", "environ", "address"),
    [
        (MASTER | PLACE, {}, f"owner:{QUOTED}@cluster.example.com:5433/threadkeep?sslmode=require"),
        (
            MASTER | PLACE | {"sslmode": "verify-full", "sslrootcert": "/opt/a ca.pem"},
            {"DATABASE_HOST": "proxy.example.com"},
            f"owner:{QUOTED}@proxy.example.com:5433/threadkeep?sslmode=verify-full&sslrootcert=%2Fopt%2Fa%20ca.pem",
        ),
        (
            MASTER,
            {"DATABASE_HOST": "::1", "DATABASE_NAME": "chat room"},
            f"owner:{QUOTED}@[::1]:5432/chat%20room?sslmode=require",
        ),
    ],
)
def test_the_secret_that_rds_writes_is_an_address(
    secrets_manager: Any, secret: dict[str, Any], environ: dict[str, str], address: str
) -> None:
    arn = secrets_manager.create_secret(Name=str(uuid4()), SecretString=json.dumps(secret))["ARN"]
    settings = Settings.load({"DATABASE_URL_SECRET_ARN": arn, **environ})
    assert settings.database_url.get_secret_value() == f"postgresql://{address}"


@pytest.mark.parametrize(
    ("secret", "complaint"),
    [
        ('{"username": "hunter2"', "is not valid JSON"),
        (json.dumps(PLACE), "without username or password"),
        (json.dumps(MASTER), "DATABASE_HOST or DATABASE_NAME is missing"),
        (json.dumps(MASTER | PLACE | {"port": "hunter2"}), "a port that is none"),
        (json.dumps(MASTER | PLACE | {"host": "a@hunter2"}), "a host or"),
    ],
)
def test_a_secret_of_rds_that_is_no_address_is_named_and_not_shown(
    secrets_manager: Any, secret: str, complaint: str
) -> None:
    arn = secrets_manager.create_secret(Name=str(uuid4()), SecretString=secret)["ARN"]
    with pytest.raises(SettingsError) as caught:
        Settings.load({"DATABASE_URL_SECRET_ARN": arn}).database_url.get_secret_value()
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("DATABASE_URL: its secret ")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_the_migrations_use_their_own_address_and_else_that_of_the_functions() -> None:
    own = "postgresql://owner@127.0.0.1/threadkeep"
    both = MigrationSettings.load({"DATABASE_URL": DATABASE_URL, "MIGRATION_DATABASE_URL": own})
    assert both.database_url.get_secret_value() == own
    assert both.api_password() is None
    alone = MigrationSettings.load({"DATABASE_URL": DATABASE_URL, "API_DATABASE_PASSWORD": KEY})
    assert alone.database_url.get_secret_value() == DATABASE_URL
    assert alone.api_password() == KEY


def test_the_password_in_a_secret_of_another_role_is_not_given_to_the_login_role(secrets_manager: Any) -> None:
    arn = secrets_manager.create_secret(Name=str(uuid4()), SecretString=json.dumps(MASTER))["ARN"]
    settings = MigrationSettings.load({"DATABASE_URL": DATABASE_URL, "API_DATABASE_PASSWORD_SECRET_ARN": arn})
    with pytest.raises(SettingsError, match="is of another role than threadkeep_api"):
        settings.api_password()
