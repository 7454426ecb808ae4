"""Making and ending profiles, when everything happens at once."""

from __future__ import annotations

from functools import partial
from uuid import UUID, uuid4

import pytest

from tests.crowd import (
    Action,
    Owner,
    at_once,
    begin,
    refusals,
    somebody,
)
from threadkeep import profiles
from threadkeep.database import Database
from threadkeep.guests import GuestToken
from threadkeep.identity import Principal
from threadkeep.settings import Settings

pytestmark = pytest.mark.also_behind_a_pooler

ADDRESS = "192.0.2.7"


def ada(user_id: UUID | None = None) -> Principal:
    return somebody(user_id, email="ada@example.com", name="Ada")


async def profiles_of(owner: Owner, user_id: UUID | None) -> int:
    return await owner.number("select count(*) from public.user_profiles where id = %(user)s", {"user": user_id})


async def test_a_missing_profile_is_healed_when_it_is_read(database: Database) -> None:
    user = ada()
    profile = await profiles.own(database, user)
    assert profile.id == user.user_id
    assert (profile.email, profile.full_name, profile.is_guest) == ("ada@example.com", "Ada", False)
    assert await profiles.own(database, user) == profile


async def test_an_anonymous_user_who_signs_up_is_no_guest_any_more(database: Database) -> None:
    user_id = uuid4()
    assert (await profiles.own(database, somebody(user_id, is_guest=True))).is_guest
    assert not (await profiles.own(database, ada(user_id))).is_guest


async def test_a_sign_in_fills_in_what_a_chat_could_not_know_and_keeps_a_chosen_name(database: Database) -> None:
    user = somebody(user_id := uuid4())
    await begin(database, user)
    assert await profiles.record_sign_in(database, user_id, "ada@example.com", "Ada")
    profile = await profiles.own(database, user)
    assert (profile.email, profile.full_name) == ("ada@example.com", "Ada")

    await profiles.change(database, user, {"full_name": "Ada Lovelace"})
    assert await profiles.record_sign_in(database, user_id, "ada@example.org", "Ada")
    profile = await profiles.own(database, user)
    assert (profile.email, profile.full_name) == ("ada@example.org", "Ada Lovelace")


async def test_guests_at_once_are_exactly_as_many_as_an_address_may_make(
    database: Database, owner: Owner, settings: Settings
) -> None:
    await owner.rows("""
        update public.admin_config
        set config_data = config_data || '{"guests": {"perAddressPerHour": 5}}'
        where config_key = 'app_settings'
    """)
    results = await at_once(*[partial(profiles.make_guest, database, settings, ADDRESS)] * 20)
    assert refusals(results) == {"rate_limit:guest"}
    assert sum(isinstance(result, GuestToken) for result in results) == 5
    assert await owner.number("select count(*) from public.user_profiles where is_guest") == 5
    assert isinstance(await profiles.make_guest(database, settings, "192.0.2.8"), GuestToken)


def whatever_makes_a_profile(database: Database, user: Principal, user_id: UUID) -> list[Action]:
    create = "select private.create_session(%(id)s, 'Hello', 'private', null, false, null, null)"
    return [
        partial(begin, database, user),
        partial(profiles.own, database, user),
        partial(database.rows, user, create, {"id": uuid4()}),
        partial(profiles.record_sign_in, database, user_id, "ada@example.com", "Ada"),
        partial(profiles.change, database, user, {"full_name": "Ada"}),
    ]


@pytest.mark.parametrize("has_profile", [True, False])
async def test_a_deleted_account_is_not_brought_back_by_25_requests_at_once(
    database: Database, settings: Settings, owner: Owner, has_profile: bool
) -> None:
    for _ in range(4):
        user = ada(user_id := uuid4())
        if has_profile:
            await begin(database, user)
        requests = whatever_makes_a_profile(database, user, user_id) * 5

        results = await at_once(partial(profiles.delete_own, database, settings, user), *requests)

        assert refusals(results) <= {"forbidden:account"}
        assert not isinstance(results[0], BaseException)
        assert await profiles_of(owner, user_id) == 0
        assert refusals(await at_once(*requests)) == {"forbidden:account"}
        assert await profiles_of(owner, user_id) == 0


@pytest.mark.parametrize("has_profile", [True, False])
async def test_a_repeated_deletion_is_done_and_not_refused(
    database: Database, settings: Settings, owner: Owner, has_profile: bool
) -> None:
    user = ada()
    if has_profile:
        await begin(database, user)
    results = await at_once(*[partial(profiles.delete_own, database, settings, user)] * 10)
    assert refusals(results) == set()
    assert user.user_id is not None
    assert await profiles_of(owner, user.user_id) == 0


async def test_a_sign_up_and_a_deletion_at_once_leave_no_profile(database: Database, owner: Owner) -> None:
    for _ in range(20):
        user_id = uuid4()
        sign_up = partial(profiles.record_sign_in, database, user_id, None, None)
        assert refusals(await at_once(partial(profiles.remove, database, user_id), *[sign_up] * 4)) == set()
        assert await profiles_of(owner, user_id) == 0
        assert not await sign_up()


async def test_a_users_deletion_at_supabase_and_a_chat_at_once_leave_no_profile(
    database: Database, owner: Owner
) -> None:
    for _ in range(10):
        user = ada()
        values = {"user": user.user_id}
        await owner.rows("insert into auth.users (id) values (%(user)s)", values)
        await owner.rows("delete from public.user_profiles where id = %(user)s", values)

        delete = partial(owner.rows, "delete from auth.users where id = %(user)s", values)
        results = await at_once(delete, *[partial(begin, database, user)] * 4)

        assert refusals(results) <= {"forbidden:account"}
        assert await profiles_of(owner, user.user_id) == 0


async def test_a_disabled_account_can_neither_claim_nor_delete_itself(
    database: Database, owner: Owner, settings: Settings
) -> None:
    user = ada()
    await profiles.own(database, user)
    await owner.rows("update public.user_profiles set disabled_at = now()")
    guest = await profiles.make_guest(database, settings, ADDRESS)
    results = await at_once(
        partial(profiles.claim, database, settings, user, guest.token),
        partial(profiles.delete_own, database, settings, user),
    )
    assert refusals(results) == {"forbidden:account"}
    assert await profiles_of(owner, user.user_id) == 1
    assert await profiles_of(owner, guest.user_id) == 1
