"""People of a Cognito user pool, from the sign-up to what they may do here, by the pool's own tokens and keys."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.crowd import Owner
from tests.functions.account import by_token, client_of
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Authenticator
from threadkeep.settings import Settings

EMAIL = "ada@example.com"
PASSWORD = "Correct-horse-1"


@dataclass(frozen=True)
class Pool:
    """A user pool in which people sign up by their e-mail address, with one app client."""

    client: Any
    id: str
    app: str

    @property
    def key_set(self) -> str:
        return f"{self.client.meta.endpoint_url}/{self.id}/.well-known/jwks.json"

    def sign_up(self) -> UUID:
        attributes = [{"Name": "email", "Value": EMAIL}]
        signed_up = self.client.sign_up(ClientId=self.app, Username=EMAIL, Password=PASSWORD, UserAttributes=attributes)
        return UUID(signed_up["UserSub"])

    def confirm(self) -> None:
        self.client.confirm_sign_up(ClientId=self.app, Username=EMAIL, ConfirmationCode="123456")

    def sign_in(self, app: str | None = None) -> dict[str, str]:
        """The tokens: `AccessToken`, `IdToken`, `RefreshToken`."""
        return self._tokens("USER_PASSWORD_AUTH", {"USERNAME": EMAIL, "PASSWORD": PASSWORD}, app)

    def refresh(self, tokens: dict[str, str]) -> dict[str, str]:
        return self._tokens("REFRESH_TOKEN_AUTH", {"REFRESH_TOKEN": tokens["RefreshToken"]}, None)

    def put_in_group(self, group: str) -> None:
        self.client.create_group(UserPoolId=self.id, GroupName=group)
        self.client.admin_add_user_to_group(UserPoolId=self.id, Username=EMAIL, GroupName=group)

    def new_app(self) -> str:
        return _new_app(self.client, self.id)

    def _tokens(self, flow: str, parameters: dict[str, str], app: str | None) -> dict[str, str]:
        answer = self.client.initiate_auth(ClientId=app or self.app, AuthFlow=flow, AuthParameters=parameters)
        tokens: dict[str, str] = answer["AuthenticationResult"]
        return tokens


def _new_app(client: Any, pool: str) -> str:
    flows = ["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]
    app = client.create_user_pool_client(UserPoolId=pool, ClientName="web", ExplicitAuthFlows=flows)
    return str(app["UserPoolClient"]["ClientId"])


@pytest.fixture
def pool(cognito: Any) -> Pool:
    made = cognito.create_user_pool(PoolName="people", UsernameAttributes=["email"])
    pool = str(made["UserPool"]["Id"])
    return Pool(cognito, pool, _new_app(cognito, pool))


@pytest.fixture
def settings(api_database_url: str, pool: Pool) -> Settings:
    """The pool as the issuer; its keys are fetched where it serves them on this machine."""
    issuer = {
        "issuer": f"https://cognito-idp.eu-central-1.amazonaws.com/{pool.id}",
        "kind": "cognito",
        "audience": [pool.app],
        "jwksUrl": pool.key_set,
    }
    return Settings.load(
        {
            "DATABASE_URL": api_database_url,
            "AUTH_ISSUERS": json.dumps([issuer]),
            "GUEST_TOKEN_KEYS": json.dumps({"k1": "g" * 32}),
        }
    )


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(settings, database) as client:
        yield client


async def test_who_signs_up_and_confirms_has_a_profile_with_the_first_call(
    pool: Pool, api: httpx.AsyncClient, owner: Owner
) -> None:
    subject = pool.sign_up()
    with pytest.raises(pool.client.exceptions.UserNotConfirmedException):
        pool.sign_in()
    pool.confirm()
    tokens = pool.sign_in()
    answer = await api.get("/api/me", headers=by_token(tokens["AccessToken"]))
    assert answer.status_code == 200
    refreshed = await api.get("/api/me", headers=by_token(pool.refresh(tokens)["AccessToken"]))
    assert refreshed.status_code == 200
    assert await owner.rows("select id, is_guest from public.user_profiles") == [{"id": subject, "is_guest": False}]


async def test_the_group_admin_makes_an_administrator_with_the_next_token(pool: Pool, settings: Settings) -> None:
    authenticator = Authenticator(settings)
    subject = pool.sign_up()
    pool.confirm()
    pool.put_in_group("readers")
    before = await authenticator.authenticate(pool.sign_in()["AccessToken"], None)
    pool.put_in_group("admin")
    after = await authenticator.authenticate(pool.sign_in()["AccessToken"], None)
    assert (before.user_id, before.is_admin) == (subject, False)
    assert (after.user_id, after.is_admin) == (subject, True)


async def test_only_access_tokens_of_the_app_client_are_let_in(pool: Pool, settings: Settings) -> None:
    authenticator = Authenticator(settings)
    pool.sign_up()
    pool.confirm()
    tokens = pool.sign_in()
    of_another_app = pool.sign_in(pool.new_app())["AccessToken"]
    for refused in (tokens["IdToken"], of_another_app, tokens["AccessToken"][:-4] + "AAAA"):
        with pytest.raises(ThreadkeepError, match="unauthorized:auth"):
            await authenticator.authenticate(refused, None)
    assert (await authenticator.authenticate(tokens["AccessToken"], None)).role == "authenticated"


async def test_a_token_of_another_pool_is_refused_though_the_same_keys_sign_it(
    pool: Pool, cognito: Any, settings: Settings
) -> None:
    made = cognito.create_user_pool(PoolName="others", UsernameAttributes=["email"])
    other = Pool(cognito, str(made["UserPool"]["Id"]), _new_app(cognito, str(made["UserPool"]["Id"])))
    other.sign_up()
    other.confirm()
    with pytest.raises(ThreadkeepError, match="unauthorized:auth"):
        await Authenticator(settings).authenticate(other.sign_in()["AccessToken"], None)
