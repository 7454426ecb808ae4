"""Who may do what with each table and function: the whole of it as data, and how each right is tried."""

from __future__ import annotations

from typing import Final

from tests.sql.callers import Caller, Connection, Ground, outcome

OPERATIONS: Final = ("select", "insert", "update", "delete")

# Of each caller (see `callers.build_world`) what he may do with his row or, where he has none, with the owner's:
# s, i, u, d select, insert, update and delete it; `.` the statement is allowed and touches nothing; `-` it is refused.
MATRIX: Final = """
                                    anonymous guest other owner guest-owner disabled admin disabled-admin service login
public.user_profiles                ----      .-.-  .-.-  s-u-  s-u-        .-.-     s-.-  .-.-           siud    ----
public."Chat"                       ----      .-..  .-..  siud  siud        .-..     s-..  .-..           siud    ----
public."Message_v2"                 ----      .--.  .--.  si-d  si-d        .--.     .--.  .--.           siud    ----
public."Vote_v2"                    ----      .-..  .-..  siud  siud        .-..     .-..  .-..           siud    ----
public."Document"                   ----      .--.  .--.  si-d  si-d        .--.     .--.  .--.           siud    ----
public."Suggestion"                 ----      .-..  .-..  siud  siud        .-..     .-..  .-..           siud    ----
public."Stream"                     ----      .---  .---  s---  s---        .---     .---  .---           siud    ----
public.stream_chunks                ----      .---  .---  s---  s---        .---     .---  .---           siud    ----
public.files                        ----      .---  .---  s---  s---        .---     .---  .---           siud    ----
public.github_repositories          ----      .-..  .-..  siud  siud        .-..     .-..  .-..           siud    ----
public.admin_config                 ----      .-..  .-..  .-..  .-..        .-..     siud  .-..           siud    ----
public.admin_config_history         ----      .---  .---  .---  .---        .---     s---  .---           siud    ----
public.model_config                 ----      s-..  s-..  s-..  s-..        .-..     siud  .-..           siud    ----
public.usage_logs                   ----      .---  .---  s---  s---        .---     s---  .---           siud    ----
public.usage_daily                  ----      .---  .---  .---  .---        .---     s---  .---           siud    ----
public.usage_user_daily             ----      .---  .---  .---  .---        .---     s---  .---           siud    ----
public.usage_user_monthly           ----      .---  .---  .---  .---        .---     s---  .---           siud    ----
public.budget_reservations          ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
public.rate_limit_tracking          ----      .---  .---  s---  s---        .---     .---  .---           siud    ----
public.error_logs                   ----      .-.-  .-.-  s-.-  s-.-        .-.-     s-u-  .-.-           siud    ----
public.user_activity_logs           ----      .---  .---  s---  s---        .---     s---  .---           siud    ----
public.agent_activity_logs          ----      .---  .---  s---  s---        .---     s---  .---           siud    ----
private.user_activity_logs_default  ----      ----  ----  ----  ----        ----     ----  ----           ----    ----
private.user_activity_logs_YYYY_MM  ----      ----  ----  ----  ----        ----     ----  ----           ----    ----
private.agent_activity_logs_default ----      ----  ----  ----  ----        ----     ----  ----           ----    ----
private.agent_activity_logs_YYYY_MM ----      ----  ----  ----  ----        ----     ----  ----           ----    ----
private.migrations                  ----      ----  ----  ----  ----        ----     ----  ----           ----    ----
private.configuration_version       ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
private.revoked_principals          ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
private.guest_windows               ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
private.identity_deletions          ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
private.file_deletions              ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
private.quarantine                  ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
private.usage_roll_up               ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
private.upkeep_reports              ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
private.upkeep_requests             ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
private.table_sizes                 ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
private.user_spend                  ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
private.guest_spend                 ----      ----  ----  ----  ----        ----     ----  ----           siud    ----
"""

