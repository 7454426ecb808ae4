-- How many documents a person may have, and a document versions. Both are checked where every insert passes, under the
-- locks that also number the versions, so that no calls at once get past them.

-- One entry a document: the newest version of one changes too often, the first one never.
create index idx_document_first on public."Document" (user_id) where version_number = 1;

create or replace function private.next_document_version() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_last record;
begin
    -- A lock on the newest row would let two writers read the same newest version; this one is on the id.
    perform pg_advisory_xact_lock(hashtextextended(new.id::text, 7));
    select d.user_id, d.version_id, d.version_number, d."createdAt"
    into v_last
    from public."Document" as d
    where d.id = new.id
    order by d.version_number desc
    limit 1;
    if not found then
        -- After the document's lock, always: nobody waits for a document's while holding a person's.
        perform pg_advisory_xact_lock(hashtextextended(new.user_id::text, 18));
        if (
            select count(*)
            from public."Document" as d
            where d.user_id = new.user_id
                and d.version_number = 1
        ) >= 10000
        then
            perform private.fail('TK409', 'conflict:documents');
        end if;
        new.version_number := 1;
        new.parent_version_id := null;
        new."createdAt" := clock_timestamp();
        return new;
    end if;
    if v_last.user_id <> new.user_id then
        perform private.fail('TK404', 'not_found:document');
    end if;
    -- Versions go from the newest on only, so the last number is how many there are.
    if v_last.version_number >= 10000 then
        perform private.fail('TK409', 'conflict:versions');
    end if;
    new.version_number := v_last.version_number + 1;
    new.parent_version_id := v_last.version_id;
    new."createdAt" := greatest(clock_timestamp(), v_last."createdAt" + interval '1 microsecond');
    return new;
end
$$;
comment on function private.next_document_version is
    'Numbers a version and names its parent; TK409 for the 10,001st document of a person or version of a document.';
