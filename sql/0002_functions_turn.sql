-- A turn's two transactions around the model, Begin and Finish, and what happens between and instead of them.
-- Locks are taken in one order everywhere: profile, "Chat", "Message_v2", limit rows, usage by request id.

create function private.choose_model(p_model text, p_providers text[]) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings jsonb := (select a.config_data from public.admin_config as a where a.config_key = 'app_settings');
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
        ) end
    );
end
$$;

create function private.configuration_if_newer(p_version bigint) returns json
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select case when v.version is distinct from p_version then json_build_object(
        'version', v.version,
        'rows', (select json_object_agg(a.config_key, a.config_data) from public.admin_config as a)
    ) end
    from private.configuration_version as v
$$;

create function private.start_answer(
    p_session uuid, p_answer uuid, p_stream uuid, p_correlation uuid, p_lease interval, p_context jsonb
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from public."Chat" as c where c.id = p_session and c.user_id = private.caller_id()) then
        perform private.fail('TK404', 'not_found:session');
    end if;
    insert into public."Message_v2" (id, "chatId", role, status, parts)
    values (p_answer, p_session, 'assistant', 'streaming', '[]');
    insert into public."Stream" (id, "chatId", message_id, lease_until, correlation_id)
    values (p_stream, p_session, p_answer, clock_timestamp() + p_lease, p_correlation);
    if p_context is not null then
        update public."Chat" as c set "lastContext" = p_context where c.id = p_session;
    end if;
end
$$;

create function private.settle_usage(p_user uuid, p_session uuid, p_message uuid, p_rows jsonb) returns void
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
comment on function private.settle_usage is 'One row a model request by its request_id; totals of message, session and day move by what was really inserted.';

create function private.partial_parts(p_stream uuid) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with events as (
        select
            row_number() over (order by c.seq, l.place) as place,
            l.line::jsonb as event
        from public.stream_chunks as c
        cross join string_to_table(c.payload, e'\n') with ordinality as l (line, place)
        where c.stream_id = p_stream
            and l.line <> ''
    ),
    texts as (
        select
            min(e.place) as place,
            jsonb_build_object(
                'type', split_part(e.event ->> 'type', '-', 1),
                'text', string_agg(e.event ->> 'delta', '' order by e.place),
                'state', 'done'
            ) as part
        from events as e
        where e.event ->> 'type' in ('text-delta', 'reasoning-delta')
        group by e.event ->> 'type', e.event ->> 'id'
    ),
    tools as (
        select
            i.place,
            jsonb_build_object(
                'type', 'tool-' || (i.event ->> 'toolName'),
                'toolCallId', i.event ->> 'toolCallId',
                'input', i.event -> 'input'
            ) || case
                when o.event ->> 'type' = 'tool-output-available'
                    then jsonb_build_object('state', 'output-available', 'output', o.event -> 'output')
                else jsonb_build_object(
                    'state', 'output-error',
                    'errorText', coalesce(o.event ->> 'errorText', 'The turn ended before the tool did.')
                )
            end as part
        from events as i
        left join events as o
            on o.event ->> 'type' in ('tool-output-available', 'tool-output-error')
            and o.event ->> 'toolCallId' = i.event ->> 'toolCallId'
        where i.event ->> 'type' = 'tool-input-available'
    )
    select coalesce(jsonb_agg(p.part order by p.place), '[]')
    from (select * from texts union all select * from tools) as p
$$;
comment on function private.partial_parts is 'What a turn had said when it died: its chunks as message parts.';

create function private.recover_stream(p_stream uuid, p_reason text) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_stream public."Stream";
    v_user uuid;
    v_parts jsonb;
    v_rows jsonb;
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

    v_parts := private.partial_parts(p_stream);
    update public."Message_v2" as m
    set status = 'interrupted',
        parts = v_parts,
        metadata = m.metadata || jsonb_build_object('finishReason', p_reason, 'recoveredStream', p_stream)
    where m.id = v_stream.message_id
        and m.status = 'streaming';
    update public."Stream" as s
    set status = 'closed',
        closed_at = clock_timestamp()
    where s.id = p_stream;

    -- A request whose answer never came to its end is estimated at four characters a token, and marked so.
    select jsonb_agg(
        case when u.value -> 'open' = 'true'::jsonb then
            u.value || jsonb_build_object(
                'source', 'estimated',
                'output_tokens', t.tokens,
                'input_cost', round(coalesce((u.value ->> 'input_tokens')::numeric, 0)
                    * coalesce((u.value ->> 'input_price')::numeric, 0) / 1000000, 12),
                'output_cost', round(t.tokens * coalesce((u.value ->> 'output_price')::numeric, 0) / 1000000, 12)
            )
        else u.value end
    )
    into v_rows
    from jsonb_array_elements(v_stream.usage) as u (value)
    cross join (
        select ceil(coalesce(sum(length(p.value ->> 'text')), 0) / 4.0)::bigint as tokens
        from jsonb_array_elements(v_parts) as p (value)
    ) as t;
    perform private.settle_usage(v_user, v_stream."chatId", v_stream.message_id, v_rows);
    delete from public.budget_reservations as b where b.stream_id = p_stream;
    return true;
