-- The functions of the source design, and the triggers' own. SECURITY DEFINER only where a caller's rights do
-- not reach; every function has a fixed search_path and qualified names. Execution is granted in 0005.

create function public.get_user_role() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- app_metadata only: a user can edit user_metadata.
    select case
        when nullif(current_setting('request.jwt.claims', true), '')::jsonb -> 'app_metadata' ->> 'role' = 'admin'
            then 'admin'
        else 'user'
    end
$$;

create function private.fail(p_state text, p_code text, p_extra jsonb default '{}') returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = p_state,
        message = p_code,
        detail = jsonb_build_object('code', p_code) || p_extra;
end
$$;
comment on function private.fail is 'Raises a domain error: SQLSTATE TKnnn as the HTTP status nnn, with a JSON object in DETAIL.';

create function private.caller_id() returns uuid
-- Not in SQL: that would be planned anew by each policy that asks, which takes eight times as long as the answer.
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user uuid := auth.uid();
begin
    if exists (select from private.revoked_principals as r where r.user_id = v_user and r.until > now())
        or exists (select from public.user_profiles as p where p.id = v_user and p.disabled_at is not null)
    then
        return null;
    end if;
    return v_user;
end
$$;
comment on function private.caller_id is 'The caller, or null for nobody and for a disabled, deleted or claimed user.';

create function private.require_active_caller() returns void
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if auth.uid() is not null and private.caller_id() is null then
        perform private.fail('TK403', 'forbidden:account');
    end if;
end
$$;

create function public.is_current_user_admin() returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select public.get_user_role() = 'admin' and private.caller_id() is not null
$$;

create function private.is_service() returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(current_setting('role', true), '') = 'service_role'
$$;

create function public.validate_user_id() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from public.user_profiles as p where p.id = new.user_id) then
        return new;
    end if;
    if new.user_id = private.caller_id() or (new.user_id is not null and private.is_service()) then
        perform private.make_profile(
            new.user_id, null, null, coalesce((auth.jwt() ->> 'is_anonymous')::boolean, false)
        );
        if exists (select from public.user_profiles as p where p.id = new.user_id) then
            return new;
        end if;
    end if;
    raise exception using
        errcode = 'foreign_key_violation',
        message = format('user %s has no profile', new.user_id),
        detail = format('%I.%I needs a row of user_profiles for its user_id', tg_table_schema, tg_table_name);
end
$$;

create function private.is_revoked(p_user uuid) returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select exists (select from private.revoked_principals as r where r.user_id = p_user and r.until > now())
$$;

create function private.lock_user(p_user uuid) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select pg_advisory_xact_lock(hashtextextended(p_user::text, 5))
$$;
comment on function private.lock_user is 'A user''s coming and going, one at a time: there may be no row yet that could be locked.';

create function private.make_profile(p_user uuid, p_email text, p_name text, p_is_guest boolean) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from public.user_profiles as p where p.id = p_user) then
        return true;
    end if;
    -- Before the look at the marks: who deletes or claims this user at the same moment comes wholly before or after.
    perform private.lock_user(p_user);
    if private.is_revoked(p_user) then
        return false;
    end if;
    insert into public.user_profiles (id, auth_user_id, email, full_name, is_guest)
    select p_user, u.id, coalesce(p_email, u.email), p_name, p_is_guest
    from (select 1) as one
    left join auth.users as u on u.id = p_user
    on conflict (id) do nothing;
    return true;
exception when foreign_key_violation then
    return false; -- deleted from auth.users meanwhile
end
$$;
comment on function private.make_profile is 'Makes a profile if there is none. False for a deleted or claimed user, who is not brought back.';

