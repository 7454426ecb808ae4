"""A database from before the constraints is mended, and no message is lost by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest

from tests.databases import SQL, DatabaseServer
from threadkeep.migrations import MigrationError, apply
from threadkeep.repair import RepairReport, repair
from threadkeep.schema_check import verify

ORPHANED_SESSIONS = 43
ORPHANED_MESSAGES = 289

DROP_FOREIGN_KEYS = """
    do $$
    declare
        k record;
    begin
        for k in
            select c.conrelid::regclass as relation, c.conname
            from pg_constraint c
            where c.contype = 'f'
              and c.conparentid = 0
              and c.connamespace in ('public'::regnamespace, 'private'::regnamespace)
        loop
            execute format('alter table %s drop constraint %I', k.relation, k.conname);
        end loop;
        for k in
            select t.tgrelid::regclass as relation, t.tgname
            from pg_trigger t
            join pg_class c on c.oid = t.tgrelid
            where t.tgname like 'validate\\_%'
              and c.relnamespace = 'public'::regnamespace
        loop
            execute format('drop trigger %I on %s', k.tgname, k.relation);
        end loop;
    end
    $$;
    alter table "Message_v2" disable trigger trigger_message_take_seq;
"""

ORPHANS = f"""
    insert into "Chat" (title, user_id)
    select 'of nobody ' || n, gen_random_uuid()
    from generate_series(1, {ORPHANED_SESSIONS}) n;

    insert into "Message_v2" ("chatId", seq, role, parts)
    select gen_random_uuid(), 1, 'user', jsonb_build_array(jsonb_build_object('type', 'text', 'text', 'lost ' || n))
    from generate_series(1, {ORPHANED_MESSAGES}) n;

    insert into "Message_v2" ("chatId", seq, role, parts)
    select c.id, 1, 'user', '[{{"type": "text", "text": "kept"}}]'
    from "Chat" c;
"""

# The bare tables of an older dump: no constraint, no trigger, no newer column, the older types.
OLDER_DUMP = """
    create table "Chat" (
        id uuid, "createdAt" timestamp, title text, user_id uuid, visibility varchar(10), "lastContext" jsonb,
        total_cost numeric(10, 6), updated_at timestamp
    );
    create table "Message_v2" (
        id uuid, "chatId" uuid, role varchar(20), parts json, attachments json, "createdAt" timestamp
    );
    create table "Vote_v2" ("chatId" uuid, "messageId" uuid, "isUpvoted" boolean);
    create table "Document" (
        id uuid, "createdAt" timestamp, title text, content text, kind varchar(20), user_id uuid, chat_id uuid,
        version_number integer
    );
    create table usage_logs (
        id uuid, user_id uuid, chat_id uuid, agent_type varchar(50), total_cost numeric(10, 6),
        request_timestamp timestamp
    );
    create table user_activity_logs (
        id uuid, user_id uuid, correlation_id uuid, activity_type varchar(50), activity_category varchar(50),
        created_at timestamp
    );
    create table admin_config (id uuid, config_key varchar(100), config_data jsonb, updated_by uuid);
