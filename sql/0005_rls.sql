-- Who sees and writes what. Everything of ours is revoked first, then granted by name; the policies decide the rows.
-- `(select private.caller_id())` is the caller unless disabled or revoked, asked once a query.
-- Each table has a policy for service_role, so that nothing relies on BYPASSRLS.

do $$
declare
    ours constant text[] := array[
        'user_profiles', 'Chat', 'Message_v2', 'Vote_v2', 'Document', 'Suggestion', 'Stream', 'stream_chunks',
        'files', 'admin_config', 'admin_config_history', 'model_config', 'usage_logs', 'usage_daily',
        'budget_reservations', 'rate_limit_tracking', 'github_repositories', 'error_logs', 'user_activity_logs',
        'agent_activity_logs', 'user_activity_logs_default', 'agent_activity_logs_default',
        'configuration_version', 'revoked_principals', 'guest_windows', 'quarantine'
    ];
    target record;
begin
    -- In `public` by name: a project of Supabase keeps tables of its own there, and their rights are its own.
    for target in
        select c.relname, n.nspname, case c.relkind when 'S' then 'sequence' else 'table' end as kind
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'S')
            and pg_get_userbyid(c.relowner) = current_user
            and (
                n.nspname = 'private'
                or n.nspname = 'public' and c.relname = any (ours || 'admin_config_history_id_seq'::text)
            )
    loop
        execute format(
            'revoke all on %s %I.%I from public, anon, authenticated, service_role',
            target.kind, target.nspname, target.relname
        );
        continue when not target.relname = any (ours);
        execute format('alter table %I.%I enable row level security', target.nspname, target.relname);
        -- A partition has no policy of its own: it is reached through its parent only.
        if target.relname not like '%\_logs\_default' then
            execute format(
                'create policy "Service may do everything" on %I.%I for all to service_role using (true) with check (true)',
                target.nspname, target.relname
            );
            execute format(
                'grant select, insert, update, delete on %I.%I to service_role', target.nspname, target.relname
            );
        end if;
    end loop;
end
$$;

grant usage on schema public to anon, authenticated, service_role;
grant usage on schema private to anon, authenticated, service_role;

-- Profiles

grant select on public.user_profiles to authenticated;
grant update (full_name, preferences) on public.user_profiles to authenticated;

create policy "Users can read own profile" on public.user_profiles
    for select to authenticated
    using (id = (select private.caller_id()));
create policy "Users can update own profile" on public.user_profiles
    for update to authenticated
    using (id = (select private.caller_id()))
    with check (id = (select private.caller_id()));
create policy "Admins can read all profiles" on public.user_profiles
    for select to authenticated
    using ((select public.is_current_user_admin()));

-- Sessions and what belongs to them

grant select, delete on public."Chat" to authenticated;
grant insert (id, user_id, title, visibility) on public."Chat" to authenticated;
grant update (title, visibility, status) on public."Chat" to authenticated;

create policy "Users can read own chats" on public."Chat"
    for select to authenticated
    using (user_id = (select private.caller_id()));
create policy "Users can create own chats" on public."Chat"
    for insert to authenticated
    with check (user_id = (select private.caller_id()));
create policy "Users can update own chats" on public."Chat"
    for update to authenticated
    using (user_id = (select private.caller_id()))
    with check (user_id = (select private.caller_id()));
create policy "Users can delete own chats" on public."Chat"
    for delete to authenticated
    using (user_id = (select private.caller_id()));
create policy "Admins can read all chats" on public."Chat"
    for select to authenticated
    using ((select public.is_current_user_admin()));

-- Asking for one session by its key, with the owner beside it, keeps these policies at an index look-up.

grant select, delete on public."Message_v2" to authenticated;
grant insert (id, "chatId", role, parts, attachments) on public."Message_v2" to authenticated;

-- By the session's key for each message: `exists` would read all sessions of the caller first.
create policy "Users can read own messages" on public."Message_v2"
    for select to authenticated
    using ((select c.user_id from public."Chat" as c where c.id = "chatId") = (select private.caller_id()));
