-- Usage by user and month, beside that by user and day: what is asked of a year reads twelve rows of a user and not
-- hundreds. Whatever changes the days changes the months in the same statement.

create table public.usage_user_monthly (
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    month date not null check (extract(day from month) = 1),
    requests bigint not null default 0,
    input_tokens bigint not null default 0,
    output_tokens bigint not null default 0,
    cached_input_tokens bigint not null default 0,
    cache_write_tokens bigint not null default 0,
    reasoning_tokens bigint not null default 0,
    total_cost numeric(20, 12) not null default 0,
    primary key (user_id, month)
) with (fillfactor = 85);
comment on table public.usage_user_monthly is 'The sums of usage_user_daily over all agents and models.';

create index idx_usage_user_monthly_month on public.usage_user_monthly (month);

create function private.add_to_usage_user_monthly() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into public.usage_user_monthly as m (
        user_id, month, requests, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens,
        reasoning_tokens, total_cost
    )
    select
        n.user_id, date_trunc('month', n.day::timestamp)::date, sum(n.requests), sum(n.input_tokens),
        sum(n.output_tokens), sum(n.cached_input_tokens), sum(n.cache_write_tokens), sum(n.reasoning_tokens),
        sum(n.total_cost)
    from new_rows as n
    group by 1, 2
    order by 1, 2
    on conflict (user_id, month) do update
    set requests = m.requests + excluded.requests,
        input_tokens = m.input_tokens + excluded.input_tokens,
        output_tokens = m.output_tokens + excluded.output_tokens,
        cached_input_tokens = m.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = m.cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = m.reasoning_tokens + excluded.reasoning_tokens,
        total_cost = m.total_cost + excluded.total_cost;
    return null;
end
$$;

create function private.take_from_usage_user_monthly() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update public.usage_user_monthly as m
    set requests = m.requests - o.requests,
        input_tokens = m.input_tokens - o.input_tokens,
        output_tokens = m.output_tokens - o.output_tokens,
        cached_input_tokens = m.cached_input_tokens - o.cached_input_tokens,
        cache_write_tokens = m.cache_write_tokens - o.cache_write_tokens,
        reasoning_tokens = m.reasoning_tokens - o.reasoning_tokens,
        total_cost = m.total_cost - o.total_cost
    from (
        select
            r.user_id, date_trunc('month', r.day::timestamp)::date as month, sum(r.requests) as requests,
            sum(r.input_tokens) as input_tokens, sum(r.output_tokens) as output_tokens,
            sum(r.cached_input_tokens) as cached_input_tokens, sum(r.cache_write_tokens) as cache_write_tokens,
            sum(r.reasoning_tokens) as reasoning_tokens, sum(r.total_cost) as total_cost
        from old_rows as r
        group by 1, 2
    ) as o
    where m.user_id = o.user_id
        and m.month = o.month;
    return null;
end
$$;

-- What an update takes away goes first: the names of triggers are their order.
create trigger trigger_usage_user_daily_1_take
    after update on public.usage_user_daily
    referencing old table as old_rows
    for each statement execute function private.take_from_usage_user_monthly();
create trigger trigger_usage_user_daily_2_add
    after update on public.usage_user_daily
    referencing new table as new_rows
    for each statement execute function private.add_to_usage_user_monthly();
create trigger trigger_usage_user_daily_add
    after insert on public.usage_user_daily
    referencing new table as new_rows
    for each statement execute function private.add_to_usage_user_monthly();

insert into public.usage_user_monthly (
    user_id, month, requests, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens,
    total_cost
)
select
    d.user_id, date_trunc('month', d.day::timestamp)::date, sum(d.requests), sum(d.input_tokens), sum(d.output_tokens),
    sum(d.cached_input_tokens), sum(d.cache_write_tokens), sum(d.reasoning_tokens), sum(d.total_cost)
from public.usage_user_daily as d
group by 1, 2
order by 1, 2;

revoke all on table public.usage_user_monthly from public, anon, authenticated, service_role;
alter table public.usage_user_monthly enable row level security;
create policy "Service may do everything" on public.usage_user_monthly
    for all to service_role
    using (true)
    with check (true);
grant select, insert, update, delete on public.usage_user_monthly to service_role;
grant select on public.usage_user_monthly to authenticated;
create policy "Admins can read usage_user_monthly" on public.usage_user_monthly
    for select to authenticated
    using ((select public.is_current_user_admin()));

revoke all on function private.add_to_usage_user_monthly(), private.take_from_usage_user_monthly()
from public, anon, authenticated, service_role;