# What a person may write: the columns of an insert, and those of an update.
WRITABLE: Final[dict[str, tuple[str, str]]] = {
    "public.user_profiles": ("", "full_name preferences"),
    'public."Chat"': ("id title user_id visibility", "status title visibility"),
    'public."Message_v2"': ("attachments chatId id parts role", ""),
    'public."Vote_v2"': ("chatId isUpvoted messageId", "isUpvoted"),
    'public."Document"': ("chat_id content id kind metadata title user_id", ""),
    'public."Suggestion"': (
        "description documentCreatedAt documentId id made_by originalText suggestedText user_id",
        "isResolved resolution resolved_at",
    ),
    "public.github_repositories": (
        "default_branch id is_active repo_name repo_owner repo_url user_id",
        "default_branch is_active repo_url",
    ),
    # The last three an administrator.
    "public.admin_config": ("config_data config_key updated_by", "config_data updated_by"),
    "public.model_config": (
        "description input_pricing_per_million_tokens is_active is_default metadata model_id name"
        " output_pricing_per_million_tokens provider thinking_enabled",
        "description input_pricing_per_million_tokens is_active is_default metadata name"
        " output_pricing_per_million_tokens thinking_enabled",
    ),
    "public.error_logs": ("", "resolution_notes resolved resolved_at resolved_by"),
}

# Who may execute what. A function that is in no line is one that nobody thought about.
FUNCTIONS: Final[dict[tuple[str, ...], str]] = {
    ("anon", "authenticated", "service_role"): """
        private.log_user_activity private.offered_models private.readable_file
        private.caller_id private.entity_tag private.fail private.is_service
        private.message_text private.require_active_caller
        public.get_public_messages public.get_public_session public.get_user_role public.is_current_user_admin
    """,
    ("authenticated", "service_role"): """
        private.log_turn_begun private.add_repository private.caller_budget private.caller_limits
        private.accept_suggestions private.add_suggestion private.create_document private.delete_document_versions
        private.hold_document private.only_place private.reject_suggestion private.revert_document
        private.create_file private.delete_file private.save_document
        private.configuration_obstacles private.delete_model private.hold_administration private.hold_configuration
        private.hold_model private.make_model_default private.remove_configuration private.set_configuration
        private.exhausted_agents private.recent_history private.reserve_budget
        private.attachment_list private.begin_turn private.choose_model private.configuration_if_newer
        private.consume_limits private.create_session private.delete_messages_from private.delete_sessions
        private.end_running_turn private.ensure_profile private.keep_guest
        private.model_metadata_problem private.request_stop private.sessions_matching private.start_answer
        private.take_guest
        public.get_current_user_usage_summary public.is_agent_activity_logging_enabled
        public.is_user_activity_logging_enabled
    """,
    ("authenticated",): """
        private.dead_turns private.last_upkeep private.log_months private.migration_ledger private.request_upkeep
        private.require_administrator private.set_account_disabled private.slow_queries private.table_growth
        private.tables_without_policies private.usage_rolled_up_through private.usage_since_roll_up
        private.withdraw_upkeep_request
    """,
    ("service_role",): """
        private.keep_upkeep_report private.plan_usage_roll_up private.roll_up_usage
        private.accept_file private.bind_files private.drop_files_of_message private.file_bytes_allowed
        private.keep_file_deletion private.takes_file_kind
        private.is_sampled private.is_toggled_on private.logged_text
        private.admin_config_problem private.admin_config_shape private.admin_config_shape_of_agents
        private.agent_configuration private.claim_guest private.leaf_problem_of_agents
        private.take_identity_deletion
        private.application_settings
        private.count_deleted_messages private.create_log_partition private.delete_own_account private.delete_profile
        private.drop_log_partition private.finish_turn private.held_budget private.is_day private.is_revoked
        private.keep_admin_config_history private.leaf_problem private.lock_model_defaults private.lock_user
        private.log_agent_activity private.log_error private.log_partitions private.make_profile private.mark_revoked
        private.missing_log_months private.move_configuration_version private.next_document_version
        private.partial_parts private.period_length private.period_start private.record_sign_in
        private.recover_stream private.refuse_limit private.remove_user private.require_provider_default
        private.retention private.search_query private.session_is_public private.settle_usage private.shape_problem
        private.take_message_seq private.touch_updated_at private.write_chunk
        public.get_logging_config public.purge_old_activity_logs
    """,
    (): """
        private.add_to_usage_user_daily private.correct_usage_user_daily private.sizes_of_tables
        private.add_to_usage_user_monthly private.take_from_usage_user_monthly private.forget_person
        private.activity_category private.is_excluded_path private.logged_address private.logged_user_agent
        private.usable_providers
        public.ensure_single_default_model_per_provider public.handle_auth_user_deletion public.handle_new_user
        public.update_admin_config_timestamp public.update_model_config_timestamp public.validate_admin_config_data
        public.validate_user_id
    """,
}

