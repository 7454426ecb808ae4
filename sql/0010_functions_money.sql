-- What a turn may cost: budgets of a month that are reserved at Begin and settled at Finish, models that stand in for
-- one that fails, and what Begin says besides: a history of bounded size, and the agents whose limits are used up.

create table private.user_spend (
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    month date not null,
    total_cost numeric(20, 12) not null default 0,
    primary key (user_id, month)
) with (fillfactor = 70);
comment on table private.user_spend is 'What each user spent in a month (UTC), moved with the rows of usage_logs.';

create table private.guest_spend (
    month date not null,
    shard smallint not null,
    total_cost numeric(20, 12) not null default 0,
    primary key (month, shard)
) with (fillfactor = 70);
comment on table private.guest_spend is
    'What guests spent together in a month, over 16 rows; kept when a guest is claimed, purged or deleted.';

insert into private.user_spend (user_id, month, total_cost)
select u.user_id, date_trunc('month', u.request_timestamp at time zone 'UTC')::date, sum(u.total_cost)
from public.usage_logs as u
where u.total_cost > 0
group by 1, 2;

insert into private.guest_spend (month, shard, total_cost)
select date_trunc('month', d.day)::date, d.shard, sum(d.total_cost)
from public.usage_daily as d
where d.user_kind = 'guest'
    and d.total_cost > 0
group by 1, 2;

alter table private.user_spend enable row level security;
alter table private.guest_spend enable row level security;
revoke all on private.user_spend, private.guest_spend from public, anon, authenticated, service_role;
create policy "Service may do everything" on private.user_spend
    for all to service_role
    using (true)
    with check (true);
create policy "Service may do everything" on private.guest_spend
    for all to service_role
    using (true)
    with check (true);
grant select, insert, update, delete on private.user_spend, private.guest_spend to service_role;

