"""What is counted (calls, tokens, costs, messages) is exact, whoever counts at the same time."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.crowd import Owner, at_once, somebody, usage
from tests.sql.callers import BECOME
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import SERVICE, Principal

CALLERS = 40
LIMIT = 10
PLENTY = 1000
WINDOWS = {"perMinute": "minutely", "perHour": "hourly", "perDay": "daily"}
CONSUME = "select private.consume_limits('chat_model_agent', 'google', %(address)s)"


@pytest.fixture
async def connections(api_database_url: str) -> AsyncIterator[list[psycopg.AsyncConnection[Any]]]:
    """A connection for each caller: what goes wrong on it is seen, and nothing is repeated."""
    opened = [
        await psycopg.AsyncConnection.connect(api_database_url, autocommit=True, prepare_threshold=None)
        for _ in range(CALLERS)
    ]
    yield opened
    for connection in opened:
        await connection.close()


async def person(database: Database, **members: Any) -> Principal:
    principal = somebody(**members)
    await database.rows(principal, "select private.ensure_profile(null, null)")
    return principal


async def set_limits(owner: Owner, **limits: int) -> None:
    await owner.rows(
        """
        update public.admin_config
        set config_data = jsonb_set(config_data, '{rateLimit}', %(limits)s)
        where config_key = 'chat_model_agent_google'
        """,
        {"limits": json.dumps(dict.fromkeys(WINDOWS, PLENTY) | limits)},
    )


async def call(connection: psycopg.AsyncConnection[Any], principal: Principal, address: str | None = None) -> str:
    """One call of the agent: `passed`, or the window that refused it."""
    try:
        async with connection.transaction():
            await connection.execute(BECOME, {"role": principal.role, "claims": principal.claims})
            await connection.execute(CONSUME, {"address": address})
    except psycopg.Error as error:
        if error.sqlstate != "TK429":
            raise
        refusal = json.loads(error.diag.message_detail or "")
        return str(refusal["window"]) if 1 <= refusal["retryAfter"] <= 86400 else f"{refusal}"
    return "passed"


async def counted(owner: Owner, user_id: UUID | None) -> dict[str, list[int]]:
    """What each kind of window of a user has counted; a kind with two entries went over an edge."""
    rows = await owner.rows(
        """
        select limit_type, array_agg(request_count) as counts
        from public.rate_limit_tracking
        where user_id = %(user)s
        group by limit_type
        """,
        {"user": user_id},
    )
    return {row["limit_type"]: row["counts"] for row in rows}


@pytest.mark.parametrize("name", WINDOWS)
async def test_of_40_calls_at_once_exactly_the_limit_passes_and_a_denied_one_consumes_nothing(
    connections: list[psycopg.AsyncConnection[Any]], database: Database, owner: Owner, name: str
) -> None:
    await set_limits(owner, **{name: LIMIT})
    for _ in range(3):
        user = await person(database)
        results = await at_once(*[partial(call, connection, user) for connection in connections])
        counts = await counted(owner, user.user_id)
        if all(len(windows) == 1 for windows in counts.values()):
            break  # else it went over the edge of a window, as one in a few hundred does

    assert Counter(results) == {"passed": LIMIT, WINDOWS[name]: CALLERS - LIMIT}
    assert counts == {"minutely": [LIMIT], "hourly": [LIMIT], "daily": [LIMIT]}


async def test_an_exhausted_window_leaves_the_others_as_they_were(database: Database, owner: Owner) -> None:
    user = await person(database)
    await set_limits(owner, perDay=1)
    await database.rows(user, CONSUME, {"address": None})
    before = await counted(owner, user.user_id)

    for _ in range(5):
        with pytest.raises(ThreadkeepError) as error:
            await database.rows(user, CONSUME, {"address": None})
        assert (error.value.code, error.value.extra["window"], error.value.extra["limit"]) == (
            "rate_limit:chat",
            "daily",
            1,
        )

    assert await counted(owner, user.user_id) == before


@pytest.mark.parametrize("name", WINDOWS)
async def test_a_limit_of_0_lets_nothing_pass_and_writes_nothing(database: Database, owner: Owner, name: str) -> None:
    user = await person(database)
    await set_limits(owner, **{name: 0})

    with pytest.raises(ThreadkeepError) as error:
        await database.rows(user, CONSUME, {"address": None})

    assert error.value.extra["window"] == WINDOWS[name]
    assert await counted(owner, user.user_id) == {}


async def test_a_limit_that_was_changed_counts_from_the_next_call(database: Database, owner: Owner) -> None:
    user = await person(database)
    await set_limits(owner, perDay=1)
    await database.rows(user, CONSUME, {"address": None})
    await set_limits(owner, perDay=2)
    await database.rows(user, CONSUME, {"address": None})
    await set_limits(owner, perDay=1)

    with pytest.raises(ThreadkeepError):
        await database.rows(user, CONSUME, {"address": None})


async def test_the_guests_of_one_address_share_a_quota(
    connections: list[psycopg.AsyncConnection[Any]], database: Database, owner: Owner
) -> None:
    await set_limits(owner, perDay=LIMIT)
    guests = [await person(database, is_guest=True) for _ in range(CALLERS)]

    results = await at_once(
        *[
            partial(call, connection, guest, "one address")
            for connection, guest in zip(connections, guests, strict=True)
        ]
    )

    assert Counter(results)["passed"] == LIMIT
    consumed = "select coalesce(sum(request_count), 0) from public.rate_limit_tracking where limit_type = 'daily'"
    assert await owner.number(consumed) == LIMIT
    used = "select sum(used) from private.guest_windows where purpose = 'chat_model_agent' and limit_type = 'daily'"
    assert await owner.number(used) == LIMIT
    assert await call(connections[0], guests[0], "another address") in ("passed", "daily")
    assert await call(connections[0], await person(database, is_guest=True), "a third address") == "passed"
    assert await call(connections[0], await person(database), "one address") == "passed"


async def test_an_agent_without_a_configuration_is_refused(database: Database) -> None:
    user = await person(database)
    for agent, provider in (("no_such_agent", "google"), ("chat_model_agent", "offline")):
        with pytest.raises(ThreadkeepError) as error:
            await database.rows(
                user,
                "select private.consume_limits(%(agent)s, %(provider)s, null)",
                {"agent": agent, "provider": provider},
            )
        assert error.value.code == "forbidden:agent"


class Answer:
    """A session with an answer, on which model requests are settled."""

    def __init__(self, database: Database, owner: Owner, user: Principal, session: UUID, message: UUID) -> None:
        self._database = database
        self._owner = owner
        self.user_id, self.session, self.message = user.user_id, session, message

    async def settle(self, *rows: dict[str, Any]) -> None:
        await self._database.rows(
            SERVICE,
            "select private.settle_usage(%(user)s, %(session)s, %(message)s, %(rows)s)",
            {"user": self.user_id, "session": self.session, "message": self.message, "rows": json.dumps(rows)},
        )

    async def totals(self) -> list[tuple[Any, ...]]:
        """Requests, input tokens, output tokens and cost: of the rows, of the days, of session and of message."""
        rows = await self._owner.rows(
            """
            select
                1 as place, count(*) as requests, sum(input_tokens) as input, sum(output_tokens) as output,
                sum(total_cost) as cost
            from public.usage_logs
            union all
            select 2, sum(requests), sum(input_tokens), sum(output_tokens), sum(total_cost) from public.usage_daily
            union all
            select 3, null, total_input_tokens, total_output_tokens, total_cost from public."Chat"
            union all
            select 4, null, input_tokens, output_tokens, cost from public."Message_v2" where role = 'assistant'
            order by 1
            """
        )
        return [tuple(row.values())[1:] for row in rows]


@pytest.fixture
async def answer(database: Database, owner: Owner) -> Answer:
    user = await person(database)
    session, message = uuid4(), uuid4()
    await database.run(
        SERVICE,
        (
            """insert into public."Chat" (id, user_id, title) values (%(session)s, %(user)s, 'A session')""",
            {"session": session, "user": user.user_id},
        ),
        (
            """
            insert into public."Message_v2" (id, "chatId", role, parts)
            values (%(message)s, %(session)s, 'assistant', '[]')
            """,
            {"message": message, "session": session},
        ),
    )
    return Answer(database, owner, user, session, message)


def request(**members: Any) -> dict[str, Any]:
    return usage(input_tokens=100, output_tokens=10, input_cost="0.001", output_cost="0.000000000001") | members


def expected(requests: int, input_tokens: int, output_tokens: int, cost: str) -> list[tuple[Any, ...]]:
    figures = (input_tokens, output_tokens, Decimal(cost))
    return [(requests, *figures), (requests, *figures), (None, *figures), (None, *figures)]


async def test_several_requests_are_summed_into_every_total(answer: Answer) -> None:
    await answer.settle(request(), request(), request(agent_type="titles"))

    assert await answer.totals() == expected(3, 300, 30, "0.003000000003")


async def test_settling_again_changes_nothing_and_settles_only_what_is_new(answer: Answer) -> None:
    first, second = request(), request()
    await answer.settle(first)
    await answer.settle(first)
    await answer.settle(first, second)
    await answer.settle(second, first)
    await answer.settle()

    assert await answer.totals() == expected(2, 200, 20, "0.002000000002")


async def test_a_providers_figures_replace_an_estimate_and_totals_move_by_the_difference(
    answer: Answer, owner: Owner
) -> None:
    real = request()
    guess = real | {"source": "estimated", "input_tokens": 7, "output_tokens": 999, "output_cost": "0.5"}
    other = request()

    await answer.settle(guess, other)
    assert await answer.totals() == expected(2, 107, 1009, "0.502000000001")
    await answer.settle(guess | {"output_tokens": 5}, other)
    assert await answer.totals() == expected(2, 107, 1009, "0.502000000001")
    await answer.settle(real, other)
    assert await answer.totals() == expected(2, 200, 20, "0.002000000002")
    await answer.settle(guess)
    await answer.settle(real | {"output_tokens": 77})
    assert await answer.totals() == expected(2, 200, 20, "0.002000000002")
    assert await owner.number("select count(*) from public.usage_logs where source = 'estimated'") == 0


async def test_a_request_of_a_model_without_a_price_is_flagged_and_its_tokens_count(
    answer: Answer, owner: Owner
) -> None:
    await answer.settle(request(), request(input_cost=None, output_cost=None, is_priced=False))

    assert await answer.totals() == expected(2, 200, 20, "0.001000000001")
    unpriced = "select count(*) from public.usage_logs where not is_priced and total_cost is null"
    assert await owner.number(unpriced) == 1


async def test_requests_that_many_settle_at_once_are_counted_once(answer: Answer) -> None:
    requests = [request() for _ in range(10)]
    guesses = [row | {"source": "estimated", "output_tokens": 500} for row in requests]

    def some() -> list[dict[str, Any]]:
        return random.sample(guesses, 5) + random.sample(requests, 5)

    results = await at_once(
        *[partial(answer.settle, *some()) for _ in range(14)], *[partial(answer.settle, *requests)] * 2
    )

    assert results == [None] * 16
    assert await answer.totals() == expected(10, 1000, 100, "0.010000000010")


async def test_usage_is_kept_when_its_session_is_deleted_before_or_after(answer: Answer, owner: Owner) -> None:
    await answer.settle(request())
    await owner.rows('delete from public."Chat"')
    await answer.settle(request())

    assert (await answer.totals())[:2] == expected(2, 200, 20, "0.002000000002")[:2]
    assert (
        await owner.number("select count(*) from public.usage_logs where chat_id is null and message_id is null") == 2
    )


async def test_what_was_spent_is_kept_by_day_when_its_user_is_deleted(
    answer: Answer, database: Database, owner: Owner
) -> None:
    await answer.settle(request())
    await database.rows(SERVICE, "select private.remove_user(%(user)s)", {"user": answer.user_id})

    assert await owner.number("select count(*) from public.usage_logs") == 0
    assert (await answer.totals())[1] == expected(1, 100, 10, "0.001000000001")[1]


INSERT = """
    insert into public."Message_v2" ("chatId", role, parts)
    values (%(session)s, 'user', '[{"type": "text", "text": "Hello"}]')
    returning id, seq