# How each table is tried: on a row of the one whose rows the caller goes for, or with a row that would be his.
# Without a statement of its own, an operation is tried as `EVERYTHING` says.
EVERYTHING: Final = {
    "select": "select from {table}",
    "insert": "insert into {table} default values",
    "update": "update {table} set {first_column} = {first_column}",
    "delete": "delete from {table}",
}
STATEMENTS: Final[dict[str, dict[str, str]]] = {
    "public.user_profiles": {
        "select": "select from public.user_profiles where id = %(user)s",
        "insert": "insert into public.user_profiles (id) values (%(fresh)s)",
        "update": "update public.user_profiles set full_name = 'Ada' where id = %(user)s",
        "delete": "delete from public.user_profiles where id = %(user)s",
    },
    'public."Chat"': {
        "select": 'select from public."Chat" where id = %(chat)s',
        "insert": """insert into public."Chat" (id, user_id, title) values (%(fresh)s, %(user)s, 'Mine')""",
        "update": """update public."Chat" set title = 'Mine' where id = %(chat)s""",
        "delete": 'delete from public."Chat" where id = %(chat)s',
    },
    'public."Message_v2"': {
        "select": 'select from public."Message_v2" where id = %(answer)s',
        "insert": """insert into public."Message_v2" ("chatId", role, parts) values (%(chat)s, 'user', %(parts)s)""",
        "update": 'update public."Message_v2" set parts = %(parts)s where id = %(question)s',
        "delete": 'delete from public."Message_v2" where id = %(answer)s',
    },
    'public."Vote_v2"': {
        "select": 'select from public."Vote_v2" where "messageId" = %(answer)s',
        "insert": """
            insert into public."Vote_v2" ("chatId", "messageId", "isUpvoted") values (%(chat)s, %(question)s, true)
        """,
        "update": 'update public."Vote_v2" set "isUpvoted" = false where "messageId" = %(answer)s',
        "delete": 'delete from public."Vote_v2" where "messageId" = %(answer)s',
    },
    'public."Document"': {
        "select": 'select from public."Document" where id = %(document)s',
        "insert": """insert into public."Document" (title, user_id, chat_id) values ('Mine', %(user)s, %(chat)s)""",
        "update": """update public."Document" set title = 'Mine' where id = %(document)s""",
        "delete": 'delete from public."Document" where id = %(document)s',
    },
    'public."Suggestion"': {
        "select": 'select from public."Suggestion" where id = %(suggestion)s',
        "insert": """
            insert into public."Suggestion"
                ("documentId", "documentCreatedAt", "originalText", "suggestedText", user_id)
            values (%(document)s, %(created_at)s, 'a', 'b', %(user)s)
        """,
        "update": """
            update public."Suggestion" set "isResolved" = true, resolution = 'accepted' where id = %(suggestion)s
        """,
        "delete": 'delete from public."Suggestion" where id = %(suggestion)s',
    },
    'public."Stream"': {
        "select": 'select from public."Stream" where id = %(stream)s',
        "insert": """
            insert into public."Stream" ("chatId", message_id, lease_until, correlation_id)
            values (%(chat)s, %(answer)s, now(), %(fresh)s)
        """,
        "update": 'update public."Stream" set stop_requested = true where id = %(stream)s',
        "delete": 'delete from public."Stream" where id = %(stream)s',
    },
    "public.stream_chunks": {
        "select": "select from public.stream_chunks where stream_id = %(stream)s",
        "insert": "insert into public.stream_chunks (stream_id, seq, payload) values (%(stream)s, 2, '')",
        "update": "update public.stream_chunks set payload = '' where stream_id = %(stream)s",
        "delete": "delete from public.stream_chunks where stream_id = %(stream)s",
    },
    "public.files": {
        "select": "select from public.files where id = %(file)s",
        "insert": """
            insert into public.files (user_id, storage_key, filename, kind, media_type, size_bytes)
            values (%(user)s, 'key', 'a', 'text', 'text/plain', 1)
        """,
        "update": "update public.files set filename = 'b' where id = %(file)s",
        "delete": "delete from public.files where id = %(file)s",
    },
    "public.github_repositories": {
        "select": "select from public.github_repositories where id = %(repository)s",
        "insert": """
            insert into public.github_repositories (user_id, repo_owner, repo_name) values (%(user)s, 'b', 'b')
        """,
        "update": "update public.github_repositories set is_active = false where id = %(repository)s",
        "delete": "delete from public.github_repositories where id = %(repository)s",
    },
    "public.admin_config": {
        "select": "select from public.admin_config",
        "insert": """
            insert into public.admin_config (config_key, config_data)
            values ('git_mcp_agent_anthropic', %(configuration)s)
        """,
        "update": """
            update public.admin_config set config_data = %(configuration)s where config_key = 'git_mcp_agent_openai'
        """,
        "delete": "delete from public.admin_config where config_key = 'git_mcp_agent_openai'",
    },
    "public.admin_config_history": {
        "select": "select from public.admin_config_history",
        "insert": """
            insert into public.admin_config_history (config_key, version, operation)
            values ('app_settings', 1, 'delete')
        """,
        "update": "update public.admin_config_history set version = 1",
        "delete": "delete from public.admin_config_history",
    },
    "public.model_config": {
        "select": "select from public.model_config where id = %(model)s",
        "insert": """
            insert into public.model_config (
                model_id, name, provider, input_pricing_per_million_tokens, output_pricing_per_million_tokens
            )
            values ('mine', 'Mine', 'google', 1, 1)
        """,
        "update": "update public.model_config set name = 'Mine' where id = %(model)s",
        "delete": "delete from public.model_config where id = %(model)s",
    },
    "public.usage_logs": {
        "select": "select from public.usage_logs where id = %(usage)s",
        "insert": """
            insert into public.usage_logs (request_id, user_id, agent_type) values (%(fresh)s, %(user)s, 'a')
        """,
        "update": "update public.usage_logs set total_cost = 0 where id = %(usage)s",
        "delete": "delete from public.usage_logs where id = %(usage)s",
    },
    "public.usage_daily": {
        "select": "select from public.usage_daily",
        "insert": """
            insert into public.usage_daily (day, agent_type, provider, model_used, user_kind, shard)
            values ('2020-01-02', 'a', 'p', 'm', 'guest', 0)
        """,
        "update": "update public.usage_daily set requests = 0",
        "delete": "delete from public.usage_daily",
    },
    "public.usage_user_daily": {
        "select": "select from public.usage_user_daily where user_id = %(user)s",
        "insert": """
            insert into public.usage_user_daily (user_id, day, agent_type, provider, model_used)
            values (%(user)s, '2020-01-02', 'a', 'p', 'm')
        """,
        "update": "update public.usage_user_daily set requests = 0 where user_id = %(user)s",
        "delete": "delete from public.usage_user_daily where user_id = %(user)s",
    },
    "public.usage_user_monthly": {
        "select": "select from public.usage_user_monthly where user_id = %(user)s",
        "insert": "insert into public.usage_user_monthly (user_id, month) values (%(user)s, '2019-01-01')",
        "update": "update public.usage_user_monthly set requests = 0 where user_id = %(user)s",
        "delete": "delete from public.usage_user_monthly where user_id = %(user)s",
    },
    "public.budget_reservations": {
        "select": "select from public.budget_reservations where id = %(reservation)s",
        "insert": """
            insert into public.budget_reservations (user_id, scope, month, amount, stream_id, lease_until)
            values (%(user)s, 'user', '2020-01-01', 0, %(fresh)s, now())
        """,
        "update": "update public.budget_reservations set amount = 0 where id = %(reservation)s",
        "delete": "delete from public.budget_reservations where id = %(reservation)s",
    },
    "public.rate_limit_tracking": {
        "select": "select from public.rate_limit_tracking where id = %(window)s",
        "insert": """
            insert into public.rate_limit_tracking
                (user_id, agent_type, limit_type, period_start, period_end, limit_value)
            values (%(user)s, 'a', 'daily', now(), now(), 1)
        """,
        "update": "update public.rate_limit_tracking set request_count = 0 where id = %(window)s",
        "delete": "delete from public.rate_limit_tracking where id = %(window)s",
    },
    "public.error_logs": {
        "select": "select from public.error_logs where id = %(error)s",
        "insert": """
            insert into public.error_logs (user_id, error_type, error_category, error_message)
            values (%(user)s, 'api', 'a', 'b')
        """,
        "update": "update public.error_logs set resolved = true where id = %(error)s",
        "delete": "delete from public.error_logs where id = %(error)s",
    },
    "public.user_activity_logs": {
        "select": "select from public.user_activity_logs where id = %(activity)s",
        "insert": """
            insert into public.user_activity_logs (user_id, correlation_id, activity_type, activity_category)
            values (%(user)s, %(fresh)s, 'a', 'b')
        """,
        "update": "update public.user_activity_logs set success = false where id = %(activity)s",
        "delete": "delete from public.user_activity_logs where id = %(activity)s",
    },
    "public.agent_activity_logs": {
        "select": "select from public.agent_activity_logs where id = %(operation)s",
        "insert": """
            insert into public.agent_activity_logs
                (user_id, correlation_id, agent_type, operation_type, operation_category)
            values (%(user)s, %(fresh)s, 'a', 'b', 'c')
        """,
        "update": "update public.agent_activity_logs set success = false where id = %(operation)s",
        "delete": "delete from public.agent_activity_logs where id = %(operation)s",
    },
    "private.revoked_principals": {
        "insert": "insert into private.revoked_principals (user_id, reason, until) values (%(user)s, 'deleted', now())",
        "delete": "delete from private.revoked_principals where user_id = %(revoked)s",
    },
    "private.identity_deletions": {
        "insert": """
            insert into private.identity_deletions (user_id, issuer, subject) values (%(fresh)s, 'issuer', 'subject')
        """,
        "update": "update private.identity_deletions set attempts = 0 where user_id = %(leaving)s",
    },
    "private.guest_windows": {
        "insert": """
            insert into private.guest_windows (address_hash, purpose, limit_type, period_start)
            values ('b', 'guest', 'daily', now())
        """,
    },
    "private.file_deletions": {
        "insert": "insert into private.file_deletions (storage_key) values ('key')",
    },
    "private.user_spend": {
        "insert": "insert into private.user_spend (user_id, month) values (%(user)s, '2020-02-01')",
        "update": "update private.user_spend set total_cost = 1 where user_id = %(user)s",
        "delete": "delete from private.user_spend where user_id = %(user)s",
    },
    "private.guest_spend": {
        "insert": "insert into private.guest_spend (month, shard) values ('2020-02-01', 1)",
    },
    "private.quarantine": {
        "update": "update private.quarantine set reason = 'r'",
        "insert": "insert into private.quarantine (source_table, reason, original) values ('t', 'r', '{}')",
    },
    "private.usage_roll_up": {
        # There is one row and never a second one, so only an upsert can succeed.
        "insert": """
            insert into private.usage_roll_up (through) values (now())
            on conflict (only_row) do update set through = excluded.through
        """,
    },
    "private.upkeep_reports": {
        "insert": """
            insert into private.upkeep_reports (started_at, finished_at, seconds, kinds) values (now(), now(), 0, '[]')
        """,
    },
    "private.upkeep_requests": {
        "insert": """
            insert into private.upkeep_requests (requested_at) values (now())
            on conflict (only_row) do update set requested_at = excluded.requested_at
        """,
    },
    "private.table_sizes": {
        "insert": """
            insert into private.table_sizes (measured_on, name, bytes, estimated_rows) values ('2020-01-02', 't', 0, 0)
        """,
    },
    "private.configuration_version": {
        # There is one row and never a second one, so only an upsert can succeed.
        "insert": """
            insert into private.configuration_version (version) values (2)
            on conflict (only_row) do update set version = excluded.version
        """,
    },
}

