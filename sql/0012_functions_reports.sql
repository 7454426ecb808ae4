-- What administrators see and decide: spend by user, errors, activity, accounts, the schedule's reports, health.

create function private.require_administrator() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if auth.uid() is null then
        perform private.fail('TK401', 'unauthorized:auth');
    end if;
    perform private.require_active_caller();
    if not public.is_current_user_admin() then
        perform private.fail('TK403', 'forbidden:auth');
    end if;
end
$$;
comment on function private.require_administrator is 'What a definer function for administrators asks first: TK401 or TK403 for everybody else.';

-- Spend by user. usage_daily has no user, so that history outlives one; this has, and goes with him.

create table public.usage_user_daily (
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    day date not null,
    agent_type varchar(50) not null,
    provider varchar(50) not null,
    model_used varchar(100) not null,
    requests bigint not null default 0,
    input_tokens bigint not null default 0,
    output_tokens bigint not null default 0,
    cached_input_tokens bigint not null default 0,
    cache_write_tokens bigint not null default 0,
    reasoning_tokens bigint not null default 0,
    total_cost numeric(20, 12) not null default 0,
    primary key (user_id, day, agent_type, provider, model_used)
) with (fillfactor = 85);
comment on table public.usage_user_daily is 'usage_logs by user and day, up to private.usage_roll_up.through; what came later is read from usage_logs itself.';

create index idx_usage_user_daily_day on public.usage_user_daily (day);

create table private.usage_roll_up (
    only_row boolean primary key default true check (only_row),
    through timestamptz,
    candidate timestamptz,
    candidate_transaction xid8
);
comment on table private.usage_roll_up is 'usage_user_daily holds what was answered before `through`; null: nothing yet. The candidate is the next such moment.';
insert into private.usage_roll_up default values;

-- The moment of each row's writing is what tells which rows are new, also of a turn that was asked for long ago.
update public.usage_logs set response_timestamp = request_timestamp where response_timestamp is null;
alter table public.usage_logs
    alter column response_timestamp set default clock_timestamp(),
    alter column response_timestamp set not null;
create index idx_usage_logs_response on public.usage_logs (response_timestamp);

create function private.plan_usage_roll_up(p_lag interval) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The moment first, the transaction's number then: whoever wrote before the moment has a lower number. A number
    -- that is still to come is of another server, from which this database was copied.
    update private.usage_roll_up as s
    set candidate = clock_timestamp() - p_lag,
        candidate_transaction = pg_current_xact_id()
    where s.candidate is null
        or s.candidate <= s.through
        or s.candidate_transaction >= pg_snapshot_xmax(pg_current_snapshot());
end
$$;
comment on function private.plan_usage_roll_up is 'Takes a moment up to which usage can be rolled up as soon as all transactions of that moment have ended.';

create function private.roll_up_usage(p_batch integer) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_state private.usage_roll_up;
    v_from timestamptz;
    v_to timestamptz;
    v_rows bigint;
begin
    select s.* into v_state from private.usage_roll_up as s;
    if v_state.candidate is null
        or v_state.candidate <= v_state.through
        or v_state.candidate_transaction >= pg_snapshot_xmin(pg_current_snapshot())
    then
        return null;
    end if;
    v_from := coalesce(v_state.through, '-infinity');
    select l.response_timestamp + interval '1 microsecond' into v_to
    from public.usage_logs as l
    where l.response_timestamp >= v_from
        and l.response_timestamp < v_state.candidate
    order by l.response_timestamp
    offset p_batch - 1
    limit 1;
    v_to := least(coalesce(v_to, v_state.candidate), v_state.candidate);

    -- In the one lock order: whoever claims or deletes one of these users is waited for here, before the row below,
    -- and then has to wait for this transaction.
    perform
    from public.user_profiles as p
    where p.id in (
        select l.user_id
        from public.usage_logs as l
        where l.response_timestamp >= v_from
            and l.response_timestamp < v_to
    )
    order by p.id
    for key share;
    perform from private.usage_roll_up as s where s.through is not distinct from v_state.through for update;
    if not found then
        return 0; -- another run was faster
    end if;

    insert into public.usage_user_daily as d (
        user_id, day, agent_type, provider, model_used, requests, input_tokens, output_tokens, cached_input_tokens,
        cache_write_tokens, reasoning_tokens, total_cost
    )
    select
        l.user_id, (l.request_timestamp at time zone 'UTC')::date, l.agent_type, coalesce(l.provider, ''),
        coalesce(l.model_used, ''), count(*), coalesce(sum(l.input_tokens), 0), coalesce(sum(l.output_tokens), 0),
        coalesce(sum(l.cached_input_tokens), 0), coalesce(sum(l.cache_write_tokens), 0),
        coalesce(sum(l.reasoning_tokens), 0), coalesce(sum(l.total_cost), 0)
    from public.usage_logs as l
    where l.response_timestamp >= v_from
        and l.response_timestamp < v_to
    group by 1, 2, 3, 4, 5
    order by 1, 2, 3, 4, 5
    on conflict (user_id, day, agent_type, provider, model_used) do update
    set requests = d.requests + excluded.requests,
        input_tokens = d.input_tokens + excluded.input_tokens,
        output_tokens = d.output_tokens + excluded.output_tokens,
        cached_input_tokens = d.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = d.cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = d.reasoning_tokens + excluded.reasoning_tokens,
        total_cost = d.total_cost + excluded.total_cost;
    update private.usage_roll_up as s set through = v_to where s.only_row;
    select count(*) into v_rows
    from public.usage_logs as l
    where l.response_timestamp >= v_from
        and l.response_timestamp < v_to;
    return v_rows;
