"""Many callers at once on one real database, and the little that they do there."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from threadkeep import turns, upkeep
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import SERVICE, Principal
from threadkeep.settings import Settings

CONNECTIONS = 16
Action = Callable[[], Awaitable[Any]]


class Owner:
    """Sees and writes everything, past all policies."""

    def __init__(self, connection: psycopg.AsyncConnection[dict[str, Any]]) -> None:
        self._connection = connection

    async def rows(self, query: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        cursor = await self._connection.execute(query.encode(), parameters or {})
        return await cursor.fetchall() if cursor.description else []

    async def number(self, query: str, parameters: dict[str, Any] | None = None) -> int:
        [row] = await self.rows(query, parameters)
        [number] = row.values()
        return int(number)


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[Owner]:
    """The owner of this test's database, on a connection of his own."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        yield Owner(connection)


@pytest.fixture
async def database(api_database_url: str) -> AsyncIterator[Database]:
    """The functions' way to this test's database, with all connections open before anything happens at once."""
    database = Database(api_database_url, pool_size=CONNECTIONS)
    await asyncio.gather(*[database.rows(SERVICE, "select pg_sleep(0.1)") for _ in range(CONNECTIONS)])
    yield database
    await database.close()


@pytest.fixture
def settings(api_database_url: str) -> Settings:
    """Settings with a key for guests, and no issuer."""
    return Settings.load({"DATABASE_URL": api_database_url, "GUEST_TOKEN_KEYS": json.dumps({"k1": "g" * 32})})


async def at_once(*actions: Action) -> list[Any]:
    """What each of them gave or raised, in their order; they start together, shuffled."""
    start = asyncio.Event()

    async def wait(action: Action) -> Any:
        await start.wait()
        return await action()

    shuffled = list(enumerate(actions))
    random.shuffle(shuffled)
    tasks = {place: asyncio.create_task(wait(action)) for place, action in shuffled}
    start.set()
    await asyncio.wait(tasks.values())
    return [tasks[place].exception() or tasks[place].result() for place in range(len(actions))]


def refusals(results: Iterable[Any]) -> set[str]:
    """The codes of the domain's errors among what came out; any other error is raised."""
    codes = set()
    for result in results:
        if isinstance(result, ThreadkeepError):
            codes.add(result.code)
        elif isinstance(result, BaseException):
            raise result
    return codes


def somebody(user_id: UUID | None = None, **members: Any) -> Principal:
    """A user of an identity provider."""
    return Principal(user_id=user_id or uuid4(), role="authenticated", **members)


async def begin(database: Database, user: Principal) -> turns.Run:
    """A turn of this user in a session of its own, which then runs."""
    begun = await turns.begin(
        database,
        user,
        turns.TurnRequest(
            session=uuid4(),
            message=turns.UserMessage(uuid4(), [{"type": "text", "text": "Hello"}], [], "Hello"),
            trigger="submit",
        ),
        answer=uuid4(),
        stream=uuid4(),
        correlation_id=uuid4(),
        providers=[],
        configuration_version=None,
        guest_address=None,
        new_guest=False,
    )
    assert isinstance(begun, turns.Run)
    return begun


def usage(**members: Any) -> dict[str, Any]:
    """One model request, as a turn reports it."""
    return {
        "request_id": str(uuid4()),
        "agent_type": "chat_model_agent",
        "model_used": "offline",
        "provider": "offline",
        "input_tokens": 3,
        "output_tokens": 4,
        "input_cost": 0,
        "output_cost": 0,
        "source": "provider",
        "is_priced": True,
    } | members


async def finish(database: Database, user_id: UUID, run: turns.Run) -> str:
    """The end of a turn with one model request."""
    ending = turns.Ending(
        status="complete",
        parts=[{"type": "text", "text": "Hello too"}],
        model_messages=None,
        metadata={},
        model="offline",
        usage=[usage()],
        activity=[],
        error=None,
        title=None,
        chunk=None,
        chunk_seq=0,
    )
    return await turns.finish(database, user_id, run, ending)


async def rolled_up(database: Database, expected: int) -> bool:
    """Whether so many rows are rolled up; a transaction of another test on this server may hold them up for a while."""
    done = 0
    async with asyncio.timeout(30):
        while True:
            report = await upkeep.run(database)
            [found] = [kind for kind in report.kinds if kind.kind == "usage_roll_up"]
            assert (found.error, found.remaining) == (None, 0)
            done += found.done
            if done >= expected:
                return done == expected
            await asyncio.sleep(0.05)
