"""The settings of a process, read once from its environment.

An empty variable counts as absent. A secret `NAME` may be given by `NAME_SECRET_ARN` instead: the ARN of an AWS
Secrets Manager secret whose text is the value. It is fetched when it is first needed, not at the cold start. What
is missing or wrong is named by its variable; what a secret holds is never shown, not even in the error about it.

The secret of a database may also be what RDS writes, a JSON object of user name, password and, if it is attached to
a cluster, host, port and database; `DATABASE_HOST` and `DATABASE_NAME` say what it leaves out.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Mapping
from functools import cache, cached_property, partial
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import quote, urlencode, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

FETCHED_SECRET_SECONDS: Final = 300
MINIMUM_SIGNING_SECRET_BYTES: Final = 32
MINIMUM_HOOK_SECRET_BYTES: Final = 24
MINIMUM_PASSWORD_CHARACTERS: Final = 12
API_ROLE: Final = "threadkeep_api"
ModelProvider = Literal["google", "openai", "anthropic"]

GUEST_ISSUER: Final = "threadkeep-guest"
LOCAL_ORIGINS: Final = ("http://localhost:*", "http://127.0.0.1:*")


class SettingsError(Exception):
    """The environment is incomplete or wrong; the text has a line for each variable, and no values."""


class Secret:
    """A secret text, given by value or by the ARN of an AWS Secrets Manager secret.

    `check` raises ValueError for a wrong text, in words that do not repeat it. `read` makes the value out of what
    Secrets Manager holds, if that is not the value itself; it raises ValueError likewise.
    """

    __slots__ = ("_arn", "_check", "_read", "_text", "_variable")

    def __init__(
        self,
        variable: str,
        text: str = "",
        *,
        arn: str = "",
        check: Callable[[str], object],
        read: Callable[[str], str] = str,
    ) -> None:
        self._variable = variable
        self._text = text
        self._arn = arn
        self._check = check
        self._read = read
        if not arn:
            check(text)
        elif not arn.startswith("arn:"):
            raise ValueError("is not an ARN")

    @property
    def is_fetched(self) -> bool:
        """Whether the text has to be asked for at Secrets Manager."""
        return bool(self._arn)

    def get_secret_value(self, *, anew: bool = False) -> str:
        """The text. A fetched one is kept for 300 seconds, so that a rotated secret is taken up without a deploy.

        With `anew` it is fetched though it is kept. Raises SettingsError if the secret cannot be read or holds
        something wrong.
        """
        return self._fetched(anew) if self._arn else self._text

    def _fetched(self, anew: bool) -> str:
        # It loads boto3, which takes longer than everything else that a cold start loads.
        from aws_lambda_powertools.utilities import parameters

        try:
            text = parameters.get_secret(self._arn, max_age=FETCHED_SECRET_SECONDS, force_fetch=anew).strip()
        except parameters.GetParameterError as error:
            raise SettingsError(f"{self._variable}: its secret cannot be read from Secrets Manager") from error
        try:
            value = self._read(text)
            self._check(value)
        except ValueError as error:
            raise SettingsError(f"{self._variable}: its secret {error}") from None
        return value

    def __repr__(self) -> str:
        return "Secret('**********')"


def _list_of_strings(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _issuer_secret(value: object) -> Secret | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("is not a string")
    return Secret("AUTH_ISSUERS", value, check=_check_signing_secret)


def _issuer_secret_by_arn(value: object) -> Secret | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("is not an ARN")
    return Secret("AUTH_ISSUERS", arn=value, check=_check_signing_secret)


class IssuerSettings(BaseModel):
    """One issuer of tokens that are let in: its `iss`, and what its tokens must say.

    `audience` holds the accepted `aud` values; of a Cognito user pool the ids of its app clients, which are compared
    with `client_id`. Tokens are HS256 if there is a `secret` (or `secretArn`); a `jwksUrl` beside it lets in both,
    for a project that moves from one to the other.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )

    issuer: Annotated[str, Field(min_length=1, max_length=255)]
    kind: Literal["oidc", "cognito", "supabase"]
    audience: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_list_of_strings)] = ()
    jwks_url: str | None = None
    secret: Annotated[Secret | None, BeforeValidator(_issuer_secret)] = None
    secret_arn: Annotated[Secret | None, BeforeValidator(_issuer_secret_by_arn)] = None

    @field_validator("issuer")
    @classmethod
    def _issuer(cls, value: str) -> str:
        if not value.isprintable() or value == GUEST_ISSUER:
            raise ValueError("cannot be the name of an issuer")
        return value

    @model_validator(mode="before")
    @classmethod
    def _supabase_audience(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("kind") == "supabase":
            return {"audience": "authenticated"} | value
        return value

    @model_validator(mode="after")
    def _complete(self) -> IssuerSettings:
        if not self.audience:
            raise ValueError("audience: missing")
        if self.secret and self.secret_arn:
            raise ValueError("give secret or secretArn, not both")
        if self.kind == "cognito" and self.shared_secret:
            raise ValueError("secret: Cognito signs with its own keys")
        if self.key_set_url is not None:
            _check_key_set_url(self.key_set_url)
        return self

    @property
    def shared_secret(self) -> Secret | None:
        """The HS256 secret, if this issuer signs with one."""
        return self.secret or self.secret_arn

    @property
    def key_set_url(self) -> str | None:
        """Where the public keys are, or None for an issuer that has only a secret."""
        if self.jwks_url or self.shared_secret:
            return self.jwks_url
        return self.issuer.rstrip("/") + "/.well-known/jwks.json"


class Settings(BaseModel):
    """Every setting of the functions and layers; the environment has them by these names in capitals."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )

    database_url: Secret
    database_pool_size: Annotated[int, Field(ge=1, le=100)] = 1
    auth_issuers: tuple[IssuerSettings, ...] = ()
    guests_enabled: bool = True
    guest_token_keys: Secret | None = None
    auth_hook_secrets: Secret | None = None
    delete_identities: bool = True
    supabase_url: str | None = None
    supabase_service_role_key: Secret | None = None
    allowed_origins: tuple[str, ...] = ()
    files_bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] | None = None
    files_directory: str | None = None
    files_signing_key: Secret | None = None
    openai_api_key: Secret | None = None
    anthropic_api_key: Secret | None = None
    gemini_api_key: Secret | None = None
    openai_base_url: str | None = None
    anthropic_base_url: str | None = None
    gemini_base_url: str | None = None
    openai_api: Literal["responses", "chat"] = "responses"
    github_mcp_url: str = "https://api.githubcopilot.com/mcp/"
    github_writes_allowed: bool = False
    github_token_secrets: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9/_+=.@-]{1,400}$")] = None
    tool_secrets: Secret | None = None
    otel_exporter_otlp_endpoint: str | None = None
    otel_exporter_otlp_headers: Secret | None = None
    trace_content: bool = False
    trusted_proxy: Literal["none", "cloudfront", "forwarded"] = "none"
    environment: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")] = "local"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    purge_function_name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9:_.-]{1,170}$")] = None
    max_body_bytes: Annotated[int, Field(ge=1024, le=10 * 1024 * 1024)] = 4 * 1024 * 1024

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """The settings of this environment; SettingsError names every variable that is missing or wrong."""
        problems: list[str] = []
        values: dict[str, object] = {}
        for name in cls.model_fields:
            variable = name.upper()
            text = environ.get(variable, "").strip()
            try:
                value = _secret(variable, text, environ) if name in _SECRETS else text
            except ValueError as error:
                problems.append(f"{variable}: {error}")
                value = None
            if value:
                values[name] = value
        if environ.get("ENVIRONMENT", "").strip() in {"", "local"}:
            values.setdefault("allowed_origins", LOCAL_ORIGINS)
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            named = {problem.partition(":")[0] for problem in problems}
            problems += [line for line in _problems(error) if line.partition(":")[0] not in named]
        if problems:
            raise SettingsError("\n".join(problems))
        return settings

    @field_validator("auth_issuers", mode="before")
    @classmethod
    def _read_issuers(cls, value: object) -> object:
        return _read_json(value) if isinstance(value, str) else value

    @field_validator("auth_issuers")
    @classmethod
    def _each_issuer_once(cls, value: tuple[IssuerSettings, ...]) -> tuple[IssuerSettings, ...]:
        if len({issuer.issuer for issuer in value}) < len(value):
            raise ValueError("names an issuer twice")
        return value

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _read_origins(cls, value: object) -> object:
        return [origin.strip() for origin in value.split(",")] if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError("is a comma-separated list of origins, such as https://app.example.com")
        return value

    @field_validator(
        "openai_base_url", "anthropic_base_url", "gemini_base_url", "github_mcp_url", "otel_exporter_otlp_endpoint"
    )
    @classmethod
    def _check_base_url(cls, value: str | None) -> str | None:
        if value is not None:
            _check_url(value)
        return value

    @field_validator("supabase_url")
    @classmethod
    def _check_supabase_url(cls, value: str | None) -> str | None:
        if value is not None:
            _check_trusted_url(value, "the service role key goes to an https:// address only")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _capitals(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    def guest_keys(self) -> dict[str, str]:
        """The secrets that guest tokens are signed with, by `kid`: the first one signs, all of them verify."""
        return _read_guest_keys(_given(self.guest_token_keys, "GUEST_TOKEN_KEYS").get_secret_value())

    def hook_secrets(self) -> list[str]:
        """The secrets of the auth webhook, each `whsec_…`; a call signed with any of them is taken."""
        return _read_hook_secrets(_given(self.auth_hook_secrets, "AUTH_HOOK_SECRETS").get_secret_value())

    def tool_secret(self, name: str) -> str | None:
        """The token of a tool server, by the name that its configuration gives; None if there is none."""
        if self.tool_secrets is None:
            return None
        secrets: dict[str, str] = _read_json(self.tool_secrets.get_secret_value())
        return secrets.get(name)

    def provider_key(self, provider: ModelProvider) -> Secret | None:
        """The key of a provider of models; without one it is not used here."""
        return {
            "google": self.gemini_api_key,
            "openai": self.openai_api_key,
            "anthropic": self.anthropic_api_key,
        }[provider]

    def providers_with_key(self) -> list[ModelProvider]:
        """The providers of models that can be used here."""
        return [provider for provider in get_args(ModelProvider) if self.provider_key(provider) is not None]

    @cached_property
    def origin_pattern(self) -> re.Pattern[str]:
        """Matches, in full, the origins that may call with a cookie and read answers."""
        origins = (
            re.escape(origin.removesuffix(":*")) + (r"(:\d{1,5})?" if origin.endswith(":*") else "")
            for origin in self.allowed_origins
        )
        return re.compile("|".join(origins) or r"(?!)")

    def allows_origin(self, origin: str) -> bool:
        """Whether a page of this origin may call."""
        return self.origin_pattern.fullmatch(origin) is not None


@cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings.load()


class MigrationSettings(BaseModel):
    """What applying the migrations needs: a direct way to the database as its owner, and the login role's password."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    database_url: Secret
    api_database_password: Secret | None = None

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> MigrationSettings:
        """MIGRATION_DATABASE_URL, or DATABASE_URL where there is none; SettingsError names what is missing or wrong."""
        problems: list[str] = []
        values: dict[str, Secret | None] = {}
        for variable in ("MIGRATION_DATABASE_URL", "DATABASE_URL", "API_DATABASE_PASSWORD"):
            try:
                values[variable] = _secret(variable, environ.get(variable, "").strip(), environ)
            except ValueError as error:
                problems.append(f"{variable}: {error}")
        url = values.get("MIGRATION_DATABASE_URL") or values.get("DATABASE_URL")
        if url is None and not problems:
            problems.append("MIGRATION_DATABASE_URL: missing or empty, and DATABASE_URL too")
        if problems or url is None:
            raise SettingsError("\n".join(problems))
        return cls(database_url=url, api_database_password=values["API_DATABASE_PASSWORD"])

    def api_password(self) -> str | None:
        """The password that the login role is to have, or None if it keeps the one it has."""
        return self.api_database_password.get_secret_value() if self.api_database_password else None


_ORIGIN: Final = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5}|:\*)?")


