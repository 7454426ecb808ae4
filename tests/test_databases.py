from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests import databases
from tests.databases import DatabaseServer


def names(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select datname from pg_database where datname like 'threadkeep\\_%' order by 1")
        return [str(name) for (name,) in found]


def test_a_copy_has_the_schema_and_nothing_of_another_copy(postgres_server: DatabaseServer, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("create table mark ()")
    other = postgres_server.create_database(postgres_server.template())
    with psycopg.connect(postgres_server.dsn(other)) as connection:
        found = connection.execute("""select to_regclass('mark'), to_regclass('"Message_v2"')::text""").fetchone()
        assert found == (None, '"Message_v2"')
    postgres_server.drop_database(other)


def test_the_functions_role_reads_nothing_until_it_becomes_somebody(api_database_url: str) -> None:
    with psycopg.connect(api_database_url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute('select from "Chat"')
        connection.execute("set role authenticated")
        connection.execute('select from "Chat"')


def test_copies_are_made_from_many_threads(postgres_server: DatabaseServer) -> None:
    template = postgres_server.template()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: postgres_server.create_database(template), range(16)))
        list(pool.map(postgres_server.drop_database, made))
    assert len(set(made)) == 16


def test_a_database_is_dropped_with_who_is_still_connected(postgres_server: DatabaseServer) -> None:
    name = postgres_server.create_database()
    with psycopg.connect(postgres_server.dsn(name)) as connection:
        postgres_server.drop_database(name)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_a_given_server_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    with databases.own_cluster(listen_tcp=True, database="postgres") as given:
        monkeypatch.setenv("TEST_DATABASE_URL", given.tcp_dsn("postgres"))
        with psycopg.connect(given.dsn("postgres"), autocommit=True) as connection:
            connection.execute("create database threadkeep_test_of_a_killed_run")
        with databases.running_server() as first, databases.running_server() as second:
            copy = second.create_database(first.template())
            with psycopg.connect(first.dsn(copy, databases.API_ROLE)) as connection:
                assert connection.info.user == databases.API_ROLE
            assert names(given.dsn("postgres")) == [first.template(), copy]
        assert names(given.dsn("postgres")) == []


def test_a_second_run_keeps_off_the_databases_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with databases.own_cluster(database="postgres") as given:
        monkeypatch.setenv("TEST_DATABASE_URL", given.dsn("postgres"))
        with databases.running_server() as first:
            name = first.create_database()
            with databases.running_server():
                pass
            assert names(given.dsn("postgres")) == [name]