"""

FILLED_TABLES = (
    "auth.users",
    "user_profiles",
    '"Chat"',
    '"Message_v2"',
    '"Vote_v2"',
    '"Document"',
    '"Suggestion"',
    '"Stream"',
    "stream_chunks",
    "files",
    "usage_logs",
    "rate_limit_tracking",
    "error_logs",
    "user_activity_logs",
    "agent_activity_logs",
    "admin_config",
    "admin_config_history",
    "model_config",
    "private.quarantine",
    "private.revoked_principals",
)

ONE_OF_EVERYTHING = """
    insert into auth.users (id, email) values ('00000000-0000-0000-0000-0000000000aa', 'ada@example.org');
    insert into "Chat" (id, title, user_id)
    values ('00000000-0000-0000-0000-0000000000cc', 'one', '00000000-0000-0000-0000-0000000000aa');
    insert into "Message_v2" (id, "chatId", role, parts, status)
    select gen_random_uuid(), '00000000-0000-0000-0000-0000000000cc',
        case when n % 2 = 1 then 'user' else 'assistant' end,
        jsonb_build_array(jsonb_build_object('type', 'text', 'text', 'message ' || n)),
        case when n = 4 then 'streaming' else 'complete' end
    from generate_series(1, 4) n;
    insert into "Vote_v2" select "chatId", id, true from "Message_v2" where seq = 2;
    insert into "Document" (id, title, content, user_id, chat_id)
    values ('00000000-0000-0000-0000-0000000000dd', 'letter', 'a', '00000000-0000-0000-0000-0000000000aa',
        '00000000-0000-0000-0000-0000000000cc');
    insert into "Document" (id, title, content, user_id)
    values ('00000000-0000-0000-0000-0000000000dd', 'letter', 'b', '00000000-0000-0000-0000-0000000000aa');
    insert into "Document" (id, title, content, user_id)
    values ('00000000-0000-0000-0000-0000000000dd', 'letter', 'c', '00000000-0000-0000-0000-0000000000aa');
    insert into "Suggestion" ("documentId", "documentCreatedAt", "originalText", "suggestedText", user_id)
    select id, "createdAt", 'a', 'b', user_id from "Document";
    insert into "Stream" ("chatId", message_id, lease_until, correlation_id)
    select "chatId", id, now() + interval '30 s', gen_random_uuid() from "Message_v2" where seq = 4;
    insert into stream_chunks (stream_id, seq, payload) select id, 1, '{}' from "Stream";
    insert into files (user_id, chat_id, storage_key, filename, kind, media_type, size_bytes)
    select user_id, id, 'a/b', 'b.png', 'image', 'image/png', 1 from "Chat";
    insert into usage_logs (request_id, user_id, chat_id, message_id, agent_type, total_cost)
    select gen_random_uuid(), c.user_id, c.id, m.id, 'chat_model_agent', 0.000000000001
    from "Chat" c join "Message_v2" m on m."chatId" = c.id;
    insert into rate_limit_tracking (user_id, agent_type, period_start, period_end, limit_type, limit_value)
    select user_id, 'chat_model_agent', now(), now(), 'daily', 1 from "Chat";
    insert into error_logs (user_id, error_type, error_category, error_message)
    select user_id, 'api', 'x', 'y' from "Chat";
    insert into user_activity_logs (user_id, correlation_id, activity_type, activity_category, created_at)
    select user_id, gen_random_uuid(), 'chat_create', 'chat', now() - n * interval '20 days'
    from "Chat", generate_series(0, 5) n;
    insert into agent_activity_logs (user_id, correlation_id, agent_type, operation_type, operation_category)
    select user_id, gen_random_uuid(), 'chat_model_agent', 'turn', 'generation' from "Chat";
    insert into private.quarantine (source_table, reason, original) values ('somewhere', 'earlier', '{}');
    insert into private.revoked_principals (user_id, reason, until) values (gen_random_uuid(), 'deleted', now());
