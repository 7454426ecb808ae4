-- The caller's account: what is left of limits and budget, repositories, the models on offer, and leaving for good.

-- Limits and budget

create function private.caller_limits(p_agents text[], p_providers text[], p_guest_address text) returns table (
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
        case when p_providers = '{}' then array[coalesce(private.application_settings() ->> 'activeProvider', 'google')]
        else p_providers end
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
comment on function private.caller_limits is
    'What consume_limits would count for the caller now; used_by_address is null for whoever is no guest.';

create function private.caller_budget() returns table (
    settings jsonb,
    month date,
    cap numeric,
    spent numeric,
    reserved numeric,
    has_room boolean
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user uuid := private.caller_id();
    v_cap_of_guests numeric;
begin
    if v_user is null then
        perform private.fail('TK401', 'unauthorized:auth');
    end if;
    settings := private.application_settings();
    month := date_trunc('month', now() at time zone 'UTC')::date;
    cap := settings -> 'budgets' ->> 'perUserMonthlyUsd';
    select h.spent, h.reserved into spent, reserved from private.held_budget('user', v_user, month, true) as h;
    has_room := cap is null or spent + reserved < cap;
    v_cap_of_guests := settings -> 'budgets' ->> 'guestsMonthlyUsd';
    if v_cap_of_guests is not null
        and exists (select from public.user_profiles as p where p.id = v_user and p.is_guest)
    then
        -- What an installation spends on its guests is told to none of them.
        select has_room and h.spent + h.reserved < v_cap_of_guests into has_room
        from private.held_budget('guests', null, month, true) as h;
    end if;
    return next;
end
$$;
comment on function private.caller_budget is
    'The caller''s month, and whether anything may be spent: for a guest also of the budget that all guests share.';

-- Repositories

create function private.add_repository(
    p_owner text, p_name text, p_url text, p_branch text, p_maximum integer, p_email text, p_name_of_user text
) returns table (id uuid, is_new boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.ensure_profile(p_email, p_name_of_user);
    -- One writer a user: two at once would both find room for the last one, or the same name in other letters.
    perform pg_advisory_xact_lock(hashtextextended(auth.uid()::text, 15));
    select r.id into id
    from public.github_repositories as r
    where r.user_id = auth.uid()
        and lower(r.repo_owner) = lower(p_owner)
        and lower(r.repo_name) = lower(p_name)
    order by r.created_at, r.id
    limit 1;
    is_new := not found;
    if not is_new then
        update public.github_repositories as r
        set default_branch = coalesce(p_branch, r.default_branch),
            is_active = true
        where r.id = add_repository.id
            and (not r.is_active or r.default_branch is distinct from coalesce(p_branch, r.default_branch));
        return next;
        return;
    end if;
    if (select count(*) from public.github_repositories as r where r.user_id = auth.uid()) >= p_maximum then
        perform private.fail('TK409', 'conflict:repositories');
    end if;
    insert into public.github_repositories (user_id, repo_owner, repo_name, repo_url, default_branch)
    values (auth.uid(), p_owner, p_name, p_url, coalesce(p_branch, 'main'))
    returning github_repositories.id into id;
    return next;
end
$$;
comment on function private.add_repository is
    'The caller''s repository of this name, in whatever letters, and whether it is new; TK409 beyond the maximum.';

-- Models

create function private.offered_models(p_providers text[]) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.require_active_caller();
    if auth.uid() is null and private.application_settings() -> 'guests' -> 'enabled' = 'false'::jsonb then
        perform private.fail('TK401', 'unauthorized:auth');
    end if;
    return json_build_object(
        'default', private.choose_model(null, p_providers) -> 'model' ->> 'model_id',
        'models', (
            select coalesce(json_agg(row_to_json(m) order by m.provider, m.name, m.model_id), '[]')
            from public.model_config as m
            where m.is_active
        )
    );
end
$$;
comment on function private.offered_models is
    'The active models, and which of them answers when none is named (null: the offline one); for whoever may chat.';

-- Leaving

create table private.identity_deletions (
    user_id uuid primary key,
    issuer varchar(255) not null,
    subject varchar(255) not null,
    requested_at timestamptz not null default now(),
    attempts integer not null default 0,
    next_attempt_at timestamptz not null default now(),
    last_error varchar(200)
);
comment on table private.identity_deletions is
    'Users who were deleted here and are still to be deleted where they sign in; a row goes once that is done.';

revoke all on table private.identity_deletions from public, anon, authenticated, service_role;
alter table private.identity_deletions enable row level security;
create policy "Service may do everything" on private.identity_deletions
    for all to service_role
    using (true)
    with check (true);
grant select, insert, update, delete on private.identity_deletions to service_role;

create or replace function private.delete_own_account(p_user uuid) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.lock_user(p_user);
    -- Who was deleted may be deleted again: his first answer may have been lost.
    if exists (
            select from private.revoked_principals as r
            where r.user_id = p_user
                and r.until > now()
                and r.reason <> 'deleted'
        )
        or exists (select from public.user_profiles as p where p.id = p_user and p.disabled_at is not null)
    then
        perform private.fail('TK403', 'forbidden:account');
    end if;
    perform private.delete_profile(p_user);
end
$$;

create function private.take_identity_deletion(p_user uuid) returns table (user_id uuid, issuer text, subject text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The next attempt is put off before this one begins: nobody else tries meanwhile, and one that dies is repeated.
    update private.identity_deletions as d
    set attempts = d.attempts + 1,
        next_attempt_at = clock_timestamp() + least(interval '1 minute' * 2 ^ least(d.attempts, 20), interval '1 day')
    where d.user_id = (
        select n.user_id
        from private.identity_deletions as n
        where (p_user is null and n.next_attempt_at <= clock_timestamp()) or n.user_id = p_user
        order by n.next_attempt_at
        limit 1
        for update skip locked
    )
    returning d.user_id, d.issuer, d.subject into user_id, issuer, subject;
    if not found then
        return;
    end if;
    -- As long as he can sign in there, no sign-in makes him a profile here.
    perform private.mark_revoked(user_id, 'deleted', null);
    return next;
end
$$;
comment on function private.take_identity_deletion is
    'The next deletion that is due, or that of this user; its next attempt follows after 1, 2, 4 … minutes, at most a day.';

revoke all on function
    private.caller_limits(text[], text[], text),
    private.caller_budget(),
    private.add_repository(text, text, text, text, integer, text, text),
    private.offered_models(text[]),
    private.delete_own_account(uuid),
    private.take_identity_deletion(uuid)
from public, anon, authenticated, service_role;
grant execute on function
    private.caller_limits(text[], text[], text),
    private.caller_budget(),
    private.add_repository(text, text, text, text, integer, text, text),
    private.offered_models(text[]),
    private.delete_own_account(uuid),
    private.take_identity_deletion(uuid)
to service_role;
grant execute on function
    private.caller_limits(text[], text[], text),
    private.caller_budget(),
    private.add_repository(text, text, text, text, integer, text, text)
to authenticated;
grant execute on function private.offered_models(text[]) to anon, authenticated;