end
$$;
comment on function private.recover_stream is 'Ends a turn that nobody runs any more: partial text, status interrupted, usage estimated. Reason lease: only if its lease is over.';

create function private.end_running_turn(p_session uuid, p_reason text) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_stream public."Stream";
begin
    if not private.is_service()
        and not exists (select from public."Chat" as c where c.id = p_session and c.user_id = private.caller_id())
    then
        perform private.fail('TK404', 'not_found:session');
    end if;
    select s.* into v_stream
    from public."Stream" as s
    where s."chatId" = p_session
        and s.status = 'running';
    if not found then
        return 'none';
    end if;
    if p_reason = 'lease' and v_stream.lease_until > clock_timestamp() then
        return 'alive';
    end if;
    perform private.recover_stream(v_stream.id, p_reason);
    return 'ended';
end
$$;
comment on function private.end_running_turn is 'Ends the session''s turn: if its lease is over (reason lease: alive, ended or none) or in any case.';

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
    p_history integer
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
    v_answer_seq bigint;
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

    return json_build_object(
        'outcome', 'run',
        'created', v_created,
        'title', v_chat.title,
        'choice', v_choice,
        'configuration', private.configuration_if_newer(p_configuration_version),
        'history', (
            select json_agg(
                json_build_object(
                    'id', h.id, 'role', h.role, 'status', h.status, 'parts', h.parts,
                    'attachments', h.attachments, 'modelMessages', h.model_messages, 'model', h.model_used
                )
                order by h.seq
            )
            from (
                select m.*
                from public."Message_v2" as m
                where m."chatId" = p_session
                    and m.id <> p_answer
                order by m.seq desc
                limit p_history
            ) as h
        )
    );
end
$$;
comment on function private.begin_turn is
    'All that comes before the model, in the caller''s own rights: outcome run, join or replay, or an error and nothing done.';

