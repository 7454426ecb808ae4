"""Usage by user: what the schedule rolled up and what came since are together exactly what was used."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.crowd import Owner, at_once, begin, finish, rolled_up, somebody, usage
from threadkeep import people, upkeep, usage_reports
from threadkeep.database import Database
from threadkeep.identity import SERVICE, Principal

ROOT = somebody(is_admin=True)
TODAY = datetime.now(UTC).date()
# This month is whole in it.
ALL_DAYS = usage_reports.Filter(first=TODAY - timedelta(days=3650), last=date(TODAY.year + 1, 12, 31))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits to be old enough."""
    monkeypatch.setattr(upkeep, "ROLLED_UP_AFTER", timedelta(0))


@pytest.fixture
async def person(database: Database, owner: Owner) -> Principal:
    user = somebody()
    await owner.rows("insert into public.user_profiles (id) values (%(user)s)", {"user": user.user_id})
    return user


async def settle(database: Database, user: Principal, *rows: dict[str, Any]) -> None:
    await database.rows(
        SERVICE,
        "select private.settle_usage(%(user)s, null, null, %(rows)s)",
        {"user": user.user_id, "rows": Jsonb(list(rows))},
    )


async def claim(database: Database, account: Principal, guest: Principal) -> None:
    await database.rows(
        SERVICE,
        "select private.claim_guest(%(account)s, %(guest)s, null, null)",
        {"account": account.user_id, "guest": guest.user_id},
    )


async def by_user(database: Database) -> dict[UUID | None, tuple[int, int, float]]:
    report = await usage_reports.read(database, ROOT, ["user"], ALL_DAYS, limit=200, cursor=None)
    return {item.user_id: (item.requests, item.total_tokens, float(item.total_cost)) for item in report.items}


async def rows_of(owner: Owner) -> dict[UUID | None, tuple[int, int, float]]:
    """The same, out of the rows themselves."""
    rows = await owner.rows("""
        select user_id, count(*) as requests, sum(input_tokens + output_tokens) as tokens, sum(total_cost) as cost
        from public.usage_logs
        group by user_id
    """)
    return {row["user_id"]: (row["requests"], int(row["tokens"]), float(row["cost"])) for row in rows}


async def test_what_was_used_is_counted_once_before_and_after_it_is_rolled_up(
    database: Database, owner: Owner, person: Principal
) -> None:
    await settle(database, person, usage(input_cost=1), usage(input_cost=2))
    assert await by_user(database) == {person.user_id: (2, 14, 3)}
    assert await rolled_up(database, 2)
    assert await by_user(database) == {person.user_id: (2, 14, 3)}
    await settle(database, person, usage(input_cost=4))
    assert await by_user(database) == {person.user_id: (3, 21, 7)}
    assert await rolled_up(database, 1)
    assert await rolled_up(database, 0)
    assert await by_user(database) == await rows_of(owner) == {person.user_id: (3, 21, 7)}


