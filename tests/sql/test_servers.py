"""The same schema on every PostgreSQL that we support, and in a project of Supabase."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest

from local.postgres import EmbeddedPostgres, EmbeddedPostgresError
from local.postgres_programs import Programs
from tests.databases import API_ROLE, SQL, own_cluster
from tests.sql import rights
from tests.sql.callers import BECOME, Caller, Connection, ground_on, refusal, rows_of
from threadkeep.migrations import MigrationError, MigrationReport, apply
from threadkeep.reset import reset
from threadkeep.schema_check import VerifyReport, verify

SUPABASE: Final = Path(__file__).with_name("supabase.sql")


class Kind(NamedTuple):
    """A server to be made: its major version, whether it is Supabase's, who made the login role."""

    version: int
    is_supabase: bool = False
    login_role_by_hand: bool = False


KINDS: Final = {
    "PostgreSQL 15": Kind(15),
    "PostgreSQL 16": Kind(16, login_role_by_hand=True),
    "PostgreSQL 17": Kind(17),
    "PostgreSQL 18": Kind(18),
    "Supabase on PostgreSQL 15": Kind(15, is_supabase=True),
    "Supabase on PostgreSQL 16": Kind(16, is_supabase=True),
    "Supabase on PostgreSQL 17": Kind(17, is_supabase=True),
}


@dataclass(frozen=True)
class Place:
    """A server with our schema: its addresses for each role, what the migrations said, what there was before them.

    `api` is Supabase's own way in; elsewhere there is none.
    """

    kind: Kind
    superuser: str
    owner: str
    login: str
    identity_provider: str
    api: str
    first: MigrationReport
    second: MigrationReport
    verified: VerifyReport
    before: dict[str, set[str]]
    after: dict[str, set[str]]


@pytest.fixture(scope="module", params=KINDS.values(), ids=list(KINDS))
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    kind: Kind = request.param
    try:
        Programs.find(kind.version)
    except EmbeddedPostgresError as error:
        pytest.skip(str(error))
    with own_cluster(version=kind.version, binaries=None, database="postgres") as server:
        yield _supabase(server, kind) if kind.is_supabase else _plain(server, kind)


@pytest.fixture
def owner(place: Place) -> Iterator[Connection]:
    with psycopg.connect(place.owner, autocommit=True) as connection:
        yield connection


@pytest.fixture
def identity_provider(place: Place) -> Iterator[Connection]:
    with psycopg.connect(place.identity_provider, autocommit=True) as connection:
        yield connection


@pytest.fixture
def login(place: Place) -> Iterator[Connection]:
    with psycopg.connect(place.login, autocommit=True) as connection:
        yield connection


def _plain(server: EmbeddedPostgres, kind: Kind) -> Place:
    dsn = server.dsn("postgres")
    if kind.login_role_by_hand:
        with psycopg.connect(dsn, autocommit=True) as superuser:
            superuser.execute("create role threadkeep_api login")
    return _migrated(server, kind, superuser=dsn, owner=dsn, identity_provider=dsn)


def _supabase(server: EmbeddedPostgres, kind: Kind) -> Place:
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as first_superuser:
        first_superuser.execute("create role supabase_admin login superuser")
    superuser = server.dsn("postgres", "supabase_admin")
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute(SUPABASE.read_bytes())
    return _migrated(
        server,
        kind,
        superuser=superuser,
        owner=server.dsn("postgres", "postgres"),
        identity_provider=server.dsn("postgres", "supabase_auth_admin"),
    )


def _migrated(server: EmbeddedPostgres, kind: Kind, *, superuser: str, owner: str, identity_provider: str) -> Place:
    with psycopg.connect(superuser, autocommit=True) as connection:
        before = _listed(connection)
        first, second = apply(owner, SQL), apply(owner, SQL)
        after = _listed(connection)
        verified = verify(owner, SQL)
        # What was the project's own has been seen and verified beside; the matrix of rights is about our tables.
        connection.execute("drop table if exists public.todos")
        connection.execute("drop function if exists public.todo()")
    return Place(
        kind=kind,
        superuser=superuser,
        owner=owner,
        login=server.dsn("postgres", API_ROLE),
        identity_provider=identity_provider,
        api=server.dsn("postgres", "authenticator"),
        first=first,
        second=second,
        verified=verified,
        before=before,
        after=after,
    )


