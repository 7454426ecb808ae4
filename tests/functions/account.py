"""What the tests of the account function share: its API, who calls it, and what it refuses."""

from __future__ import annotations

from typing import Any

import httpx

from functions.account import app
from tests.providers import bearer
from threadkeep.database import Database
from threadkeep.identity import Authenticator
from threadkeep.settings import Settings
from threadkeep.web import Runtime, create_app


def client_of(settings: Settings, database: Database) -> httpx.AsyncClient:
    """A client of the function under these settings."""
    application = create_app(app.router, runtime=Runtime(settings, database, Authenticator(settings)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="https://api.example.com")


def ada(**claims: Any) -> dict[str, str]:
    """The header of an account."""
    return bearer("ada", email="ada@example.com", name="Ada", **claims)


def by_token(token: str) -> dict[str, str]:
    """The header with a token."""
    return {"authorization": f"Bearer {token}"}


async def new_guest(api: httpx.AsyncClient) -> dict[str, Any]:
    """A guest as the function makes one: `{token, userId, expiresAt}`."""
    answer = await api.post("/api/auth/guest")
    assert answer.status_code == 201
    guest: dict[str, Any] = answer.json()
    return guest


def problem(answer: httpx.Response) -> tuple[int, str]:
    """The status and code of a refusal."""
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def wrong_fields(answer: httpx.Response) -> list[str]:
    """The fields that a refusal names."""
    assert problem(answer) == (422, "invalid:api")
    return [error["field"] for error in answer.json()["errors"]]
