"""The database alone decides who may do what: every table, every function, every kind of caller, tried for real."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.databases import API_ROLE, SQL, DatabaseServer, own_cluster
from tests.sql import rights
from tests.sql.callers import BECOME, Ground, acting_as, ground_on, outcome, refusal
from threadkeep.migrations import apply

Matrix = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def ground(postgres_server: DatabaseServer) -> Iterator[Ground]:
    name = postgres_server.create_database(postgres_server.template())
    with ground_on(postgres_server.dsn(name), postgres_server.dsn(name, API_ROLE)) as ground:
        yield ground
    postgres_server.drop_database(name)


@pytest.fixture(scope="module")
def found(ground: Ground) -> Matrix:
    return rights.actual_matrix(ground)


def test_every_table_is_in_the_matrix(found: Matrix) -> None:
    assert sorted(found) == sorted(rights.expected_matrix())


@pytest.mark.parametrize("table", rights.expected_matrix())
def test_each_caller_may_do_with_a_table_what_the_matrix_says(found: Matrix, table: str) -> None:
    assert found[table] == rights.expected_matrix()[table]


def test_the_same_holds_where_the_service_role_cannot_bypass_row_level_security() -> None:
    with own_cluster() as server:
        apply(server.dsn(), SQL)
        with ground_on(server.dsn(), server.dsn(user=API_ROLE)) as ground:
            ground.owner.execute("alter role service_role nobypassrls")
            assert rights.actual_matrix(ground) == rights.expected_matrix()


def test_people_may_write_the_listed_columns_and_no_other(ground: Ground) -> None:
    rows = ground.owner.execute(
        """
        select
            format('%I.%I', n.nspname, c.relname),
            coalesce(string_agg(a.attname, ' ' order by a.attname collate "C")
                filter (where has_column_privilege('authenticated', c.oid, a.attnum, 'insert')), ''),
            coalesce(string_agg(a.attname, ' ' order by a.attname collate "C")
                filter (where has_column_privilege('authenticated', c.oid, a.attnum, 'update')), '')
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where n.nspname in ('public', 'private')
            and c.relkind in ('r', 'p')
        group by 1
        """
    )
    writable = {table: (insert, update) for table, insert, update in rows if insert or update}
    assert writable == rights.WRITABLE


def test_nobody_in_particular_may_write_no_column(ground: Ground) -> None:
    rows = ground.owner.execute(
        """
        select c.oid::regclass::text, a.attname, r.rolname
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
        cross join pg_roles as r
        where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
            and c.relkind in ('r', 'p')
            and r.rolname in ('anon', 'threadkeep_api')
            and has_column_privilege(r.rolname, c.oid, a.attnum, 'select, insert, update, references')
        """
    )
    assert rows.fetchall() == []


@pytest.mark.parametrize(
    "statement",
    [
        'update public."Chat" set total_cost = 0 where id = %(chat)s',
        'update public."Chat" set total_input_tokens = 0 where id = %(chat)s',
        'update public."Chat" set message_count = 0 where id = %(chat)s',
        'update public."Chat" set last_seq = 0 where id = %(chat)s',
        'update public."Chat" set user_id = %(user)s where id = %(chat)s',
        'update public."Chat" set id = %(fresh)s where id = %(chat)s',
        """insert into public."Chat" (user_id, title, total_cost) values (%(user)s, 'Mine', -1)""",
        """insert into public."Message_v2" ("chatId", role, parts) values (%(chat)s, 'assistant', '[]')""",
        """insert into public."Message_v2" ("chatId", role, parts) values (%(chat)s, 'system', '[]')""",
        """insert into public."Message_v2" ("chatId", role, parts, seq) values (%(chat)s, 'user', '[]', 1)""",
        """insert into public."Message_v2" ("chatId", role, parts, cost) values (%(chat)s, 'user', '[]', -1)""",
        """insert into public."Message_v2" ("chatId", role, parts, status) values (%(chat)s, 'user', '[]', 'failed')""",
        """
        insert into public."Message_v2" ("chatId", role, parts, model_messages) values (%(chat)s, 'user', '[]', '[]')
        """,
        """update public."Message_v2" set role = 'assistant' where id = %(question)s""",
        """update public."Message_v2" set status = 'complete' where id = %(answer)s""",
        'update public."Message_v2" set model_messages = null where id = %(answer)s',
        """insert into public."Document" (title, user_id, version_number) values ('Mine', %(user)s, 9)""",
        """insert into public."Document" (title, user_id, "createdAt") values ('Mine', %(user)s, now())""",
        """update public."Document" set content = 'Other' where id = %(document)s""",
        "update public.user_profiles set disabled_at = null where id = %(user)s",
        "update public.user_profiles set is_guest = false where id = %(user)s",
        "update public.user_profiles set email = 'a@example.com' where id = %(user)s",
        'update public."Stream" set lease_until = now() where id = %(stream)s',
        "update public.rate_limit_tracking set request_count = 0 where id = %(window)s",
        "update public.usage_logs set total_cost = 0 where id = %(usage)s",
    ],
)
@pytest.mark.parametrize("caller", ["owner", "guest-owner", "admin"])
def test_what_the_system_counts_or_says_no_person_writes(ground: Ground, caller: str, statement: str) -> None:
    actor = ground.caller(caller)
    assert outcome(ground.login, actor, statement, ground.values(actor)) == "refused"


def test_nobody_may_truncate_or_refer_to_a_table_or_use_a_sequence(ground: Ground) -> None:
    roles = "('anon', 'authenticated', 'service_role', 'threadkeep_api')"
    rows = ground.owner.execute(
        f"""
        select c.oid::regclass::text, r.rolname
        from pg_class as c
        cross join pg_roles as r
        where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
            and r.rolname in {roles}
            and case c.relkind
                when 'r' then has_table_privilege(r.rolname, c.oid, 'truncate, references, trigger')
                when 'p' then has_table_privilege(r.rolname, c.oid, 'truncate, references, trigger')
                when 'S' then has_sequence_privilege(r.rolname, c.oid, 'usage, select, update')
            end
        """.encode()
    )
    assert rows.fetchall() == []


@pytest.mark.parametrize("schema", ["public", "private", "auth"])
def test_nobody_may_make_anything_in_our_schemas(ground: Ground, schema: str) -> None:
    for caller in ground.world.callers.values():
        assert refusal(ground.login, caller, f"create table {schema}.mine ()", {}) == "42501"


ELSEWHERE = {
    "a message into somebody's session": """
        insert into public."Message_v2" ("chatId", role, parts) values (%(theirs_chat)s, 'user', '[]')
    """,
    "a session in somebody's name": """
        insert into public."Chat" (id, user_id, title) values (%(fresh)s, %(theirs_user)s, 'Theirs')
    """,
    "a session with somebody's id, or else a change of it": """
        insert into public."Chat" (id, user_id, title) values (%(theirs_chat)s, %(user)s, 'Mine')
        on conflict (id) do update set title = excluded.title
    """,
    "a vote on somebody's message": """
        insert into public."Vote_v2" ("chatId", "messageId", "isUpvoted")
        values (%(theirs_chat)s, %(theirs_question)s, true)
    """,
    "a vote on somebody's message, said to be in one's own session": """
        insert into public."Vote_v2" ("chatId", "messageId", "isUpvoted") values (%(chat)s, %(theirs_question)s, true)
    """,
    "a vote on somebody's message, in place of an own one": """
        insert into public."Vote_v2" ("chatId", "messageId", "isUpvoted")
        values (%(theirs_chat)s, %(theirs_answer)s, true)
        on conflict ("chatId", "messageId") do update set "isUpvoted" = false
    """,
    "a document in somebody's session": """
        insert into public."Document" (title, user_id, chat_id) values ('Mine', %(user)s, %(theirs_chat)s)
    """,
    "a document in somebody's name": """
        insert into public."Document" (title, user_id) values ('Theirs', %(theirs_user)s)
    """,
    "version 2 of somebody's document": """
        insert into public."Document" (id, title, user_id) values (%(theirs_document)s, 'Mine', %(user)s)
    """,
    "version 2 of somebody's document in his name": """
        insert into public."Document" (id, title, user_id) values (%(theirs_document)s, 'Theirs', %(theirs_user)s)
    """,
    "a suggestion on somebody's document": """
        insert into public."Suggestion" ("documentId", "documentCreatedAt", "originalText", "suggestedText", user_id)
        values (%(theirs_document)s, %(theirs_created_at)s, 'a', 'b', %(user)s)
    """,
    "a suggestion in somebody's name": """
        insert into public."Suggestion" ("documentId", "documentCreatedAt", "originalText", "suggestedText", user_id)
        values (%(document)s, %(created_at)s, 'a', 'b', %(theirs_user)s)
    """,
    "a repository in somebody's name": """
        insert into public.github_repositories (user_id, repo_owner, repo_name) values (%(theirs_user)s, 'c', 'd')
    """,
}
# No right or policy, the key of session and message, the trigger of documents.
REFUSED = ("42501", "23503", "TK404")


@pytest.mark.parametrize("statement", ELSEWHERE.values(), ids=list(ELSEWHERE))
@pytest.mark.parametrize("caller", ["guest", "other", "admin", "disabled"])
def test_no_row_refers_to_what_belongs_to_somebody_else(ground: Ground, caller: str, statement: str) -> None:
    own, theirs = ground.world.things["other"], ground.world.things["owner"]
    actor = ground.caller(caller)
    user = {"user": actor.user} | {f"theirs_{name}": value for name, value in theirs.items()}
    assert refusal(ground.login, actor, statement, own | user) in REFUSED


@pytest.mark.parametrize(
    "statement",
    [
        "update public.admin_config set updated_by = %(user)s where config_key = 'app_settings'",
        """
        insert into public.admin_config (config_key, config_data, updated_by)
        values ('git_mcp_agent_anthropic', %(configuration)s, %(user)s)
        """,
        "update public.error_logs set resolved = true, resolved_by = %(user)s where id = %(error)s",
    ],
)
def test_an_administrator_does_nothing_in_somebody_elses_name(ground: Ground, statement: str) -> None:
    admin = ground.caller("admin")
    theirs = ground.world.things["owner"]
    assert outcome(ground.login, admin, statement, theirs) == "refused"
    assert outcome(ground.login, admin, statement, theirs | {"user": admin.user}) == "done"


def test_the_history_of_a_configuration_names_who_changed_it(ground: Ground) -> None:
    admin = ground.caller("admin")
    with acting_as(ground.login, admin):
        change = "update public.admin_config set config_data = config_data where config_key = 'app_settings'"
        ground.login.execute(change)
        newest = "select changed_by from public.admin_config_history order by id desc limit 1"
        assert ground.login.execute(newest).fetchone() == (admin.user,)


def test_an_administrator_by_metadata_that_users_can_edit_is_none(ground: Ground) -> None:
    user = str(ground.world.things["other"]["user"])
    for claims in (
        {"sub": user, "user_metadata": {"role": "admin"}},
        {"sub": user, "role": "admin"},
        {"sub": user, "app_metadata": "admin"},
        {"sub": user, "app_metadata": {"role": ["admin"]}},
        {"app_metadata": {"role": "admin"}},
        {},
    ):
        with ground.login.transaction(force_rollback=True):
            ground.login.execute(BECOME, {"role": "authenticated", "claims": json.dumps(claims)})
            seen = ground.login.execute("select count(*) from public.admin_config").fetchone()
        assert seen == (0,), claims


def test_a_setting_of_a_transaction_reads_as_an_empty_text_afterwards_and_is_nobody(ground: Ground) -> None:
    with ground.login.transaction():
        ground.login.execute(BECOME, {"role": "authenticated", "claims": ground.caller("owner").claims})
    read = "select current_setting('request.jwt.claims', true), current_setting('role'), current_user::text"
    assert ground.login.execute(read).fetchone() == ("", "none", API_ROLE)
    with ground.login.transaction():
        ground.login.execute("select set_config('role', 'authenticated', true)")
        row = ground.login.execute("select auth.uid(), auth.jwt(), auth.role(), private.caller_id()").fetchone()
        assert row == (None, None, None, None)
        row = ground.login.execute("select public.get_user_role(), public.is_current_user_admin()").fetchone()
        assert row == ("user", False)


def test_the_login_role_may_become_all_three_roles_and_so_must_only_be_held_by_our_code(ground: Ground) -> None:
    with acting_as(ground.login, ground.caller("other")):
        ground.login.execute("set local role service_role")
        assert ground.login.execute('select count(*) > 1 from public."Chat"').fetchone() == (True,)


@pytest.mark.parametrize("caller", ["anonymous", "guest", "other", "owner", "disabled"])
def test_a_public_session_is_read_by_its_id_in_chosen_columns_only(ground: Ground, caller: str) -> None:
    actor, chat = ground.caller(caller), ground.world.things["owner"]["chat"]
    sessions = "select * from public.get_public_session(%(chat)s)"
    messages = "select * from public.get_public_messages(%(chat)s)"
    with acting_as(ground.login, actor):
        assert ground.login.execute(sessions.encode(), {"chat": chat}).fetchall() == []
        assert ground.login.execute(messages.encode(), {"chat": chat}).fetchall() == []

    ground.owner.execute("""update public."Chat" set visibility = 'public' where id = %s""", [chat])
    try:
        with acting_as(ground.login, actor):
            cursor = ground.login.execute(sessions.encode(), {"chat": chat})
            assert [column.name for column in cursor.description or []] == [
                "id",
                "title",
                "visibility",
                "status",
                "created_at",
                "last_active",
                "message_count",
            ]
            assert [row[0] for row in cursor] == [chat]
            cursor = ground.login.execute(messages.encode(), {"chat": chat})
            assert [column.name for column in cursor.description or []] == [
                "id",
                "seq",
                "role",
                "status",
                "parts",
                "metadata",
                "model_used",
                "created_at",
                "attachments",
            ]
            assert len(cursor.fetchall()) == 2
        theirs = {"anonymous": "refused", "owner": "done"}.get(caller, "nothing")
        direct = 'select from public."Chat" where id = %(chat)s'
        assert outcome(ground.login, actor, direct, ground.world.things["owner"]) == theirs
    finally:
        ground.owner.execute("""update public."Chat" set visibility = 'private' where id = %s""", [chat])


def test_a_public_session_does_not_tell_what_it_cost(ground: Ground) -> None:
    theirs = ground.world.things["owner"]
    metadata = {
        "sessionId": str(theirs["chat"]),
        "model": "m",
        "provider": "google",
        "finishReason": "stop",
        "usage": {"inputTokens": 1, "cost": 0.5},
        "error": {"code": "unavailable:model", "detail": "No."},
        "recoveredStream": str(theirs["stream"]),
    }
    with ground.owner.transaction(force_rollback=True):
        ground.owner.execute("""update public."Chat" set visibility = 'public' where id = %(chat)s""", theirs)
        ground.owner.execute(
            'update public."Message_v2" set metadata = %(metadata)s where id = %(answer)s',
            theirs | {"metadata": json.dumps(metadata)},
        )
        seen = ground.owner.execute("select metadata from public.get_public_messages(%(chat)s)", theirs).fetchall()
    kept = {"sessionId", "model", "provider", "finishReason"}
    assert seen == [({name: metadata[name] for name in kept},), ({},)]
