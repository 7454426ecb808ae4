"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import databases
from tests.databases import DatabaseServer
from tests.pooler import Pooler, running_pooler

pytest_plugins = ["tests.aws", "tests.emulator.fixtures", "tests.crowd", "tests.logs", "tests.stores"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[DatabaseServer]:
    """The PostgreSQL server of the whole run."""
    with databases.running_server() as server:
        yield server


@pytest.fixture(scope="session")
def pooler(postgres_server: DatabaseServer) -> Iterator[Pooler]:
    """The PgBouncer of the whole run, with four connections to each database."""
    with running_pooler(postgres_server) as pooler:
        yield pooler


@pytest.fixture
def database_url(postgres_server: DatabaseServer) -> Iterator[str]:
    """A database of this test's own with all of `sql/` applied, as its owner and superuser."""
    name = postgres_server.create_database(postgres_server.template())
    yield postgres_server.dsn(name)
    postgres_server.drop_database(name)


@pytest.fixture
def api_database_url(request: pytest.FixtureRequest, postgres_server: DatabaseServer, database_url: str) -> str:
    """The same database, as the login role of the functions; through a pooler as well where a test is so marked."""
    name = databases.database_of(database_url)
    if getattr(request, "param", "direct") == "direct":
        return postgres_server.dsn(name, databases.API_ROLE)
    pooler: Pooler = request.getfixturevalue("pooler")
    return pooler.dsn(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test marked `also_behind_a_pooler` a second time through PgBouncer, if it uses the functions' address."""
    marked = metafunc.definition.get_closest_marker("also_behind_a_pooler")
    if marked and "api_database_url" in metafunc.fixturenames:
        metafunc.parametrize("api_database_url", ["direct", "pooled"], indirect=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what the packaged functions took, if any were run."""
    reports = terminalreporter.getreports("passed")
    taken = {
        name: value for report in reports for name, value in report.user_properties if name.startswith("artefact ")
    }
    if not taken:
        return
    terminalreporter.section("packaged functions")
    terminalreporter.write_line(f"{'':<32}{'init ms':>9}{'first ms':>10}{'warm ms':>9}{'MiB':>7}  Python")
    for name, numbers in sorted(taken.items()):
        columns = f"{numbers['init']:>9.0f}{numbers['first']:>10.1f}{numbers['warm']:>9.1f}{numbers['memory']:>7.0f}"
        terminalreporter.write_line(f"{name.removeprefix('artefact '):<32}{columns}  {numbers['python']}")
