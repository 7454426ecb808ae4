"""What `verify` notices, and what it lets be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.databases import SQL
from threadkeep.catalog import CATALOG_FILE, catalog_text
from threadkeep.migrations import apply, connect
from threadkeep.schema_check import KindReport, VerifyReport, verify


@dataclass(frozen=True)
class Damage:
    """A statement, and under which kind, how and by which name it has to be reported."""

    statement: str
    kind: str
    how: str
    name: str


DAMAGES = [
    Damage("drop table public.budget_reservations", "Tables", "missing", "public.budget_reservations"),
    Damage("create table private.stranger ()", "Tables", "extra", "private.stranger"),
    Damage('alter table "Chat" drop column title', "Columns", "missing", 'public."Chat": title'),
    Damage('alter table "Chat" alter title drop not null', "Columns", "different", 'public."Chat": title'),
    Damage("alter table \"Chat\" alter visibility set default 'public'", "Columns", "different", "visibility"),
    Damage("alter table usage_logs alter total_cost type numeric(10, 6)", "Columns", "different", "total_cost"),
    Damage('alter table "Chat" drop constraint "Chat_user_id_fkey"', "Constraints", "missing", "Chat_user_id_fkey"),
    Damage("drop index idx_chat_user_created", "Indexes", "missing", "public.idx_chat_user_created"),
    Damage('create index idx_chat_user_id on "Chat" (user_id)', "Indexes", "extra", "public.idx_chat_user_id"),
    Damage(
        "update pg_index set indisvalid = false where indexrelid = 'idx_chat_user_created'::regclass",
        "Indexes",
        "different",
        "public.idx_chat_user_created",
    ),
    Damage("drop function private.request_stop", "Functions", "missing", "private.request_stop(p_session uuid)"),
    Damage(
        "create or replace function public.get_user_role() returns text language sql stable "
        "set search_path = pg_catalog, pg_temp as $$ select 'admin' $$",
        "Functions",
        "different",
        "public.get_user_role()",
    ),
    Damage("alter function public.get_user_role() reset search_path", "Functions", "different", "get_user_role"),
    Damage("alter function public.get_user_role() security definer", "Functions", "different", "get_user_role"),
    Damage("alter function public.get_user_role() volatile", "Functions", "different", "get_user_role"),
    Damage("create function private.stranger() returns int return 1", "Functions", "extra", "private.stranger()"),
    Damage('drop trigger validate_chat_user_id on "Chat"', "Triggers", "missing", "validate_chat_user_id"),
    Damage(
        'alter table "Chat" disable trigger validate_chat_user_id', "Triggers", "different", "validate_chat_user_id"
    ),
    Damage("drop trigger on_auth_user_created on auth.users", "Triggers", "missing", "on_auth_user_created"),
    Damage('drop policy "Users can read own chats" on "Chat"', "Policies", "missing", "Users can read own chats"),
    Damage(
        'alter policy "Users can read own chats" on "Chat" using (true)',
        "Policies",
        "different",
        "Users can read own chats",
    ),
    Damage(
        'alter policy "Users can read own chats" on "Chat" to public',
        "Policies",
        "different",
        "Users can read own chats",
    ),
    Damage('create policy stranger on "Chat" using (true)', "Policies", "extra", 'public."Chat": stranger'),
    Damage('alter table "Chat" disable row level security', "Row level security", "different", 'public."Chat"'),
    Damage('revoke select on "Chat" from authenticated', "Grants", "different", 'authenticated on table public."Chat"'),
    Damage('grant truncate on "Chat" to anon', "Grants", "extra", 'anon on table public."Chat"'),
    Damage('grant update (user_id) on "Chat" to authenticated', "Grants", "different", 'public."Chat": user_id'),
    Damage("grant execute on function private.mark_revoked to public", "Grants", "extra", "private.mark_revoked"),
    Damage("revoke usage on schema private from anon", "Grants", "missing", "anon on schema private"),
    Damage("grant create on schema public to public", "Grants", "different", "public on schema public"),
    Damage("create type private.stranger as enum ('a')", "Types", "extra", "private.stranger"),
    Damage("drop table private.user_activity_logs_default", "Partitions", "missing", "user_activity_logs_default"),
    Damage("delete from private.migrations where name like '0005%'", "Migrations", "missing", "0005_rls.sql"),
    Damage(
        "delete from admin_config where config_key = 'app_settings'",
        "Seed data",
        "missing",
        "public.admin_config: app_settings",
    ),
    Damage(
        "alter table admin_config disable trigger user; "
        "update admin_config set config_data = '{\"enabled\": 1}' where config_key = 'app_settings'; "
        "alter table admin_config enable trigger user",
        "Seed data",
        "different",
        "public.admin_config: app_settings",
    ),
]


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


def ask(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


def kind_of(report: VerifyReport, kind: str) -> KindReport:
    return next(found for found in report.kinds if found.kind == kind)


def problems(report: VerifyReport) -> dict[str, KindReport]:
    return {kind.kind: kind for kind in report.kinds if not kind.ok}


def test_a_migrated_database_is_as_it_should_be(database_url: str) -> None:
    report = verify(database_url, SQL)

    assert problems(report) == {}
    assert report.ok


def test_the_committed_catalog_is_current(database_url: str) -> None:
    with connect(database_url) as connection:
        made = catalog_text(connection, SQL)

    # `python -m local.database_commands catalog` writes it.
    assert (SQL / CATALOG_FILE).read_text(encoding="utf-8") == made


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.statement[:60])
def test_damage_is_noticed_and_named(database_url: str, damage: Damage) -> None:
    execute(database_url, damage.statement)

    report = verify(database_url, SQL)

    found = kind_of(report, damage.kind)
    named = [*found.missing, *found.extra, *(f"{item.name}: {item.reason}" for item in found.different)]
    assert not report.ok
    assert getattr(found, damage.how)
    assert any(damage.name in line for line in named)


def test_a_grant_to_a_role_of_somebody_else_is_noticed(database_url: str) -> None:
    role = "reader_of_" + str(ask(database_url, "select current_database()"))
    execute(database_url, f'create role {role}; grant select on "Chat" to {role}')
    try:
        assert kind_of(verify(database_url, SQL), "Grants").extra == (f'{role} on table public."Chat"',)
    finally:
        execute(database_url, f"drop owned by {role}; drop role {role}")


def test_verify_changes_nothing_and_leaves_a_connection_as_it_was(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("set search_path = public")
        verify(connection, SQL)
        row = connection.execute("show search_path").fetchone()

    assert row == ("public",)


def test_a_seeded_value_that_somebody_changed_is_information(database_url: str) -> None:
    execute(
        database_url,
        "update admin_config set config_data = jsonb_set(config_data, '{enabled}', 'false') "
        "where config_key = 'chat_model_agent_google'",
    )

    report = verify(database_url, SQL)

    assert report.ok
    assert "public.admin_config: chat_model_agent_google was changed" in report.information


def test_an_index_left_out_on_purpose_is_information(database_url: str) -> None:
    report = verify(database_url, SQL)

    assert "Index idx_chat_user_id is left out: prefix of idx_chat_user_active" in report.information


def test_months_of_the_logs_may_come_and_go(database_url: str) -> None:
    execute(
        database_url,
        "select private.create_log_partition('user_activity_logs', (now() + interval '9 months')::date)",
    )
    assert verify(database_url, SQL).ok

    month = ask(database_url, "select min(partition) from private.log_partitions() where month is not null")
    execute(database_url, f"drop table private.{month}")
    assert verify(database_url, SQL).ok


@pytest.mark.parametrize(
    "statement", ["grant select on private.{} to authenticated", "alter table private.{} disable row level security"]
)
def test_a_month_that_can_be_read_directly_is_noticed(database_url: str, statement: str) -> None:
    month = ask(database_url, "select min(partition) from private.log_partitions() where month is not null")
    execute(database_url, statement.format(month))

    assert "Partitions" in problems(verify(database_url, SQL))


def test_an_identity_providers_schema_is_not_compared(hosted_database_url: str) -> None:
    apply(hosted_database_url, SQL)

    assert problems(verify(hosted_database_url, SQL)) == {}


def test_our_triggers_on_an_identity_providers_accounts_are_compared(hosted_database_url: str) -> None:
    apply(hosted_database_url, SQL)
    execute(hosted_database_url, "drop trigger on_auth_user_created on auth.users")

    assert kind_of(verify(hosted_database_url, SQL), "Triggers").missing == ("auth.users: on_auth_user_created",)