def _listed(connection: Connection) -> dict[str, set[str]]:
    return {subject: {text for (text,) in connection.execute(query.encode())} for subject, query in LISTS.items()}


# Definitions, owners and rights, a text each: all of the schema `auth`, what is in `public`, all roles.
LISTS: Final = {
    "auth": """
        select format('schema %s %s %s', n.nspname, n.nspowner::regrole, n.nspacl)
        from pg_namespace as n
        where n.nspname = 'auth'
        union all
        select format('relation %s %s %s', c.oid::regclass, c.relacl, to_jsonb(c) - '{relpages,reltuples}'::text[])
        from pg_class as c
        where c.relnamespace = to_regnamespace('auth')
        union all
        select format('column %s %s %s', a.attrelid::regclass, to_jsonb(a), d.adbin)
        from pg_attribute as a
        join pg_class as c on c.oid = a.attrelid
        left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where c.relnamespace = to_regnamespace('auth')
        union all
        select format('function %s %s', p.oid::regprocedure, to_jsonb(p))
        from pg_proc as p
        where p.pronamespace = to_regnamespace('auth')
        union all
        select format('constraint %s %s', k.conname, pg_get_constraintdef(k.oid))
        from pg_constraint as k
        where k.connamespace = to_regnamespace('auth')
        union all
        select format('policy %s %s', p.polrelid::regclass, to_jsonb(p))
        from pg_policy as p
        join pg_class as c on c.oid = p.polrelid
        where c.relnamespace = to_regnamespace('auth')
        union all
        select format('trigger %s on %s', t.tgname, t.tgrelid::regclass)
        from pg_trigger as t
        join pg_class as c on c.oid = t.tgrelid
        where c.relnamespace = to_regnamespace('auth')
            and not t.tgisinternal
        union all
        select format('default rights %s', to_jsonb(a))
        from pg_default_acl as a
    """,
    "public": """
        select format('relation %s %s', c.oid::regclass, to_jsonb(c) - '{relpages,reltuples}'::text[])
        from pg_class as c
        where c.relnamespace = 'public'::regnamespace
        union all
        select format('function %s %s', p.oid::regprocedure, to_jsonb(p))
        from pg_proc as p
        where p.pronamespace = 'public'::regnamespace
    """,
    "roles": """
        select (to_jsonb(r) - 'oid')::text
        from pg_roles as r
        union all
        select format('%s is in %s', m.member::regrole, m.roleid::regrole)
        from pg_auth_members as m
    """,
}


def test_all_migrations_run_from_empty_and_then_nothing_is_left_to_do(place: Place) -> None:
    assert [migration.name for migration in place.first.applied] == sorted(path.name for path in SQL.glob("*.sql"))
    assert place.second.applied == ()


def test_what_was_made_is_what_should_be_there(place: Place) -> None:
    assert [kind for kind in place.verified.kinds if not kind.ok] == []


def test_the_same_callers_may_do_the_same(place: Place) -> None:
    with ground_on(place.owner, place.login) as ground:
        assert rights.actual_matrix(ground) == rights.expected_matrix()
        assert rights.actual_functions(ground.owner) == rights.expected_functions()
        with psycopg.connect(place.superuser, autocommit=True) as superuser:
            superuser.execute("alter role service_role nobypassrls")
            try:
                assert rights.actual_matrix(ground) == rights.expected_matrix()
            finally:
                superuser.execute("alter role service_role bypassrls")