create function private.application_settings() returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_data jsonb;
begin
    select a.config_data into v_data from public.admin_config as a where a.config_key = 'app_settings';
    if jsonb_typeof(v_data -> 'availableProviders') = 'array'
        and coalesce(jsonb_typeof(v_data -> 'budgets'), 'object') = 'object'
        and coalesce(jsonb_typeof(v_data -> 'fallback'), 'object') = 'object'
        and coalesce(jsonb_typeof(v_data -> 'guests'), 'object') = 'object'
        and coalesce(jsonb_typeof(v_data -> 'turn'), 'object') = 'object'
        and coalesce(jsonb_typeof(v_data #> '{budgets,perUserMonthlyUsd}'), 'null') in ('null', 'number')
        and coalesce(jsonb_typeof(v_data #> '{budgets,guestsMonthlyUsd}'), 'null') in ('null', 'number')
        and coalesce(jsonb_typeof(v_data #> '{turn,maxCostUsd}'), 'number') = 'number'
        and coalesce(jsonb_typeof(v_data #> '{turn,maxSeconds}'), 'number') = 'number'
        and coalesce(jsonb_typeof(v_data #> '{fallback,models}'), 'array') = 'array'
    then
        return v_data;
    end if;
    -- A row that was broken by hand leaves the last good one in force.
    select h.config_data into v_data
    from public.admin_config_history as h
    where h.config_key = 'app_settings'
        and h.config_data is not null
        and private.admin_config_problem(h.config_key, h.config_data) is null
    order by h.id desc
    limit 1;
    return coalesce(v_data, '{}');
end
$$;
comment on function private.application_settings is 'app_settings as they hold now: the last good ones, if the row was broken by hand.';

create or replace function private.choose_model(p_model text, p_providers text[]) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings jsonb := private.application_settings();
    v_provider text;
    v_model public.model_config;
begin
    if p_model is not null and p_model <> 'offline' then
        select m.* into v_model from public.model_config as m where m.model_id = p_model and m.is_active;
        if not found then
            perform private.fail('TK404', 'not_found:model');
        end if;
        if not v_model.provider = any (p_providers) then
            perform private.fail(
                'TK404', 'not_found:model',
                jsonb_build_object('detail', format('The model %s cannot be used: its provider has no key here.', p_model))
            );
        end if;
    elsif p_model is null then
        select m.* into v_model
        from public.model_config as m
        where m.is_default
            and m.is_active
            and m.provider = any (p_providers)
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
                and m.provider = any (p_providers)
                and m.id <> v_model.id
        ) end,
        'isBudgeted', v_model.id is not null and (
            v_settings #> '{budgets,perUserMonthlyUsd}' <> 'null'::jsonb
            or v_settings #> '{budgets,guestsMonthlyUsd}' <> 'null'::jsonb
        ) is true
    );
end
$$;

create function private.held_budget(
    p_scope text, p_user uuid, p_month date, p_living boolean, out spent numeric, out reserved numeric
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    -- One statement, so that a turn that ends meanwhile counts either as reserved or as spent. A turn that died holds
    -- nothing; one whose session was deleted may still run. Who lives is asked only where it matters: it takes longer.
    if p_scope = 'user' then
        select
            coalesce((
                select s.total_cost
                from private.user_spend as s
                where s.user_id = p_user
                    and s.month = p_month
            ), 0),
            coalesce(sum(b.amount), 0)
        into spent, reserved
        from public.budget_reservations as b
        left join public."Stream" as s on s.id = b.stream_id
        where b.scope = 'user'
            and b.month = p_month
            and b.user_id = p_user
            and b.lease_until > clock_timestamp()
            and (s.id is null or s.status = 'running' and s.lease_until > clock_timestamp());
    elsif p_living then
        select
            coalesce((select sum(s.total_cost) from private.guest_spend as s where s.month = p_month), 0),
            coalesce(sum(b.amount), 0)
        into spent, reserved
        from public.budget_reservations as b
        left join public."Stream" as s on s.id = b.stream_id
        where b.scope = 'guests'
            and b.month = p_month
            and b.lease_until > clock_timestamp()
            and (s.id is null or s.status = 'running' and s.lease_until > clock_timestamp());
    else
        select
            coalesce((select sum(s.total_cost) from private.guest_spend as s where s.month = p_month), 0),
            coalesce(sum(b.amount), 0)
        into spent, reserved
        from public.budget_reservations as b
        where b.scope = 'guests'
            and b.month = p_month
            and b.lease_until > clock_timestamp();
    end if;
end
$$;
comment on function private.held_budget is
    'What of a budget is spent this month and reserved now: by the living turns only, or of the guests by any that may live.';

create function private.reserve_budget(p_stream uuid, p_model uuid, p_history_tokens bigint) returns numeric
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user uuid := private.caller_id();
    v_settings jsonb := private.application_settings();
    v_month constant date := date_trunc('month', now() at time zone 'UTC')::date;
    v_end constant timestamptz := (v_month + interval '1 month') at time zone 'UTC';
    v_bound numeric := coalesce((v_settings #>> '{turn,maxCostUsd}')::numeric, 2);
    v_estimate numeric;
    v_budget record;
    v_spent numeric;
    v_reserved numeric;
begin
    if not exists (
        select
        from public."Stream" as s
        join public."Chat" as c on c.id = s."chatId"
        where s.id = p_stream
            and c.user_id = v_user
    ) then
        perform private.fail('TK404', 'not_found:session');
    end if;
    -- The instructions and an answer of common length, 2000 tokens each. A turn that costs more is still bounded.
    select least(
        v_bound,
        ((p_history_tokens + 2000) * m.input_pricing_per_million_tokens + 2000 * m.output_pricing_per_million_tokens)
            / 1000000
    )
    into v_estimate
    from public.model_config as m
    where m.id = p_model;
    if not found then
        return null;
    end if;

    for v_budget in
        select b.scope, b.cap, b.holder, b.scope || coalesce(b.holder::text, '') as name
        from (values
            ('user', (v_settings #>> '{budgets,perUserMonthlyUsd}')::numeric, v_user, 1),
            ('guests', (v_settings #>> '{budgets,guestsMonthlyUsd}')::numeric, null, 2)
        ) as b (scope, cap, holder, place)
        where b.cap is not null
            and (
                b.scope = 'user'
                or exists (select from public.user_profiles as p where p.id = v_user and p.is_guest)
            )
        order by b.place
    loop
        perform pg_advisory_xact_lock(hashtextextended(v_budget.name, 6));
        select h.spent, h.reserved into v_spent, v_reserved
        from private.held_budget(v_budget.scope, v_budget.holder, v_month, false) as h;
        if v_spent + v_reserved + v_estimate > v_budget.cap then
            select h.spent, h.reserved into v_spent, v_reserved
            from private.held_budget(v_budget.scope, v_budget.holder, v_month, true) as h;
        end if;
        if v_spent + v_reserved + v_estimate > v_budget.cap or v_spent + v_reserved >= v_budget.cap then
            -- What an installation spends on its guests is told to none of them.
            perform private.fail('TK429', 'rate_limit:budget', jsonb_build_object(
                'window', 'monthly',
                'scope', v_budget.scope,
                'retryAfter', greatest(1, ceil(extract(epoch from v_end - now())))::integer
            ) || case when v_budget.scope = 'user' then jsonb_build_object(
                'capUsd', v_budget.cap, 'spentUsd', round(v_spent, 6), 'reservedUsd', round(v_reserved, 6)
            ) else '{}' end);
        end if;
        -- Its lease is the longest that the turn can take; within it the lease of the stream decides.
        insert into public.budget_reservations (user_id, scope, month, amount, stream_id, lease_until)
        values (
            v_user, v_budget.scope, v_month, v_estimate, p_stream,
            clock_timestamp() + interval '2 minutes'
                + coalesce((v_settings #>> '{turn,maxSeconds}')::integer, 600) * interval '1 second'
        );
        v_bound := least(v_bound, v_budget.cap - v_spent - v_reserved);
    end loop;
    return v_bound;
end
$$;
comment on function private.reserve_budget is
    'Holds what a turn will cost about, of the caller''s budget and the guests'', or TK429; returns what it may cost at most.';

create function private.exhausted_agents(p_provider text, p_guest_address text) returns json
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
                from unnest(array[
                    'provider_tools_agent', 'document_agent', 'python_agent', 'mermaid_agent', 'git_mcp_agent'
                ]) as a (agent_type)
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
    'The agents besides the chat agent that the caller cannot call now, with the seconds until each has room; takes no lock.';

create function private.recent_history(
    p_session uuid, p_answer uuid, p_messages integer, p_bytes integer,
    out messages json, out omitted integer, out tokens bigint
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_message record;
    v_item json;
    v_items json[] := '{}';
    v_bytes bigint := 0;
    v_read bigint := 0;
begin
    -- A message is unpacked one by one and none after the last that fits; a window function would unpack them all.
    for v_message in
        select m.id, m.role, m.status, m.parts, m.attachments, m.model_messages, m.model_used
        from public."Message_v2" as m
        where m."chatId" = p_session
            and m.id <> p_answer
        order by m.seq desc
        limit p_messages
    loop
        v_item := json_build_object(
            'id', v_message.id, 'role', v_message.role, 'status', v_message.status, 'parts', v_message.parts,
            'attachments', v_message.attachments, 'modelMessages', v_message.model_messages,
            'model', v_message.model_used
        );
        v_bytes := v_bytes + pg_column_size(v_item);
        exit when v_bytes > p_bytes and cardinality(v_items) > 0;
        v_items := v_items || v_item;
        v_read := v_read + pg_column_size(v_item) - pg_column_size(v_message.attachments);
    end loop;
    select json_agg(i.item order by i.place desc) into messages
    from unnest(v_items) with ordinality as i (item, place);
    select c.message_count - 1 - cardinality(v_items) into omitted from public."Chat" as c where c.id = p_session;
    -- An answer is in it twice, for its reader and for the model.
    tokens := v_read / 8;
end
$$;
comment on function private.recent_history is
    'The newest messages before an answer, of a bounded number and size, oldest first; how many are older; and about how long they are.';

drop function private.begin_turn(
    uuid, uuid, jsonb, jsonb, text, text, uuid, uuid, uuid, uuid, text, text[], text, jsonb, bigint, interval,
    text, boolean, text, text, integer
);

create function private.begin_turn(
    p_session uuid,
    p_message uuid,
    p_parts jsonb,
    p_attachments jsonb,
    p_title text,
    p_trigger text,
    p_target uuid,
    p_answer uuid,
    p_stream uuid,
    p_correlation uuid,
    p_model text,
    p_providers text[],
    p_visibility text,
    p_context jsonb,
    p_configuration_version bigint,
    p_lease interval,
    p_guest_address text,
    p_new_guest boolean,
    p_email text,
    p_name text,
    p_history integer,
    p_history_bytes integer default 8388608
) returns json
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user uuid := auth.uid();
    v_chat record;
    v_known public."Message_v2";
    v_answer record;
    v_target public."Message_v2";
    v_cut bigint;
    v_insert boolean := false;
    v_created boolean := false;
    v_running text;
    v_choice json;
    v_history record;
    v_cost_bound numeric;
begin
    if p_new_guest then
        perform private.take_guest(p_guest_address);
    end if;
    perform private.ensure_profile(p_email, p_name);

    select c.id, c.title, c.last_seq into v_chat
    from public."Chat" as c
    where c.id = p_session
        and c.user_id = v_user
    for no key update;
    if not found then
        if p_message is null then
            perform private.fail('TK404', 'not_found:session');
        end if;
        insert into public."Chat" (id, user_id, title, visibility)
        values (p_session, v_user, p_title, coalesce(p_visibility, 'private'))
        on conflict (id) do nothing;
        v_created := found;
        select c.id, c.title, c.last_seq into v_chat
        from public."Chat" as c
        where c.id = p_session
            and c.user_id = v_user
        for no key update;
        if not found then
            perform private.fail('TK404', 'not_found:session');
        end if;
    end if;

    if p_message is not null then
        select m.* into v_known
        from public."Message_v2" as m
        where m."chatId" = p_session
            and m.id = p_message;
    end if;
    if p_target is not null then
        select m.* into v_target
        from public."Message_v2" as m
        where m."chatId" = p_session
            and m.id = p_target;
    end if;

    -- A message that is sent again names its files by their place instead of sending them.
    if jsonb_path_exists(p_attachments, '$[*].keep') then
        select jsonb_agg(
            case
                when a.value ? 'keep' then coalesce(v_known.attachments, v_target.attachments) -> (a.value ->> 'keep')::integer
                else a.value
            end
            order by a.place
        )
        into p_attachments
        from jsonb_array_elements(p_attachments) with ordinality as a (value, place);
        if exists (select from jsonb_array_elements(p_attachments) as a (value) where a.value = 'null'::jsonb) then
            perform private.fail('TK404', 'not_found:message', jsonb_build_object('detail', 'The message has no such file.'));
        end if;
    end if;

    if p_trigger = 'regenerate' and (p_message is null or v_known.id is not null) then
        -- Answer again: the named answer goes, or the last one; what the client never got to keep is named by its question.
        v_cut := case
            when v_target.id is null then v_known.seq + 1
            when v_target.role = 'assistant' then v_target.seq
            else v_target.seq + 1
        end;
        if v_cut is null then
            select max(m.seq) + 1 into v_cut
            from public."Message_v2" as m
            where m."chatId" = p_session
                and m.role = 'user';
        end if;
        if v_cut is null or not exists (
            select from public."Message_v2" as m
            where m."chatId" = p_session
                and m.seq < v_cut
                and m.role = 'user'
        ) then
            perform private.fail('TK404', 'not_found:message');
        end if;
        perform private.end_running_turn(p_session, 'replaced');
    elsif v_known.id is not null
        and v_known.role = 'user'
        and v_known.parts = p_parts
        and v_known.attachments = p_attachments
    then
        -- The same message again: join the turn that answers it, or replay its answer, and consume nothing.
        select m.id, m.seq, m.status, m.parts, m.metadata, s.id as stream_id into v_answer
        from public."Message_v2" as m
        left join public."Stream" as s on s."chatId" = p_session and s.message_id = m.id
        where m."chatId" = p_session
            and m.role = 'assistant'
            and m.seq > v_known.seq
            and not exists (
                select from public."Message_v2" as between_them
                where between_them."chatId" = p_session
                    and between_them.role = 'user'
                    and between_them.seq > v_known.seq
                    and between_them.seq < m.seq
            )
        order by m.seq
        limit 1;
        if v_answer.status = 'streaming' then
            if private.end_running_turn(p_session, 'lease') = 'alive' then
                return json_build_object('outcome', 'join', 'stream', v_answer.stream_id, 'answer', v_answer.id);
            end if;
            select m.id, m.seq, m.status, m.parts, m.metadata into v_answer
            from public."Message_v2" as m
            where m.id = v_answer.id
                and m."chatId" = p_session;
        end if;
        if v_answer.status = 'complete'
            or exists (
                select from public."Message_v2" as m
                where m."chatId" = p_session
                    and m.role = 'user'
                    and m.seq > v_known.seq
            )
        then
            if v_answer.id is null then
                perform private.fail('TK409', 'conflict:message');
            end if;
            return json_build_object(
                'outcome', 'replay', 'answer', v_answer.id, 'status', v_answer.status,
                'parts', v_answer.parts, 'metadata', v_answer.metadata, 'title', v_chat.title
            );
        end if;
        v_cut := v_known.seq + 1;
    elsif p_trigger = 'edit' and v_target.id is not null then
        if v_target.role <> 'user' then
            perform private.fail('TK409', 'conflict:message');
        end if;
        v_cut := v_target.seq;
        v_insert := true;
        perform private.end_running_turn(p_session, 'replaced');
    elsif v_known.id is not null then
        perform private.fail('TK409', 'conflict:message');
    else
        v_insert := true;
        v_running := private.end_running_turn(p_session, 'lease');
        if v_running = 'alive' then
            -- Told to stop, it need not have noticed yet; its Finish still has the last word on its own message.
            if not exists (
                select from public."Stream" as s
                where s."chatId" = p_session
                    and s.status = 'running'
                    and s.stop_requested
            ) then
                perform private.fail('TK409', 'conflict:chat');
            end if;
            perform private.end_running_turn(p_session, 'stopped');
        end if;
    end if;

    if v_cut is not null then
        delete from public."Message_v2" as m where m."chatId" = p_session and m.seq >= v_cut;
    end if;
    if v_insert then
        insert into public."Message_v2" (id, "chatId", role, parts, attachments)
        values (p_message, p_session, 'user', p_parts, p_attachments)
        on conflict (id) do nothing;
        if not found then
            perform private.fail('TK404', 'not_found:message');
        end if;
    end if;

    v_choice := private.choose_model(p_model, p_providers);
    perform private.consume_limits('chat_model_agent', v_choice ->> 'configuration', p_guest_address);
    perform private.start_answer(p_session, p_answer, p_stream, p_correlation, p_lease, p_context);
    select h.* into v_history from private.recent_history(p_session, p_answer, p_history, p_history_bytes) as h;
    -- Last of all, because whoever spends from the same budget waits from here to the end of the transaction.
    if (v_choice ->> 'isBudgeted')::boolean then
        v_cost_bound := private.reserve_budget(p_stream, (v_choice #>> '{model,id}')::uuid, v_history.tokens);
    end if;

    return json_build_object(
        'outcome', 'run',
        'created', v_created,
        'title', v_chat.title,
        'choice', v_choice,
        'configuration', private.configuration_if_newer(p_configuration_version),
        'costBound', v_cost_bound,
        'exhausted', private.exhausted_agents(v_choice ->> 'configuration', p_guest_address),
        'omitted', v_history.omitted,
        'history', v_history.messages
    );
end
$$;
comment on function private.begin_turn is
    'All that comes before the model, in the caller''s own rights: outcome run, join or replay, or an error and nothing done.';

create or replace function private.settle_usage(p_user uuid, p_session uuid, p_message uuid, p_rows jsonb) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    r record;
    v_old public.usage_logs;
    v_kind text;
    v_input bigint := 0;
    v_output bigint := 0;
    v_cost numeric := 0;
    v_requests integer;
    v_days jsonb := '[]';
    v_session uuid;
    v_message uuid;
begin
    if p_rows is null or p_rows = '[]'::jsonb then
        return;
    end if;
    select case when p.is_guest then 'guest' else 'account' end into v_kind
    from public.user_profiles as p
    where p.id = p_user;
    select c.id into v_session from public."Chat" as c where c.id = p_session;
    select m.id into v_message from public."Message_v2" as m where m.id = p_message;

    for r in
        select *
        from jsonb_to_recordset(p_rows) as u (
            request_id uuid, agent_type text, model_used text, provider text,
            input_tokens bigint, output_tokens bigint, cached_input_tokens bigint, cache_write_tokens bigint,
            reasoning_tokens bigint, input_cost numeric, output_cost numeric, source text, is_priced boolean,
            request_timestamp timestamptz, duration_ms integer, metadata jsonb
        )
        order by u.request_id
    loop
        v_old := null;
        v_requests := 1;
        insert into public.usage_logs (
            request_id, user_id, chat_id, message_id, agent_type, model_used, provider, input_tokens, output_tokens,
            cached_input_tokens, cache_write_tokens, reasoning_tokens, total_tokens, input_cost, output_cost,
            total_cost, source, is_priced, request_timestamp, response_timestamp, duration_ms, metadata
        )
        values (
            r.request_id, p_user, v_session, v_message, r.agent_type, r.model_used, r.provider, r.input_tokens,
            r.output_tokens, r.cached_input_tokens, r.cache_write_tokens, r.reasoning_tokens,
            r.input_tokens + r.output_tokens, r.input_cost, r.output_cost, r.input_cost + r.output_cost, r.source,
            r.is_priced, coalesce(r.request_timestamp, now()), clock_timestamp(), r.duration_ms, r.metadata
        )
        on conflict (request_id) do nothing;
        if not found then
            -- Already there: a provider's figures replace an estimate, and totals move by the difference.
            select u.* into v_old from public.usage_logs as u where u.request_id = r.request_id for update;
            continue when v_old.source <> 'estimated' or r.source <> 'provider';
            v_requests := 0;
            update public.usage_logs as u
            set input_tokens = r.input_tokens,
                output_tokens = r.output_tokens,
                cached_input_tokens = r.cached_input_tokens,
                cache_write_tokens = r.cache_write_tokens,
                reasoning_tokens = r.reasoning_tokens,
                total_tokens = r.input_tokens + r.output_tokens,
                input_cost = r.input_cost,
                output_cost = r.output_cost,
                total_cost = r.input_cost + r.output_cost,
                source = 'provider',
                is_priced = r.is_priced,
                response_timestamp = clock_timestamp(),
                duration_ms = r.duration_ms
            where u.request_id = r.request_id;
        end if;
        v_input := v_input + coalesce(r.input_tokens, 0) - coalesce(v_old.input_tokens, 0);
        v_output := v_output + coalesce(r.output_tokens, 0) - coalesce(v_old.output_tokens, 0);
        v_cost := v_cost + coalesce(r.input_cost + r.output_cost, 0) - coalesce(v_old.total_cost, 0);
        v_days := v_days || jsonb_build_object(
            'day', (coalesce(v_old.request_timestamp, r.request_timestamp, now()) at time zone 'UTC')::date,
            'agent_type', coalesce(v_old.agent_type, r.agent_type),
            'provider', coalesce(v_old.provider, r.provider),
            'model_used', coalesce(v_old.model_used, r.model_used),
            'shard', get_byte(uuid_send(r.request_id), 15) % 16,
            'requests', v_requests,
            'input_tokens', coalesce(r.input_tokens, 0) - coalesce(v_old.input_tokens, 0),
            'output_tokens', coalesce(r.output_tokens, 0) - coalesce(v_old.output_tokens, 0),
            'cached_input_tokens', coalesce(r.cached_input_tokens, 0) - coalesce(v_old.cached_input_tokens, 0),
            'cache_write_tokens', coalesce(r.cache_write_tokens, 0) - coalesce(v_old.cache_write_tokens, 0),
            'reasoning_tokens', coalesce(r.reasoning_tokens, 0) - coalesce(v_old.reasoning_tokens, 0),
            'total_cost', coalesce(r.input_cost + r.output_cost, 0) - coalesce(v_old.total_cost, 0)
        );
    end loop;

    -- In the order of their key: taken in the order of the requests, two turns that end at once would deadlock.
    insert into public.usage_daily as d (
        day, agent_type, provider, model_used, user_kind, shard, requests, input_tokens, output_tokens,
        cached_input_tokens, cache_write_tokens, reasoning_tokens, total_cost
    )
    select
        u.day, u.agent_type, u.provider, u.model_used, v_kind, u.shard, sum(u.requests), sum(u.input_tokens),
        sum(u.output_tokens), sum(u.cached_input_tokens), sum(u.cache_write_tokens), sum(u.reasoning_tokens),
        sum(u.total_cost)
    from jsonb_to_recordset(v_days) as u (
        day date, agent_type text, provider text, model_used text, shard smallint, requests bigint,
        input_tokens bigint, output_tokens bigint, cached_input_tokens bigint, cache_write_tokens bigint,
        reasoning_tokens bigint, total_cost numeric
    )
    group by u.day, u.agent_type, u.provider, u.model_used, u.shard
    order by u.day, u.agent_type, u.provider, u.model_used, u.shard
    on conflict (day, agent_type, provider, model_used, user_kind, shard) do update
    set requests = d.requests + excluded.requests,
        input_tokens = d.input_tokens + excluded.input_tokens,
        output_tokens = d.output_tokens + excluded.output_tokens,
        cached_input_tokens = d.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = d.cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = d.reasoning_tokens + excluded.reasoning_tokens,
        total_cost = d.total_cost + excluded.total_cost;

    -- After the days, in every turn: two that end at once wait for each other in one order.
    for r in
        select date_trunc('month', u.day)::date as month, min(u.shard) as shard, sum(u.total_cost) as cost
        from jsonb_to_recordset(v_days) as u (day date, shard smallint, total_cost numeric)
        group by 1
        having sum(u.total_cost) <> 0
        order by 1
    loop
        insert into private.user_spend as s (user_id, month, total_cost)
        values (p_user, r.month, r.cost)
        on conflict (user_id, month) do update
        set total_cost = s.total_cost + excluded.total_cost;
        if v_kind = 'guest' then
            insert into private.guest_spend as s (month, shard, total_cost)
            values (r.month, r.shard, r.cost)
            on conflict (month, shard) do update
            set total_cost = s.total_cost + excluded.total_cost;
        end if;
    end loop;

    if v_input <> 0 or v_output <> 0 or v_cost <> 0 then
        update public."Chat" as c
        set total_input_tokens = c.total_input_tokens + v_input,
            total_output_tokens = c.total_output_tokens + v_output,
            total_cost = c.total_cost + v_cost
        where c.id = p_session;
        update public."Message_v2" as m
        set input_tokens = coalesce(m.input_tokens, 0) + v_input,
            output_tokens = coalesce(m.output_tokens, 0) + v_output,
            cost = coalesce(m.cost, 0) + v_cost
        where m.id = p_message;
    end if;
end
$$;
comment on function private.settle_usage is 'One row a model request by its request_id; totals of message, session, day and month move by what was really inserted.';

create or replace function private.claim_guest(p_account uuid, p_guest uuid, p_email text, p_name text) returns json
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_guest public.user_profiles;
    v_account public.user_profiles;
    v_sessions bigint;
    v_documents bigint;
begin
    perform private.lock_user(p_guest);
    select p.* into v_guest from public.user_profiles as p where p.id = p_guest for update;
    perform private.make_profile(p_account, p_email, p_name, false);
    select p.* into v_account from public.user_profiles as p where p.id = p_account for key share;
    if not found or v_account.disabled_at is not null or private.is_revoked(p_account) then
        perform private.fail('TK403', 'forbidden:account');
    end if;
    if v_guest.id is null then
        -- Claimed before by this account: the same again. By another one, or deleted: nothing is left to claim.
        if exists (
            select from private.revoked_principals as r
            where r.user_id = p_guest
                and r.claimed_by is distinct from p_account
        ) then
            perform private.fail('TK409', 'conflict:guest');
        end if;
        perform private.mark_revoked(p_guest, 'claimed', p_account);
        return json_build_object('sessions', 0, 'documents', 0);
    end if;
    if not v_guest.is_guest or v_guest.disabled_at is not null then
        perform private.fail('TK403', 'forbidden:account');
    end if;

    -- In the order of their ids, as everybody does who locks several sessions.
    perform from public."Chat" as c where c.user_id = p_guest order by c.id for no key update;
    update public."Chat" as c set user_id = p_account where c.user_id = p_guest;
    get diagnostics v_sessions = row_count;
    select count(distinct d.id) into v_documents from public."Document" as d where d.user_id = p_guest;
    update public."Document" as d set user_id = p_account where d.user_id = p_guest;
    update public."Suggestion" as s set user_id = p_account where s.user_id = p_guest;
    update public.files as f set user_id = p_account where f.user_id = p_guest;
    -- What the guest used counts for the account, taken in the order in which a call consumes its windows.
    insert into public.rate_limit_tracking as t
        (user_id, agent_type, limit_type, period_start, period_end, request_count, limit_value)
    select p_account, g.agent_type, g.limit_type, g.period_start, g.period_end, g.request_count, g.limit_value
    from public.rate_limit_tracking as g
    where g.user_id = p_guest
    order by g.agent_type, array_position(array['minutely', 'hourly', 'daily'], g.limit_type::text), g.period_start
    on conflict (user_id, agent_type, limit_type, period_start) do update
    set request_count = t.request_count + excluded.request_count;
    -- What runs now is settled on the account, and no more on the guests together; what they spent together stays.
    delete from public.budget_reservations as b
    where b.user_id = p_guest
        and b.scope = 'guests'
        and exists (
            select from public.budget_reservations as o
            where o.stream_id = b.stream_id
                and o.scope = 'user'
        );
    update public.budget_reservations as b
    set user_id = p_account,
        scope = 'user'
    where b.user_id = p_guest;
    update public.usage_logs as u set user_id = p_account where u.user_id = p_guest;
    insert into private.user_spend as s (user_id, month, total_cost)
    select p_account, g.month, g.total_cost
    from private.user_spend as g
    where g.user_id = p_guest
    order by g.month
    on conflict (user_id, month) do update
    set total_cost = s.total_cost + excluded.total_cost;
    update public.github_repositories as r
    set user_id = p_account
    where r.user_id = p_guest
        and not exists (
            select from public.github_repositories as o
            where o.user_id = p_account
                and o.repo_owner = r.repo_owner
                and o.repo_name = r.repo_name
        );
    update public.error_logs as e set user_id = p_account where e.user_id = p_guest;
    update public.user_activity_logs as l set user_id = p_account where l.user_id = p_guest;
    update public.agent_activity_logs as l set user_id = p_account where l.user_id = p_guest;
    update public.user_profiles as p
    set full_name = coalesce(p.full_name, v_guest.full_name),
        preferences = case when p.preferences = '{}' then v_guest.preferences else p.preferences end,
        is_guest = false
    where p.id = p_account;

    perform private.mark_revoked(p_guest, 'claimed', p_account);
    delete from public.user_profiles as p where p.id = p_guest;
    return json_build_object('sessions', v_sessions, 'documents', v_documents);
end
$$;
comment on function private.claim_guest is 'Moves everything of a guest to an account, ids unchanged, and ends the guest''s token. Can be repeated.';

revoke all on function
    private.application_settings(),
    private.held_budget(text, uuid, date, boolean),
    private.reserve_budget(uuid, uuid, bigint),
    private.exhausted_agents(text, text),
    private.recent_history(uuid, uuid, integer, integer),
    private.begin_turn(
        uuid, uuid, jsonb, jsonb, text, text, uuid, uuid, uuid, uuid, text, text[], text, jsonb, bigint, interval,
        text, boolean, text, text, integer, integer
    )
from public, anon, authenticated, service_role;
grant execute on function private.application_settings(), private.held_budget(text, uuid, date, boolean)
to service_role;
grant execute on function
    private.reserve_budget(uuid, uuid, bigint),
    private.exhausted_agents(text, text),
    private.recent_history(uuid, uuid, integer, integer),
    private.begin_turn(
        uuid, uuid, jsonb, jsonb, text, text, uuid, uuid, uuid, uuid, text, text[], text, jsonb, bigint, interval,
        text, boolean, text, text, integer, integer
    )
to authenticated, service_role;
