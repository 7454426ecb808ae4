-- Whether the default partition has rows of the month is asked once more when nobody writes any: those of a transaction
-- that was still open at the first look would forbid the attachment.

create or replace function private.create_log_partition(p_table text, p_month date) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_from date := date_trunc('month', p_month::timestamp)::date;
    v_to date := (date_trunc('month', p_month::timestamp) + interval '1 month')::date;
    v_name text := p_table || to_char(v_from, '_YYYY_MM');
    v_begins timestamptz := v_from::timestamp at time zone 'UTC';
    v_ends timestamptz := v_to::timestamp at time zone 'UTC';
    v_has_rows constant text := format(
        'select exists (select from private.%I where created_at >= $1 and created_at < $2)', p_table || '_default'
    );
    v_rows boolean;
begin
    if p_table not in ('user_activity_logs', 'agent_activity_logs') then
        raise exception using errcode = 'invalid_parameter_value', message = format('%s is not a partitioned log', p_table);
    end if;
    if to_regclass(format('private.%I', v_name)) is not null then
        return false;
    end if;
    execute v_has_rows into v_rows using v_begins, v_ends;
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
    execute v_has_rows into v_rows using v_begins, v_ends;
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