def test_a_month_of_the_logs_that_is_made_later_is_not_read_directly(login: Connection) -> None:
    with login.transaction(force_rollback=True):
        login.execute("set local role service_role")
        login.execute("select private.create_log_partition('user_activity_logs', '2031-05-01')")
        for role in ("anon", "authenticated", "service_role"):
            readable = "select has_any_column_privilege(%s, 'private.user_activity_logs_2031_05', 'select')"
            assert login.execute(readable, [role]).fetchone() == (False,)


def sign_up(connection: Connection, **columns: Any) -> UUID:
    """A new user, as the identity provider makes one; what is not said it leaves to its table."""
    values = {"id": uuid4(), **columns}
    names = ", ".join(values)
    marks = ", ".join(f"%({name})s" for name in values)
    connection.execute(f"insert into auth.users ({names}) values ({marks})".encode(), values)
    user: UUID = values["id"]
    return user


def profile(connection: Connection, user: UUID) -> Any:
    query = "select auth_user_id, email, full_name, is_guest from public.user_profiles where id = %s"
    return connection.execute(query, [user]).fetchone()


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"email": "ada@example.com", "raw_user_meta_data": '{"full_name": "Ada"}'},
            ("ada@example.com", "Ada", False),
        ),
        ({"email": "bea@example.com", "raw_user_meta_data": '{"name": "Bea"}'}, ("bea@example.com", "Bea", False)),
        ({"email": "no@example.com"}, ("no@example.com", None, False)),
        ({"email": "list@example.com", "raw_user_meta_data": "[1]"}, ("list@example.com", None, False)),
        (
            {"email": "long@example.com", "raw_user_meta_data": json.dumps({"name": "x" * 999})},
            ("long@example.com", "x" * 200, False),
        ),
        ({"is_anonymous": True}, (None, None, True)),
    ],
)
def test_a_sign_up_makes_the_profile(
    owner: Connection, identity_provider: Connection, columns: dict[str, Any], expected: tuple[object, ...]
) -> None:
    user = sign_up(identity_provider, **columns)

    assert profile(owner, user) == (user, *expected)


def test_30_sign_ups_at_once_make_30_profiles(place: Place, owner: Connection) -> None:
    together = Barrier(30, timeout=30)

    def one(number: int) -> UUID:
        with psycopg.connect(place.identity_provider, autocommit=True) as connection:
            together.wait()
            return sign_up(connection, email=f"user-{number}@example.com")

    with ThreadPoolExecutor(30) as pool:
        users = list(pool.map(one, range(30)))

    made = owner.execute("select count(*) from public.user_profiles where auth_user_id = any (%s)", [users]).fetchone()
    assert made == (30,)


def test_an_error_of_ours_does_not_refuse_a_sign_up(
    owner: Connection, identity_provider: Connection, login: Connection
) -> None:
    owner.execute(
        "alter table public.user_profiles add constraint refuses check (email <> 'refused@example.com') not valid"
    )
    try:
        user = sign_up(identity_provider, email="refused@example.com")
    finally:
        owner.execute("alter table public.user_profiles drop constraint refuses")

    assert profile(owner, user) is None
    logged = owner.execute(
        "select error_details from public.error_logs where error_category = 'profile_creation'"
    ).fetchall()
    assert logged == [({"user": str(user), "sqlstate": "23514"},)]

    with login.transaction():
        login.execute(BECOME, {"role": "authenticated", "claims": json.dumps({"sub": str(user)})})
        login.execute("select private.ensure_profile(null, null)")
    assert profile(owner, user) == (user, "refused@example.com", None, False)


def test_a_sign_up_succeeds_though_even_the_error_cannot_be_logged(owner: Connection) -> None:
    with owner.transaction(force_rollback=True):
        owner.execute("alter table public.user_profiles rename to gone")
        owner.execute("alter table public.error_logs rename to gone_too")
        user = sign_up(owner, email="alone@example.com")
        assert owner.execute("select id from auth.users where id = %s", [user]).fetchone() == (user,)


