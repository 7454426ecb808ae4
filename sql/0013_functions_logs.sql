-- The logs obey `logging_settings` to the letter: whether anything is written, of what, and how much of a person is
-- in it. A function that writes a log decides by itself, and its failure never fails what is logged. Of a row that was
-- broken by hand, what cannot be read logs no activity, logs errors, protects the person and purges nothing.

create or replace function public.get_logging_config() returns jsonb
-- Not in SQL: that would be planned anew by each log that asks.
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings jsonb;
begin
    select a.config_data into v_settings
    from public.admin_config as a
    where a.config_key = 'logging_settings';
    if found then
        return v_settings;
    end if;
    return '{
        "error_logging_enabled": true,
        "user_activity_logging_enabled": false,
        "agent_activity_logging_enabled": true,
        "log_retention_days": {"error_logs": 90, "user_activity_logs": 30, "agent_activity_logs": 7},
        "category_toggles": {},
        "performance_settings": {"sampling_enabled": false, "sampling_rate": 1.0},
        "privacy_settings": {}
    }';
end
$$;

create or replace function private.retention(p_log text) returns interval
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_days constant jsonb := public.get_logging_config() -> 'log_retention_days';
    v_log text;
begin
    -- Nonsense is refused here as well as on write, and all of it with any of it: of a row that is broken nobody knows
    -- what was meant, and a wrong number must not empty a log.
    foreach v_log in array array['error_logs', 'user_activity_logs', 'agent_activity_logs', p_log] loop
        if jsonb_typeof(v_days -> v_log) is distinct from 'number'
            or (v_days -> v_log)::numeric not between 1 and 3650
        then
            perform private.fail(
                'TK409', 'conflict:retention',
                jsonb_build_object(
                    'detail', format('log_retention_days.%s must be a number of days, from 1 to 3650.', v_log)
                )
            );
        end if;
    end loop;
    return make_interval(days => (v_days -> p_log)::numeric::integer);
end
$$;

create function private.is_excluded_path(p_settings jsonb, p_path text) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select
        from jsonb_array_elements_text(
            case
                when jsonb_typeof(p_settings #> '{privacy_settings,exclude_sensitive_paths}') = 'array'
                    then p_settings #> '{privacy_settings,exclude_sensitive_paths}'
                else '[]'
            end
        ) as e (path)
        where starts_with(rtrim(p_path, '/') || '/', rtrim(e.path, '/') || '/')
    )
$$;
comment on function private.is_excluded_path is 'Whether the path is one of `exclude_sensitive_paths`, or below one.';

