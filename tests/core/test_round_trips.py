"""A unit of work is one network round trip, whatever is in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest

from tests.crowd import begin, somebody
from tests.round_trips import Proxy, counted
from threadkeep import admin_configuration, messages, model_catalog, sessions
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import ANONYMOUS, SERVICE


@pytest.fixture
async def proxy(api_database_url: str) -> AsyncIterator[Proxy]:
    async with counted(api_database_url) as proxy:
        yield proxy


@pytest.fixture
async def warm(proxy: Proxy) -> AsyncIterator[Database]:
    """A database behind the proxy, with its one connection open."""
    database = Database(proxy.url)
    await database.rows(SERVICE, "select 1")
    proxy.reset()
    yield database
    await database.close()


async def test_the_proxy_counts_every_time_that_a_client_waits(proxy: Proxy) -> None:
    async with await psycopg.AsyncConnection.connect(proxy.url, autocommit=True) as connection:
        proxy.reset()
        for _ in range(3):
            await connection.execute("select 1")
        assert proxy.round_trips == 3
        async with connection.transaction():
            await connection.execute("select 1")
        assert proxy.round_trips == 6


async def test_a_unit_of_many_statements_is_one_round_trip(warm: Database, proxy: Proxy) -> None:
    many = [("select %(n)s + 1 as n, repeat('x', 20000) as text", {"n": n}) for n in range(20)]
    results = await warm.run(SERVICE, *many)
    assert [rows[0]["n"] for rows in results] == list(range(1, 21))
    assert (proxy.round_trips, proxy.connections) == (1, 0)


async def test_a_unit_with_a_large_parameter_is_one_round_trip(warm: Database, proxy: Proxy) -> None:
    [row] = await warm.rows(SERVICE, "select length(%(text)s::text) as length", {"text": "x" * 1_000_000})
    assert row["length"] == 1_000_000
    assert proxy.round_trips == 1


async def test_a_refusal_is_one_round_trip(warm: Database, proxy: Proxy) -> None:
    with pytest.raises(ThreadkeepError):
        await warm.run(SERVICE, ("select private.fail('TK404', 'not_found:session')", {}), ("select 1", {}))
    assert proxy.round_trips == 1
    assert await warm.rows(SERVICE, "select 1 as one") == [{"one": 1}]
    assert (proxy.round_trips, proxy.connections) == (2, 0)


async def test_nothing_follows_the_end_of_a_unit(warm: Database, proxy: Proxy) -> None:
    """A pooler would give a connection to what follows, and wait for the rest of it."""
    sync = b"S\x00\x00\x00\x04"
    await warm.rows(SERVICE, "select 1")
    assert proxy.last_sent.endswith(sync)
    with pytest.raises(ThreadkeepError):
        await warm.run(SERVICE, ("select private.fail('TK404', 'not_found:session')", {}))
    assert proxy.last_sent.endswith(sync)


async def test_each_read_and_change_of_sessions_is_one_round_trip(warm: Database, proxy: Proxy) -> None:
    user, session = somebody(), uuid4()
    await sessions.create(warm, user, session, title="Hello", visibility="public", guest_address=None, new_guest=False)
    await sessions.own_page(warm, user, words="hello", status=None, limit=20, cursor=None)
    await sessions.read(warm, user, session)
    await sessions.read(warm, ANONYMOUS, session)
    await messages.page(warm, user, session, limit=50, cursor=None)
    await messages.page(warm, ANONYMOUS, session, limit=50, cursor=None)
    await sessions.change(warm, user, session, {"title": "Hi"})
    await sessions.delete(warm, user, session)
    assert proxy.round_trips == 8


async def test_a_change_of_the_configuration_is_one_round_trip_and_one_more_for_what_it_changes(
    warm: Database, proxy: Proxy
) -> None:
    administrator, key = somebody(is_admin=True), "chat_model_agent_google"
    found = await admin_configuration.read(warm, administrator, key)
    await admin_configuration.put(warm, administrator, key, found.data | {"systemPrompt": "Be brief."})
    await admin_configuration.history(warm, administrator, key, limit=20, cursor=None)
    await model_catalog.make_default(warm, administrator, "gemini-2.5-pro")
    await model_catalog.delete(warm, administrator, "gemini-2.5-flash")
    assert proxy.round_trips == 5
    proxy.reset()
    await admin_configuration.patch(warm, administrator, key, {"enabled": False})
    await admin_configuration.reset(warm, administrator, key)
    await model_catalog.change(warm, administrator, "gemini-2.5-pro", {"name": "Pro"})
    assert proxy.round_trips == 6


async def test_the_beginning_of_a_turn_is_one_round_trip(warm: Database, proxy: Proxy) -> None:
    await begin(warm, somebody())
    assert proxy.round_trips == 1