create policy "Users can create messages in own chats" on public."Message_v2"
    for insert to authenticated
    with check (
        role = 'user'
        and exists (
            select from public."Chat" as c
            where c.id = "chatId"
                and c.user_id = (select private.caller_id())
        )
    );
create policy "Users can update own messages" on public."Message_v2"
    for update to authenticated
    using (
        role = 'user'
        and exists (
            select from public."Chat" as c
            where c.id = "chatId"
                and c.user_id = (select private.caller_id())
        )
    )
    with check (
        role = 'user'
        and exists (
            select from public."Chat" as c
            where c.id = "chatId"
                and c.user_id = (select private.caller_id())
        )
    );
create policy "Users can delete own messages" on public."Message_v2"
    for delete to authenticated
    using ((select c.user_id from public."Chat" as c where c.id = "chatId") = (select private.caller_id()));

grant select, insert, delete on public."Vote_v2" to authenticated;
grant update ("isUpvoted") on public."Vote_v2" to authenticated;

create policy "Users can read votes in own chats" on public."Vote_v2"
    for select to authenticated
    using (exists (
        select from public."Chat" as c
        where c.id = "chatId"
            and c.user_id = (select private.caller_id())
    ));
create policy "Users can vote on messages in own chats" on public."Vote_v2"
    for insert to authenticated
    with check (exists (
        select from public."Chat" as c
        where c.id = "chatId"
            and c.user_id = (select private.caller_id())
    ));
create policy "Users can change votes in own chats" on public."Vote_v2"
    for update to authenticated
    using (exists (
        select from public."Chat" as c
        where c.id = "chatId"
            and c.user_id = (select private.caller_id())
    ))
    with check (exists (
        select from public."Chat" as c
        where c.id = "chatId"
            and c.user_id = (select private.caller_id())
    ));
create policy "Users can take back votes in own chats" on public."Vote_v2"
    for delete to authenticated
    using (exists (
        select from public."Chat" as c
        where c.id = "chatId"
            and c.user_id = (select private.caller_id())
    ));

grant select on public."Stream", public.stream_chunks to authenticated;

create policy "Users can access streams in own chats" on public."Stream"
    for select to authenticated
    using (exists (
        select from public."Chat" as c
        where c.id = "chatId"
            and c.user_id = (select private.caller_id())
    ));
create policy "Users can read chunks in own chats" on public.stream_chunks
    for select to authenticated
    using (exists (
        select from public."Stream" as s
        join public."Chat" as c on c.id = s."chatId"
        where s.id = stream_id
            and c.user_id = (select private.caller_id())
    ));

-- Documents, suggestions, files, repositories

grant select, delete on public."Document" to authenticated;
grant insert (id, title, content, kind, user_id, chat_id, metadata) on public."Document" to authenticated;

create policy "Users can read own documents" on public."Document"
    for select to authenticated
    using (user_id = (select private.caller_id()));
create policy "Users can create own documents" on public."Document"
    for insert to authenticated
    with check (
        user_id = (select private.caller_id())
        and (
            chat_id is null
            or exists (
                select from public."Chat" as c
                where c.id = chat_id
                    and c.user_id = (select private.caller_id())
            )
        )
    );
create policy "Users can update own documents" on public."Document"
    for update to authenticated
    using (user_id = (select private.caller_id()))
    with check (
        user_id = (select private.caller_id())
        and (
            chat_id is null
            or exists (
                select from public."Chat" as c
                where c.id = chat_id
                    and c.user_id = (select private.caller_id())
            )
        )
    );
create policy "Users can delete own documents" on public."Document"
    for delete to authenticated
    using (user_id = (select private.caller_id()));

grant select, delete on public."Suggestion" to authenticated;
grant insert (id, "documentId", "documentCreatedAt", "originalText", "suggestedText", description, user_id)
    on public."Suggestion" to authenticated;
grant update ("isResolved", resolution, resolved_at) on public."Suggestion" to authenticated;

create policy "Users can read own suggestions" on public."Suggestion"
    for select to authenticated
    using (user_id = (select private.caller_id()));
