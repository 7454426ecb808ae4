"""The whole application on a port, with the offline model and limits that nobody meets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from local.configuration import local_issuer
from local.server import application
from tests.chat_server import KEYS, ChatServer, serving, settings_for
from tests.contract.belongings import Belongings, belongings
from tests.issuer import LocalIssuer

MAX_BODY_BYTES = 1_500_000


@pytest.fixture(scope="session")
def issuer() -> Iterator[LocalIssuer]:
    """An issuer with public keys, beside the local one with its secret."""
    with LocalIssuer("RS256") as running:
        yield running


@pytest.fixture
async def server(database_url: str, api_database_url: str, issuer: LocalIssuer) -> AsyncIterator[ChatServer]:
    issuers = [local_issuer(KEYS), {"issuer": issuer.url, "kind": "oidc", "audience": "threadkeep"}]
    settings = settings_for(
        api_database_url, None, AUTH_ISSUERS=json.dumps(issuers), MAX_BODY_BYTES=str(MAX_BODY_BYTES)
    )
    async with serving(application(settings), database_url) as whole:
        await whole.rows(
            """
            update admin_config
            set config_data = config_data || '{"rateLimit": {"perMinute": 9999, "perHour": 9999, "perDay": 9999}}'
            where config_data ? 'rateLimit'
            """
        )
        yield whole


@pytest.fixture
async def ada(server: ChatServer) -> Belongings:
    """A user who has one of each thing."""
    return await belongings(server)
