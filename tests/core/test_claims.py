"""What a guest did becomes an account's: all of it, once, whatever runs meanwhile."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.crowd import Owner, at_once, begin, finish, refusals, somebody, usage
from threadkeep import profiles, turns
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.guests import GuestToken, issue_guest
from threadkeep.identity import SERVICE, Principal
from threadkeep.settings import Settings

pytestmark = pytest.mark.also_behind_a_pooler

ADDRESS = "192.0.2.7"

# One row of each table that has a user.
SAMPLES: dict[str, str] = {
    "public.Chat": """insert into public."Chat" (user_id, title) values (%(guest)s, 'Hello')""",
    "public.Document": """insert into public."Document" (user_id, title) values (%(guest)s, 'Notes')""",
    "public.Suggestion": """
    insert into public."Suggestion" ("documentId", "documentCreatedAt", "originalText", "suggestedText", user_id)
    select d.id, d."createdAt", 'a', 'b', %(guest)s from public."Document" as d where d.user_id = %(guest)s
    """,
    "public.files": """
    insert into public.files (user_id, storage_key, filename, kind, media_type, size_bytes)
    values (%(guest)s, 'key', 'a.txt', 'text', 'text/plain', 1)
    """,
    "public.usage_logs": """
    insert into public.usage_logs (request_id, user_id, agent_type)
    values (gen_random_uuid(), %(guest)s, 'chat_model_agent')
    """,
    "public.budget_reservations": """
    insert into public.budget_reservations (user_id, scope, month, amount, stream_id, lease_until)
    values (%(guest)s, 'guests', current_date, 1, gen_random_uuid(), now())
    """,
    "public.rate_limit_tracking": """
    insert into public.rate_limit_tracking
        (user_id, agent_type, limit_type, period_start, period_end, request_count, limit_value)
    values (%(guest)s, 'chat_model_agent', 'daily', current_date, current_date + 1, 4, 10)
    """,
    "public.github_repositories": """
    insert into public.github_repositories (user_id, repo_owner, repo_name)
    values (%(guest)s, 'ada', 'engine')
    """,
    "public.error_logs": """
    insert into public.error_logs (user_id, error_type, error_category, error_message)
    values (%(guest)s, 'api', 'internal:api', 'Something went wrong.')
    """,
    "public.user_activity_logs": """
    insert into public.user_activity_logs (user_id, correlation_id, activity_type, activity_category)
    values (%(guest)s, gen_random_uuid(), 'chat_create', 'chat')
    """,
    "public.agent_activity_logs": """
    insert into public.agent_activity_logs
        (user_id, correlation_id, agent_type, operation_type, operation_category)
    values (%(guest)s, gen_random_uuid(), 'chat_model_agent', 'generation', 'ai')
    """,
}

# Columns that name a user without saying whose the row is.
NOT_OWNED = {
    "public.user_profiles.auth_user_id",
    "public.admin_config.updated_by",
    "public.admin_config_history.changed_by",
    "public.error_logs.resolved_by",
    "private.identity_deletions.user_id",
    "private.revoked_principals.user_id",
    "private.revoked_principals.claimed_by",
    "private.upkeep_requests.requested_by",
}

# What is not moved as it is, but added to what the account has: tests/core/test_budgets.py, and with each usage row
# that moves tests/core/test_usage_roll_up.py.
ADDED = {"private.user_spend.user_id", "public.usage_user_daily.user_id", "public.usage_user_monthly.user_id"}


def guest_of(token: GuestToken) -> Principal:
    return somebody(token.user_id, is_guest=True)


async def columns_with_a_user(owner: Owner) -> set[str]:
    rows = await owner.rows("""
        select n.nspname || '.' || c.relname || '.' || a.attname as name
        from pg_attribute as a
        join pg_class as c on c.oid = a.attrelid
        join pg_namespace as n on n.oid = c.relnamespace
        where n.nspname in ('public', 'private')
            and c.relkind in ('r', 'p')
            and not c.relispartition
            and a.attnum > 0
            and not a.attisdropped
            and (
                a.attname ~ '(user_id|owner|_by)$' and a.atttypid = 'uuid'::regtype
                or exists (
                    select from pg_constraint as f
                    where f.conrelid = c.oid
                        and f.contype = 'f'
                        and f.confrelid = 'public.user_profiles'::regclass
                        and f.conkey = array[a.attnum]
                )
            )
    """)
    return {row["name"] for row in rows}


async def ids_of(owner: Owner, table: str, user_id: UUID | None) -> list[UUID]:
    name = psycopg.sql.Identifier(*table.split(".")).as_string()
    return [row["id"] for row in await owner.rows(f"select id from {name} where user_id = %(user)s", {"user": user_id})]


async def sessions_of(owner: Owner, user: Principal) -> int:
    return len(await ids_of(owner, "public.Chat", user.user_id))


async def answers_of(owner: Owner, user: Principal, status: str) -> int:
    query = """
        select count(*)
        from public."Message_v2" as m
        join public."Chat" as c on c.id = m."chatId"
        where c.user_id = %(user)s
            and m.role = 'assistant'
            and m.status = %(status)s
    """
    return await owner.number(query, {"user": user.user_id, "status": status})


async def test_every_table_that_has_a_user_is_moved(database: Database, owner: Owner, settings: Settings) -> None:
    assert await columns_with_a_user(owner) - NOT_OWNED - ADDED == {f"{table}.user_id" for table in SAMPLES}
    guest = await profiles.make_guest(database, settings, ADDRESS)
    for sql in SAMPLES.values():
        await owner.rows(sql, {"guest": guest.user_id})
    before = {table: await ids_of(owner, table, guest.user_id) for table in SAMPLES}
    assert all(len(ids) == 1 for ids in before.values())

    user = somebody()
    claim = await profiles.claim(database, settings, user, guest.token)

    assert (claim.sessions, claim.documents) == (1, 1)
    assert [table for table in SAMPLES if await ids_of(owner, table, guest.user_id)] == []
    after = {table: await ids_of(owner, table, user.user_id) for table in SAMPLES}
    # A window of a limit is added to the account's own, and so gets another id.
    assert len(after.pop("public.rate_limit_tracking")) == len(before.pop("public.rate_limit_tracking"))
    assert after == before


async def test_the_guests_use_is_added_and_the_accounts_own_choices_stay(
    database: Database, owner: Owner, settings: Settings
) -> None:
    user = somebody(name="Ada")
    guest = await profiles.make_guest(database, settings, ADDRESS)
    await profiles.change(database, user, {"preferences": {"theme": "dark"}})
    await profiles.change(database, guest_of(guest), {"full_name": "Guest", "preferences": {"theme": "light"}})
    for user_id in (user.user_id, guest.user_id):
        await owner.rows(SAMPLES["public.rate_limit_tracking"], {"guest": user_id})
        await owner.rows(SAMPLES["public.github_repositories"], {"guest": user_id})

    await profiles.claim(database, settings, user, guest.token)

    profile = await profiles.own(database, user)
    assert (profile.full_name, profile.preferences) == ("Ada", {"theme": "dark"})
    assert await owner.number("select request_count from public.rate_limit_tracking") == 8
    assert await owner.number("select count(*) from public.github_repositories") == 1


async def test_a_claim_can_be_repeated_and_ends_the_guest(database: Database, settings: Settings) -> None:
    user = somebody()
    guest = await profiles.make_guest(database, settings, ADDRESS)
    await begin(database, guest_of(guest))
    first = await profiles.claim(database, settings, user, guest.token)
    again = await profiles.claim(database, settings, user, guest.token)
    assert (first.sessions, again.sessions) == (1, 0)
    results = await at_once(
        partial(begin, database, guest_of(guest)),
        partial(profiles.own, database, guest_of(guest)),
        partial(profiles.keep_guest, database, guest_of(guest)),
    )
    assert refusals(results) == {"forbidden:account"}
    assert all(isinstance(result, ThreadkeepError) for result in results)


async def test_of_several_accounts_that_claim_one_guest_exactly_one_gets_everything(
    database: Database, owner: Owner, settings: Settings
) -> None:
    for _ in range(5):
        guest = await profiles.make_guest(database, settings, ADDRESS)
        for _ in range(3):
            await begin(database, guest_of(guest))
        users = [somebody() for _ in range(6)]
        results = await at_once(*[partial(profiles.claim, database, settings, user, guest.token) for user in users])
        assert refusals(results) == {"conflict:guest"}
        assert sorted([await sessions_of(owner, user) for user in users]) == [0, 0, 0, 0, 0, 3]


async def test_one_account_claims_one_guest_from_several_places_at_once(
    database: Database, owner: Owner, settings: Settings
) -> None:
    user = somebody()
    guest = await profiles.make_guest(database, settings, ADDRESS)
    await begin(database, guest_of(guest))
    results = await at_once(*[partial(profiles.claim, database, settings, user, guest.token)] * 8)
    assert refusals(results) == set()
    assert sorted(result.sessions for result in results) == [0] * 7 + [1]
    assert await sessions_of(owner, user) == 1


async def test_an_account_claims_several_guests_while_it_chats(
    database: Database, owner: Owner, settings: Settings
) -> None:
    user = somebody()
    guests = [await profiles.make_guest(database, settings, ADDRESS) for _ in range(6)]
    for guest in guests:
        await begin(database, guest_of(guest))
    results = await at_once(
        *[partial(profiles.claim, database, settings, user, guest.token) for guest in guests],
        *[partial(begin, database, user)] * 3,
    )
    assert refusals(results) == set()
    assert await sessions_of(owner, user) == 9
    used = """
        select request_count
        from public.rate_limit_tracking
        where user_id = %(user)s
            and limit_type = 'daily'
    """
    assert await owner.number(used, {"user": user.user_id}) == 9


async def test_what_a_guest_sends_meanwhile_is_refused_or_moves_too(
    database: Database, owner: Owner, settings: Settings
) -> None:
    for _ in range(8):
        user = somebody()
        guest = await profiles.make_guest(database, settings, ADDRESS)
        results = await at_once(
            partial(profiles.claim, database, settings, user, guest.token),
            *[partial(begin, database, guest_of(guest))] * 6,
        )
        assert refusals(results) <= {"forbidden:account"}
        begun = sum(isinstance(result, turns.Run) for result in results)
        assert await sessions_of(owner, user) == begun
        assert await answers_of(owner, user, "streaming") == begun


async def test_a_turn_that_runs_meanwhile_ends_as_the_accounts(
    database: Database, owner: Owner, settings: Settings
) -> None:
    user = somebody()
    guest = await profiles.make_guest(database, settings, ADDRESS)
    running = [await begin(database, guest_of(guest)) for _ in range(6)]
    results = await at_once(
        partial(profiles.claim, database, settings, user, guest.token),
        *[partial(finish, database, guest.user_id, run) for run in running],
    )
    assert refusals(results) == set()
    assert results[1:] == ["stored"] * 6
    assert await answers_of(owner, user, "complete") == 6
    assert len(await ids_of(owner, "public.usage_logs", user.user_id)) == 6


async def test_a_dead_turn_that_is_recovered_meanwhile_is_the_accounts(
    database: Database, owner: Owner, settings: Settings
) -> None:
    user = somebody()
    guest = await profiles.make_guest(database, settings, ADDRESS)
    dead = [await begin(database, guest_of(guest)) for _ in range(6)]
    for run in dead:
        values: dict[str, Any] = {"stream": run.stream, "usage": Jsonb([usage(open=True)])}
        await owner.rows('update public."Stream" set usage = %(usage)s where id = %(stream)s', values)
    recover = "select private.recover_stream(%(stream)s, 'lost')"
    results = await at_once(
        partial(profiles.claim, database, settings, user, guest.token),
        *[partial(database.rows, SERVICE, recover, {"stream": run.stream}) for run in dead],
    )
    assert refusals(results) == set()
    assert await answers_of(owner, user, "interrupted") == 6
    assert len(await ids_of(owner, "public.usage_logs", user.user_id)) == 6


async def test_a_guest_cannot_claim_a_guest(database: Database, settings: Settings) -> None:
    guest, other = [await profiles.make_guest(database, settings, ADDRESS) for _ in range(2)]
    with pytest.raises(ThreadkeepError) as refused:
        await profiles.claim(database, settings, guest_of(guest), other.token)
    assert refused.value.code == "forbidden:auth"


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
async def test_what_is_no_guests_token_claims_nothing(database: Database, settings: Settings, token: str) -> None:
    with pytest.raises(ThreadkeepError) as refused:
        await profiles.claim(database, settings, somebody(), token)
    assert [field.field for field in refused.value.fields] == ["guestToken"]


async def test_an_expired_guests_token_claims_nothing(database: Database, settings: Settings) -> None:
    with pytest.raises(ThreadkeepError) as refused:
        await profiles.claim(database, settings, somebody(), issue_guest(settings, now=0).token)
    assert [field.field for field in refused.value.fields] == ["guestToken"]


async def test_a_guest_that_was_deleted_cannot_be_claimed(database: Database, settings: Settings) -> None:
    guest = await profiles.make_guest(database, settings, ADDRESS)
    await profiles.delete_own(database, settings, guest_of(guest))
    with pytest.raises(ThreadkeepError) as refused:
        await profiles.claim(database, settings, somebody(), guest.token)
    assert refused.value.code == "conflict:guest"


async def test_a_deleted_account_cannot_claim(database: Database, settings: Settings) -> None:
    user = somebody()
    await profiles.delete_own(database, settings, user)
    guest = await profiles.make_guest(database, settings, ADDRESS)
    with pytest.raises(ThreadkeepError) as refused:
        await profiles.claim(database, settings, user, guest.token)
    assert refused.value.code == "forbidden:account"
    assert (await profiles.own(database, guest_of(guest))).is_guest
