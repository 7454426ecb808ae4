-- Monthly partitions of the two append-only logs. They live in `private`, have no policy and no grant: a
-- partition read directly would bypass its parent's policies.

create function private.create_log_partition(p_table text, p_month date) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_from date := date_trunc('month', p_month::timestamp)::date;
    v_to date := (date_trunc('month', p_month::timestamp) + interval '1 month')::date;
    v_name text := p_table || to_char(v_from, '_YYYY_MM');
    v_begins timestamptz := v_from::timestamp at time zone 'UTC';
    v_ends timestamptz := v_to::timestamp at time zone 'UTC';
    v_rows boolean;
begin
    if p_table not in ('user_activity_logs', 'agent_activity_logs') then
        raise exception using errcode = 'invalid_parameter_value', message = format('%s is not a partitioned log', p_table);
    end if;
    if to_regclass(format('private.%I', v_name)) is not null then
        return false;
    end if;
    execute format('select exists (select from private.%I where created_at >= $1 and created_at < $2)', p_table || '_default')
    into v_rows
    using v_begins, v_ends;
    -- Where rows may be coming in right now, writers wait until the month is there: one that was on its way to the
    -- default partition would be refused by it afterwards.
    execute format(
        'lock table only public.%I in %s mode',
        p_table,
        case when v_rows or v_begins < now() + interval '1 hour' then 'share row exclusive' else 'share update exclusive' end
    );
    if to_regclass(format('private.%I', v_name)) is not null then
        return false;
    end if;
    execute format(
        'create table private.%I (like public.%I including defaults including constraints)', v_name, p_table
    );
    execute format('alter table private.%I enable row level security', v_name);
    execute format('revoke all on private.%I from public, anon, authenticated, service_role', v_name);
    if v_rows then
        -- They would forbid the attachment.
        execute format(
            $move$
                with moved as (
                    delete from private.%I
                    where created_at >= $1 and created_at < $2
                    returning *
                )
                insert into private.%I select * from moved
            $move$,
            p_table || '_default', v_name
        ) using v_begins, v_ends;
    end if;
    execute format(
        'alter table public.%I attach partition private.%I for values from (%L) to (%L)', p_table, v_name, v_begins, v_ends
    );
    return true;
end
$$;
comment on function private.create_log_partition is 'Makes one month''s partition; false if it is there. Call in a transaction of its own with a lock timeout.';

create function private.drop_log_partition(p_table text, p_month date) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_month date := date_trunc('month', p_month::timestamp)::date;
    v_name text := p_table || to_char(v_month, '_YYYY_MM');
begin
    if p_table not in ('user_activity_logs', 'agent_activity_logs') then
        raise exception using errcode = 'invalid_parameter_value', message = format('%s is not a partitioned log', p_table);
    end if;
    if ((v_month + interval '1 month')::timestamp at time zone 'UTC') > now() - private.retention(p_table) then
        return false;
    end if;
    if to_regclass(format('private.%I', v_name)) is null then
        return false;
    end if;
    execute format('drop table private.%I', v_name);
    return true;
end
$$;
comment on function private.drop_log_partition is 'Drops one month''s partition if all of it is past the log''s retention.';

create function private.log_partitions() returns table (log text, partition text, month date, estimated_rows bigint)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        parent.relname::text,
        child.relname::text,
        case
            when child.relname ~ '_\d{4}_\d{2}$'
                then to_date(right(child.relname::text, 7), 'YYYY_MM')
        end,
        greatest(child.reltuples, 0)::bigint
    from pg_inherits as i
    join pg_class as parent on parent.oid = i.inhparent
    join pg_class as child on child.oid = i.inhrelid
    join pg_namespace as n on n.oid = parent.relnamespace
    where n.nspname = 'public'
        and parent.relkind = 'p'
        and parent.relname in ('user_activity_logs', 'agent_activity_logs')
    order by 1, 2
$$;
comment on function private.log_partitions is 'All partitions of the logs; month is null for the default one.';

do $$
begin
    for months_ahead in 0..3 loop
        perform private.create_log_partition(
            'user_activity_logs', (date_trunc('month', now() at time zone 'UTC') + make_interval(months => months_ahead))::date
        );
        perform private.create_log_partition(
            'agent_activity_logs', (date_trunc('month', now() at time zone 'UTC') + make_interval(months => months_ahead))::date
        );
    end loop;
end
$$;