create function private.ensure_profile(p_email text, p_name text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user uuid := auth.uid();
    v_guest boolean := coalesce((auth.jwt() ->> 'is_anonymous')::boolean, false);
    v_disabled_at timestamptz;
    v_was_guest boolean;
begin
    if v_user is null then
        perform private.fail('TK401', 'unauthorized:auth');
    end if;
    -- The lock comes before the look at the marks: who deletes the account holds it FOR UPDATE, and marks it.
    select p.disabled_at, p.is_guest into v_disabled_at, v_was_guest
    from public.user_profiles as p
    where p.id = v_user
    for key share;
    if not found then
        perform private.make_profile(v_user, p_email, p_name, v_guest);
        select p.disabled_at, p.is_guest into v_disabled_at, v_was_guest
        from public.user_profiles as p
        where p.id = v_user
        for key share;
        if not found then
            perform private.fail('TK403', 'forbidden:account');
        end if;
    end if;
    if v_disabled_at is not null or private.caller_id() is null then
        perform private.fail('TK403', 'forbidden:account');
    end if;
    if v_was_guest and not v_guest then
        -- An anonymous user of the identity provider has signed up; what is a guest's is purged one day.
        update public.user_profiles as p set is_guest = false where p.id = v_user;
    end if;
end
$$;
comment on function private.ensure_profile is 'The caller''s profile is there afterwards and cannot be deleted before the transaction ends.';

create function public.handle_new_user() returns trigger
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
    begin
        insert into public.error_logs (error_type, error_category, error_message, error_details, severity)
        values (
            'auth', 'profile_creation', 'The profile of a new user could not be made.',
            jsonb_build_object('sqlstate', sqlstate, 'user', new.id), 'error'
        );
    exception when others then
        raise warning 'handle_new_user: % (user %)', sqlstate, new.id;
    end;
    return new;
end
$$;

create function private.mark_revoked(p_user uuid, p_reason text, p_claimed_by uuid) returns void
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    -- 30 days is the life of a guest token and longer than any issuer's access token should live.
    insert into private.revoked_principals (user_id, reason, claimed_by, until)
    values (p_user, p_reason, p_claimed_by, now() + interval '31 days')
    on conflict (user_id) do update
    set reason = excluded.reason,
        claimed_by = coalesce(excluded.claimed_by, revoked_principals.claimed_by),
        revoked_at = now(),
        until = excluded.until
$$;

create function private.delete_profile(p_user uuid) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_found boolean;
begin
    perform from public.user_profiles as p where p.id = p_user for update;
    v_found := found;
    perform private.mark_revoked(p_user, 'deleted', null);
    delete from public.user_profiles as p where p.id = p_user;
    return v_found;
end
$$;
comment on function private.delete_profile is 'Deletes a user with everything, and leaves the mark that refuses tokens still valid.';

create function public.handle_auth_user_deletion() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.delete_profile(old.id);
    return old;
end
$$;

create function public.get_current_user_usage_summary(
    p_start_date date default (current_date - 30),
    p_end_date date default current_date
) returns table (
    total_calls bigint,
    total_input_tokens bigint,
    total_output_tokens bigint,
    total_tokens bigint,
    total_cost numeric,
    agent_breakdown jsonb
)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with per_agent as (
        select
            u.agent_type,
            count(*) as calls,
            sum(coalesce(u.input_tokens, 0))::bigint as input_tokens,
            sum(coalesce(u.output_tokens, 0))::bigint as output_tokens,
            sum(coalesce(u.total_cost, 0)) as cost
        from public.usage_logs as u
        where u.user_id = auth.uid()
            and u.request_timestamp >= (p_start_date::timestamp at time zone 'UTC')
            and u.request_timestamp < ((p_end_date + 1)::timestamp at time zone 'UTC')
        group by u.agent_type
    )
    select
        coalesce(sum(a.calls), 0)::bigint,
        coalesce(sum(a.input_tokens), 0)::bigint,
        coalesce(sum(a.output_tokens), 0)::bigint,
        coalesce(sum(a.input_tokens + a.output_tokens), 0)::bigint,
        coalesce(sum(a.cost), 0),
        coalesce(
            jsonb_object_agg(
                a.agent_type,
                jsonb_build_object('calls', a.calls, 'tokens', a.input_tokens + a.output_tokens, 'cost', a.cost)
            ) filter (where a.agent_type is not null),
            '{}'
        )
    from per_agent as a
$$;

create function private.touch_updated_at() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    new.updated_at := now();
    return new;
end
$$;

create function public.update_admin_config_timestamp() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    new.updated_at := clock_timestamp();
    new.version := old.version + 1;
    return new;
end
$$;

create function public.update_model_config_timestamp() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    new.updated_at := clock_timestamp();
    return new;
end
$$;

create function private.keep_admin_config_history() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'DELETE' then
        insert into public.admin_config_history (config_key, config_data, version, operation, changed_by)
        values (
            old.config_key, null, old.version, 'delete',
            (select p.id from public.user_profiles as p where p.id = auth.uid())
        );
        return null;
    end if;
    insert into public.admin_config_history (config_key, config_data, version, operation, changed_by)
    values (
        new.config_key, new.config_data, new.version, lower(tg_op),
        coalesce((select p.id from public.user_profiles as p where p.id = auth.uid()), new.updated_by)
    );
    return null;
end
$$;

create function private.move_configuration_version() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Supabase refuses an update without a condition to those who come through its API.
    update private.configuration_version set version = version + 1 where only_row;
    return null;
end
$$;

create function private.lock_model_defaults() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- One writer at a time: without this, changes of the default from several callers deadlock or err.
    perform pg_advisory_xact_lock(hashtext('threadkeep.model_config'));
    return null;
end
$$;

create function public.ensure_single_default_model_per_provider() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.model_config as m
    set is_default = false
    where m.provider = new.provider
        and m.id <> new.id
        and m.is_default;
    return null;
end
$$;

create function private.require_provider_default() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_provider text;
begin
    foreach v_provider in array array_remove(
        array[
            case when tg_op <> 'INSERT' then old.provider end,
            case when tg_op <> 'DELETE' then new.provider end
        ],
        null
    )
    loop
        if exists (select from public.model_config as m where m.provider = v_provider)
            and not exists (
                select from public.model_config as m
                where m.provider = v_provider
                    and m.is_default
                    and m.is_active
            )
        then
            perform private.fail(
                'TK409', 'conflict:model',
                jsonb_build_object(
                    'detail', format('The provider %s would be left without an active default model.', v_provider)
                )
            );
        end if;
    end loop;
    return null;
end
$$;

create function private.take_message_seq() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The update takes the session's row lock, under which seq and message_count are exact.
    update public."Chat" as c
    set last_seq = greatest(c.last_seq + 1, coalesce(new.seq, 0)),
        message_count = c.message_count + 1,
        last_active = greatest(c.last_active, clock_timestamp()),
        updated_at = now()
    where c.id = new."chatId"
    returning coalesce(new.seq, c.last_seq) into new.seq;
    if not found then
        raise exception using
            errcode = 'foreign_key_violation',
            message = format('session %s does not exist', new."chatId");
    end if;
    return new;
end
$$;

create function private.count_deleted_messages() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public."Chat" as c
    set message_count = c.message_count - g.messages,
        updated_at = now()
    from (
        select gone."chatId", count(*)::integer as messages
        from gone
        group by gone."chatId"
    ) as g
    where c.id = g."chatId";
    return null;
end
$$;

create function private.next_document_version() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_last record;
begin
    -- A lock on the newest row would let two writers read the same newest version; this one is on the id.
    perform pg_advisory_xact_lock(hashtextextended(new.id::text, 7));
    select d.user_id, d.version_id, d.version_number, d."createdAt"
    into v_last
    from public."Document" as d
    where d.id = new.id
    order by d.version_number desc
    limit 1;
    if not found then
        new.version_number := 1;
        new.parent_version_id := null;
        new."createdAt" := clock_timestamp();
        return new;
    end if;
    if v_last.user_id <> new.user_id then
        perform private.fail('TK404', 'not_found:document');
    end if;
    new.version_number := v_last.version_number + 1;
    new.parent_version_id := v_last.version_id;
    new."createdAt" := greatest(clock_timestamp(), v_last."createdAt" + interval '1 microsecond');
    return new;
end
$$;

create function public.get_logging_config() returns jsonb
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        (select a.config_data from public.admin_config as a where a.config_key = 'logging_settings'),
        '{
            "error_logging_enabled": true,
            "user_activity_logging_enabled": false,
            "agent_activity_logging_enabled": true,
            "log_retention_days": {"error_logs": 90, "user_activity_logs": 30, "agent_activity_logs": 7},
            "category_toggles": {},
            "performance_settings": {"sampling_enabled": false, "sampling_rate": 1.0},
            "privacy_settings": {}
        }'::jsonb
    )
