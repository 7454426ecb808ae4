"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import databases
from tests.databases import DatabaseServer

pytest_plugins = ["tests.emulator.fixtures", "tests.crowd", "tests.stores"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[DatabaseServer]:
    """The PostgreSQL server of the whole run."""
    with databases.running_server() as server:
        yield server


@pytest.fixture
def database_url(postgres_server: DatabaseServer) -> Iterator[str]:
    """A database of this test's own with all of `sql/` applied, as its owner and superuser."""
    name = postgres_server.create_database(postgres_server.template())
    yield postgres_server.dsn(name)
    postgres_server.drop_database(name)


@pytest.fixture
def api_database_url(postgres_server: DatabaseServer, database_url: str) -> str:
    """The same database, as the login role of the functions."""
    return postgres_server.dsn(databases.database_of(database_url), databases.API_ROLE)
