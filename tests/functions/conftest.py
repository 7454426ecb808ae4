"""What the tests of the functions share: an environment, and a process that was started in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from tests.providers import HOOK_SECRET, ISSUERS, OLD_HOOK_SECRET
from threadkeep.settings import Settings
from threadkeep.settings import settings as settings_of_the_process


@pytest.fixture
def environment(api_database_url: str) -> dict[str, str]:
    """The variables of a function: two issuers, two webhook secrets, a key for guests."""
    return {
        "DATABASE_URL": api_database_url,
        "AUTH_ISSUERS": json.dumps(ISSUERS),
        "AUTH_HOOK_SECRETS": f"v1,{HOOK_SECRET}|v1,{OLD_HOOK_SECRET}",
        "GUEST_TOKEN_KEYS": json.dumps({"k1": "g" * 32}),
    }


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    """The settings of that environment."""
    return Settings.load(environment)


@pytest.fixture
def process(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.AbstractEventLoop]:
    """A fresh Lambda environment of those variables; gives its event loop, in which its pool of connections lives."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings_of_the_process.cache_clear()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
    asyncio.set_event_loop(None)
    settings_of_the_process.cache_clear()