$$;

create function public.is_user_activity_logging_enabled() returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(public.get_logging_config() -> 'user_activity_logging_enabled' = 'true'::jsonb, false)
$$;

create function public.is_agent_activity_logging_enabled() returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(public.get_logging_config() -> 'agent_activity_logging_enabled' = 'true'::jsonb, false)
$$;

create function private.retention(p_log text) returns interval
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_days jsonb := public.get_logging_config() -> 'log_retention_days' -> p_log;
begin
    -- Nonsense is refused here as well as on write: a wrong number must not empty a log.
    if jsonb_typeof(v_days) is distinct from 'number' or v_days::numeric not between 1 and 3650 then
        perform private.fail(
            'TK409', 'conflict:retention',
            jsonb_build_object('detail', format('log_retention_days.%s must be a number of days, from 1 to 3650.', p_log))
        );
    end if;
    return make_interval(days => v_days::numeric::integer);
end
$$;

create function public.purge_old_activity_logs(p_batch integer default 10000) returns table (
    user_logs_deleted bigint,
    agent_logs_deleted bigint,
    error_logs_deleted bigint
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user_edge timestamptz := now() - private.retention('user_activity_logs');
    v_agent_edge timestamptz := now() - private.retention('agent_activity_logs');
    v_error_edge timestamptz := now() - private.retention('error_logs');
begin
    delete from public.user_activity_logs as l
    where (l.id, l.created_at) in (
        select o.id, o.created_at
        from public.user_activity_logs as o
        where o.created_at < v_user_edge
        limit p_batch
    );
    get diagnostics user_logs_deleted = row_count;
    delete from public.agent_activity_logs as l
    where (l.id, l.created_at) in (
        select o.id, o.created_at
        from public.agent_activity_logs as o
        where o.created_at < v_agent_edge
        limit p_batch
    );
    get diagnostics agent_logs_deleted = row_count;
    delete from public.error_logs as l
    where l.id in (
        select o.id
        from public.error_logs as o
        where o.created_at < v_error_edge
            and o.resolved
        limit p_batch
    );
    get diagnostics error_logs_deleted = row_count;
    return next;
end
$$;
comment on function public.purge_old_activity_logs is 'Deletes one batch of each log past its retention; errors only when resolved. Call until all are 0.';
