-- What the schedule asks before it works.

create function private.missing_log_months(p_ahead integer) returns table (log text, month date)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    with wanted as (
        select l.log, (date_trunc('month', now() at time zone 'UTC') + make_interval(months => a.months))::date as month
        from (values ('user_activity_logs'), ('agent_activity_logs')) as l (log)
        cross join generate_series(0, p_ahead) as a (months)
        union
        select 'user_activity_logs', date_trunc('month', d.created_at at time zone 'UTC')::date
        from private.user_activity_logs_default as d
        union
        select 'agent_activity_logs', date_trunc('month', d.created_at at time zone 'UTC')::date
        from private.agent_activity_logs_default as d
    )
    select w.log, w.month
    from wanted as w
    where not exists (
        select from private.log_partitions() as p where p.log = w.log and p.month = w.month
    )
    order by w.month, w.log
$$;
comment on function private.missing_log_months is 'Months of the logs without a partition: from this one to so many ahead, and those of rows in the default partitions.';
