-- Sessions: making one, searching one's own, reading a public one, stopping an answer.

create function private.create_session(
    p_id uuid, p_title text, p_visibility text, p_guest_address text, p_new_guest boolean, p_email text, p_name text
) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_created boolean;
begin
    if p_new_guest then
        perform private.take_guest(p_guest_address);
    end if;
    perform private.ensure_profile(p_email, p_name);
    insert into public."Chat" (id, user_id, title, visibility)
    values (p_id, auth.uid(), p_title, p_visibility)
    on conflict (id) do nothing;
    v_created := found;
    if not v_created
        and not exists (select from public."Chat" as c where c.id = p_id and c.user_id = auth.uid())
    then
        perform private.fail('TK404', 'not_found:session');
    end if;
    return v_created;
end
$$;
comment on function private.create_session is 'True if it was made, false if it was there; somebody else''s id is TK404.';

create function private.search_query(p_text text) returns tsquery
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- All words, the last one as the beginning of a word, as people type.
    select case
        when q.words::text = '' then null
        else (q.words::text || ':*')::tsquery
    end
    from (select plainto_tsquery('simple', p_text) as words) as q
$$;

create function private.sessions_matching(p_text text) returns setof uuid
language sql stable security definer
set search_path = pg_catalog, pg_temp
rows 20
as $$
    -- `@@` is not leakproof, so under a policy its index would not be used; the owner filter stands here instead.
    select c.id
    from public."Chat" as c
    where c.user_id = private.caller_id()
        and (
            position(lower(p_text) in lower(c.title)) > 0
            or exists (
                select from public."Message_v2" as m
                where m."chatId" = c.id
                    and m.search @@ private.search_query(p_text)
            )
        )
$$;

create function private.session_is_public(p_id uuid) returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select exists (select from public."Chat" as c where c.id = p_id and c.visibility = 'public')
$$;

create function public.get_public_session(p_id uuid) returns table (
    id uuid,
    title text,
    visibility text,
    status text,
    created_at timestamptz,
    last_active timestamptz,
    message_count integer
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    -- Neither the owner nor what it cost.
    select c.id, c.title, c.visibility::text, c.status::text, c."createdAt", c.last_active, c.message_count
    from public."Chat" as c
    where c.id = p_id
        and c.visibility = 'public'
$$;

create function public.get_public_messages(p_id uuid, p_before bigint default null, p_limit integer default 50)
returns table (
    id uuid,
    seq bigint,
    role text,
    status text,
    parts jsonb,
    metadata jsonb,
    model_used text,
    created_at timestamptz
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select m.id, m.seq, m.role::text, m.status::text, m.parts, m.metadata, m.model_used::text, m."createdAt"
    from public."Message_v2" as m
    where m."chatId" = p_id
        and private.session_is_public(p_id)
        and (p_before is null or m.seq < p_before)
    order by m.seq desc
    limit least(p_limit, 201)
$$;

create function private.request_stop(p_session uuid) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from public."Chat" as c where c.id = p_session and c.user_id = private.caller_id()
    ) then
        perform private.fail('TK404', 'not_found:session');
    end if;
    if private.end_running_turn(p_session, 'lease') <> 'alive' then
        return false;
    end if;
    update public."Stream" as s
    set stop_requested = true
    where s."chatId" = p_session
        and s.status = 'running';
    return found;
end
$$;
comment on function private.request_stop is 'Asks the session''s running turn to end; its next chunk write reads the mark. False: nothing runs.';
