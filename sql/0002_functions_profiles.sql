-- Users who sign in, leave, or take over what they did as a guest.

create function private.record_sign_in(p_user uuid, p_email text, p_name text) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not private.make_profile(p_user, p_email, p_name, false) then
        return false;
    end if;
    -- A chat may have made it first, from a token that has neither; a name that was chosen here stays.
    update public.user_profiles as p
    set email = coalesce(p_email, p.email),
        full_name = coalesce(p.full_name, p_name),
        is_guest = false
    where p.id = p_user
        and (
            p.email is distinct from coalesce(p_email, p.email)
            or p.full_name is distinct from coalesce(p.full_name, p_name)
            or p.is_guest
        );
    return true;
end
$$;
comment on function private.record_sign_in is 'A user of an identity provider has a profile; false for a deleted one, who is not brought back.';

create function private.keep_guest() returns void
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    update public.user_profiles as p
    set updated_at = now()
    where p.id = private.caller_id()
        and p.is_guest
$$;
comment on function private.keep_guest is 'Called when a guest''s token is renewed, so that no guest with a valid token is taken for one that never came back.';

create function private.remove_user(p_user uuid) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.lock_user(p_user);
    return private.delete_profile(p_user);
end
$$;
comment on function private.remove_user is 'Deletes a user who was deleted where he signs in; true if there was a profile. Marked in any case, for the sign-up may come later.';

create function private.delete_own_account(p_user uuid) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.lock_user(p_user);
    if private.is_revoked(p_user)
        or exists (select from public.user_profiles as p where p.id = p_user and p.disabled_at is not null)
    then
        perform private.fail('TK403', 'forbidden:account');
    end if;
    perform private.delete_profile(p_user);
end
$$;

create function private.claim_guest(p_account uuid, p_guest uuid, p_email text, p_name text) returns json
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
    update public.budget_reservations as b set user_id = p_account where b.user_id = p_guest;
    update public.usage_logs as u set user_id = p_account where u.user_id = p_guest;
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
