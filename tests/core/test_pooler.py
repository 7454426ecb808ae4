"""A pooler that gives its few connections to whoever has a transaction: nothing of one client reaches another."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.crowd import Owner, at_once, begin, finish, refusals, somebody
from tests.databases import DatabaseServer, database_of
from tests.pooler import Pooler, running_pooler
from threadkeep import sessions
from threadkeep.database import Actor, Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import ANONYMOUS, SERVICE, Principal

WHO = """
    select
        pg_backend_pid() as connection,
        session_user::text as login,
        current_user::text as role,
        coalesce(current_setting('request.jwt.claims', true), '') as claims
"""


@pytest.fixture
def narrow(postgres_server: DatabaseServer) -> Iterator[Pooler]:
    """A pooler with one connection to each database."""
    with running_pooler(postgres_server, pool_size=1) as pooler:
        yield pooler


async def create(database: Database, user: Principal, session: UUID | None = None) -> UUID:
    made, _ = await sessions.create(
        database, user, session or uuid4(), title="Mine", visibility="private", guest_address=None, new_guest=False
    )
    return made.id


async def who(connection: psycopg.AsyncConnection[Any]) -> dict[str, Any]:
    cursor = await connection.cursor(row_factory=dict_row).execute(WHO)
    [row] = await cursor.fetchall()
    return row


@contextlib.asynccontextmanager
async def databases_at(url: str, count: int) -> AsyncIterator[list[Database]]:
    """As many environments of Lambda: each with one connection of its own."""
    databases = [Database(url) for _ in range(count)]
    try:
        yield databases
    finally:
        await asyncio.gather(*[database.close() for database in databases])


async def test_neither_role_nor_claims_stay_on_a_shared_connection(narrow: Pooler, database_url: str) -> None:
    url = narrow.dsn(database_of(database_url))
    ada, grace = somebody(), somebody()
    people: list[Actor] = [ada, grace, ANONYMOUS, SERVICE]
    connections = set()
    async with (
        databases_at(url, 2) as databases,
        await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as bare,
    ):
        await create(databases[0], ada)
        await create(databases[1], grace)
        for unit in range(200):
            person = people[unit % 4]
            if unit % 5 == 4:
                # The statement after it fails, and everything is rolled back.
                with pytest.raises(ThreadkeepError):
                    await databases[unit % 2].rows(SERVICE, "select private.fail('TK404', 'not_found:session')")
            found = await databases[unit % 2].rows(person, WHO)
            between = await who(bare)
            connections |= {found[0]["connection"], between["connection"]}
            assert (found[0]["role"], found[0]["claims"]) == (person.role, person.claims)
            assert (between["login"], between["role"], between["claims"]) == ("threadkeep_api", "threadkeep_api", "")
        for database, user in zip(databases, [grace, ada], strict=True):
            assert await database.rows(user, 'select user_id from public."Chat"') == [{"user_id": user.user_id}]
    assert len(connections) == 1


async def test_forty_clients_get_along_with_two_connections(
    postgres_server: DatabaseServer, database_url: str, owner: Owner
) -> None:
    name = database_of(database_url)

    async def turn(database: Database) -> str:
        user = somebody()
        run = await begin(database, user)
        assert user.user_id is not None
        return await finish(database, user.user_id, run)

    with running_pooler(postgres_server, pool_size=2) as pooler:
        async with databases_at(pooler.dsn(name), 40) as databases:
            endings = await at_once(*[partial(turn, database) for database in databases])
        assert refusals(endings) == set()
        assert len(pooler.servers(name)) == 2
    assert await owner.number("select count(*) from public.usage_logs") == 40
    complete = """select count(*) from public."Message_v2" where role = 'assistant' and status = 'complete'"""
    assert await owner.number(complete) == 40


HALF_A_UNIT = """
import sys, time
import psycopg

url, role, claims, session = sys.argv[1:]
with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection, connection.pipeline():
    connection.execute(
        "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)", [role, claims]
    )
    written = 'insert into public."Chat" (id, user_id, title) values (%s, (%s::jsonb ->> %s)::uuid, %s) returning id'
    print(connection.execute(written, [session, claims, "sub", "Half"]).fetchone()[0], flush=True)
    time.sleep(60)