end
$$;
comment on function private.roll_up_usage is 'Adds about one batch of usage rows to usage_user_daily; how many, or null when there is nothing that may be added now.';

create function private.add_to_usage_user_daily(p_row public.usage_logs, p_sign integer) returns void
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    insert into public.usage_user_daily as d (
        user_id, day, agent_type, provider, model_used, requests, input_tokens, output_tokens, cached_input_tokens,
        cache_write_tokens, reasoning_tokens, total_cost
    )
    values (
        p_row.user_id, (p_row.request_timestamp at time zone 'UTC')::date, p_row.agent_type,
        coalesce(p_row.provider, ''), coalesce(p_row.model_used, ''), p_sign,
        p_sign * coalesce(p_row.input_tokens, 0), p_sign * coalesce(p_row.output_tokens, 0),
        p_sign * coalesce(p_row.cached_input_tokens, 0), p_sign * coalesce(p_row.cache_write_tokens, 0),
        p_sign * coalesce(p_row.reasoning_tokens, 0), p_sign * coalesce(p_row.total_cost, 0)
    )
    on conflict (user_id, day, agent_type, provider, model_used) do update
    set requests = d.requests + excluded.requests,
        input_tokens = d.input_tokens + excluded.input_tokens,
        output_tokens = d.output_tokens + excluded.output_tokens,
        cached_input_tokens = d.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = d.cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = d.reasoning_tokens + excluded.reasoning_tokens,
        total_cost = d.total_cost + excluded.total_cost
$$;

create function private.correct_usage_user_daily() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_through timestamptz;
begin
    -- A deleted session or message is no change of what was used.
    if (
        old.user_id, old.response_timestamp, old.request_timestamp, old.agent_type, old.provider, old.model_used,
        old.input_tokens, old.output_tokens, old.cached_input_tokens, old.cache_write_tokens, old.reasoning_tokens,
        old.total_cost
    ) is not distinct from (
        new.user_id, new.response_timestamp, new.request_timestamp, new.agent_type, new.provider, new.model_used,
        new.input_tokens, new.output_tokens, new.cached_input_tokens, new.cache_write_tokens, new.reasoning_tokens,
        new.total_cost
    ) then
        return null;
    end if;
    -- Held until the change is committed: a roll-up waits for it, and then sees it.
    select s.through into v_through from private.usage_roll_up as s for share;
    if old.response_timestamp < v_through then
        perform private.add_to_usage_user_daily(old, -1);
    end if;
    if new.response_timestamp < v_through then
        perform private.add_to_usage_user_daily(new, 1);
    end if;
    return null;
end
$$;

-- A provider's figures replace an estimate, an account takes over a guest: both may come long after the roll-up.
create trigger trigger_usage_logs_correct_roll_up
    after update on public.usage_logs
    for each row execute function private.correct_usage_user_daily();