"""


async def session_of(database: Database, user: Principal) -> UUID:
    session = uuid4()
    await database.rows(
        user,
        "select private.create_session(%(session)s, 'A session', 'private', null, false, null, null)",
        {"session": session},
    )
    return session


async def counters(owner: Owner, session: UUID) -> tuple[Any, ...]:
    [row] = await owner.rows(
        'select message_count, last_seq from public."Chat" where id = %(session)s', {"session": session}
    )
    return tuple(row.values())


async def test_messages_that_come_at_once_are_counted_and_numbered_without_gaps(
    database: Database, owner: Owner
) -> None:
    user = await person(database)
    session = await session_of(database, user)

    async def write_often() -> list[int]:
        return [(await database.rows(user, INSERT, {"session": session}))[0]["seq"] for _ in range(10)]

    results = await at_once(*[write_often] * 16)

    assert sorted(seq for numbers in results for seq in numbers) == list(range(1, 161))
    assert all(numbers == sorted(numbers) for numbers in results)
    assert await counters(owner, session) == (160, 160)


async def test_messages_that_come_and_go_at_once_leave_a_count_that_is_right(database: Database, owner: Owner) -> None:
    user = await person(database)
    session = await session_of(database, user)

    async def write_and_delete() -> None:
        for _ in range(10):
            [row] = await database.rows(user, INSERT, {"session": session})
            if random.random() < 0.5:
                # The session first, as everybody who deletes messages does it.
                lock = 'select from public."Chat" where id = %(session)s for no key update'
                delete = 'delete from public."Message_v2" where id = %(id)s'
                await database.run(user, (lock, {"session": session}), (delete, {"id": row["id"]}))

    assert await at_once(*[write_and_delete] * 16) == [None] * 16

    left = await owner.number('select count(*) from public."Message_v2"')
    assert await counters(owner, session) == (left, 160)
    assert await owner.number('select count(distinct seq) from public."Message_v2"') == left


async def test_one_statement_may_bring_or_take_several_messages_of_several_sessions(
    database: Database, owner: Owner
) -> None:
    user = await person(database)
    sessions = [await session_of(database, user) for _ in range(2)]
    bring = """
        insert into public."Message_v2" ("chatId", role, parts)
        select s.session, 'user', '[]'
        from unnest(%(sessions)s::uuid[]) as s (session)
        cross join generate_series(1, 3)
    """
    take = 'delete from public."Message_v2" where seq <= 2'

    await database.rows(user, bring, {"sessions": sessions})
    assert [await counters(owner, session) for session in sessions] == [(3, 3)] * 2
    await database.rows(user, take)
    assert [await counters(owner, session) for session in sessions] == [(1, 3)] * 2
    await database.rows(user, INSERT, {"session": sessions[0]})
    assert await counters(owner, sessions[0]) == (2, 4)


async def test_turns_that_end_at_once_take_the_days_rows_in_one_order(
    connections: list[psycopg.AsyncConnection[Any]], database: Database, owner: Owner
) -> None:
    user = await person(database)
    agents = ("chat_model_agent", "titles", "python_agent")
    settle = "select private.settle_usage(%(user)s, null, null, %(rows)s)"

    async def end_often(connection: psycopg.AsyncConnection[Any]) -> None:
        for _ in range(5):
            rows = json.dumps([request(agent_type=agent) for agent in agents * 4])
            async with connection.transaction():
                await connection.execute(BECOME, {"role": SERVICE.role, "claims": SERVICE.claims})
                await connection.execute(settle, {"user": user.user_id, "rows": rows})

    assert await at_once(*[partial(end_often, connection) for connection in connections[:16]]) == [None] * 16

    assert await owner.number("select sum(requests) from public.usage_daily") == 16 * 5 * 12