def _secret(variable: str, text: str, environ: Mapping[str, str]) -> Secret | None:
    arn = environ.get(f"{variable}_SECRET_ARN", "").strip()
    if text and arn:
        raise ValueError(f"give it or {variable}_SECRET_ARN, not both")
    if not text and not arn:
        return None
    read: Callable[[str], str] = str
    if variable in {"DATABASE_URL", "MIGRATION_DATABASE_URL"}:
        place = {name: environ.get(f"DATABASE_{name.upper()}", "").strip() for name in ("host", "name")}
        read = partial(_database_url, **place)
    elif variable == "API_DATABASE_PASSWORD":
        read = _password
    return Secret(variable, text, arn=arn, check=_SECRETS[variable.lower()], read=read)


def _given(secret: Secret | None, variable: str) -> Secret:
    if secret is None:
        raise SettingsError(f"{variable}: missing or empty")
    return secret


def _problems(error: ValidationError) -> list[str]:
    """What pydantic found, by variable: `AUTH_ISSUERS[0].audience: …`."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        variable, *path = problem["loc"]
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        missing = problem["type"] == "missing" and not path
        message = "missing or empty" if missing else problem["msg"].removeprefix("Value error, ")
        lines.append(f"{str(variable).upper()}{place}: {message}")
    return lines


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # The parser's own words quote what it read.
        raise ValueError("is not valid JSON") from None


def _read_guest_keys(text: str) -> dict[str, str]:
    keys = _read_json(text)
    if not isinstance(keys, dict) or not keys:
        raise ValueError('is not a JSON object such as {"k2": "secret", "k1": "older secret"}')
    for position, (key_id, secret) in enumerate(keys.items(), start=1):
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", key_id) or not isinstance(secret, str):
            raise ValueError(f"key {position} is not a name and a secret text")
        # By its position: whoever mixes up the name and the secret would read the secret here.
        _check_signing_secret(secret, f"key {position} ")
    return keys


def _read_hook_secrets(text: str) -> list[str]:
    # Supabase writes a list as `v1,whsec_…|v1,whsec_…`.
    secrets = [part for part in re.split(r"[\s,|]+", text) if part and part != "v1"]
    for secret in secrets:
        prefix, _, encoded = secret.partition("_")
        try:
            bare = encoded.rstrip("=")
            key = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
        except ValueError:
            key = b""
        if prefix != "whsec" or len(key) < MINIMUM_HOOK_SECRET_BYTES:
            raise ValueError(f"is a list of whsec_ and at least {MINIMUM_HOOK_SECRET_BYTES} bytes in base64")
    if not secrets:
        raise ValueError("has no secret")
    return secrets


def _check_signing_secret(text: str, which: str = "") -> None:
    if len(text.encode("utf-8", "replace")) < MINIMUM_SIGNING_SECRET_BYTES:
        raise ValueError(f"{which}is shorter than {MINIMUM_SIGNING_SECRET_BYTES} bytes")
    if "-----BEGIN" in text:
        raise ValueError(f"{which}is a key pair or certificate, not a secret")


def _check_database_url(text: str) -> None:
    if not text.startswith(("postgresql://", "postgres://")) or not text.isprintable():
        raise ValueError("does not start with postgresql://")
    # The driver would take a part of such a password for something else, and say in the log what that is.
    if not _DATABASE_URL.fullmatch(text):
        raise ValueError(
            "is no address: in a user and a password write % as %25, @ as %40, / as %2F, ? as %3F, # as %23; a port is"
            " a number"
        )


_ESCAPED: Final = "%[0-9A-Fa-f]{2}"
_HOST: Final = rf"(?:\[[0-9A-Fa-f:.]*\]|(?:[^\s@/?#:%,\[\]]|{_ESCAPED})*)(?::[0-9]*)?"
_DATABASE_URL: Final = re.compile(
    rf"postgres(?:ql)?://(?:(?:[^\s@/?#%]|{_ESCAPED})*@)?{_HOST}(?:,{_HOST})*"
    rf"(?:/(?:[^\s@/?#%]|{_ESCAPED})*)?(?:\?(?:[^\s@?#%]|{_ESCAPED})*)?"
)


def _database_url(text: str, *, host: str, name: str) -> str:
    """The address that a secret means: itself, or what RDS writes with `host` and `name` from the environment.

    `host` wins over the secret's own, which is the cluster's even where a proxy stands before it.
    """
    if not text.startswith("{"):
        return text
    members = _members(text)
    user, password = members.get("username"), members.get("password")
    host = host or members.get("host", "")
    database = name or members.get("dbname", "")
    if not user or not password:
        raise ValueError("is a JSON object without username or password")
    if not host or not database:
        raise ValueError("names no host or no dbname, and DATABASE_HOST or DATABASE_NAME is missing")
    port = members.get("port", "5432")
    if not port.isdigit() or not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
        raise ValueError("has a host or a port that is none")
    host = f"[{host}]" if ":" in host else host
    # Amazon's certificates are in no trust store, hence no verify-full unless the secret asks for it and has a file.
    tls = {"sslmode": "require"} | {name: members[name] for name in ("sslmode", "sslrootcert") if name in members}
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return f"postgresql://{login}@{host}:{port}/{quote(database, safe='')}?{urlencode(tls, quote_via=quote)}"


def _password(text: str) -> str:
    """The password that a secret means: itself, or the one in what RDS writes."""
    try:
        members = _members(text) if text.startswith("{") else {"password": text}
    except ValueError:
        return text
    if members.get("username", API_ROLE) != API_ROLE:
        raise ValueError(f"is of another role than {API_ROLE}")
    return members.get("password", "")


def _members(text: str) -> dict[str, str]:
    found = _read_json(text)
    return {name: str(value) for name, value in found.items() if isinstance(value, str | int)}


def _check_password(text: str) -> None:
    if len(text) < MINIMUM_PASSWORD_CHARACTERS or not text.isascii() or not text.isprintable():
        raise ValueError(f"is no password of at least {MINIMUM_PASSWORD_CHARACTERS} printable ASCII characters")


def _check_api_key(text: str) -> None:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("has characters that no key has")


def _check_key_set_url(url: str) -> None:
    """Public keys decide who gets in, so they come by TLS, or from this machine."""
    _check_trusted_url(url, "its public keys must be at an https:// address")


def _check_trusted_url(url: str, refusal: str) -> None:
    scheme, host = _check_url(url)
    if scheme != "https" and host not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError(refusal)


def _check_url(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not an address") from None
    if parts.scheme not in {"http", "https"} or not host or not url.isprintable() or " " in url:
        raise ValueError("is not an http:// or https:// address")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or a password")
    return parts.scheme, host


def _check_tool_secrets(text: str) -> None:
    secrets = _read_json(text)
    if not isinstance(secrets, dict) or not all(isinstance(token, str) and token for token in secrets.values()):
        raise ValueError('is not a JSON object such as {"weather": "token"}')


def _check_otlp_headers(text: str) -> None:
    for position, pair in enumerate(text.split(","), start=1):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip() or not value.strip() or not text.isprintable():
            raise ValueError(f"header {position} is not a name and a value, such as authorization=Bearer …")


_SECRETS: Final[Mapping[str, Callable[[str], object]]] = {
    "database_url": _check_database_url,
    "migration_database_url": _check_database_url,
    "api_database_password": _check_password,
    "guest_token_keys": _read_guest_keys,
    "auth_hook_secrets": _read_hook_secrets,
    "supabase_service_role_key": _check_api_key,
    "files_signing_key": _check_signing_secret,
    "openai_api_key": _check_api_key,
    "anthropic_api_key": _check_api_key,
    "gemini_api_key": _check_api_key,
    "otel_exporter_otlp_headers": _check_otlp_headers,
    "tool_secrets": _check_tool_secrets,
}
