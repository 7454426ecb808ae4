"""No function of the schema gives its caller more than he has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.databases import API_ROLE, DatabaseServer
from tests.sql import rights
from tests.sql.callers import BECOME, Caller, Ground, acting_as, ground_on, outcome, refusal, refused_with

BEGIN = """
    select private.begin_turn(
        %(chat)s, %(message)s, '[{{"type": "text", "text": "Hello"}}]', '[]', 'Hello', '{trigger}', {target},
        gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'offline', '{{}}', 'public', null, null,
        interval '30 s', null, false, null, null, 200
    )
"""
SUBMIT = BEGIN.format(trigger="submit", target="null")
REGENERATE = BEGIN.format(trigger="regenerate", target="%(answer)s")
EDIT = BEGIN.format(trigger="edit", target="%(question)s")
START_ANSWER = """
    select private.start_answer(
        %(chat)s, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), interval '30 s', '{"mine": true}'
    )
"""
CONSUME = "select private.consume_limits('chat_model_agent', 'google', null)"


@pytest.fixture(scope="module")
def ground(postgres_server: DatabaseServer) -> Iterator[Ground]:
    name = postgres_server.create_database(postgres_server.template())
    with ground_on(postgres_server.dsn(name), postgres_server.dsn(name, API_ROLE)) as ground:
        yield ground
    postgres_server.drop_database(name)


def contents(ground: Ground) -> dict[str, Any]:
    """A digest of each table, to see that nothing has changed."""
    tables = [name for name, *_ in ground.owner.execute(rights.TABLES.encode())]
    digest = "select md5(coalesce(string_agg(t::text, ';' order by t::text), '')) from {} as t"
    return {name: ground.owner.execute(digest.format(name).encode()).fetchone() for name in tables}


def test_every_function_is_executed_by_exactly_those_who_need_it(ground: Ground) -> None:
    assert rights.actual_functions(ground.owner) == rights.expected_functions()


def test_a_function_that_is_not_for_a_caller_refuses_whatever_he_passes(ground: Ground) -> None:
    calls = ground.owner.execute(
        """
        select
            format('%I.%I', n.nspname, p.proname),
            format(
                'select %I.%I(%s)', n.nspname, p.proname,
                (select string_agg('null::' || format_type(a.type, null), ', ') from unnest(p.proargtypes) as a (type))
            )
        from pg_proc as p
        join pg_namespace as n on n.oid = p.pronamespace
        where n.nspname in ('public', 'private')
        """
    ).fetchall()
    for name, call in calls:
        for caller in ground.world.callers.values():
            if caller.role not in rights.expected_functions()[name]:
                assert outcome(ground.login, caller, call, {}) == "refused", (caller.name, call)


def test_every_function_looks_names_up_where_no_caller_can_put_any(ground: Ground) -> None:
    others = ground.owner.execute(
        """
        select p.oid::regprocedure::text, p.proconfig
        from pg_proc as p
        where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
            and not 'search_path=pg_catalog, pg_temp' = any (coalesce(p.proconfig, '{}'))
        """
    )
    assert others.fetchall() == []


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        ("select private.end_running_turn(%(chat)s, 'replaced')", "TK404"),
        ("select private.request_stop(%(chat)s)", "TK404"),
        (START_ANSWER, "TK404"),
        ("select private.create_session(%(chat)s, 'Mine', 'public', null, false, null, null)", "TK404"),
        (SUBMIT, "TK404"),
        (REGENERATE, "TK404"),
        (EDIT, "TK404"),
    ],
)
@pytest.mark.parametrize("caller", ["guest", "other", "admin"])
def test_somebody_elses_session_is_as_if_it_did_not_exist(
    ground: Ground, caller: str, statement: str, refused: str
) -> None:
    actor = ground.caller(caller)
    values = ground.values(actor)
    assert refusal(ground.login, actor, statement, values | {"message": uuid4()}) == refused
    assert refusal(ground.login, actor, statement, values | {"message": values["question"]}) == refused


@pytest.mark.parametrize("statement", [SUBMIT, REGENERATE, EDIT])
def test_somebody_elses_message_is_not_answered_in_an_own_session(ground: Ground, statement: str) -> None:
    theirs = ground.world.things["owner"]
    values = theirs | {"chat": uuid4(), "message": theirs["question"]}
    assert refusal(ground.login, ground.caller("other"), statement, values) == "TK404"


@pytest.mark.parametrize(
    "statement",
    [
        "select private.require_active_caller()",
        "select private.ensure_profile('a@example.com', 'Ada')",
        "select private.create_session(gen_random_uuid(), 'Mine', 'public', null, false, null, null)",
        "select private.create_session(%(chat)s, 'Mine', 'public', null, false, null, null)",
        "select private.end_running_turn(%(chat)s, 'replaced')",
        "select private.request_stop(%(chat)s)",
        START_ANSWER,
        CONSUME,
        SUBMIT,
        REGENERATE,
        EDIT,
    ],
)
def test_a_disabled_user_uses_no_function_on_what_is_his(ground: Ground, statement: str) -> None:
    disabled = ground.caller("disabled")
    values = ground.values(disabled) | {"message": uuid4()}
    assert refusal(ground.login, disabled, statement, values) in ("TK403", "TK404")


@pytest.mark.parametrize("reason", ["deleted", "claimed"])
def test_a_user_with_a_mark_is_nobody_though_his_profile_is_back(ground: Ground, reason: str) -> None:
    actor = ground.caller("other")
    mark = "insert into private.revoked_principals (user_id, reason, until) values (%s, %s, now() + interval '1 day')"
    ground.owner.execute(mark.encode(), [actor.user, reason])
    try:
        values = ground.world.things["other"]
        for statement in (CONSUME, START_ANSWER, "select private.end_running_turn(%(chat)s, 'replaced')", SUBMIT):
            assert refusal(ground.login, actor, statement, values | {"message": uuid4()}) in ("TK403", "TK404")
        assert outcome(ground.login, actor, 'select from public."Chat" where id = %(chat)s', values) == "nothing"
    finally:
        ground.owner.execute("delete from private.revoked_principals where user_id = %s", [actor.user])


@pytest.mark.parametrize("statement", [CONSUME, "select private.ensure_profile(null, null)", SUBMIT])
def test_nobody_in_particular_has_no_limits_and_no_profile(ground: Ground, statement: str) -> None:
    nobody = Caller("nobody", "owner", "authenticated")
    assert refusal(ground.login, nobody, statement, ground.values(nobody) | {"message": uuid4()}) == "TK401"


def test_only_the_service_gives_a_profile_to_somebody_else(ground: Ground) -> None:
    session = """insert into public."Chat" (user_id, title) values (%(stranger)s, 'Theirs')"""
    found = "select from public.user_profiles where id = %(stranger)s"
    stranger = {"stranger": uuid4()}
    for name, caller in ground.world.callers.items():
        if name == "service":
            continue
        assert refusal(ground.login, caller, session, stranger) in ("42501", "23503")
    with acting_as(ground.login, ground.caller("service")):
        ground.login.execute(session.encode(), stranger)
        assert ground.login.execute(found.encode(), stranger).rowcount == 1


def test_a_profile_that_is_healed_on_the_way_is_a_guests_if_its_user_is_one(ground: Ground) -> None:
    for is_guest in (True, False):
        user = uuid4()
        claims = f'{{"sub": "{user}", "role": "authenticated", "is_anonymous": {str(is_guest).lower()}}}'
        with ground.login.transaction(force_rollback=True):
            ground.login.execute(BECOME, {"role": "authenticated", "claims": claims})
            ground.login.execute("""insert into public."Chat" (user_id, title) values (%s, 'Mine')""", [user])
            assert ground.login.execute("select is_guest from public.user_profiles").fetchall() == [(is_guest,)]


@pytest.mark.parametrize("name", ["private.take_message_seq", "public.validate_user_id", "public.handle_new_user"])
def test_nobody_makes_a_trigger_of_his_own_with_a_function_of_ours(ground: Ground, name: str) -> None:
    for caller in ground.world.callers.values():
        if caller.name in ("login", "service"):
            continue
        with acting_as(ground.login, caller):
            ground.login.execute('create temp table mine (id uuid, "chatId" uuid, seq bigint, user_id uuid)')
            trigger = f"create trigger t before insert on mine for each row execute function {name}()"
            with refused_with("42501"), ground.login.transaction():
                ground.login.execute(trigger.encode())


def test_names_that_a_caller_puts_first_on_his_search_path_change_nothing(ground: Ground) -> None:
    theirs, actor = ground.world.things["owner"], ground.caller("other")
    before = contents(ground)
    with acting_as(ground.login, actor):
        for trap in (
            "create temp table user_profiles (id uuid, disabled_at timestamptz)",
            "create temp table revoked_principals (user_id uuid, until timestamptz)",
            "create temp table pg_roles (rolname name)",
            'create temp table "Chat" (id uuid, user_id uuid, visibility text)',
            "create domain pg_temp.uuid as text",
            "create function pg_temp.now() returns timestamptz language sql as $$ select '-infinity'::timestamptz $$",
            "create function pg_temp.uid() returns text language sql as $$ select 'x' $$",
            "create function pg_temp.current_setting(text, boolean) returns text"
            " language sql as $$ select 'service_role' $$",
            "set local search_path = pg_temp, public",
        ):
            ground.login.execute(trap.encode())
        assert ground.login.execute("select private.caller_id(), private.is_service()").fetchone() == (
            actor.user,
            False,
        )
        assert ground.login.execute("select count(*) from public.admin_config").fetchone() == (0,)
        for statement in ("select private.request_stop(%(chat)s)", START_ANSWER):
            with refused_with("TK404"), ground.login.transaction():
                ground.login.execute(statement.encode(), theirs)
    assert contents(ground) == before