create function private.write_chunk(
    p_stream uuid, p_seq integer, p_payload text, p_usage jsonb, p_lease interval
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_stop boolean;
begin
    update public."Stream" as s
    set lease_until = clock_timestamp() + p_lease,
        usage = coalesce(p_usage, s.usage)
    where s.id = p_stream
        and s.status = 'running'
    returning s.stop_requested into v_stop;
    if not found then
        select s.stop_requested into v_stop from public."Stream" as s where s.id = p_stream;
        return case when not found then 'gone' when v_stop then 'stop' else 'lost' end;
    end if;
    if p_payload is not null then
        insert into public.stream_chunks (stream_id, seq, payload)
        values (p_stream, p_seq, p_payload)
        on conflict (stream_id, seq) do nothing;
    end if;
    return case when v_stop then 'stop' else 'run' end;
end
$$;
comment on function private.write_chunk is
    'Keeps a running turn''s events and renews its lease: run, stop (asked for), lost (recovered as dead) or gone (deleted).';

create function private.log_agent_activity(p_user uuid, p_correlation uuid, p_rows jsonb) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_rows is null or not public.is_agent_activity_logging_enabled() then
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
        coalesce(a.operation_metadata, '{}'), a.resource_id, a.resource_type, a.duration_ms, a.start_time,
        a.end_time, a.model_id, a.provider, coalesce(a.thinking_mode, false), a.input_tokens, a.output_tokens,
        a.reasoning_tokens, a.input_tokens + a.output_tokens, a.input_cost, a.output_cost,
        a.input_cost + a.output_cost, coalesce(a.success, true), a.error_type, a.error_message,
        coalesce(a.retry_count, 0)
    from jsonb_to_recordset(p_rows) as a (
        agent_type text, operation_type text, operation_category text, operation_metadata jsonb, resource_id uuid,
        resource_type text, duration_ms integer, start_time timestamptz, end_time timestamptz, model_id text,
        provider text, thinking_mode boolean, input_tokens bigint, output_tokens bigint, reasoning_tokens bigint,
        input_cost numeric, output_cost numeric, success boolean, error_type text, error_message text,
        retry_count integer
    );
exception when others then
    -- Writing a log can never fail a turn; the database's own log has the reason.
    raise warning 'agent activity was not logged: % %', sqlstate, sqlerrm;
end
$$;

create function private.log_error(p_user uuid, p_correlation uuid, p_error jsonb) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_error is null
        or coalesce(public.get_logging_config() -> 'error_logging_enabled', 'true'::jsonb) = 'false'::jsonb
    then
        return;
    end if;
    insert into public.error_logs (
        user_id, correlation_id, error_type, error_category, error_message, error_details, request_path,
        request_method, user_agent, ip_address, session_id, severity
    )
    select
        (select p.id from public.user_profiles as p where p.id = p_user),
        p_correlation, e.error_type, left(e.error_category, 100), e.error_message, e.error_details,
        left(e.request_path, 500), left(e.request_method, 10), left(e.user_agent, 1000), left(e.ip_address, 45),
        left(e.session_id, 100), coalesce(e.severity, 'error')
    from jsonb_to_record(p_error) as e (
        error_type text, error_category text, error_message text, error_details jsonb, request_path text,
        request_method text, user_agent text, ip_address text, session_id text, severity text
    );
exception when others then
    raise warning 'an error was not logged: % %', sqlstate, sqlerrm;
end
$$;

create function private.finish_turn(
    p_user uuid,
    p_session uuid,
    p_answer uuid,
    p_stream uuid,
    p_correlation uuid,
    p_status text,
    p_parts jsonb,
    p_model_messages jsonb,
    p_metadata jsonb,
    p_model text,
    p_usage jsonb,
    p_activity jsonb,
    p_error jsonb,
    p_title_from text,
    p_title_to text,
    p_chunk_seq integer,
    p_chunk text
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user uuid;
    v_session uuid;
    v_moved boolean := false;
begin
    select p.id into v_user from public.user_profiles as p where p.id = p_user for key share;
    if not found then
        -- A guest may have become an account meanwhile; a deleted account ends its turns quietly.
        select r.claimed_by into v_user from private.revoked_principals as r where r.user_id = p_user;
        if v_user is null then
            return 'gone';
        end if;
        perform from public.user_profiles as p where p.id = v_user for key share;
        if not found then
            return 'gone';
        end if;
    end if;
    select c.id into v_session from public."Chat" as c where c.id = p_session for no key update;

    if v_session is not null then
        update public."Message_v2" as m
        set status = p_status,
            parts = p_parts,
            model_messages = p_model_messages,
            metadata = (m.metadata - 'recoveredStream' - 'finishReason') || coalesce(p_metadata, '{}'),
            model_used = p_model
        where m.id = p_answer
            and m."chatId" = p_session
            and (
                m.status = 'streaming'
                -- Recovered as dead, yet it lived: its own last word still counts.
                or (m.status = 'interrupted' and m.metadata ->> 'recoveredStream' = p_stream::text)
            );
        v_moved := found;
        update public."Chat" as c
        set last_active = greatest(c.last_active, clock_timestamp()),
            updated_at = now(),
            title = case when p_title_to is not null and c.title = p_title_from then p_title_to else c.title end
        where c.id = p_session;
        if p_chunk is not null then
            insert into public.stream_chunks (stream_id, seq, payload)
            select s.id, p_chunk_seq, p_chunk
            from public."Stream" as s
            where s.id = p_stream
                and s.status = 'running'
            on conflict (stream_id, seq) do nothing;
        end if;
        update public."Stream" as s
        set status = 'closed',
            closed_at = clock_timestamp()
        where s.id = p_stream
            and s.status = 'running';
    end if;

    perform private.settle_usage(v_user, p_session, p_answer, p_usage);
    delete from public.budget_reservations as b where b.stream_id = p_stream;
    perform private.log_agent_activity(v_user, p_correlation, p_activity);
    perform private.log_error(v_user, p_correlation, p_error);
    return case when v_moved then 'stored' when v_session is null then 'session_gone' else 'superseded' end;
end
$$;
comment on function private.finish_turn is
    'A turn''s last word: stored, superseded (its message was replaced), session_gone or gone; usage is settled in all but the last.';
