-- Limits: all windows of an agent are consumed or none is; a denied call consumes nothing. Windows are fixed
-- (UTC minute, hour, day), so up to twice a limit can pass across an edge.

create function private.agent_configuration(p_agent text, p_provider text) returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_key text := p_agent || '_' || p_provider;
    v_data jsonb;
begin
    select a.config_data into v_data from public.admin_config as a where a.config_key = v_key;
    if jsonb_typeof(v_data -> 'rateLimit' -> 'perMinute') = 'number'
        and jsonb_typeof(v_data -> 'rateLimit' -> 'perHour') = 'number'
        and jsonb_typeof(v_data -> 'rateLimit' -> 'perDay') = 'number'
    then
        return v_data;
    end if;
    -- A row that was broken by hand leaves the last good one in force.
    select h.config_data into v_data
    from public.admin_config_history as h
    where h.config_key = v_key
        and h.config_data is not null
        and private.admin_config_problem(h.config_key, h.config_data) is null
    order by h.id desc
    limit 1;
    return v_data;
end
$$;

create function private.period_start(p_limit_type text) returns timestamptz
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select date_trunc(
        case p_limit_type when 'minutely' then 'minute' when 'hourly' then 'hour' else 'day' end,
        now(), 'UTC'
    )
$$;

create function private.period_length(p_limit_type text) returns interval
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case p_limit_type
        when 'minutely' then interval '1 minute'
        when 'hourly' then interval '1 hour'
        else interval '1 day'
    end
$$;

create function private.refuse_limit(p_code text, p_subject text, p_limit_type text, p_limit integer) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.fail(
        'TK429', p_code,
        jsonb_build_object(
            'subject', p_subject,
            'window', p_limit_type,
            'limit', p_limit,
            'retryAfter', greatest(1, ceil(extract(
                epoch from private.period_start(p_limit_type) + private.period_length(p_limit_type) - now()
            )))::integer
        )
    );
end
$$;

create function private.consume_limits(p_agent text, p_provider text, p_guest_address text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user uuid := private.caller_id();
    v_configuration jsonb := private.agent_configuration(p_agent, p_provider);
    v_rate jsonb := v_configuration -> 'rateLimit';
    v_limits integer[] := array[
        (v_rate ->> 'perMinute')::integer, (v_rate ->> 'perHour')::integer, (v_rate ->> 'perDay')::integer
    ];
    v_types constant text[] := array['minutely', 'hourly', 'daily'];
    v_is_guest boolean := coalesce((auth.jwt() ->> 'is_anonymous')::boolean, false);
    v_full record;
    v_consumed integer;
begin
    if v_user is null then
        perform private.require_active_caller();
        perform private.fail('TK401', 'unauthorized:auth');
    end if;
    if v_rate is null or v_configuration -> 'enabled' = 'false'::jsonb then
        perform private.fail('TK403', 'forbidden:agent');
    end if;

    -- A plain read refuses an exhausted window before anything is written or locked.
    select w.limit_type, w.allowed into v_full
    from unnest(v_types, v_limits) with ordinality as w (limit_type, allowed, place)
    left join public.rate_limit_tracking as t
        on t.user_id = v_user
        and t.agent_type = p_agent
        and t.limit_type = w.limit_type
        and t.period_start = private.period_start(w.limit_type)
    left join private.guest_windows as g
        on v_is_guest
        and g.address_hash = p_guest_address
        and g.purpose = p_agent
        and g.limit_type = w.limit_type
        and g.period_start = private.period_start(w.limit_type)
    where greatest(coalesce(t.request_count, 0), coalesce(g.used, 0)) >= w.allowed
    order by w.place desc
    limit 1;
    if found then
        perform private.refuse_limit('rate_limit:chat', p_agent, v_full.limit_type, v_full.allowed);
    end if;

    with consumed as (
        insert into public.rate_limit_tracking as t
            (user_id, agent_type, limit_type, period_start, period_end, request_count, limit_value)
        select
            v_user, p_agent, w.limit_type, private.period_start(w.limit_type),
            private.period_start(w.limit_type) + private.period_length(w.limit_type), 1, w.allowed
        from unnest(v_types, v_limits) with ordinality as w (limit_type, allowed, place)
        order by w.place
        on conflict (user_id, agent_type, limit_type, period_start) do update
        set request_count = t.request_count + 1,
            limit_value = excluded.limit_value
        where t.request_count < excluded.limit_value
        returning t.limit_type
    )
    select count(*) into v_consumed from consumed;
    if v_consumed < 3 then
        select t.limit_type, t.limit_value into v_full
        from public.rate_limit_tracking as t
        where t.user_id = v_user
            and t.agent_type = p_agent
            and t.period_start = private.period_start(t.limit_type)
            and t.request_count >= t.limit_value
        order by t.period_end desc
        limit 1;
        perform private.refuse_limit(
            'rate_limit:chat', p_agent, coalesce(v_full.limit_type, 'minutely'), coalesce(v_full.limit_value, 0)
        );
    end if;

    -- What the guests of one address use is counted together: a dropped token gives no fresh quota.
    if v_is_guest and p_guest_address is not null then
        with consumed as (
            insert into private.guest_windows as g (address_hash, purpose, limit_type, period_start, used)
            select p_guest_address, p_agent, w.limit_type, private.period_start(w.limit_type), 1
            from unnest(v_types, v_limits) with ordinality as w (limit_type, allowed, place)
            order by w.place
            on conflict (address_hash, purpose, limit_type, period_start) do update
            set used = g.used + 1
            where g.used < (v_limits)[array_position(v_types, g.limit_type::text)]
            returning g.limit_type
        )
        select count(*) into v_consumed from consumed;
        if v_consumed < 3 then
            perform private.refuse_limit('rate_limit:chat', p_agent, 'minutely', v_limits[1]);
        end if;
    end if;
end
$$;
comment on function private.consume_limits is 'One call of an agent by the caller: exactly the configured number pass in each window, the others get TK429.';

create function private.take_guest(p_address text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings jsonb := (select a.config_data -> 'guests' from public.admin_config as a where a.config_key = 'app_settings');
    v_counted record;
    v_used integer;
begin
    if v_settings -> 'enabled' = 'false'::jsonb then
        perform private.fail('TK401', 'unauthorized:auth');
    end if;
    for v_counted in
        select c.address, c.allowed
        from (values
            (p_address, coalesce((v_settings ->> 'perAddressPerHour')::integer, 20), 1),
            ('', coalesce((v_settings ->> 'totalPerHour')::integer, 2000), 2)
        ) as c (address, allowed, place)
        order by c.place
    loop
        if v_counted.allowed <= 0 then
            perform private.refuse_limit('rate_limit:guest', 'guest', 'hourly', v_counted.allowed);
        end if;
        insert into private.guest_windows as g (address_hash, purpose, limit_type, period_start, used)
        values (v_counted.address, 'guest', 'hourly', private.period_start('hourly'), 1)
        on conflict (address_hash, purpose, limit_type, period_start) do update
        set used = g.used + 1
        where g.used < v_counted.allowed
        returning g.used into v_used;
        if not found then
            perform private.refuse_limit('rate_limit:guest', 'guest', 'hourly', v_counted.allowed);
        end if;
    end loop;
end
$$;
comment on function private.take_guest is 'Counts one new guest of an address and in total; TK429 if either has no room this hour.';
