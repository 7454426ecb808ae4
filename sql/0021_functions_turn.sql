-- Providers that app_settings do not make available are not used, an own tool whose limit is used up is not offered, and
-- what a dead turn used is what it said last.

create function private.usable_providers(p_settings jsonb, p_providers text[]) returns text[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select array(
        select p.provider
        from unnest(p_providers) with ordinality as p (provider, place)
        where p_settings -> 'availableProviders' is null or p_settings -> 'availableProviders' ? p.provider
        order by p.place
    )
$$;
comment on function private.usable_providers is 'Those of the providers that app_settings make available, in their order.';
revoke all on function private.usable_providers(jsonb, text[]) from public, anon, authenticated, service_role;

create or replace function private.choose_model(p_model text, p_providers text[]) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings jsonb := private.application_settings();
    v_usable text[] := private.usable_providers(v_settings, p_providers);
    v_provider text;
    v_model public.model_config;
begin
    if p_model is not null and p_model <> 'offline' then
        select m.* into v_model from public.model_config as m where m.model_id = p_model and m.is_active;
        if not found then
            perform private.fail('TK404', 'not_found:model');
        end if;
        if not v_model.provider = any (v_usable) then
            perform private.fail('TK404', 'not_found:model', jsonb_build_object('detail', format(
                case when v_model.provider = any (p_providers) then 'The model %s cannot be used: its provider is switched off.'
                else 'The model %s cannot be used: its provider has no key here.' end,
                p_model
            )));
        end if;
    elsif p_model is null then
        select m.* into v_model
        from public.model_config as m
        where m.is_default
            and m.is_active
            and m.provider = any (v_usable)
        order by
            m.provider = (v_settings ->> 'activeProvider') desc,
            array_position(
                array(select jsonb_array_elements_text(v_settings -> 'availableProviders')), m.provider::text
            )
        limit 1;
    end if;
    v_provider := coalesce(v_model.provider, v_settings ->> 'activeProvider', 'google');
    return json_build_object(
        -- The row of admin_config whose prompt, tools and limits apply; the offline model borrows the active provider's.
        'configuration', v_provider,
        'model', case when v_model.id is not null then row_to_json(v_model) end,
        'titleModel', case when v_model.id is not null then (
            select row_to_json(m)
            from public.model_config as m
            where m.provider = v_model.provider
                and m.is_active
            order by m.input_pricing_per_million_tokens + m.output_pricing_per_million_tokens, m.model_id
            limit 1
        ) end,
        'fallback', case when v_model.id is not null and v_settings -> 'fallback' -> 'enabled' = 'true'::jsonb then (
            select json_agg(row_to_json(m) order by f.place)
            from jsonb_array_elements_text(v_settings -> 'fallback' -> 'models') with ordinality as f (model_id, place)
            join public.model_config as m on m.model_id = f.model_id
            where m.is_active
                and m.provider = any (v_usable)
                and m.id <> v_model.id
        ) end,
        'isBudgeted', v_model.id is not null and (
            v_settings #> '{budgets,perUserMonthlyUsd}' <> 'null'::jsonb
            or v_settings #> '{budgets,guestsMonthlyUsd}' <> 'null'::jsonb
        ) is true
    );
end
$$;

create or replace function private.offered_models(p_providers text[]) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings jsonb := private.application_settings();
begin
    perform private.require_active_caller();
    if auth.uid() is null and v_settings -> 'guests' -> 'enabled' = 'false'::jsonb then
        perform private.fail('TK401', 'unauthorized:auth');
    end if;
    return json_build_object(
        'default', private.choose_model(null, p_providers) -> 'model' ->> 'model_id',
        'models', (
            select coalesce(json_agg(row_to_json(m) order by m.provider, m.name, m.model_id), '[]')
            from public.model_config as m
            where m.is_active
                and m.provider = any (private.usable_providers(v_settings, array['google', 'openai', 'anthropic']))
        )
    );
end
$$;

create or replace function private.caller_limits(p_agents text[], p_providers text[], p_guest_address text) returns table (
    provider text,
    agent text,
    enabled boolean,
    limit_type text,
    allowed integer,
    used integer,
    used_by_address integer,
    resets_at timestamptz
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user uuid := private.caller_id();
    v_settings jsonb := private.application_settings();
    v_usable text[] := private.usable_providers(v_settings, p_providers);
    v_is_guest boolean := coalesce((auth.jwt() ->> 'is_anonymous')::boolean, false);
begin
    if v_user is null then
        perform private.fail('TK401', 'unauthorized:auth');
    end if;
    return query
    select
        p.provider,
        a.agent,
        c.data -> 'rateLimit' is not null and c.data -> 'enabled' is distinct from 'false'::jsonb,
        w.limit_type,
        coalesce(w.allowed::integer, 0),
        coalesce(t.request_count, 0),
        case when v_is_guest and p_guest_address is not null then coalesce(g.used, 0) end,
        private.period_start(w.limit_type) + private.period_length(w.limit_type)
    -- Without a key anywhere the offline model answers, under the configuration of the active provider.
    from unnest(
        case when v_usable = '{}' then array[coalesce(v_settings ->> 'activeProvider', 'google')]
        else v_usable end
    ) with ordinality as p (provider, place)
    cross join unnest(p_agents) with ordinality as a (agent, place)
    cross join lateral private.agent_configuration(a.agent, p.provider) as c (data)
    cross join lateral (
        values
            ('minutely', c.data -> 'rateLimit' ->> 'perMinute', 1),
            ('hourly', c.data -> 'rateLimit' ->> 'perHour', 2),
            ('daily', c.data -> 'rateLimit' ->> 'perDay', 3)
    ) as w (limit_type, allowed, place)
    left join public.rate_limit_tracking as t
        on t.user_id = v_user
        and t.agent_type = a.agent
        and t.limit_type = w.limit_type
        and t.period_start = private.period_start(w.limit_type)
    left join private.guest_windows as g
        on v_is_guest
        and g.address_hash = p_guest_address
        and g.purpose = a.agent
        and g.limit_type = w.limit_type
        and g.period_start = private.period_start(w.limit_type)
    order by p.place, a.place, w.place;
end
$$;

create or replace function private.exhausted_agents(p_provider text, p_guest_address text) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user uuid := private.caller_id();
    v_address text := case when (auth.jwt() ->> 'is_anonymous')::boolean then p_guest_address end;
begin
    return (
        select coalesce(json_object_agg(e.agent_type, e.seconds), '{}')
        from (
            select
                l.agent_type,
                max(greatest(1, ceil(extract(
                    epoch from w.starts + private.period_length(w.limit_type) - now()
                ))))::integer as seconds
            from (
                select a.agent_type, private.agent_configuration(a.agent_type, p_provider) -> 'rateLimit' as rate
                from (
                    select unnest(array[
                        'provider_tools_agent', 'document_agent', 'python_agent', 'mermaid_agent', 'git_mcp_agent'
                    ])
                    union all
                    select c.config_key from public.admin_config as c where c.config_key like 'tool\_%'
                ) as a (agent_type)
                -- Each configuration is read once, not once a window.
                offset 0
            ) as l
            cross join (values
                ('minutely', 'perMinute', private.period_start('minutely')),
                ('hourly', 'perHour', private.period_start('hourly')),
                ('daily', 'perDay', private.period_start('daily'))
            ) as w (limit_type, member, starts)
            left join public.rate_limit_tracking as t
                on t.user_id = v_user
                and t.agent_type = l.agent_type
                and t.limit_type = w.limit_type
                and t.period_start = w.starts
            left join private.guest_windows as g
                on g.address_hash = v_address
                and g.purpose = l.agent_type
                and g.limit_type = w.limit_type
                and g.period_start = w.starts
            where greatest(coalesce(t.request_count, 0), coalesce(g.used, 0)) >= (l.rate ->> w.member)::numeric
            group by l.agent_type
        ) as e
    );
end
$$;
comment on function private.exhausted_agents is
    'The agents besides the chat agent, and the own tools, that the caller cannot call now, with the seconds until each has room; takes no lock.';

-- A turn says of each of its requests, as it goes on, what that has used by now. What a dead turn used is what it said
-- last: its texts tell neither which request wrote them nor what its sub-agents wrote.
create or replace function private.recover_stream(p_stream uuid, p_reason text) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_stream public."Stream";
    v_user uuid;
begin
    -- An account that claims the session's guest holds his profile; afterwards the session has another owner.
    loop
        select c.user_id into v_user
        from public."Stream" as s
        join public."Chat" as c on c.id = s."chatId"
        where s.id = p_stream;
        if not found then
            return false;
        end if;
        perform from public.user_profiles as p where p.id = v_user for key share;
        exit when found;
    end loop;
    perform from public."Chat" as c
    where c.id = (select s."chatId" from public."Stream" as s where s.id = p_stream)
    for no key update;
    select s.* into v_stream
    from public."Stream" as s
    where s.id = p_stream
        and s.status = 'running'
    for update;
    if not found or (p_reason = 'lease' and v_stream.lease_until > clock_timestamp()) then
        return false;
    end if;

    update public."Message_v2" as m
    set status = 'interrupted',
        parts = private.partial_parts(p_stream),
        metadata = m.metadata || jsonb_build_object('finishReason', p_reason, 'recoveredStream', p_stream)
    where m.id = v_stream.message_id
        and m.status = 'streaming';
    update public."Stream" as s
    set status = 'closed',
        closed_at = clock_timestamp()
    where s.id = p_stream;

    perform private.settle_usage(v_user, v_stream."chatId", v_stream.message_id, v_stream.usage);
    delete from public.budget_reservations as b where b.stream_id = p_stream;
    return true;
end
$$;
