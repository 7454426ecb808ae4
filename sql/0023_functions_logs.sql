-- An e-mail address is hashed wherever a client can write one, refusals of the same moment leave one row, and an error
-- does not say who its user was once he is deleted.

create or replace function private.log_user_activity(p_activity jsonb) returns boolean
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
            private.logged_text(v_settings, private.logged_user_agent(v_settings, p_activity ->> 'user_agent')),
            left(private.logged_text(v_settings, p_activity ->> 'request_path'), 500),
            left(p_activity ->> 'request_method', 10),
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
    -- Of those at the same moment one goes on, and nobody waits for him.
    if v_is_refusal and (
        not pg_try_advisory_xact_lock(
            hashtextextended(concat('threadkeep.refusal ', p_error ->> 'error_category', ' ', v_user), 0)
        )
        or exists (
            select from public.error_logs as e
            where e.error_category = p_error ->> 'error_category'
                and e.created_at > now() - interval '1 minute'
                and e.user_id is not distinct from v_user
        )
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
        left(private.logged_text(v_settings, e.request_path), 500), left(e.request_method, 10),
        private.logged_text(v_settings, private.logged_user_agent(v_settings, e.user_agent)),
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

create function private.forget_person() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    new.ip_address := null;
    new.user_agent := null;
    new.session_id := null;
    return new;
end
$$;
comment on function private.forget_person is 'An error outlives its user; what tells who he was does not.';

create trigger trigger_error_logs_forget_person
    before update of user_id on public.error_logs
    for each row
    when (old.user_id is not null and new.user_id is null)
    execute function private.forget_person();

revoke all on function private.forget_person() from public, anon, authenticated, service_role;