TABLES: Final = """
    select
        format('%I.%I', n.nspname, c.relname) as name,
        regexp_replace(format('%I.%I', n.nspname, c.relname), '_[0-9]{4}_[0-9]{2}$', '_YYYY_MM') as row_of_matrix,
        (select quote_ident(a.attname) from pg_attribute as a where a.attrelid = c.oid and a.attnum = 1) as first_column
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname in ('public', 'private')
        and c.relkind in ('r', 'p', 'v', 'm', 'f')
        and c.relowner = (select p.nspowner from pg_namespace as p where p.nspname = 'private')
"""


def expected_matrix() -> dict[str, dict[str, str]]:
    """Each row of the matrix by its table, with a cell for each caller."""
    header, *lines = MATRIX.strip("\n").splitlines()
    rows = [line.split() for line in lines]
    return {table: dict(zip(header.split(), cells, strict=True)) for table, *cells in rows}


def actual_matrix(ground: Ground) -> dict[str, dict[str, str]]:
    """The same as it was found by trying everything.

    Of the months of a log, which share a row, all have to behave alike; else a cell has the ways of all.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for table, row_of_matrix, first_column in ground.owner.execute(TABLES.encode()):
        statements = {
            operation: STATEMENTS.get(table, {}).get(operation)
            or EVERYTHING[operation].format(table=table, first_column=first_column)
            for operation in OPERATIONS
        }
        row = found.setdefault(row_of_matrix, {})
        for caller in ground.world.callers.values():
            row.setdefault(caller.name, set()).add(_cell(ground, caller, statements))
    return {table: {caller: "/".join(sorted(ways)) for caller, ways in row.items()} for table, row in found.items()}


def _cell(ground: Ground, caller: Caller, statements: dict[str, str]) -> str:
    letters = {"refused": "-", "nothing": "."}
    values = ground.values(caller)
    outcomes = {operation: outcome(ground.login, caller, statements[operation], values) for operation in OPERATIONS}
    return "".join(letters.get(result, operation[0]) for operation, result in outcomes.items())


def expected_functions() -> dict[str, tuple[str, ...]]:
    """The roles that may execute each function, by its name."""
    return {name: roles for roles, names in FUNCTIONS.items() for name in names.split()}


def actual_functions(owner: Connection) -> dict[str, tuple[str, ...]]:
    """The same as the catalog has it; `public` is everybody, and a name with two functions has the roles of both."""
    rows = owner.execute(
        """
        select
            format('%I.%I', n.nspname, p.proname),
            coalesce(
                array_agg(distinct coalesce(r.rolname, 'public')::text order by coalesce(r.rolname, 'public')::text)
                    filter (where a.grantee <> p.proowner),
                '{}'
            )
        from pg_proc as p
        join pg_namespace as n on n.oid = p.pronamespace
        left join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a on true
        left join pg_roles as r on r.oid = a.grantee
        where n.nspname in ('public', 'private')
            and p.proowner = (select o.nspowner from pg_namespace as o where o.nspname = 'private')
        group by 1
        """
    )
    return {name: tuple(roles) for name, roles in rows}