"""


class Database:
    """A database of one test, and how to look into it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def run(self, statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statements.encode())

    def ask(self, query: LiteralString, *values: object) -> Any:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute(query, values or None).fetchone()
            return row[0] if row else None

    def content(self, table: str) -> str | None:
        """A hash of all rows, in whatever order they are; None if there are none."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            query = f"select md5(string_agg(to_jsonb(t)::text, '' order by to_jsonb(t)::text)) from {table} t"
            row = connection.execute(query.encode()).fetchone()
            return row[0] if row else None

    def quarantined(self, table: str) -> int:
        return int(self.ask("select count(*) from private.quarantine where source_table = %s", table))

    def problems(self) -> list[str]:
        return [f"{kind.kind}: {kind}" for kind in verify(self.dsn, SQL).kinds if not kind.ok]


@pytest.fixture
def database(database_url: str) -> Database:
    """A migrated database."""
    return Database(database_url)


@pytest.fixture
def bare_database(postgres_server: DatabaseServer) -> Iterator[Database]:
    """The bare tables of an older dump, with nothing in them."""
    postgres_server.template()
    name = postgres_server.create_database()
    database = Database(postgres_server.dsn(name))
    database.run(OLDER_DUMP)
    yield database
    postgres_server.drop_database(name)


def rows_of(report: RepairReport, table: str) -> int:
    return sum(finding.rows for finding in report.quarantined if finding.table == table)


def test_a_database_without_foreign_keys_is_refused_then_mended_with_no_message_lost(database: Database) -> None:
    database.run(DROP_FOREIGN_KEYS + ORPHANS)
    with pytest.raises(MigrationError, match="db-repair"):
        apply(database.dsn, SQL)

    report = repair(database.dsn, SQL)

    assert (report.way, report.sessions_without_user, report.messages_without_session) == (
        "in place",
        ORPHANED_SESSIONS,
        ORPHANED_MESSAGES,
    )
    assert report.profiles_made == report.users_without_profile == ORPHANED_SESSIONS
    assert rows_of(report, 'public."Message_v2"') == database.quarantined('public."Message_v2"') == ORPHANED_MESSAGES
    assert database.ask('select count(*) from "Chat"') == ORPHANED_SESSIONS
    assert database.ask('select count(*) from "Message_v2"') == ORPHANED_SESSIONS
    assert database.ask('select count(*) from "Chat" where message_count = 1 and last_seq = 1') == ORPHANED_SESSIONS
    apply(database.dsn, SQL)
    assert database.problems() == []


def test_the_bare_tables_of_an_older_dump_are_rebuilt_with_no_message_lost(bare_database: Database) -> None:
    bare_database.run(
        f"""
        insert into "Chat" (id, user_id, title, "createdAt", visibility)
        select gen_random_uuid(), gen_random_uuid(), 'of nobody', '2024-03-01 12:00', 'private'
        from generate_series(1, {ORPHANED_SESSIONS});
        insert into "Message_v2" (id, "chatId", role, parts, "createdAt")
        select gen_random_uuid(), c.id, 'user', json_build_array(n), '2024-03-01 12:00'::timestamp + n * interval '1 s'
        from "Chat" c, generate_series(1, 3) n;
        insert into "Message_v2" (id, "chatId", role, parts)
        select gen_random_uuid(), gen_random_uuid(), 'user', '[]'
        from generate_series(1, {ORPHANED_MESSAGES});
        insert into "Vote_v2" select "chatId", id, true from "Message_v2";
        insert into usage_logs select gen_random_uuid(), user_id, id, 'chat_model_agent', 1.5, now() from "Chat";
        insert into user_activity_logs
        select gen_random_uuid(), user_id, gen_random_uuid(), 'chat_create', 'chat', '2024-03-01' from "Chat";
        """
    )
    with pytest.raises(MigrationError, match="db-repair"):
        apply(bare_database.dsn, SQL)

    report = repair(bare_database.dsn, SQL)

    assert report.way == "rebuilt"
    assert (report.sessions_without_user, report.messages_without_session) == (ORPHANED_SESSIONS, ORPHANED_MESSAGES)
    assert bare_database.quarantined('public."Message_v2"') == ORPHANED_MESSAGES
    assert bare_database.quarantined('public."Vote_v2"') == ORPHANED_MESSAGES
    assert bare_database.ask('select count(*) from "Message_v2"') == 3 * ORPHANED_SESSIONS
    assert bare_database.ask('select count(*) from "Chat" where message_count = 3') == ORPHANED_SESSIONS
    assert bare_database.ask("select count(*) from usage_logs where chat_id is not null") == ORPHANED_SESSIONS
    assert bare_database.ask("select count(*) from private.user_activity_logs_2024_03") == ORPHANED_SESSIONS
    assert apply(bare_database.dsn, SQL).applied == ()
    assert bare_database.problems() == []


def test_a_hosted_database_is_rebuilt_without_touching_its_accounts(hosted_database_url: str) -> None:
    database = Database(hosted_database_url)
    database.run(
        OLDER_DUMP
        + """
        insert into auth.users (id, email, somebody_elses) values (gen_random_uuid(), 'ada@example.org', 'kept');
        insert into "Chat" (id, user_id, title) select gen_random_uuid(), u.id, 'hers' from auth.users u;
        """
    )

    repair(database.dsn, SQL)

    assert database.ask("select somebody_elses from auth.users") == "kept"
    assert database.ask('select p.email from user_profiles p join "Chat" c on c.user_id = p.auth_user_id') == (
        "ada@example.org"
    )
    assert database.problems() == []


def test_a_rebuild_changes_no_row_that_was_right(database: Database) -> None:
    database.run(ONE_OF_EVERYTHING)
    before = {table: database.content(table) for table in FILLED_TABLES}
    # Rights and row level security are not added in place.
    database.run(DROP_FOREIGN_KEYS + 'alter table "Chat" disable row level security')

    report = repair(database.dsn, SQL)

    assert (report.way, report.quarantined, report.emptied, report.set_right) == ("rebuilt", (), (), ())
    assert {table: database.content(table) for table in FILLED_TABLES} == before
    assert all(before.values())
    assert database.problems() == []
    # What counts on from the highest number does so.
    database.run("update admin_config set config_data = config_data where config_key = 'app_settings'")


def test_messages_of_an_older_dump_get_their_order_from_their_time(bare_database: Database) -> None:
    bare_database.run(
        """
        insert into "Chat" (id, user_id, title) select gen_random_uuid(), gen_random_uuid(), 'one';
        insert into "Message_v2" (id, "chatId", role, parts, "createdAt")
        select gen_random_uuid(), c.id, 'user', json_build_array(n), '2024-03-01'::timestamp - n * interval '1 s'
        from "Chat" c, generate_series(1, 5) n;
        """
    )

    repair(bare_database.dsn, SQL)

    assert bare_database.ask("""select jsonb_agg(parts -> 0 order by seq) from "Message_v2" """) == [5, 4, 3, 2, 1]
    assert bare_database.ask("""select "createdAt" = '2024-03-01T00:00:00Z'::timestamptz - interval '1 s'
                                from "Message_v2" where seq = 5""")


def test_a_configuration_that_came_along_is_kept_beside_what_the_seeds_add(bare_database: Database) -> None:
    bare_database.run(
        """insert into admin_config values (gen_random_uuid(), 'chat_model_agent_google', '{"enabled": false}', null)"""
    )

    repair(bare_database.dsn, SQL)

    kept = "select config_data from admin_config where config_key = 'chat_model_agent_google'"
    assert bare_database.ask(kept) == {"enabled": False}
    assert bare_database.ask("select count(*) from admin_config") == 20


def test_a_second_repair_changes_nothing(database: Database) -> None:
    database.run(DROP_FOREIGN_KEYS + ORPHANS)
    repair(database.dsn, SQL)
    everything = """
        select md5(string_agg(t::text, '' order by t::text))
        from (
            select to_jsonb(c) from "Chat" c
            union all select to_jsonb(m) from "Message_v2" m
            union all select to_jsonb(p) from user_profiles p
            union all select to_jsonb(q) from private.quarantine q
        ) t
    """
    before = database.ask(everything)

    report = repair(database.dsn, SQL)

    assert (report.way, report.changed) == ("nothing to do", False)
    assert database.ask(everything) == before


@pytest.mark.parametrize("way", ["in place", "rebuilt"])
def test_a_dry_run_reports_the_same_and_changes_nothing(way: str, database: Database, bare_database: Database) -> None:
    chosen = database if way == "in place" else bare_database
    chosen.run(DROP_FOREIGN_KEYS + ORPHANS if way == "in place" else 'insert into "Message_v2" (id) values (null)')
    size = 'select count(*) from "Message_v2"'
    before = chosen.ask(size)

    rehearsed = repair(chosen.dsn, SQL, dry_run=True)

    assert chosen.ask(size) == before
    with pytest.raises(MigrationError, match="db-repair"):
        apply(chosen.dsn, SQL)
    assert rehearsed.way == way
    assert repair(chosen.dsn, SQL).model_copy(update={"dry_run": True}) == rehearsed


def test_everybody_in_the_accounts_gets_a_profile_with_what_is_known(database: Database) -> None:
    database.run(
        """
        alter table auth.users disable trigger user;
        insert into auth.users (email, raw_user_meta_data, is_anonymous)
        values ('ada@example.org', '{"full_name": "Ada"}', false), (null, '{}', true);
        alter table auth.users enable trigger user;
        """
    )

    report = repair(database.dsn, SQL)

    assert (report.users_without_profile, report.profiles_made, report.way) == (2, 2, "in place")
    assert database.ask("select full_name from user_profiles where email = 'ada@example.org' and auth_user_id = id")
    assert database.ask("select count(*) from user_profiles where is_guest") == 1


def test_a_deleted_user_is_not_brought_back(database: Database) -> None:
    database.run(
        DROP_FOREIGN_KEYS
        + """
        insert into private.revoked_principals (user_id, reason, until)
        values ('00000000-0000-0000-0000-00000000000d', 'deleted', now() + interval '1 day');
        insert into "Chat" (id, title, user_id)
        values ('00000000-0000-0000-0000-00000000000c', 'gone', '00000000-0000-0000-0000-00000000000d');
        insert into "Message_v2" ("chatId", seq, role, parts)
        values ('00000000-0000-0000-0000-00000000000c', 1, 'user', '[]');
        """
    )

    repair(database.dsn, SQL)

    assert database.ask("select count(*) from user_profiles") == 0
    assert (database.quarantined('public."Chat"'), database.quarantined('public."Message_v2"')) == (1, 1)
    assert database.problems() == []


def test_a_cascade_that_is_left_cannot_delete_messages_before_they_are_quarantined(database: Database) -> None:
    database.run(
        """
        alter table "Chat" drop constraint "Chat_user_id_fkey", alter user_id drop not null;
        drop trigger validate_chat_user_id on "Chat";
        insert into "Chat" (title) values ('of nobody');
        insert into "Message_v2" ("chatId", role, parts)
        select c.id, 'user', '[]' from "Chat" c, generate_series(1, 7);
        """
    )

    repair(database.dsn, SQL)

    assert (database.quarantined('public."Chat"'), database.quarantined('public."Message_v2"')) == (1, 7)
    assert database.problems() == []


def test_a_document_whose_session_is_gone_stays_its_users(database: Database) -> None:
    database.run(
        DROP_FOREIGN_KEYS
        + """
        insert into "Document" (title, user_id, chat_id) values ('letter', gen_random_uuid(), gen_random_uuid());
        """
    )

    report = repair(database.dsn, SQL)

    assert [(found.table, found.reason, found.rows) for found in report.emptied] == [
        ('public."Document"', "chat_id", 1)
    ]
    assert database.ask('select count(*) from "Document" where chat_id is null') == 1


def test_what_was_imported_twice_is_there_once(bare_database: Database) -> None:
    bare_database.run(
        """
        insert into "Chat" (id, user_id, title)
        values ('00000000-0000-0000-0000-00000000000c', gen_random_uuid(), 'one');
        insert into "Message_v2" (id, "chatId", role, parts, "createdAt")
        select gen_random_uuid(), c.id, 'user', '[]', '2024-03-01'::timestamp + n * interval '1 s'
        from "Chat" c, generate_series(1, 4) n;
        insert into "Chat" select * from "Chat";
        insert into "Message_v2" select * from "Message_v2";
        """
    )

    repair(bare_database.dsn, SQL)

    assert bare_database.ask('select count(*) from "Chat"') == 1
    assert bare_database.ask('select jsonb_agg(seq order by seq) from "Message_v2"') == [1, 2, 3, 4]
    assert bare_database.quarantined('public."Message_v2"') == 4


def test_a_row_that_no_constraint_would_take_is_quarantined_whole(database: Database) -> None:
    database.run(
        DROP_FOREIGN_KEYS
        + """
        alter table "Message_v2" drop constraint "Message_v2_role_check";
        insert into "Chat" (title, user_id) values ('one', gen_random_uuid());
        insert into "Message_v2" ("chatId", seq, role, parts) select id, 1, 'tool', '["kept whole"]' from "Chat";
        """
    )

    repair(database.dsn, SQL)

    assert database.ask("select original ->> 'parts' from private.quarantine") == '["kept whole"]'
    assert database.problems() == []


def test_an_answer_that_nobody_is_writing_no_longer_blocks_its_session(database: Database) -> None:
    database.run(
        DROP_FOREIGN_KEYS
        + """
        insert into "Chat" (title, user_id) values ('one', gen_random_uuid());
        insert into "Message_v2" ("chatId", seq, role, parts, status)
        select id, 1, 'assistant', '[]', 'streaming' from "Chat";
        """
    )

    repair(database.dsn, SQL)

    assert database.ask('select status from "Message_v2"') == "interrupted"


def test_dropped_indexes_and_triggers_come_back_with_the_constraints(database: Database) -> None:
    database.run(
        DROP_FOREIGN_KEYS
        + """
        drop index idx_message_chat;
        drop index idx_user_activity_created;
        drop trigger zz_document_next_version on "Document";
        drop trigger on_auth_user_created on auth.users;
        alter table model_config drop constraint idx_model_config_provider_default;
        """
    )

    report = repair(database.dsn, SQL)

    assert {"public.idx_message_chat", "auth.users: on_auth_user_created"} <= set(report.restored)
    assert database.problems() == []


def test_columns_that_a_rebuild_would_lose_end_it_with_nothing_changed(bare_database: Database) -> None:
    bare_database.run("""alter table "Chat" add column mood text; insert into "Chat" (mood) values ('fine')""")

    with pytest.raises(MigrationError, match=r'public."Chat": mood'):
        repair(bare_database.dsn, SQL)

    assert bare_database.ask('select mood from public."Chat"') == "fine"


def test_a_view_of_somebody_else_ends_a_rebuild_with_nothing_changed(bare_database: Database) -> None:
    bare_database.run('create view report as select count(*) from "Chat"')

    with pytest.raises(MigrationError, match="nothing was changed"):
        repair(bare_database.dsn, SQL)

    assert bare_database.ask("select count(*) from pg_namespace where nspname in ('private', 'auth')") == 0


def test_a_database_that_is_not_ours_is_refused(postgres_server: DatabaseServer) -> None:
    name = postgres_server.create_database()
    with pytest.raises(MigrationError, match="Run db-migrate"):
        repair(postgres_server.dsn(name), SQL)
    postgres_server.drop_database(name)