create function private.usage_since_roll_up() returns table (
    user_id uuid,
    day date,
    agent_type text,
    provider text,
    model_used text,
    requests bigint,
    input_tokens bigint,
    output_tokens bigint,
    cached_input_tokens bigint,
    cache_write_tokens bigint,
    reasoning_tokens bigint,
    total_cost numeric
)
-- Not in SQL: planned without the moment, it would be taken for a third of the table.
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_through timestamptz := (select coalesce(s.through, '-infinity') from private.usage_roll_up as s);
begin
    perform private.require_administrator();
    return query execute '
        select
            l.user_id, (l.request_timestamp at time zone ''UTC'')::date, l.agent_type::text,
            coalesce(l.provider, '''')::text, coalesce(l.model_used, '''')::text, count(*),
            coalesce(sum(l.input_tokens), 0)::bigint, coalesce(sum(l.output_tokens), 0)::bigint,
            coalesce(sum(l.cached_input_tokens), 0)::bigint, coalesce(sum(l.cache_write_tokens), 0)::bigint,
            coalesce(sum(l.reasoning_tokens), 0)::bigint, coalesce(sum(l.total_cost), 0)
        from public.usage_logs as l
        where l.response_timestamp >= $1
        group by 1, 2, 3, 4, 5
    ' using v_through;
end
$$;
comment on function private.usage_since_roll_up is 'What usage_user_daily does not hold yet, in its form; of the same snapshot as the query that asks.';

create function private.usage_rolled_up_through() returns timestamptz
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select private.require_administrator();
    select s.through from private.usage_roll_up as s
$$;

-- Accounts

create index idx_user_profiles_created on public.user_profiles (created_at desc, id desc);

create function private.set_account_disabled(p_user uuid, p_disabled boolean) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_disabled_at timestamptz;
begin
    perform private.require_administrator();
    if p_user = auth.uid() then
        perform private.fail('TK409', 'conflict:account');
    end if;
    -- Turns hold the profile while they begin: those that began before are seen below, and later ones are refused.
    select p.disabled_at into v_disabled_at from public.user_profiles as p where p.id = p_user for update;
    if not found then
        perform private.fail('TK404', 'not_found:user');
    end if;
    if p_disabled = (v_disabled_at is not null) then
        return false;
    end if;
    update public.user_profiles as p
    set disabled_at = case when p_disabled then clock_timestamp() end
    where p.id = p_user;
    if p_disabled then
        update public."Stream" as s
        set stop_requested = true
        from public."Chat" as c
        where c.id = s."chatId"
            and c.user_id = p_user
            and s.status = 'running';
    end if;
    return true;
end
$$;
comment on function private.set_account_disabled is 'Refuses an account from now on, whatever tokens it has, and stops its running turns; or lets it in again. False if it was so before.';

-- Errors and activity: read newest first, over all users

create index idx_error_logs_correlation on public.error_logs (correlation_id) where correlation_id is not null;

-- A list of everything, newest first, cannot be read from a BRIN index; rows come in this order, so it stays cheap.
drop index public.idx_user_activity_created;
create index idx_user_activity_created on public.user_activity_logs (created_at desc, id desc);
drop index public.idx_agent_activity_created;
create index idx_agent_activity_created on public.agent_activity_logs (created_at desc, id desc);

-- The schedule's reports

create table private.upkeep_reports (
    id uuid primary key default gen_random_uuid(),
    started_at timestamptz not null,
    finished_at timestamptz not null,
    seconds double precision not null,
    kinds jsonb not null check (jsonb_typeof(kinds) = 'array')
);
comment on table private.upkeep_reports is 'The last runs of the schedule, and what each kind of work came to.';
create index idx_upkeep_reports_finished on private.upkeep_reports (finished_at desc);

create table private.upkeep_requests (
    only_row boolean primary key default true check (only_row),
    requested_at timestamptz not null,
    requested_by uuid references public.user_profiles (id) on delete set null
);
comment on table private.upkeep_requests is 'The last run that an administrator asked for.';

create table private.table_sizes (
    measured_on date not null,
    name text not null,
    bytes bigint not null,
    estimated_rows bigint not null,
    primary key (measured_on, name)
);
comment on table private.table_sizes is 'The size of each table with its indexes, once a day, so that growth can be seen.';

create function private.sizes_of_tables() returns table (name text, bytes bigint, estimated_rows bigint)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        format('%I.%I', n.nspname, c.relname),
        sum(coalesce(pg_total_relation_size(leaf.oid), 0))::bigint,
        sum(greatest(leaf.reltuples, 0))::bigint
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    cross join lateral (
        select c.oid, c.reltuples
        where c.relkind = 'r'
        union all
        select p.oid, p.reltuples
        from pg_inherits as i
        join pg_class as p on p.oid = i.inhrelid
        where c.relkind = 'p'
            and i.inhparent = c.oid
    ) as leaf
    where n.nspname in ('public', 'private')
        and c.relkind in ('r', 'p')
        and not c.relispartition
        and c.relowner = (select o.nspowner from pg_namespace as o where o.nspname = 'private')
    group by 1
$$;

create function private.keep_upkeep_report(p_seconds double precision, p_kinds jsonb, p_kept integer, p_sizes_kept interval)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into private.upkeep_reports (started_at, finished_at, seconds, kinds)
    values (clock_timestamp() - make_interval(secs => p_seconds), clock_timestamp(), p_seconds, p_kinds);
    delete from private.upkeep_reports as r
    where r.id in (
        select o.id
        from private.upkeep_reports as o
        order by o.finished_at desc
        offset p_kept
    );
    if not exists (
        select from private.table_sizes as t where t.measured_on = (now() at time zone 'UTC')::date
    ) then
        insert into private.table_sizes (measured_on, name, bytes, estimated_rows)
        select (now() at time zone 'UTC')::date, s.name, s.bytes, s.estimated_rows
        from private.sizes_of_tables() as s
        order by s.name
        on conflict (measured_on, name) do nothing;
        delete from private.table_sizes as t
        where t.measured_on < ((now() - p_sizes_kept) at time zone 'UTC')::date;
    end if;
end
$$;
comment on function private.keep_upkeep_report is 'Keeps what a run of the schedule came to, drops old reports, and measures the tables once a day.';

create function private.request_upkeep(p_every interval) returns table (requested_at timestamptz, is_new boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.require_administrator();
    insert into private.upkeep_requests as r (requested_at, requested_by)
    select clock_timestamp(), (select p.id from public.user_profiles as p where p.id = auth.uid())
    on conflict (only_row) do update
    set requested_at = excluded.requested_at,
        requested_by = excluded.requested_by
    where r.requested_at < clock_timestamp() - p_every
        or exists (select from private.upkeep_reports as u where u.started_at >= r.requested_at);
    is_new := found;
    select r.requested_at into requested_at from private.upkeep_requests as r;
    return next;
end
$$;
comment on function private.request_upkeep is 'Notes that an administrator wants a run; not new while the last one that was asked for has not ended.';

create function private.withdraw_upkeep_request(p_requested_at timestamptz) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.require_administrator();
    delete from private.upkeep_requests as r where r.requested_at = p_requested_at;
end
$$;

create function private.last_upkeep() returns json
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select private.require_administrator();
    select json_build_object(
        'requested_at', (
            select q.requested_at
            from private.upkeep_requests as q
            where not exists (select from private.upkeep_reports as u where u.started_at >= q.requested_at)
        ),
        'run', (
            select json_build_object('started_at', r.started_at, 'finished_at', r.finished_at, 'seconds', r.seconds)
            from private.upkeep_reports as r
            order by r.finished_at desc
            limit 1
        ),
        'kinds', (
            select json_agg(k.report order by k.place)
            from (
                select distinct on (k.value ->> 'kind')
                    k.place,
                    k.value || jsonb_build_object('finished_at', r.finished_at) as report
                from private.upkeep_reports as r
                cross join lateral jsonb_array_elements(r.kinds) with ordinality as k (value, place)
                order by k.value ->> 'kind', r.finished_at desc
            ) as k
        )
    )
$$;
comment on function private.last_upkeep is 'The last report of each kind of work, the last run, and the run that was asked for and has not ended.';

-- Health

create function private.migration_ledger() returns table (name text)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select private.require_administrator();
    select m.name::text from private.migrations as m order by m.name
$$;

create function private.tables_without_policies() returns table (name text)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select private.require_administrator();
    select format('%I.%I', n.nspname, c.relname)
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname in ('public', 'private')
        and c.relkind in ('r', 'p')
        and c.relowner = (select o.nspowner from pg_namespace as o where o.nspname = 'private')
        and not c.relrowsecurity
        -- The ledger is its owner's alone.
        and not (n.nspname = 'private' and c.relname = 'migrations')
    order by 1
$$;
comment on function private.tables_without_policies is 'Tables whose rows anybody with a grant sees: there should be none.';

create function private.log_months() returns table (log text, months_ahead integer, default_rows bigint)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select private.require_administrator();
    select
        l.log,
        (
            select count(*)::integer
            from private.log_partitions() as p
            where p.log = l.log
                and p.month > (now() at time zone 'UTC')::date
        ),
        l.default_rows
    from (
        select
            'user_activity_logs',
            (select count(*) from (select from private.user_activity_logs_default limit 10000) as d)
        union all
        select
            'agent_activity_logs',
            (select count(*) from (select from private.agent_activity_logs_default limit 10000) as d)
    ) as l (log, default_rows)
    order by l.log
$$;

create function private.dead_turns() returns table (running bigint, dead bigint, oldest timestamptz)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select private.require_administrator();
    select
        count(*),
        count(*) filter (where s.lease_until < clock_timestamp()),
        min(s.lease_until) filter (where s.lease_until < clock_timestamp())
    from public."Stream" as s
    where s.status = 'running'
$$;

create function private.table_growth() returns table (
    name text,
    bytes bigint,
    estimated_rows bigint,
    measured_on date,
    bytes_then bigint
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select private.require_administrator();
    select s.name, s.bytes, s.estimated_rows, e.measured_on, e.bytes
    from private.sizes_of_tables() as s
    left join lateral (
        -- About a week ago; of a younger installation the earliest day.
        select t.measured_on, t.bytes
        from private.table_sizes as t
        where t.name = s.name
            and t.measured_on >= (now() at time zone 'UTC')::date - 7
            and t.measured_on < (now() at time zone 'UTC')::date
        order by t.measured_on
        limit 1
    ) as e on true
    order by s.bytes desc, s.name
$$;

create function private.slow_queries(p_limit integer) returns table (
    query text,
    calls bigint,
    mean_ms double precision,
    total_ms double precision
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schema text := (
        select n.nspname
        from pg_extension as e
        join pg_namespace as n on n.oid = e.extnamespace
        where e.extname = 'pg_stat_statements'
    );
begin
    perform private.require_administrator();
    if v_schema is null then
        perform private.fail('TK404', 'not_found:statistics');
    end if;
    -- In these four constants are replaced by $1; of other commands the text is kept as it was sent.
    return query execute format(
        $query$
            select left(s.query, 1000), s.calls, s.mean_exec_time, s.total_exec_time
            from %I.pg_stat_statements as s
            where s.dbid = (select d.oid from pg_database as d where d.datname = current_database())
                and s.query ~* '^\s*(select|insert|update|delete|with)\M'
            order by s.mean_exec_time desc
            limit $1
        $query$,
        v_schema
    ) using p_limit;
end
$$;
comment on function private.slow_queries is 'The slowest statements on average, without their values; TK404 where pg_stat_statements is not installed.';

-- Rights

do $$
declare
    target record;
begin
    for target in
        select n.nspname, c.relname
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        where n.nspname || '.' || c.relname in (
            'public.usage_user_daily', 'private.usage_roll_up', 'private.upkeep_reports', 'private.upkeep_requests',
            'private.table_sizes'
        )
    loop
        execute format(
            'revoke all on table %I.%I from public, anon, authenticated, service_role', target.nspname, target.relname
        );
        execute format('alter table %I.%I enable row level security', target.nspname, target.relname);
        execute format(
            'create policy "Service may do everything" on %I.%I for all to service_role using (true) with check (true)',
            target.nspname, target.relname
        );
        execute format(
            'grant select, insert, update, delete on %I.%I to service_role', target.nspname, target.relname
        );
    end loop;
end
$$;

grant select on public.usage_user_daily to authenticated;
create policy "Admins can read usage_user_daily" on public.usage_user_daily
    for select to authenticated
    using ((select public.is_current_user_admin()));

revoke all on function
    private.require_administrator(),
    private.plan_usage_roll_up(interval),
    private.roll_up_usage(integer),
    private.add_to_usage_user_daily(public.usage_logs, integer),
    private.correct_usage_user_daily(),
    private.usage_since_roll_up(),
    private.usage_rolled_up_through(),
    private.set_account_disabled(uuid, boolean),
    private.sizes_of_tables(),
    private.keep_upkeep_report(double precision, jsonb, integer, interval),
    private.request_upkeep(interval),
    private.withdraw_upkeep_request(timestamptz),
    private.last_upkeep(),
    private.migration_ledger(),
    private.tables_without_policies(),
    private.log_months(),
    private.dead_turns(),
    private.table_growth(),
    private.slow_queries(integer)
from public, anon, authenticated, service_role;
grant execute on function
    private.plan_usage_roll_up(interval),
    private.roll_up_usage(integer),
    private.keep_upkeep_report(double precision, jsonb, integer, interval)
to service_role;
grant execute on function
    private.require_administrator(),
    private.usage_since_roll_up(),
    private.usage_rolled_up_through(),
    private.set_account_disabled(uuid, boolean),
    private.request_upkeep(interval),
    private.withdraw_upkeep_request(timestamptz),
    private.last_upkeep(),
    private.migration_ledger(),
    private.tables_without_policies(),
    private.log_months(),
    private.dead_turns(),
    private.table_growth(),
    private.slow_queries(integer)
to authenticated;
