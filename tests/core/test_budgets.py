"""What a turn may cost: budgets of a month, what Begin says of limits, and a history of bounded size."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.crowd import Owner, at_once, refusals, somebody, usage
from tests.round_trips import counted
from threadkeep import limits, profiles, turns
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.guests import issue_guest
from threadkeep.identity import SERVICE, Principal
from threadkeep.settings import Settings

PRICED = "gemini-3.8-flash"


async def begin(
    database: Database,
    user: Principal,
    *,
    session: UUID | None = None,
    message: UUID | None = None,
    model: str = PRICED,
    address: str | None = None,
) -> turns.Run | turns.Join | turns.Replay:
    """A turn of this user that costs something."""
    return await turns.begin(
        database,
        user,
        turns.TurnRequest(
            session=session or uuid4(),
            message=turns.UserMessage(message or uuid4(), [{"type": "text", "text": "Hello"}], [], "Hello"),
            trigger="submit",
            model=model,
        ),
        answer=uuid4(),
        stream=uuid4(),
        correlation_id=uuid4(),
        providers=["google"],
        configuration_version=None,
        guest_address=address,
        new_guest=False,
    )


async def run(database: Database, user: Principal, **options: Any) -> turns.Run:
    begun = await begin(database, user, **options)
    assert isinstance(begun, turns.Run)
    return begun


async def finish(database: Database, user: Principal, run: turns.Run, cost: str = "0") -> None:
    assert user.user_id is not None
    row = usage(request_id=str(uuid4()), model_used=PRICED, provider="google", input_cost=cost)
    ending = turns.Ending(
        status="complete",
        parts=[{"type": "text", "text": "Hello too"}],
        model_messages=None,
        metadata={},
        model=PRICED,
        usage=[row],
        activity=[],
        error=None,
        title=None,
        chunk=None,
        chunk_seq=0,
    )
    await turns.finish(database, user.user_id, run, ending)


async def set_budgets(owner: Owner, **budgets: float | None) -> None:
    """Caps of the month; the limits are out of the way."""
    await owner.rows(
        "update admin_config set config_data = config_data || %(budgets)s where config_key = 'app_settings'",
        {"budgets": Jsonb({"budgets": budgets})},
    )
    await owner.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{rateLimit}', %(rate)s) "
        "where config_key like 'chat_model_agent%%'",
        {"rate": Jsonb({"perMinute": 1000, "perHour": 1000, "perDay": 1000})},
    )


@pytest.fixture
async def estimate(owner: Owner, database: Database) -> float:
    """What is reserved for one of these turns."""
    await set_budgets(owner, perUserMonthlyUsd=1000)
    await run(database, somebody())
    [row] = await owner.rows("select amount from budget_reservations")
    await owner.rows("delete from user_profiles")
    assert 0 < row["amount"] < 1
    return float(row["amount"])


async def test_of_forty_turns_at_once_exactly_as_many_run_as_the_budget_has_room_for(
    owner: Owner, database: Database, estimate: float
) -> None:
    await set_budgets(owner, perUserMonthlyUsd=estimate * 10)
    user = somebody()

    results = await at_once(*[partial(begin, database, user) for _ in range(40)])

    assert sum(isinstance(result, turns.Run) for result in results) == 10
    assert refusals(results) == {"rate_limit:budget"}
    assert await owner.number('select count(*) from "Chat"') == 10
    assert await owner.number('select count(*) from "Message_v2"') == 20
    assert await owner.number("select count(*) from budget_reservations") == 10
    assert await owner.number("select sum(request_count) from rate_limit_tracking where limit_type = 'daily'") == 10


async def test_a_refusal_says_how_much_is_spent_and_when_the_month_ends(
    owner: Owner, database: Database, estimate: float
) -> None:
    cap = round(1 + estimate, 6)
    await set_budgets(owner, perUserMonthlyUsd=cap)
    user = somebody()
    await finish(database, user, await run(database, user), cost="1")
    await run(database, user)

    with pytest.raises(ThreadkeepError) as refused:
        await begin(database, user)

    [left] = await owner.rows(
        """
        select extract(epoch from date_trunc('month', now() at time zone 'UTC') + interval '1 month'
            - now() at time zone 'UTC') as seconds
        """
    )
    assert refused.value.retry_after == pytest.approx(left["seconds"], abs=30)
    assert refused.value.extra == {
        "window": "monthly",
        "scope": "user",
        "capUsd": cap,
        "spentUsd": 1,
        "reservedUsd": pytest.approx(estimate, abs=1e-6),
    }


async def test_a_budget_is_a_users_own_and_of_this_month(owner: Owner, database: Database, estimate: float) -> None:
    await set_budgets(owner, perUserMonthlyUsd=1)
    user = somebody()
    await finish(database, user, await run(database, user), cost="2")

    assert refusals([await _raised(begin(database, user))]) == {"rate_limit:budget"}
    await run(database, somebody())
    await owner.rows("update private.user_spend set month = month - interval '1 month'")
    await run(database, user)


async def test_what_a_turn_may_cost_is_what_the_budget_has_left(
    owner: Owner, database: Database, estimate: float
) -> None:
    await set_budgets(owner, perUserMonthlyUsd=1)
    user = somebody()
    first = await run(database, user)
    await finish(database, user, first, cost="0.75")
    second = await run(database, user)

    assert (float(first.cost_bound or 0), float(second.cost_bound or 0)) == (1, 0.25)
    assert await owner.number("select count(*) from budget_reservations") == 1


@pytest.mark.parametrize("how", ["lease", "recovered"])
async def test_a_dead_turn_gives_its_reservation_back(
    owner: Owner, database: Database, estimate: float, how: str
) -> None:
    await set_budgets(owner, perUserMonthlyUsd=estimate)
    user = somebody()
    dead = await run(database, user)
    assert refusals([await _raised(begin(database, user))]) == {"rate_limit:budget"}

    await owner.rows("""update "Stream" set lease_until = now() - interval '1 second'""")
    if how == "recovered":
        await database.rows(SERVICE, "select private.recover_stream(%(s)s, 'lease')", {"s": dead.stream})
        assert await owner.number("select count(*) from budget_reservations") == 0

    await run(database, user)


async def test_a_turn_whose_session_was_deleted_still_holds_its_reservation(
    owner: Owner, database: Database, estimate: float
) -> None:
    await set_budgets(owner, perUserMonthlyUsd=estimate)
    user = somebody()
    running = await run(database, user)
    await owner.rows('delete from "Chat"')

    assert refusals([await _raised(begin(database, user))]) == {"rate_limit:budget"}
    await finish(database, user, running)
    await run(database, user)


async def test_a_message_sent_again_joins_or_replays_whatever_the_budget(
    owner: Owner, database: Database, estimate: float
) -> None:
    await set_budgets(owner, perUserMonthlyUsd=estimate)
    user, session, message = somebody(), uuid4(), uuid4()
    again = partial(begin, database, user, session=session, message=message)
    first = await again()
    assert isinstance(first, turns.Run)

    assert isinstance(await again(), turns.Join)
    await finish(database, user, first, cost="3")
    assert isinstance(await again(), turns.Replay)


async def test_without_a_budget_nothing_is_reserved_and_what_is_spent_is_still_known(
    owner: Owner, database: Database
) -> None:
    user = somebody()
    begun = await run(database, user)
    assert begun.cost_bound is None
    assert await owner.number("select count(*) from budget_reservations") == 0
    await finish(database, user, begun, cost="2")

    await set_budgets(owner, perUserMonthlyUsd=2)

    assert refusals([await _raised(begin(database, user))]) == {"rate_limit:budget"}


async def test_a_budget_of_zero_lets_nothing_pass_that_is_paid_for(owner: Owner, database: Database) -> None:
    await set_budgets(owner, perUserMonthlyUsd=0)
    await owner.rows(
        "update model_config set input_pricing_per_million_tokens = 0, output_pricing_per_million_tokens = 0, "
        "metadata = '{}' where model_id = 'gemini-4-argon'"
    )

    assert refusals([await _raised(begin(database, somebody()))]) == {"rate_limit:budget"}
    # One without a price may cost anything.
    assert refusals([await _raised(begin(database, somebody(), model="gemini-4-argon"))]) == {"rate_limit:budget"}
    await run(database, somebody(), model="offline")


async def test_guests_have_one_budget_together_and_are_not_told_of_it(
    owner: Owner, database: Database, estimate: float
) -> None:
    await set_budgets(owner, guestsMonthlyUsd=estimate * 5)

    results = await at_once(*[partial(begin, database, somebody(is_guest=True)) for _ in range(20)])
    await run(database, somebody())

    assert sum(isinstance(result, turns.Run) for result in results) == 5
    assert refusals(results) == {"rate_limit:budget"}
    refused = next(result for result in results if isinstance(result, ThreadkeepError))
    assert refused.extra == {"window": "monthly", "scope": "guests"}
    assert await owner.number("select count(*) from user_profiles") == 6


async def test_a_claimed_guest_brings_what_it_spent_and_leaves_what_guests_spent_together(
    owner: Owner, database: Database, settings: Settings, estimate: float
) -> None:
    await set_budgets(owner, perUserMonthlyUsd=5, guestsMonthlyUsd=5)
    token, account = issue_guest(settings), somebody()
    guest = somebody(token.user_id, is_guest=True)
    await finish(database, guest, await run(database, guest), cost="3")
    await finish(database, account, await run(database, account), cost="1")
    running = await run(database, guest)
    assert await owner.number("select count(*) from budget_reservations") == 2

    await profiles.claim(database, settings, account, token.token)

    [row] = await owner.rows("select user_id, total_cost from private.user_spend")
    assert (row["user_id"], row["total_cost"]) == (account.user_id, 4)
    assert await owner.number("select sum(total_cost) from private.guest_spend") == 3
    [reserved] = await owner.rows("select user_id, scope from budget_reservations")
    assert reserved == {"user_id": account.user_id, "scope": "user"}
    await finish(database, guest, running, cost="1")
    assert await owner.number("select total_cost from private.user_spend") == 5
    assert await owner.number("select sum(total_cost) from private.guest_spend") == 3
    assert await owner.number("select count(*) from budget_reservations") == 0


async def test_what_is_spent_is_the_sum_of_the_usage_whatever_ends_at_once(owner: Owner, database: Database) -> None:
    users = [somebody(), somebody(is_guest=True), somebody(is_guest=True)]
    begun = [(user, await run(database, user)) for user in users for _ in range(8)]

    results = await at_once(*[partial(finish, database, user, turn, cost="0.01") for user, turn in begun])

    assert refusals(results) == set()
    sums = await owner.rows("select user_id, sum(total_cost) as total from usage_logs group by 1 order by 1")
    kept = await owner.rows("select user_id, total_cost as total from private.user_spend order by 1")
    assert [row["total"] for row in kept] == [row["total"] for row in sums]
    assert float((await owner.rows("select sum(total_cost) as s from private.guest_spend"))[0]["s"]) == 0.16


async def test_a_providers_figures_move_what_is_spent_by_the_difference(owner: Owner, database: Database) -> None:
    user = somebody()
    begun = await run(database, user)
    settle = "select private.settle_usage(%(user)s, %(session)s, %(answer)s, %(rows)s)"
    values = {"user": user.user_id, "session": begun.session, "answer": begun.answer}
    estimated = usage(source="estimated", input_cost="0.5")

    for row in (estimated, estimated | {"source": "provider", "input_cost": "0.2"}, estimated):
        await database.rows(SERVICE, settle, values | {"rows": Jsonb([row])})

    [spent] = await owner.rows("select total_cost from private.user_spend")
    assert float(spent["total_cost"]) == 0.2


async def test_a_budget_that_was_broken_by_hand_leaves_the_last_good_one_in_force(
    owner: Owner, database: Database
) -> None:
    await set_budgets(owner, perUserMonthlyUsd=0)
    await owner.rows("set session_replication_role = replica")
    await set_budgets(owner, perUserMonthlyUsd="plenty")  # type: ignore[arg-type]
    await owner.rows("reset session_replication_role")

    assert refusals([await _raised(begin(database, somebody()))]) == {"rate_limit:budget"}


async def test_a_turn_with_budgets_begins_in_one_round_trip(owner: Owner, api_database_url: str) -> None:
    await set_budgets(owner, perUserMonthlyUsd=5, guestsMonthlyUsd=5)
    async with counted(api_database_url) as proxy:
        database = Database(proxy.url)
        await database.rows(SERVICE, "select 1")
        proxy.reset()
        begun = await run(database, somebody(is_guest=True), address="192.0.2.1")
        await finish(database, somebody(), begun)
        await database.close()
    assert (proxy.round_trips, proxy.connections) == (2, 0)


async def test_begin_names_the_models_that_may_stand_in(owner: Owner, database: Database) -> None:
    models = [PRICED, "nobody-knows", "gpt-6.1-terra", "gemini-4-argon", "gemini-3.5-flash-lite"]
    await owner.rows("update model_config set is_active = false where model_id = 'gemini-3.5-flash-lite'")
    off = await run(database, somebody())
    await owner.rows(
        "update admin_config set config_data = config_data || %(f)s where config_key = 'app_settings'",
        {"f": Jsonb({"fallback": {"enabled": True, "models": models}})},
    )

    begun = await run(database, somebody())

    assert off.fallback == []
    # Not itself, no unknown one, none without a key here, none that is off.
    assert [row["model_id"] for row in begun.fallback] == ["gemini-4-argon"]


async def test_begin_names_the_agents_whose_limits_have_no_room(owner: Owner, database: Database) -> None:
    user, guest, address = somebody(), somebody(is_guest=True), "192.0.2.7"
    await owner.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{rateLimit}', %(rate)s) "
        "where config_key in ('document_agent_google', 'python_agent_google')",
        {"rate": Jsonb({"perMinute": 100, "perHour": 100, "perDay": 1})},
    )
    await owner.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{rateLimit, perHour}', '0') "
        "where config_key in ('mermaid_agent_google', 'git_mcp_agent_openai')"
    )
    await run(database, user)
    await run(database, guest)
    await limits.consume(database, user, "document_agent", "google", guest_address=None)
    await limits.consume(database, guest, "python_agent", "google", guest_address=address)

    of_user = (await run(database, user)).exhausted
    of_address = (await run(database, somebody(is_guest=True), address=address)).exhausted

    assert of_user.keys() == {"document_agent", "mermaid_agent"}
    assert of_address.keys() == {"python_agent", "mermaid_agent"}
    assert 1 <= of_user["mermaid_agent"] <= 3600
    assert 1 <= of_user["document_agent"] <= 86_400
    assert await owner.number("select count(*) from rate_limit_tracking where agent_type = 'mermaid_agent'") == 0


async def test_a_limit_that_was_broken_by_hand_leaves_the_last_good_one_in_force(
    owner: Owner, database: Database
) -> None:
    await owner.rows("set session_replication_role = replica")
    await owner.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{rateLimit, perDay}', '\"many\"') "
        "where config_key = 'document_agent_google'"
    )
    await owner.rows("reset session_replication_role")

    assert (await run(database, somebody())).exhausted == {}


async def test_the_history_of_a_turn_is_bounded_by_its_size(
    owner: Owner, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "HISTORY_BYTES", 100_000)
    user, session = somebody(), uuid4()
    await finish(database, user, await run(database, user, session=session))
    await owner.rows(
        """
        insert into "Message_v2" ("chatId", role, parts)
        select %(s)s, 'user', jsonb_build_array(jsonb_build_object('type', 'text', 'text', repeat('x', 30000)))
        from generate_series(1, 10)
        """,
        {"s": session},
    )

    begun = await run(database, user, session=session)

    # Ten of 30 kB and two short ones before them.
    assert [len(row["parts"][0]["text"]) for row in begun.history] == [30_000] * 3 + [5]
    assert begun.omitted == 9


async def test_a_message_that_is_longer_than_any_history_is_still_answered(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "HISTORY_BYTES", 10)
    begun = await run(database, somebody())
    assert (len(begun.history), begun.omitted) == (1, 0)


async def _raised(beginning: Any) -> Any:
    try:
        return await asyncio.ensure_future(beginning)
    except ThreadkeepError as error:
        return error
