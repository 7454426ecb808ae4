-- Documents: every change is a version, made under a lock on the document, so that a condition on its newest version
-- and the change itself are one step. They run as the caller: the policies decide as for any statement of his.

create function private.hold_document(p_id uuid, p_if_match uuid[]) returns table (
    version_id uuid,
    version_number integer,
    "createdAt" timestamptz,
    title text,
    kind text,
    chat_id uuid
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_chat uuid;
begin
    select d.chat_id into v_chat
    from public."Document" as d
    where d.id = p_id
        and d.user_id = auth.uid()
    order by d.version_number desc
    limit 1;
    if not found then
        perform private.fail('TK404', 'not_found:document');
    end if;
    -- Profile, then session, then the rest: whoever deletes one of them takes its documents in that order as well.
    perform from public.user_profiles as p where p.id = auth.uid() for key share;
    perform from public."Chat" as c where c.id = v_chat for key share;
    perform pg_advisory_xact_lock(hashtextextended(p_id::text, 7));
    -- A statement of its own: it sees what was saved while this one waited for the lock.
    select d.version_id, d.version_number, d."createdAt", d.title, d.kind, d.chat_id
    into version_id, version_number, "createdAt", title, kind, chat_id
    from public."Document" as d
    where d.id = p_id
        and d.user_id = auth.uid()
    order by d.version_number desc
    limit 1;
    if not found then
        perform private.fail('TK404', 'not_found:document');
    end if;
    if not version_id = any (p_if_match) then
        perform private.fail('TK412', 'precondition_failed:document');
    end if;
    return next;
end
$$;
comment on function private.hold_document is
    'The newest version of the caller''s document, which nobody changes until the transaction ends; TK404, TK412.';

create function private.create_document(
    p_id uuid, p_title text, p_kind text, p_content text, p_chat uuid, p_metadata jsonb, p_email text, p_name text
) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_first record;
begin
    perform private.ensure_profile(p_email, p_name);
    if p_chat is not null then
        perform from public."Chat" as c where c.id = p_chat and c.user_id = auth.uid() for key share;
        if not found then
            perform private.fail('TK404', 'not_found:session');
        end if;
    end if;
    perform pg_advisory_xact_lock(hashtextextended(p_id::text, 7));
    select d.title, d.kind, d.content, d.chat_id into v_first
    from public."Document" as d
    where d.id = p_id
        and d.user_id = auth.uid()
    order by d.version_number
    limit 1;
    if found then
        if (v_first.title, v_first.kind::text, v_first.content, v_first.chat_id)
            is distinct from (p_title, p_kind, p_content, p_chat)
        then
            perform private.fail('TK409', 'conflict:document');
        end if;
        return false;
    end if;
    insert into public."Document" (id, title, kind, content, user_id, chat_id, metadata)
    values (p_id, p_title, p_kind, p_content, auth.uid(), p_chat, p_metadata);
    return true;
end
$$;
comment on function private.create_document is
    'True if it was made, false if its first version is just this one; another one is TK409, somebody else''s TK404.';

create function private.save_document(
    p_id uuid, p_title text, p_content text, p_metadata jsonb, p_if_match uuid[]
) returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into public."Document" (id, title, kind, content, user_id, chat_id, metadata)
    select p_id, coalesce(p_title, h.title), h.kind, p_content, auth.uid(), h.chat_id, p_metadata
    from private.hold_document(p_id, p_if_match) as h
$$;

create function private.revert_document(p_id uuid, p_version integer, p_metadata jsonb, p_if_match uuid[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.hold_document(p_id, p_if_match);
    insert into public."Document" (id, title, kind, content, user_id, chat_id, metadata)
    select d.id, d.title, d.kind, d.content, d.user_id, d.chat_id, p_metadata
    from public."Document" as d
    where d.id = p_id
        and d.version_number = p_version;
    if not found then
        perform private.fail('TK404', 'not_found:version');
    end if;
end
$$;

create function private.delete_document_versions(p_id uuid, p_after integer, p_if_match uuid[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.hold_document(p_id, p_if_match);
    delete from public."Document" as d
    where d.id = p_id
        and d.user_id = auth.uid()
        and d.version_number > p_after;
end
$$;
comment on function private.delete_document_versions is 'Deletes all versions after this one; after 0 the document.';

create function private.only_place(p_content text, p_text text) returns integer
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- By position and not by replacement: in `aaa` the text `aa` has two places, though only one can be replaced.
    select case
        when f.first = 0 then 0
        when position(p_text in substr(p_content, f.first + 1)) > 0 then -1
        else f.first
    end
    from (select position(p_text in p_content) as first) as f
$$;
comment on function private.only_place is 'Where the text stands (1 is the beginning): 0 nowhere, -1 in several places.';

create function private.add_suggestion(
    p_id uuid,
    p_document uuid,
    p_version integer,
    p_original text,
    p_suggested text,
    p_description text,
    p_made_by text,
    p_maximum_open integer
) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_newest record;
    v_version record;
    v_place integer;
begin
    select h.version_number into v_newest from private.hold_document(p_document, null) as h;
    select d."createdAt", coalesce(d.content, '') as content into v_version
    from public."Document" as d
    where d.id = p_document
        and d.version_number = coalesce(p_version, v_newest.version_number);
    if not found then
        perform private.fail('TK404', 'not_found:version');
    end if;
    v_place := private.only_place(v_version.content, p_original);
    if v_place > 0 then
        if (
            select count(*)
            from public."Suggestion" as s
            where s."documentId" = p_document
                and not s."isResolved"
        ) >= p_maximum_open
        then
            perform private.fail('TK409', 'conflict:suggestions');
        end if;
        insert into public."Suggestion"
            (id, "documentId", "documentCreatedAt", "originalText", "suggestedText", description, made_by, user_id)
        values
            (p_id, p_document, v_version."createdAt", p_original, p_suggested, p_description, p_made_by, auth.uid());
    end if;
    return v_place;
end
$$;
comment on function private.add_suggestion is
    'The place of the original text in the version (newest if null); without one (see only_place) nothing is stored.';

create function private.accept_suggestions(p_document uuid, p_suggestion uuid, p_maximum_bytes integer)
returns table (id uuid, outcome text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_newest record;
    v_suggestion record;
    v_content text;
    v_place integer;
    v_accepted uuid[] := '{}';
begin
    select h.version_id, h.title, h.kind, h.chat_id into v_newest from private.hold_document(p_document, null) as h;
    select coalesce(d.content, '') into v_content
    from public."Document" as d
    where d.version_id = v_newest.version_id;
    for v_suggestion in
        select s.id, s."originalText" as original, s."suggestedText" as suggested
        from public."Suggestion" as s
        where s."documentId" = p_document
            and s.user_id = auth.uid()
            and not s."isResolved"
            and (p_suggestion is null or s.id = p_suggestion)
        order by s."createdAt", s.id
        for no key update
    loop
        v_place := private.only_place(v_content, v_suggestion.original);
        id := v_suggestion.id;
        outcome := case v_place when 0 then 'missing' when -1 then 'ambiguous' else 'accepted' end;
        if v_place > 0 then
            v_content := overlay(
                v_content placing v_suggestion.suggested from v_place for length(v_suggestion.original)
            );
            v_accepted := v_accepted || v_suggestion.id;
        end if;
        return next;
    end loop;
    if v_accepted = '{}' then
        return;
    end if;
    if octet_length(v_content) > p_maximum_bytes then
        perform private.fail('TK413', 'too_large:document');
    end if;
    insert into public."Document" (id, title, kind, content, user_id, chat_id, metadata)
    values (
        p_document, v_newest.title, v_newest.kind, v_content, auth.uid(), v_newest.chat_id,
        jsonb_build_object('origin', 'suggestion', 'suggestionIds', to_jsonb(v_accepted))
    );
    update public."Suggestion" as s
    set "isResolved" = true,
        resolution = 'accepted',
        resolved_at = now()
    where s.id = any (v_accepted);
end
$$;
comment on function private.accept_suggestions is
    'Applies one open suggestion, or all of them in their order, to the newest version; makes one version of it.';

create function private.reject_suggestion(p_document uuid, p_suggestion uuid) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.hold_document(p_document, null);
    update public."Suggestion" as s
    set "isResolved" = true,
        resolution = 'rejected',
        resolved_at = now()
    where s."documentId" = p_document
        and s.id = p_suggestion
        and s.user_id = auth.uid()
        and not s."isResolved";
end
$$;

create index idx_suggestion_order on public."Suggestion" ("documentId", "createdAt", id);

-- Which agent or person suggests is said by whoever writes it, as it is in a version's metadata.
grant insert (made_by) on public."Suggestion" to authenticated;

revoke all on function
    private.hold_document(uuid, uuid[]),
    private.create_document(uuid, text, text, text, uuid, jsonb, text, text),
    private.save_document(uuid, text, text, jsonb, uuid[]),
    private.revert_document(uuid, integer, jsonb, uuid[]),
    private.delete_document_versions(uuid, integer, uuid[]),
    private.only_place(text, text),
    private.add_suggestion(uuid, uuid, integer, text, text, text, text, integer),
    private.accept_suggestions(uuid, uuid, integer),
    private.reject_suggestion(uuid, uuid)
from public, anon, authenticated, service_role;
grant execute on function
    private.hold_document(uuid, uuid[]),
    private.create_document(uuid, text, text, text, uuid, jsonb, text, text),
    private.save_document(uuid, text, text, jsonb, uuid[]),
    private.revert_document(uuid, integer, jsonb, uuid[]),
    private.delete_document_versions(uuid, integer, uuid[]),
    private.only_place(text, text),
    private.add_suggestion(uuid, uuid, integer, text, text, text, text, integer),
    private.accept_suggestions(uuid, uuid, integer),
    private.reject_suggestion(uuid, uuid)
to authenticated, service_role;