def test_a_users_deletion_removes_everything_and_leaves_the_mark(
    owner: Connection, identity_provider: Connection, login: Connection
) -> None:
    user = sign_up(identity_provider, email="leaves@example.com")
    things = rows_of(owner, user)

    identity_provider.execute("delete from auth.users where id = %s", [user])

    assert _references_to(owner, user) == {}
    assert owner.execute('select from public."Message_v2" where "chatId" = %(chat)s', things).rowcount == 0
    assert owner.execute("select from public.stream_chunks where stream_id = %(stream)s", things).rowcount == 0
    assert owner.execute("select user_id from public.error_logs where id = %(error)s", things).fetchone() == (None,)
    mark = "select reason, until > now() + interval '30 days' from private.revoked_principals where user_id = %(user)s"
    assert owner.execute(mark.encode(), things).fetchone() == ("deleted", True)
    still_valid = Caller("deleted", "nobody", "authenticated", user)
    assert refusal(login, still_valid, "select private.ensure_profile(null, null)", {}) == "TK403"


def _references_to(connection: Connection, user: UUID) -> dict[str, int]:
    """How many rows of each table refer to a profile."""
    columns = connection.execute(
        """
        select k.conrelid::regclass::text, quote_ident(a.attname)
        from pg_constraint as k
        join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
        where k.confrelid = 'public.user_profiles'::regclass
            and k.conparentid = 0
        """
    ).fetchall()
    assert len(columns) > 10
    counted = {}
    for table, column in columns:
        rows = connection.execute(f"select from {table} where {column} = %s".encode(), [user]).rowcount
        if rows:
            counted[f"{table}.{column}"] = rows
    return counted


on_supabase = pytest.mark.parametrize(
    "place",
    [kind for kind in KINDS.values() if kind.is_supabase],
    ids=[name for name, kind in KINDS.items() if kind.is_supabase],
    indirect=True,
)


@on_supabase
def test_nothing_of_supabases_is_changed_but_two_triggers_added(place: Place) -> None:
    before, after = place.before["auth"], place.after["auth"]
    assert before - after == set()
    assert after - before == {
        "trigger on_auth_user_created on auth.users",
        "trigger on_auth_user_deleted on auth.users",
    }


@on_supabase
def test_supabases_roles_stay_as_they_were(place: Place) -> None:
    assert place.before["roles"] <= place.after["roles"]
    assert all(API_ROLE in role for role in place.after["roles"] - place.before["roles"])


@on_supabase
def test_what_the_project_itself_has_in_public_keeps_its_rights(place: Place) -> None:
    assert {text.split()[1] for text in place.before["public"]} >= {"todos", "spatial_ref_sys", "todo()"}
    assert place.before["public"] <= place.after["public"]


@on_supabase
def test_a_project_of_supabase_is_not_reset(place: Place) -> None:
    with pytest.raises(MigrationError, match="stand-in"):
        reset(place.owner, SQL, delete_everything=True)


@on_supabase
def test_who_comes_through_supabases_own_api_meets_the_same_policies(place: Place, owner: Connection) -> None:
    theirs = rows_of(owner, sign_up(owner, email="theirs@example.com"))
    user_metadata = {"role": "admin"}  # which a user can edit
    claims = {"sub": str(uuid4()), "role": "authenticated", "aud": "authenticated", "user_metadata": user_metadata}
    session = 'select count(*) from public."Chat" where id = %(chat)s'
    with psycopg.connect(place.api, autocommit=True) as api:
        assert refusal(api, Caller("anonymous", "nobody", "anon"), session, theirs) == "42501"
        with api.transaction():
            api.execute(BECOME, {"role": "authenticated", "claims": json.dumps(claims)})
            assert api.execute(session.encode(), theirs).fetchone() == (0,)
            assert api.execute("select count(*) from public.admin_config").fetchone() == (0,)
            assert api.execute("select public.is_current_user_admin()").fetchone() == (False,)
