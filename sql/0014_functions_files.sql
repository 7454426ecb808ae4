-- Attached files: only what was checked can be said, a file belongs to the message that first said it, and the object
-- in the store goes when the row does.

alter table public.files
    drop constraint files_chat_id_fkey,
    add constraint files_chat_id_fkey foreign key (chat_id) references public."Chat" (id) on delete cascade,
    add column message_id uuid,
    add column problem varchar(200);
-- No foreign key: an edit deletes the message and inserts its successor, which may name the same file.
comment on column public.files.message_id is 'The message that the file came with; null until one does.';
comment on column public.files.problem is 'Why the upload was refused.';
comment on column public.files.storage_key is 'The upload''s object while pending, then the checked copy, which no upload can reach.';

create index idx_files_message on public.files (message_id) where message_id is not null;
create index idx_files_refused on public.files (created_at) where state = 'refused';
create index idx_files_unused on public.files (checked_at) where state = 'ready' and message_id is null;

create table private.file_deletions (
    storage_key varchar(500) primary key,
    due_at timestamptz not null default now(),
    attempts integer not null default 0
);
comment on table private.file_deletions is 'Objects that no row needs any more; the schedule deletes them from the store.';
create index idx_file_deletions_due on private.file_deletions (due_at);

alter table private.file_deletions enable row level security;
revoke all on private.file_deletions from public, anon, authenticated, service_role;
create policy "Service may do everything" on private.file_deletions
    for all to service_role
    using (true)
    with check (true);
grant select, insert, update, delete on private.file_deletions to service_role;

create function private.keep_file_deletion() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Of an upload that was not checked the form may still be valid: deleted at once, it could come again.
    insert into private.file_deletions as d (storage_key, due_at)
    values (old.storage_key, case when old.state = 'ready' then now() else now() + interval '20 minutes' end)
    on conflict (storage_key) do update
    set due_at = greatest(d.due_at, excluded.due_at);
    return null;
end
$$;

create trigger trigger_file_deletion_kept
    after delete on public.files
    for each row execute function private.keep_file_deletion();

create function private.file_bytes_allowed(p_user uuid) returns bigint
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- A guest costs nothing to become, so what one may keep is less.
    select case when p.is_guest then 100 else 1024 end * 1024 * 1024::bigint
    from public.user_profiles as p
    where p.id = p_user
$$;
comment on function private.file_bytes_allowed is 'The bytes that all files of a person may have together.';

create function private.takes_file_kind(p_kind text) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        (
            select c.config_data #> '{capabilities,fileInput}' = 'true'::jsonb
                and c.config_data #> array['fileInputTypes', p_kind] = 'true'::jsonb
            from public.admin_config as s
            join public.admin_config as c on c.config_key = 'chat_model_agent_' || (s.config_data ->> 'activeProvider')
            where s.config_key = 'app_settings'
        ),
        false
    )
$$;
comment on function private.takes_file_kind is 'Whether the chat agent of the active provider is configured to take this kind of file.';

create function private.create_file(
    p_id uuid, p_filename text, p_kind text, p_media_type text, p_size bigint, p_email text, p_name text
) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user uuid := auth.uid();
    v_bytes bigint;
    v_allowed bigint;
    v_pending bigint;
    v_key text := 'uploads/' || p_id;
begin
    perform private.ensure_profile(p_email, p_name);
    if not private.takes_file_kind(p_kind) then
        perform private.fail('TK422', 'invalid:kind');
    end if;
    -- One at a time, so that what is allowed together is not passed by uploads that begin together.
    perform pg_advisory_xact_lock(hashtextextended(v_user::text, 14));
    select coalesce(sum(f.size_bytes), 0), count(*) filter (where f.state = 'pending') into v_bytes, v_pending
    from public.files as f
    where f.user_id = v_user
        and f.state in ('pending', 'ready');
    v_allowed := private.file_bytes_allowed(v_user);
    if v_bytes + p_size > v_allowed then
        perform private.fail('TK413', 'too_large:files', jsonb_build_object('used', v_bytes, 'allowed', v_allowed));
    end if;
    if v_pending >= 50 then
        perform private.fail('TK429', 'rate_limit:files', jsonb_build_object('retryAfter', 600));
    end if;
    insert into public.files (id, user_id, storage_key, filename, kind, media_type, size_bytes)
    values (p_id, v_user, v_key, p_filename, p_kind, p_media_type, p_size);
    return v_key;
end
$$;
comment on function private.create_file is
    'A file that is to be uploaded, and its key; TK422 for a kind that is not taken, TK413 and TK429 for too many.';

create function private.readable_file(p_id uuid) returns table (
    id uuid,
    filename text,
    kind text,
    media_type text,
    size_bytes bigint,
    state text,
    problem text,
    created_at timestamptz,
    storage_key text,
    session_id uuid,
    message_id uuid,
    is_own boolean
)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        f.id, f.filename::text, f.kind::text, f.media_type::text, f.size_bytes, f.state::text, f.problem::text,
        f.created_at, f.storage_key::text, f.chat_id, f.message_id, f.user_id = c.id
    from public.files as f
    cross join (select private.caller_id() as id) as c
    where f.id = p_id
        and (
            f.user_id = c.id
            or (f.state = 'ready' and f.message_id is not null and private.session_is_public(f.chat_id))
        )
$$;
comment on function private.readable_file is 'A file of the caller''s, or one that was said in a public session.';