create policy "Users can create own suggestions" on public."Suggestion"
    for insert to authenticated
    with check (
        user_id = (select private.caller_id())
        and exists (
            select from public."Document" as d
            where d.id = "documentId"
                and d."createdAt" = "documentCreatedAt"
                and d.user_id = (select private.caller_id())
        )
    );
create policy "Users can update own suggestions" on public."Suggestion"
    for update to authenticated
    using (user_id = (select private.caller_id()))
    with check (user_id = (select private.caller_id()));
create policy "Users can delete own suggestions" on public."Suggestion"
    for delete to authenticated
    using (user_id = (select private.caller_id()));

grant select on public.files to authenticated;

create policy "Users can read own files" on public.files
    for select to authenticated
    using (user_id = (select private.caller_id()));

grant select, delete on public.github_repositories to authenticated;
grant insert (id, user_id, repo_owner, repo_name, repo_url, default_branch, is_active)
    on public.github_repositories to authenticated;
grant update (repo_url, default_branch, is_active) on public.github_repositories to authenticated;

create policy "Users can read own repositories" on public.github_repositories
    for select to authenticated
    using (user_id = (select private.caller_id()));
create policy "Users can add own repositories" on public.github_repositories
    for insert to authenticated
    with check (user_id = (select private.caller_id()));
create policy "Users can update own repositories" on public.github_repositories
    for update to authenticated
    using (user_id = (select private.caller_id()))
    with check (user_id = (select private.caller_id()));
create policy "Users can delete own repositories" on public.github_repositories
    for delete to authenticated
    using (user_id = (select private.caller_id()));

-- Configuration

grant select on public.admin_config, public.admin_config_history to authenticated;
grant insert (config_key, config_data, updated_by) on public.admin_config to authenticated;
grant update (config_data, updated_by) on public.admin_config to authenticated;
grant delete on public.admin_config to authenticated;

create policy "Admins can read admin_config" on public.admin_config
    for select to authenticated
    using ((select public.is_current_user_admin()));
create policy "Admins can insert admin_config" on public.admin_config
    for insert to authenticated
    with check (
        (select public.is_current_user_admin())
        and (updated_by is null or updated_by = (select private.caller_id()))
    );
create policy "Admins can update admin_config" on public.admin_config
    for update to authenticated
    using ((select public.is_current_user_admin()))
    with check (
        (select public.is_current_user_admin())
        and (updated_by is null or updated_by = (select private.caller_id()))
    );
create policy "Admins can delete admin_config" on public.admin_config
    for delete to authenticated
    using ((select public.is_current_user_admin()));
create policy "Admins can read admin_config_history" on public.admin_config_history
    for select to authenticated
    using ((select public.is_current_user_admin()));

grant select, delete on public.model_config to authenticated;
grant insert (
    model_id, name, description, provider, is_active, is_default, thinking_enabled,
    input_pricing_per_million_tokens, output_pricing_per_million_tokens, metadata
) on public.model_config to authenticated;
grant update (
    name, description, is_active, is_default, thinking_enabled,
    input_pricing_per_million_tokens, output_pricing_per_million_tokens, metadata
) on public.model_config to authenticated;

create policy "Authenticated users can read model_config" on public.model_config
    for select to authenticated
    using ((select private.caller_id()) is not null);
create policy "Admins can insert model_config" on public.model_config
    for insert to authenticated
    with check ((select public.is_current_user_admin()));
create policy "Admins can update model_config" on public.model_config
    for update to authenticated
    using ((select public.is_current_user_admin()))
    with check ((select public.is_current_user_admin()));
create policy "Admins can delete model_config" on public.model_config
    for delete to authenticated
    using ((select public.is_current_user_admin()));

-- Usage, limits, logs: people read their own, administrators all, only the service writes

grant select on public.usage_logs, public.usage_daily, public.rate_limit_tracking, public.error_logs,
    public.user_activity_logs, public.agent_activity_logs to authenticated;
grant update (resolved, resolved_by, resolved_at, resolution_notes) on public.error_logs to authenticated;

create policy "Users can read own usage_logs" on public.usage_logs
    for select to authenticated
    using (user_id = (select private.caller_id()));
create policy "Admins can read all usage_logs" on public.usage_logs
    for select to authenticated
    using ((select public.is_current_user_admin()));
