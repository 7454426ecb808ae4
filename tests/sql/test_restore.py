"""A dump goes back into an empty server by the commands of the documentation, and the system goes on there."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from local.postgres import EmbeddedPostgres, EmbeddedPostgresError
from local.postgres_programs import Programs
from tests.crowd import begin, finish, somebody
from tests.databases import API_ROLE, ROOT, SQL, own_cluster
from threadkeep import admin_configuration, documents, model_catalog, turns, upkeep
from threadkeep.database import Database
from threadkeep.identity import SERVICE, Principal
from threadkeep.migrations import apply
from threadkeep.schema_check import verify

VERSION: Final = 15
NAME: Final = "threadkeep"
OWNER: Final = "keeper"
PASSWORD: Final = "the-new-password-of-the-login-role"
PAGE: Final = ROOT / "docs" / "database.md"

TABLES = """
    select n.nspname, c.relname
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname in ('auth', 'private', 'public')
        and c.relkind = 'r'
    order by 1, 2
"""
# Of each table how many rows there are, and a sum over all of their columns.
CONTENT = "select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text from only {} as t"
COUNTERS = "select schemaname, sequencename, last_value from pg_sequences order by 1, 2"

LOGS = """
    insert into public.user_activity_logs (user_id, correlation_id, activity_type, activity_category, created_at)
    select p.id, gen_random_uuid(), 'chat_create', 'chat', now() + month * interval '1 month'
    from public.user_profiles as p, generate_series(0, 9) as month
"""


@dataclass(frozen=True)
class Move:
    """An old server and a new one, with the owner's address on each."""

    old: str
    new: str
    new_server: EmbeddedPostgres
    user: Principal
    run: turns.Run

    @property
    def api(self) -> str:
        return self.new_server.dsn(NAME, API_ROLE)


@pytest.fixture(scope="module", params=["postgres", OWNER], ids=["as a superuser", "as an owner who is none"])
def move(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Move]:
    """The old database with something in every kind of table, restored on the new server by the page's commands."""
    folder = programs()
    owner: str = request.param
    with (
        own_cluster(version=VERSION, binaries=folder, database="postgres") as old_server,
        own_cluster(version=VERSION, binaries=folder, database="postgres", listen_tcp=True) as new_server,
    ):
        old, new = (empty_database(server, owner) for server in (old_server, new_server))
        apply(old, SQL)
        user, run = asyncio.run(use(old_server.dsn(NAME, API_ROLE)))
        with psycopg.connect(old_server.dsn(NAME)) as superuser:
            superuser.execute(LOGS)
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "OLD": old, "NEW": new}
        finished = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands()],
            check=False,
            cwd=tmp_path_factory.mktemp("dump"),
            env=environment,
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, finished.stderr
        yield Move(old, new, new_server, user, run)


def programs() -> Path:
    try:
        folder = Programs.find(VERSION).folder
    except EmbeddedPostgresError as error:
        pytest.skip(str(error))
    missing = [name for name in ("pg_dump", "pg_restore", "psql") if not (folder / name).exists()]
    if missing:
        pytest.skip(f"There is no {', '.join(missing)} in {folder}.")
    return folder


def commands() -> str:
    """The commands of the page, as they stand there."""
    section = PAGE.read_text().partition("## Backup and restore\n")[2]
    found = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


def empty_database(server: EmbeddedPostgres, owner: str) -> str:
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as superuser:
        if owner == OWNER:
            superuser.execute(f"create role {OWNER} login createrole".encode())
        superuser.execute(f"create database {NAME} owner {owner}".encode())
    return server.dsn(NAME, owner)


async def use(api: str) -> tuple[Principal, turns.Run]:
    """Sessions, a turn that ended and one that runs, versions, a changed configuration, and what upkeep leaves."""
    database = Database(api)
    try:
        for _ in range(3):
            user = somebody()
            assert user.user_id is not None
            await finish(database, user.user_id, await begin(database, user))
            document = uuid4()
            await documents.create(database, user, document, title="Ünicode", kind="text", content="One\n\t'\"\\")
            await documents.save(database, user, document, content="Two")
        administrator = somebody(is_admin=True)
        changes = {"systemPrompt": "Be brief."}
        await admin_configuration.patch(database, administrator, "chat_model_agent_google", changes)
        await model_catalog.make_default(database, administrator, "gemini-2.5-pro")
        await upkeep.run(database)
        return user, await begin(database, user)
    finally:
        await database.close()


def content(dsn: str) -> dict[str, Any]:
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(TABLES).fetchall()
        found: dict[str, Any] = {
            f"{schema}.{table}": connection.execute(
                sql.SQL(CONTENT).format(sql.Identifier(str(schema), str(table)))
            ).fetchone()
            for schema, table in tables
        }
        return found | {"counters": connection.execute(COUNTERS).fetchall()}


def test_every_table_has_the_same_rows_and_every_counter_its_place(move: Move) -> None:
    before = content(move.old)
    assert content(move.new) == before
    filled = {name for name, rows in before.items() if name != "counters" and rows[0]}
    assert {
        "private.migrations",
        "private.user_activity_logs_default",
        "public.Chat",
        "public.Document",
        "public.Message_v2",
        "public.Stream",
        "public.admin_config_history",
        "public.rate_limit_tracking",
        "public.usage_daily",
        "public.usage_logs",
        "public.user_profiles",
    } <= filled
    assert any(re.fullmatch(r"private\.user_activity_logs_\d.*", name) for name in filled)


def test_the_schema_is_whole_and_nothing_is_left_to_migrate(move: Move) -> None:
    report = verify(move.new, SQL)
    assert report.ok, [kind for kind in report.kinds if not kind.ok]
    assert apply(move.new, SQL).applied == ()


async def test_a_turn_that_ran_can_end_there_and_new_ones_begin(move: Move) -> None:
    database = Database(move.api)
    try:
        assert move.user.user_id is not None
        assert await finish(database, move.user.user_id, move.run) == "stored"
        for user in (move.user, somebody()):
            assert user.user_id is not None
            assert await finish(database, user.user_id, await begin(database, user)) == "stored"
        administrator = somebody(is_admin=True)
        await admin_configuration.patch(
            database, administrator, "chat_model_agent_google", {"systemPrompt": "Be kind."}
        )
        report = await upkeep.run(database)
        assert [kind for kind in report.kinds if kind.error] == []
        [row] = await database.rows(SERVICE, 'select count(*) as sessions from public."Chat"')
        assert row["sessions"] >= 6
    finally:
        await database.close()


def test_the_login_role_may_nothing_by_itself_and_gets_a_new_password(move: Move) -> None:
    apply(move.new, SQL, api_password=PASSWORD)
    port = psycopg.conninfo.conninfo_to_dict(move.new_server.tcp_dsn("postgres"))["port"]
    by_password = f"host=127.0.0.1 port={port} user={API_ROLE} dbname={NAME} password="
    with psycopg.connect(by_password + PASSWORD, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute('select from public."Chat"')
        connection.execute("set role authenticated")
        connection.execute('select from public."Chat"')
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(by_password + "the-old-password")