create function private.delete_file(p_id uuid) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from public.files as f where f.id = p_id and f.user_id = private.caller_id();
    if not found then
        perform private.fail('TK404', 'not_found:file');
    end if;
end
$$;

create function private.accept_file(p_id uuid, p_key text) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_upload text;
begin
    -- The copy was announced as one to delete, in case that nobody comes back to say that it is wanted.
    delete from private.file_deletions as d where d.storage_key = p_key;
    if found then
        select f.storage_key into v_upload
        from public.files as f
        where f.id = p_id
            and f.state = 'pending'
        for update;
    end if;
    if v_upload is null then
        insert into private.file_deletions (storage_key) values (p_key);
        return false;
    end if;
    update public.files as f
    set state = 'ready',
        storage_key = p_key,
        checked_at = now()
    where f.id = p_id;
    insert into private.file_deletions as d (storage_key, due_at)
    values (v_upload, now() + interval '20 minutes')
    on conflict (storage_key) do nothing;
    return true;
end
$$;
comment on function private.accept_file is 'The checked copy takes the upload''s place; false if the file is gone or another check was first.';

create function private.bind_files() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_owner uuid;
    v_id text;
    v_file public.files;
begin
    select c.user_id into v_owner from public."Chat" as c where c.id = new."chatId";
    -- In the order of their ids, as everybody does who locks several files.
    for v_id in
        select distinct a.value ->> 'file'
        from jsonb_array_elements(new.attachments) as a (value)
        where a.value ? 'file'
        order by 1
    loop
        v_file := null;
        if v_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
            select f.* into v_file
            from public.files as f
            where f.id = v_id::uuid
                and f.user_id = v_owner
            for update;
        end if;
        if v_file.id is null then
            perform private.fail('TK404', 'not_found:file', jsonb_build_object('file', v_id));
        elsif v_file.state = 'pending' then
            perform private.fail('TK409', 'conflict:upload', jsonb_build_object('file', v_id));
        elsif v_file.state <> 'ready' then
            perform private.fail('TK422', 'invalid:file', jsonb_build_object('file', v_id, 'detail', v_file.problem));
        elsif v_file.message_id <> new.id
            -- An edit has just deleted the message that its successor takes the file from.
            and exists (select from public."Message_v2" as m where m.id = v_file.message_id)
        then
            perform private.fail('TK409', 'conflict:file', jsonb_build_object('file', v_id));
        end if;
        update public.files as f
        set chat_id = new."chatId",
            message_id = new.id
        where f.id = v_file.id;
    end loop;
    return null;
end
$$;
comment on function private.bind_files is
    'A message may say only files of its session''s owner that were checked, and that belong to no other message.';

create trigger trigger_message_binds_files
    after insert on public."Message_v2"
    for each row when (jsonb_path_exists(new.attachments, '$[*].file'))
    execute function private.bind_files();

create function private.drop_files_of_message() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from public.files as f
    where f.message_id = old.id
        and not exists (
            select from public."Message_v2" as m
            where m.id = old.id
                and m.attachments @> jsonb_build_array(jsonb_build_object('file', f.id))
        );
    return null;
end
$$;
comment on function private.drop_files_of_message is 'A message''s files go with it, unless its successor in the same transaction took them over.';

create constraint trigger trigger_message_files_dropped
    after delete on public."Message_v2"
    deferrable initially deferred
    for each row when (jsonb_path_exists(old.attachments, '$[*].file'))
    execute function private.drop_files_of_message();

create or replace function private.attachment_list(p_attachments jsonb) returns jsonb
-- Not in SQL: most messages have none, and to find that out must cost nothing.
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_attachments = '[]' then
        return p_attachments;
    end if;
    return (
        select jsonb_agg(
            jsonb_build_object(
                'filename', coalesce(to_jsonb(f.filename), a.value -> 'filename'),
                'mediaType', coalesce(to_jsonb(f.media_type), a.value -> 'mediaType'),
                'size', coalesce(to_jsonb(f.size_bytes), a.value -> 'size'),
                'url', '/api/files/' || f.id
            )
            order by a.place
        )
        from jsonb_array_elements(p_attachments) with ordinality as a (value, place)
        left join public.files as f on f.id = (a.value ->> 'file')::uuid
    );
end
$$;
comment on function private.attachment_list is
    'What a reader is told of attached files: everything but their data, and where a stored one is; no url, it is gone or inline.';
comment on column public."Message_v2".attachments is
    'Inline files with their data, kept out of parts and loaded only for the model; stored ones by their id.';

revoke all on function
    private.keep_file_deletion(),
    private.file_bytes_allowed(uuid),
    private.takes_file_kind(text),
    private.create_file(uuid, text, text, text, bigint, text, text),
    private.readable_file(uuid),
    private.delete_file(uuid),
    private.accept_file(uuid, text),
    private.bind_files(),
    private.drop_files_of_message()
from public, anon, authenticated, service_role;
grant execute on function
    private.keep_file_deletion(),
    private.file_bytes_allowed(uuid),
    private.takes_file_kind(text),
    private.create_file(uuid, text, text, text, bigint, text, text),
    private.readable_file(uuid),
    private.delete_file(uuid),
    private.accept_file(uuid, text),
    private.bind_files(),
    private.drop_files_of_message()
to service_role;
grant execute on function
    private.create_file(uuid, text, text, text, bigint, text, text),
    private.delete_file(uuid)
to authenticated;
grant execute on function private.readable_file(uuid) to anon, authenticated;
