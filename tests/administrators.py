"""The routes for administrators as tests call them: one application, and everybody who might try."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from functions.admin import app
from tests.providers import bearer
from threadkeep.database import Database
from threadkeep.guests import issue_guest
from threadkeep.identity import Authenticator
from threadkeep.settings import Settings
from threadkeep.web import Runtime, create_app

ROOT = bearer("root", app_metadata={"role": "admin"})
ADA = bearer("ada")


@asynccontextmanager
async def admin_api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the admin function."""
    application = create_app(*app.ROUTERS, runtime=Runtime(settings, database, Authenticator(settings)))
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as client:
        yield client


def guest(settings: Settings) -> dict[str, str]:
    """The header of a new guest."""
    return {"authorization": f"Bearer {issue_guest(settings).token}"}


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def wrong_fields(answer: httpx.Response) -> list[str]:
    assert problem(answer) == (422, "invalid:api")
    return [error["field"].rpartition(".")[2] for error in answer.json()["errors"]]


async def read(api: httpx.AsyncClient, path: str, /, **query: Any) -> dict[str, Any]:
    """What an administrator gets."""
    answer = await api.get(f"/api/admin/{path}", headers=ROOT, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def all_pages(api: httpx.AsyncClient, path: str, /, **query: Any) -> list[list[dict[str, Any]]]:
    """The items of each page, until there is no cursor."""
    found = []
    cursor: str | None = None
    while True:
        page = await read(api, path, **query, **({"cursor": cursor} if cursor else {}))
        found.append(page["items"])
        cursor = page["nextCursor"]
        if cursor is None:
            return found