async def test_what_is_not_old_enough_waits(
    database: Database, person: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ROLLED_UP_AFTER", timedelta(minutes=5))
    await settle(database, person, usage())
    assert await rolled_up(database, 0)
    assert await by_user(database) == {person.user_id: (1, 7, 0)}


async def test_a_transaction_that_is_still_open_holds_the_roll_up_back_and_is_not_lost(
    database: Database, database_url: str, owner: Owner, person: Principal
) -> None:
    await settle(database, person, usage())
    async with await psycopg.AsyncConnection.connect(database_url) as late:
        await late.execute(
            "select private.settle_usage(%s, null, null, %s)", [person.user_id, Jsonb([usage(input_cost=5)])]
        )
        assert await rolled_up(database, 0)
        await late.commit()
    assert await rolled_up(database, 2)
    assert await by_user(database) == await rows_of(owner) == {person.user_id: (2, 14, 5)}


async def test_a_provider_s_figures_replace_an_estimate_that_was_rolled_up(
    database: Database, owner: Owner, person: Principal
) -> None:
    estimated = usage(source="estimated", input_cost=1, output_tokens=100)
    await settle(database, person, estimated)
    assert await rolled_up(database, 1)
    await settle(database, person, estimated | {"source": "provider", "input_cost": 3, "output_tokens": 10})
    assert await by_user(database) == await rows_of(owner) == {person.user_id: (1, 13, 3)}
    await upkeep.run(database)
    assert await by_user(database) == {person.user_id: (1, 13, 3)}


async def test_what_a_guest_used_is_the_account_s_after_the_claim(
    database: Database, owner: Owner, person: Principal
) -> None:
    guest = somebody(is_guest=True)
    await owner.rows("insert into public.user_profiles (id, is_guest) values (%(user)s, true)", {"user": guest.user_id})
    await settle(database, guest, usage(input_cost=1))
    assert await rolled_up(database, 1)
    await settle(database, guest, usage(input_cost=2))
    await claim(database, person, guest)
    assert await by_user(database) == {person.user_id: (2, 14, 3)}
    assert await rolled_up(database, 1)
    assert await by_user(database) == await rows_of(owner) == {person.user_id: (2, 14, 3)}


async def test_a_deleted_user_goes_out_of_it_and_the_rest_keeps_its_history(
    database: Database, owner: Owner, person: Principal
) -> None:
    await settle(database, person, usage(input_cost=1))
    await upkeep.run(database)
    await settle(database, person, usage(input_cost=2))
    await owner.rows("select private.remove_user(%(user)s)", {"user": person.user_id})
    assert await by_user(database) == {}
    await upkeep.run(database)
    assert await by_user(database) == {}
    whole = await usage_reports.read(database, ROOT, ["agent"], ALL_DAYS, limit=10, cursor=None)
    assert (whole.totals.requests, float(whole.totals.total_cost), whole.as_of) == (2, 3.0, None)


async def test_a_copy_on_a_server_that_counts_anew_goes_on(database: Database, owner: Owner, person: Principal) -> None:
    await settle(database, person, usage())
    await upkeep.run(database)
    await owner.rows("""
        update private.usage_roll_up
        set candidate = now() + interval '1 second',
            candidate_transaction = '123456789012'
    """)
    await settle(database, person, usage(input_cost=1))
    assert await rolled_up(database, 1)
    assert await by_user(database) == await rows_of(owner) == {person.user_id: (2, 14, 1)}


async def test_it_goes_on_in_batches(
    database: Database, owner: Owner, person: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ROLL_UP_BATCH", 7)
    for _ in range(10):
        await settle(database, person, *[usage(input_cost=1) for _ in range(5)])
    assert await rolled_up(database, 50)
    assert await by_user(database) == await rows_of(owner) == {person.user_id: (50, 350, 50)}


async def test_it_is_exact_at_every_moment_while_turns_end_guests_are_claimed_and_runs_meet(
    database: Database, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ROLL_UP_BATCH", 3)
    people_there = [somebody() for _ in range(4)]
    guests = [somebody(is_guest=True) for _ in range(4)]
    for user in [*people_there, *guests]:
        await owner.rows(
            "insert into public.user_profiles (id, is_guest) values (%(user)s, %(guest)s)",
            {"user": user.user_id, "guest": user.is_guest},
        )
    estimates = [usage(source="estimated", output_tokens=50) for _ in range(8)]
    for place, estimate in enumerate(estimates):
        await settle(database, people_there[place % 4], estimate)
    is_over = asyncio.Event()
    seen: list[int] = []

    async def look() -> None:
        while not is_over.is_set():
            report = await usage_reports.read(database, ROOT, ["user"], ALL_DAYS, limit=200, cursor=None)
            seen.append(report.totals.requests)

    async def correct(place: int) -> None:
        await settle(database, people_there[place % 4], estimates[place] | {"source": "provider", "output_tokens": 1})

    looking = asyncio.create_task(look())
    results = await at_once(
        *[partial(settle, database, user, usage(input_cost=1)) for user in [*people_there, *guests] * 5],
        *[partial(correct, place) for place in range(8)],
        *[partial(claim, database, account, guest) for account, guest in zip(people_there, guests, strict=True)],
        *[partial(upkeep.run, database)] * 3,
    )
    is_over.set()
    await looking
    # A guest who is claimed before his turn ends has no profile any more: that one is refused here.
    failed = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, psycopg.errors.ForeignKeyViolation) for error in failed)

    assert seen == sorted(seen)
    assert await by_user(database) == await rows_of(owner)
    await upkeep.run(database)
    assert await by_user(database) == await rows_of(owner)


async def test_whole_months_and_the_days_at_the_edges_are_together_the_days_that_were_asked_for(
    database: Database, owner: Owner, person: Principal
) -> None:
    other = somebody()
    await owner.rows("insert into public.user_profiles (id) values (%(user)s)", {"user": other.user_id})
    first = date(2023, 11, 1)
    for user, step in ((person, 1), (other, 3)):
        await owner.rows(
            """
            insert into public.usage_logs (
                request_id, user_id, agent_type, model_used, provider, input_tokens, total_cost, request_timestamp
            )
            select gen_random_uuid(), %(user)s, 'a' || n %% 2, 'm' || n %% 3, 'p', n, n, %(first)s::date + n
            from generate_series(0, 160, %(step)s::integer) as n
            """,
            {"user": user.user_id, "first": first, "step": step},
        )
    assert await rolled_up(database, 161 + 54)
    # What came after the roll-up, and what corrects it.
    await owner.rows("""
        insert into public.usage_logs (request_id, user_id, agent_type, input_tokens, total_cost, request_timestamp)
        select gen_random_uuid(), u.user_id, 'late', 5, 5, u.request_timestamp
        from public.usage_logs as u
        where extract(day from u.request_timestamp) in (1, 15)
    """)
    await owner.rows("""
        update public.usage_logs
        set input_tokens = input_tokens + 1000,
            total_cost = total_cost + 1000,
            request_timestamp = request_timestamp + interval '1 month'
        where extract(day from request_timestamp) = 28
    """)

    days = [first + timedelta(days=n) for n in (0, 1, 28, 29, 30, 31, 60, 61, 90, 91, 92, 119, 121, 122, 150, 200)]
    for start in days:
        for end in [day for day in days if day >= start]:
            wanted = usage_reports.Filter(first=start, last=end)
            by_months = await usage_reports.read(database, ROOT, ["user"], wanted, limit=10, cursor=None)
            rows = await owner.rows(
                """
                select user_id, count(*) as requests, sum(input_tokens) as tokens, sum(total_cost) as cost
                from public.usage_logs
                where (request_timestamp at time zone 'UTC')::date between %(first)s and %(last)s
                group by user_id
                """,
                {"first": start, "last": end},
            )
            found = {(one.user_id, one.requests, one.input_tokens, one.total_cost) for one in by_months.items}
            assert found == {tuple(row.values()) for row in rows}, (start, end)
            assert by_months.totals.requests == sum(row["requests"] for row in rows)


@pytest.mark.parametrize(
    ("first", "last"),
    [(date.min, date.max), (date.max, date.max), (date.min, date.min), (date(9999, 12, 1), date.max)],
)
async def test_the_ends_of_the_calendar_can_be_asked_for(
    database: Database, owner: Owner, person: Principal, first: date, last: date
) -> None:
    await settle(database, person, usage())
    assert await rolled_up(database, 1)
    report = await usage_reports.read(
        database, ROOT, ["user"], usage_reports.Filter(first=first, last=last), limit=10, cursor=None
    )
    assert report.totals.requests == (1 if (first, last) == (date.min, date.max) else 0)


async def test_a_turn_is_in_the_spend_of_its_user(database: Database) -> None:
    user = somebody(email="ada@example.com", name="Ada")
    await finish(database, user.user_id or uuid4(), await begin(database, user))
    for _ in range(2):
        [found] = (
            await people.page(database, ROOT, words="ada", kind=None, disabled=None, limit=10, cursor=None)
        ).items
        assert (found.id, found.total_tokens, found.sessions) == (user.user_id, 7, 1)
        assert found.last_seen is not None
        await upkeep.run(database)
