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
    -- All words, the last one as the beginning of a word, as people type; of a compound such as `well-kn` each part.
    select nullif(concat_ws(' & ', nullif(w.finished, ''), nullif(w.begun, '') || ':*'), '')::tsquery
    from (
        select
            plainto_tsquery('simple', substring(p_text from '^(.*)\s+\S'))::text as finished,
            replace(plainto_tsquery('simple', substring(p_text from '\S+\s*$'))::text, ''' & ''', ''':* & ''') as begun
    ) as w
$$;

create function private.sessions_matching(p_text text) returns setof uuid
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
-- To compile it takes longer than to search.
set jit = off
rows 20
as $$
begin
    -- `@@` is not leakproof, so under a policy its index would not be used; the owner filter stands here instead.
    -- Executed, so that it is planned with the words: for rare ones the index, for others a walk over own messages.
    return query execute $query$
        select c.id
        from public."Chat" as c
        where c.user_id = $1
            and position(lower($2) in lower(c.title)) > 0
        union
        select c.id
        from public."Chat" as c
        where c.user_id = $1
            and exists (
                select from public."Message_v2" as m
                where m."chatId" = c.id
                    and m.search @@ $3
            )
    $query$
    using private.caller_id(), p_text, private.search_query(p_text);
end
$$;
comment on function private.sessions_matching is
    'The caller''s sessions that have the text in their title, or a message with all its words, the last one as a beginning.';

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

create function private.attachment_list(p_attachments jsonb) returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        jsonb_agg(
            jsonb_build_object(
                'filename', a.value -> 'filename',
                'mediaType', a.value -> 'mediaType',
                'size', a.value -> 'size'
            )
            order by a.place
        ),
        '[]'
    )
    from jsonb_array_elements(p_attachments) with ordinality as a (value, place)
$$;
comment on function private.attachment_list is 'What a reader is told of attached files: everything but their data.';

create function public.get_public_messages(p_id uuid, p_before bigint default null, p_limit integer default 50)
returns table (
    id uuid,
    seq bigint,
    role text,
    status text,
    parts jsonb,
    metadata jsonb,
    model_used text,
    created_at timestamptz,
    attachments jsonb
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    -- Of the metadata not what it cost, nor what went wrong inside.
    select
        m.id, m.seq, m.role::text, m.status::text, m.parts,
        jsonb_strip_nulls(jsonb_build_object(
            'sessionId', m.metadata -> 'sessionId',
            'model', m.metadata -> 'model',
            'provider', m.metadata -> 'provider',
            'finishReason', m.metadata -> 'finishReason'
        )),
        m.model_used::text, m."createdAt", private.attachment_list(m.attachments)
    from public."Message_v2" as m
    where m."chatId" = p_id
        and private.session_is_public(p_id)
        and m.seq < coalesce(p_before, 9223372036854775807)
    order by m.seq desc
    limit least(p_limit, 201)
$$;

create function private.delete_sessions(p_session uuid) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_deleted bigint;
begin
    perform from public.user_profiles as p where p.id = auth.uid() for key share;
    perform from public."Chat" as c
    where c.user_id = auth.uid()
        and (p_session is null or c.id = p_session)
    order by c.id
    for update;
    -- Settles what the running turns have used, in case that their own Finish never comes.
    perform private.end_running_turn(s."chatId", 'deleted')
    from public."Stream" as s
    join public."Chat" as c on c.id = s."chatId"
    where s.status = 'running'
        and c.user_id = auth.uid()
        and (p_session is null or c.id = p_session);
    delete from public."Chat" as c
    where c.user_id = auth.uid()
        and (p_session is null or c.id = p_session);
    get diagnostics v_deleted = row_count;
    return v_deleted;
end
$$;
comment on function private.delete_sessions is 'Deletes one session of the caller, or all of them for null, with all that belongs to it; how many there were.';

create function private.delete_messages_from(p_session uuid, p_message uuid) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_seq bigint;
begin
    perform private.ensure_profile(null, null);
    perform from public."Chat" as c
    where c.id = p_session
        and c.user_id = auth.uid()
    for no key update;
    if not found then
        perform private.fail('TK404', 'not_found:session');
    end if;
    select m.seq into v_seq
    from public."Message_v2" as m
    where m."chatId" = p_session
        and m.id = p_message;
    if not found then
        perform private.fail('TK404', 'not_found:message');
    end if;
    -- A running answer is the last message, so it goes in any case; what it used until now is settled first.
    perform private.end_running_turn(p_session, 'replaced');
    delete from public."Message_v2" as m
    where m."chatId" = p_session
        and m.seq >= v_seq;
end
$$;
comment on function private.delete_messages_from is 'Deletes a message of the caller''s session and all after it.';

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