"""


async def test_a_client_that_is_killed_within_its_unit_leaves_nothing_behind(narrow: Pooler, database_url: str) -> None:
    url = narrow.dsn(database_of(database_url))
    user, half = somebody(), uuid4()
    async with databases_at(url, 1) as [database]:
        whole = await create(database, user)
        for _ in range(5):
            client = await asyncio.create_subprocess_exec(
                *[sys.executable, "-c", HALF_A_UNIT, url, user.role, user.claims, str(half)],
                stdout=asyncio.subprocess.PIPE,
            )
            assert client.stdout is not None
            assert (await client.stdout.readline()).decode().strip() == str(half)
            client.send_signal(signal.SIGKILL)
            await client.wait()
            [row] = await database.rows(ANONYMOUS, WHO)
            assert (row["role"], row["claims"]) == (ANONYMOUS.role, ANONYMOUS.claims)
            assert await database.rows(user, 'select id from public."Chat"') == [{"id": whole}]
        async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as bare:
            assert (await who(bare))["role"] == "threadkeep_api"


async def test_nobody_notices_that_the_pooler_makes_its_connections_anew(
    narrow: Pooler, database_url: str, owner: Owner
) -> None:
    name = database_of(database_url)
    is_over = asyncio.Event()

    async def write(database: Database) -> list[UUID]:
        user, made = somebody(), []
        while not is_over.is_set():
            made.append(await create(database, user))
        return made

    async with databases_at(narrow.dsn(name), 4) as databases:
        writers = [asyncio.create_task(write(database)) for database in databases]
        connections = set()
        for _ in range(5):
            [row] = await databases[0].rows(SERVICE, WHO)
            connections.add(row["connection"])
            await asyncio.to_thread(narrow.tell, f"reconnect {name}")
        is_over.set()
        made = [session for sessions_of_one in await asyncio.gather(*writers) for session in sessions_of_one]
    assert len(connections) > 1
    assert await owner.number('select count(*) from public."Chat"') == len(made)


async def test_who_is_thrown_out_by_the_pooler_is_told_to_come_back_and_gets_in_again(
    narrow: Pooler, database_url: str, owner: Owner
) -> None:
    name = database_of(database_url)
    made: set[UUID] = set()
    results: list[Any] = []
    is_over = asyncio.Event()

    async def write(database: Database) -> None:
        user = somebody()
        while not is_over.is_set():
            [result] = await at_once(partial(create, database, user))
            results.append(result)
            if isinstance(result, UUID):
                made.add(result)

    async def ten_more() -> None:
        before = len(made)
        async with asyncio.timeout(30):
            while len(made) < before + 10:  # noqa: ASYNC110 - sessions ring no bell
                await asyncio.sleep(0.005)

    async with databases_at(narrow.dsn(name), 3) as databases:
        writers = [asyncio.create_task(write(database)) for database in databases]
        for _ in range(3):
            await ten_more()
            await asyncio.to_thread(narrow.tell, f"kill {name}")
            await asyncio.to_thread(narrow.tell, f"resume {name}")
        await ten_more()
        is_over.set()
        await asyncio.gather(*writers)
    assert refusals(results) <= {"unavailable:database"}
    stored = {row["id"] for row in await owner.rows('select id from public."Chat"')}
    assert made <= stored
    # A unit may be committed while its answer is lost with the connection; never half of it.
    assert len(stored - made) <= sum(isinstance(result, ThreadkeepError) for result in results)


@pytest.mark.parametrize("prepared_statements", [0, 20])
async def test_units_leave_no_prepared_statement_whatever_the_pooler_keeps(
    postgres_server: DatabaseServer, database_url: str, prepared_statements: int
) -> None:
    left = "select name, statement from pg_prepared_statements where not from_sql"
    with running_pooler(postgres_server, pool_size=1, prepared_statements=prepared_statements) as pooler:
        async with databases_at(pooler.dsn(database_of(database_url)), 3) as databases:
            user = somebody()
            for unit in range(30):
                await create(databases[unit % 3], user)
            assert await databases[0].rows(SERVICE, left) == []


async def test_a_client_that_prepares_statements_fails_where_the_pooler_does_not_keep_them(
    narrow: Pooler, database_url: str
) -> None:
    url = narrow.dsn(database_of(database_url))
    connect = partial(psycopg.AsyncConnection.connect, url, autocommit=True, prepare_threshold=0)
    async with await connect() as one, await connect() as other:
        await one.execute("select 1")
        with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
            await other.execute("select 1")