create policy "Admins can read usage_daily" on public.usage_daily
    for select to authenticated
    using ((select public.is_current_user_admin()));
create policy "Users can read own rate_limits" on public.rate_limit_tracking
    for select to authenticated
    using (user_id = (select private.caller_id()));
create policy "Users can read own error_logs" on public.error_logs
    for select to authenticated
    using (user_id = (select private.caller_id()));
create policy "Admins can read all error_logs" on public.error_logs
    for select to authenticated
    using ((select public.is_current_user_admin()));
create policy "Admins can update error_logs" on public.error_logs
    for update to authenticated
    using ((select public.is_current_user_admin()))
    with check (
        (select public.is_current_user_admin())
        and (resolved_by is null or resolved_by = (select private.caller_id()))
    );
create policy "Users can read own activity logs" on public.user_activity_logs
    for select to authenticated
    using (user_id = (select private.caller_id()));
create policy "Admins can read all activity logs" on public.user_activity_logs
    for select to authenticated
    using ((select public.is_current_user_admin()));
create policy "Users can read own agent logs" on public.agent_activity_logs
    for select to authenticated
    using (user_id = (select private.caller_id()));
create policy "Admins can read all agent logs" on public.agent_activity_logs
    for select to authenticated
    using ((select public.is_current_user_admin()));

-- Functions: Supabase grants new ones to its roles by name, so every one of ours is revoked, then granted as needed

do $$
declare
    target record;
begin
    for target in
        select p.oid::regprocedure as signature
        from pg_proc as p
        join pg_namespace as n on n.oid = p.pronamespace
        where pg_get_userbyid(p.proowner) = current_user
            and (
                n.nspname = 'private'
                or n.nspname = 'public' and p.proname in (
                    'get_user_role', 'validate_user_id', 'handle_new_user', 'handle_auth_user_deletion',
                    'get_current_user_usage_summary', 'is_current_user_admin', 'update_admin_config_timestamp',
                    'update_model_config_timestamp', 'ensure_single_default_model_per_provider',
                    'validate_admin_config_data', 'get_logging_config', 'is_user_activity_logging_enabled',
                    'is_agent_activity_logging_enabled', 'purge_old_activity_logs', 'get_public_session',
                    'get_public_messages'
                )
            )
    loop
        execute format('revoke all on function %s from public, anon, authenticated, service_role', target.signature);
    end loop;
end
$$;

grant execute on all functions in schema private to service_role;

grant execute on function
    public.get_user_role(), public.is_current_user_admin(),
    public.get_public_session(uuid), public.get_public_messages(uuid, bigint, integer)
    to anon, authenticated, service_role;

grant execute on function
    public.get_current_user_usage_summary(date, date), public.is_user_activity_logging_enabled(),
    public.is_agent_activity_logging_enabled()
    to authenticated, service_role;

grant execute on function public.get_logging_config(), public.purge_old_activity_logs(integer) to service_role;

-- What the policies, the generated column and the functions that run in the caller's own rights call
grant execute on function
    private.caller_id(), private.require_active_caller(), private.is_service(), private.message_text(jsonb),
    private.fail(text, text, jsonb)
    to anon, authenticated;

-- What a check of model_config calls
grant execute on function private.model_metadata_problem(jsonb) to authenticated;

grant execute on function
    private.ensure_profile(text, text), private.take_guest(text), private.keep_guest(),
    private.create_session(uuid, text, text, text, boolean, text, text), private.sessions_matching(text),
    private.choose_model(text, text[]), private.configuration_if_newer(bigint),
    private.consume_limits(text, text, text),
    private.start_answer(uuid, uuid, uuid, uuid, interval, jsonb), private.end_running_turn(uuid, text),
    private.request_stop(uuid), private.attachment_list(jsonb), private.delete_messages_from(uuid, uuid),
    private.delete_sessions(uuid),
    private.begin_turn(
        uuid, uuid, jsonb, jsonb, text, text, uuid, uuid, uuid, uuid, text, text[], text, jsonb, bigint, interval,
        text, boolean, text, text, integer
    )
    to authenticated;
