-- A turn says of each of its requests, as it goes on, what that has used by now. What a dead turn used is what it said
-- last: its texts tell neither which request wrote them nor what its sub-agents wrote.
create or replace function private.recover_stream(p_stream uuid, p_reason text) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_stream public."Stream";
    v_user uuid;
begin
    -- An account that claims the session's guest holds his profile; afterwards the session has another owner.
    loop
        select c.user_id into v_user
        from public."Stream" as s
        join public."Chat" as c on c.id = s."chatId"
        where s.id = p_stream;
        if not found then
            return false;
        end if;
        perform from public.user_profiles as p where p.id = v_user for key share;
        exit when found;
    end loop;
    perform from public."Chat" as c
    where c.id = (select s."chatId" from public."Stream" as s where s.id = p_stream)
    for no key update;
    select s.* into v_stream
    from public."Stream" as s
    where s.id = p_stream
        and s.status = 'running'
    for update;
    if not found or (p_reason = 'lease' and v_stream.lease_until > clock_timestamp()) then
        return false;
    end if;

    update public."Message_v2" as m
    set status = 'interrupted',
        parts = private.partial_parts(p_stream),
        metadata = m.metadata || jsonb_build_object('finishReason', p_reason, 'recoveredStream', p_stream)
    where m.id = v_stream.message_id
        and m.status = 'streaming';
    update public."Stream" as s
    set status = 'closed',
        closed_at = clock_timestamp()
    where s.id = p_stream;

    perform private.settle_usage(v_user, v_stream."chatId", v_stream.message_id, v_stream.usage);
    delete from public.budget_reservations as b where b.stream_id = p_stream;
    return true;
end
$$;
