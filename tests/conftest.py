"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import databases
from tests.databases import DatabaseServer

pytest_plugins = ["tests.aws", "tests.emulator.fixtures", "tests.crowd", "tests.logs", "tests.stores"]


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