create function private.is_sampled(p_settings jsonb, p_correlation uuid) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- By the correlation id, so that of one request all activity is there, or none.
    select case
        when p_settings #> '{performance_settings,sampling_enabled}' is distinct from 'true'::jsonb then true
        when jsonb_typeof(p_settings #> '{performance_settings,sampling_rate}') is distinct from 'number' then true
        else (hashtextextended(p_correlation::text, 0) & 9007199254740991) / 9007199254740992.0
            < (p_settings #>> '{performance_settings,sampling_rate}')::numeric
    end
$$;

create function private.is_toggled_on(p_settings jsonb, p_toggle text) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(p_settings -> 'category_toggles' -> p_toggle, 'true'::jsonb) = 'true'::jsonb
$$;

create function private.logged_address(p_settings jsonb, p_address text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Whatever stands there instead of false protects the person.
    v_is_whole constant boolean := coalesce(p_settings #> '{privacy_settings,anonymize_ip}', 'false'::jsonb) = 'false'::jsonb;
    v_address inet;
begin
    v_address := p_address::inet;
    if host(v_address) ~ '^::ffff:\d+\.' then
        v_address := substr(host(v_address), 8)::inet;
    end if;
    if v_is_whole then
        return host(v_address);
    end if;
    return host(network(set_masklen(v_address, case family(v_address) when 4 then 24 else 48 end)));
exception when invalid_text_representation then
    return case when v_is_whole then left(p_address, 45) end;
end
$$;
comment on function private.logged_address is 'An address as it may be kept: whole, or only the network it is in (IPv4 /24, IPv6 /48).';

create function private.logged_user_agent(p_settings jsonb, p_user_agent text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when coalesce(p_settings #> '{privacy_settings,log_user_agent}', 'true'::jsonb) = 'true'::jsonb
            then left(p_user_agent, 1000)
    end
$$;

create function private.logged_text(p_settings jsonb, p_text text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_text text := p_text;
    v_email text;
begin
    if coalesce(p_settings #> '{privacy_settings,hash_email}', 'false'::jsonb) = 'false'::jsonb
        or position('@' in p_text) = 0
    then
        return p_text;
    end if;
    -- The longest first, for one may end as another does.
    for v_email in
        select distinct m.match[1]
        from regexp_matches(
            p_text, '[^][[:space:]"''<>(){},;:=\\/@]+@[^][[:space:]"''<>(){},;:=\\/@]+\.[^][[:space:]"''<>(){},;:=\\/@.]+', 'g'
        ) as m (match)
        order by 1 desc
    loop
        v_text := replace(v_text, v_email, 'sha256:' || encode(sha256(convert_to(lower(v_email), 'UTF8')), 'hex'));
    end loop;
    return v_text;
end
$$;
comment on function private.logged_text is 'A text as it may be kept: with e-mail addresses, or with `sha256:` and the hash of each in small letters.';

create function private.activity_category(p_type text, out category text, out toggle text)
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select k.category, k.toggle
    from (values
        ('auth', 'authentication', 'log_auth_events'),
        ('account', 'account', 'log_auth_events'),
        ('chat', 'chat', 'log_chat_events'),
        ('document', 'document', 'log_document_events'),
        ('suggestion', 'document', 'log_document_events'),
        ('admin', 'admin', 'log_admin_events'),
        ('vote', 'vote', 'log_vote_events'),
        ('file', 'file', 'log_file_events'),
        ('artifact', 'artifact', 'log_artifact_events')
    ) as k (prefix, category, toggle)
    where k.prefix = split_part(p_type, '_', 1)
$$;
comment on function private.activity_category is 'The category of an activity, by the beginning of its name, and the toggle that steers it.';

create function private.log_user_activity(p_activity jsonb) returns boolean
language plpgsql strict security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings constant jsonb := public.get_logging_config();
    v_user uuid;
    v_correlation uuid;
    v_category text;
    v_toggle text;
begin
    if v_settings -> 'user_activity_logging_enabled' is distinct from 'true'::jsonb then
        return false;
    end if;
    begin
        v_user := case when private.is_service() then (p_activity ->> 'user_id')::uuid else auth.uid() end;
        v_correlation := coalesce((p_activity ->> 'correlation_id')::uuid, gen_random_uuid());
        select k.category, k.toggle into v_category, v_toggle
        from private.activity_category(p_activity ->> 'activity_type') as k;
        if v_category is null then
            raise warning 'user activity was not logged: % is not a known type', p_activity ->> 'activity_type';
            return false;
        end if;
        if not private.is_toggled_on(v_settings, v_toggle)
            or private.is_excluded_path(v_settings, p_activity ->> 'request_path')
            or not private.is_sampled(v_settings, v_correlation)
        then
            return false;
        end if;
        -- Never waited for: whoever holds the profile so deletes or claims its user, and may wait for this transaction.
        perform from public.user_profiles as p where p.id = v_user for key share skip locked;
        if not found then
            return false;
        end if;
        insert into public.user_activity_logs (
            user_id, correlation_id, activity_type, activity_category, activity_metadata, resource_id, resource_type,
            ip_address, user_agent, request_path, request_method, session_id
        )
        values (
            v_user, v_correlation, p_activity ->> 'activity_type', v_category,
            private.logged_text(v_settings, coalesce(p_activity -> 'activity_metadata', '{}')::text)::jsonb,
            (p_activity ->> 'resource_id')::uuid, p_activity ->> 'resource_type',
            private.logged_address(v_settings, p_activity ->> 'ip_address'),
            private.logged_user_agent(v_settings, p_activity ->> 'user_agent'),
            left(p_activity ->> 'request_path', 500), left(p_activity ->> 'request_method', 10),
            left(p_activity ->> 'session_id', 100)
        );
        return true;
    exception when others then
        -- Writing a log can never fail what is logged; the database's own log has the reason.
        raise warning 'user activity was not logged: % %', sqlstate, sqlerrm;
        return false;
    end;
end
$$;
comment on function private.log_user_activity is
    'One row of user_activity_logs in the transaction of what it tells of, if the settings want it; of the caller, or of `user_id` for the service. Whether there is one.';

create function private.log_turn_begun(p_activity jsonb, p_session uuid, p_answer uuid, p_new_guest boolean) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_activity is null
        or public.get_logging_config() -> 'user_activity_logging_enabled' is distinct from 'true'::jsonb
        -- Joined, or replayed: nothing was sent.
        or not exists (select from public."Message_v2" as m where m."chatId" = p_session and m.id = p_answer)
    then
        return false;
    end if;
    if p_new_guest then
        perform private.log_user_activity(
            p_activity || '{"activity_type": "auth_guest", "resource_id": null, "resource_type": null, "activity_metadata": {}}'
        );
    end if;
    -- Its default is the time of the transaction, which is this one's only if it was made here.
    if exists (select from public."Chat" as c where c.id = p_session and c."createdAt" = now()) then
        perform private.log_user_activity(p_activity || '{"activity_type": "chat_create", "activity_metadata": {}}');
    end if;
    return private.log_user_activity(p_activity);
end
$$;
comment on function private.log_turn_begun is 'After begin_turn, in its transaction: the message that was sent, and the session and the guest that it made.';

create or replace function private.log_agent_activity(p_user uuid, p_correlation uuid, p_rows jsonb) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings jsonb;
begin
    v_settings := public.get_logging_config();
    if p_rows is null
        or v_settings -> 'agent_activity_logging_enabled' is distinct from 'true'::jsonb
        or not private.is_sampled(v_settings, p_correlation)
    then
        return;
    end if;
    insert into public.agent_activity_logs (
        user_id, correlation_id, agent_type, operation_type, operation_category, operation_metadata, resource_id,
        resource_type, duration_ms, start_time, end_time, model_id, provider, thinking_mode, input_tokens,
        output_tokens, reasoning_tokens, total_tokens, input_cost, output_cost, total_cost, success, error_type,
        error_message, retry_count
    )
    select
        p_user, p_correlation, a.agent_type, a.operation_type, a.operation_category,
        private.logged_text(v_settings, coalesce(a.operation_metadata, '{}')::text)::jsonb, a.resource_id,
        a.resource_type, a.duration_ms, a.start_time, a.end_time, a.model_id, a.provider,
        coalesce(a.thinking_mode, false), a.input_tokens, a.output_tokens, a.reasoning_tokens,
        a.input_tokens + a.output_tokens, a.input_cost, a.output_cost, a.input_cost + a.output_cost,
        coalesce(a.success, true), a.error_type, private.logged_text(v_settings, a.error_message),
        coalesce(a.retry_count, 0)
    from jsonb_to_recordset(p_rows) as a (
        agent_type text, operation_type text, operation_category text, operation_metadata jsonb, resource_id uuid,
        resource_type text, duration_ms integer, start_time timestamptz, end_time timestamptz, model_id text,
        provider text, thinking_mode boolean, input_tokens bigint, output_tokens bigint, reasoning_tokens bigint,
        input_cost numeric, output_cost numeric, success boolean, error_type text, error_message text,
        retry_count integer
    )
    where private.is_toggled_on(v_settings, case a.operation_category
        when 'tool_invocation' then 'log_tool_invocations'
        when 'code_execution' then 'log_code_execution'
        else 'log_ai_operations'
    end);
exception when others then
    -- Writing a log can never fail a turn; the database's own log has the reason.
    raise warning 'agent activity was not logged: % %', sqlstate, sqlerrm;
end
$$;

create or replace function private.log_error(p_user uuid, p_correlation uuid, p_error jsonb) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings jsonb;
    v_is_refusal constant boolean := coalesce(p_error -> 'is_refusal' = 'true'::jsonb, false);
    v_user uuid;
begin
    v_settings := public.get_logging_config();
    if p_error is null
        or v_settings -> 'error_logging_enabled' = 'false'::jsonb
        or private.is_excluded_path(v_settings, p_error ->> 'request_path')
    then
        return;
    end if;
    select p.id into v_user from public.user_profiles as p where p.id = p_user;
    -- One a minute of each kind and user: whoever may call must not fill the table with what he is refused.
    if v_is_refusal and exists (
        select from public.error_logs as e
        where e.error_category = p_error ->> 'error_category'
            and e.created_at > now() - interval '1 minute'
            and e.user_id is not distinct from v_user
    ) then
        return;
    end if;
    insert into public.error_logs (
        user_id, correlation_id, error_type, error_category, error_message, error_details, request_path,
        request_method, user_agent, ip_address, session_id, severity, resolved, resolved_at, resolution_notes
    )
    select
        v_user, p_correlation, e.error_type, left(e.error_category, 100),
        private.logged_text(v_settings, e.error_message),
        private.logged_text(v_settings, e.error_details::text)::jsonb,
        left(e.request_path, 500), left(e.request_method, 10), private.logged_user_agent(v_settings, e.user_agent),
        private.logged_address(v_settings, e.ip_address), left(e.session_id, 100), coalesce(e.severity, 'error'),
        -- Nobody has to see to it, and the purge takes it away in its time.
        v_is_refusal, case when v_is_refusal then now() end, case when v_is_refusal then 'Refused.' end
    from jsonb_to_record(p_error) as e (
        error_type text, error_category text, error_message text, error_details jsonb, request_path text,
        request_method text, user_agent text, ip_address text, session_id text, severity text
    );
exception when others then
    raise warning 'an error was not logged: % %', sqlstate, sqlerrm;
end
$$;

create or replace function public.handle_new_user() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into public.user_profiles (id, auth_user_id, email, full_name, is_guest)
    values (
        new.id,
        new.id,
        new.email,
        left(coalesce(new.raw_user_meta_data ->> 'full_name', new.raw_user_meta_data ->> 'name'), 200),
        coalesce(new.is_anonymous, false)
    )
    on conflict (id) do update
    set auth_user_id = excluded.auth_user_id,
        email = coalesce(excluded.email, user_profiles.email),
        full_name = coalesce(user_profiles.full_name, excluded.full_name);
    return new;
exception when others then
    -- An error here would refuse the sign-up; the profile is made at sign-in or by the first chat instead.
    perform private.log_error(null, null, jsonb_build_object(
        'error_type', 'auth',
        'error_category', 'profile_creation',
        'error_message', 'The profile of a new user could not be made.',
        'error_details', jsonb_build_object('sqlstate', sqlstate, 'user', new.id)
    ));
    return new;
end
$$;

revoke all on function
    private.is_excluded_path(jsonb, text),
    private.is_sampled(jsonb, uuid), private.is_toggled_on(jsonb, text),
    private.logged_address(jsonb, text), private.logged_user_agent(jsonb, text), private.logged_text(jsonb, text),
    private.activity_category(text), private.log_user_activity(jsonb), private.log_turn_begun(jsonb, uuid, uuid, boolean)
from public, anon, authenticated, service_role;
grant execute on function private.log_user_activity(jsonb) to anon, authenticated, service_role;
grant execute on function private.log_turn_begun(jsonb, uuid, uuid, boolean) to authenticated, service_role;
-- What log_agent_activity calls, which runs in the rights of the service.
grant execute on function
    private.is_sampled(jsonb, uuid), private.is_toggled_on(jsonb, text),
    private.logged_text(jsonb, text)
to service_role;
