-- What administrators change: rows of admin_config and models. Every change is made under one lock, so that a
-- condition on what is there, the judgement whether the new can work, and the change itself are one step. They run as
-- the caller: the policies decide as for any statement of his.

alter table public.admin_config_history add column is_seed boolean not null default false;
comment on column public.admin_config_history.is_seed is
    'Whether a migration wrote it, over nothing or over what one had written. The newest of a key is what a reset goes back to.';

-- What stood there before anybody changed it.
update public.admin_config_history as h
set is_seed = true
where h.id in (
    select max(s.id)
    from public.admin_config_history as s
    where s.config_data is not null
        and not exists (
            select from public.admin_config_history as e
            where e.config_key = s.config_key
                and e.id <= s.id
                and (e.changed_by is not null or e.operation = 'delete')
        )
    group by s.config_key
);

create or replace function private.keep_admin_config_history() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_changed_by uuid := (select p.id from public.user_profiles as p where p.id = auth.uid());
begin
    if tg_op = 'DELETE' then
        insert into public.admin_config_history (config_key, config_data, version, operation, changed_by)
        values (old.config_key, null, old.version, 'delete', v_changed_by);
        return null;
    end if;
    insert into public.admin_config_history (config_key, config_data, version, operation, changed_by, is_seed)
    values (
        new.config_key, new.config_data, new.version, lower(tg_op), coalesce(v_changed_by, new.updated_by),
        -- Said by the runner of sql/. What it adds to a row that somebody has changed is no seed of it.
        coalesce(current_setting('threadkeep.migration', true), '') <> ''
        and (
            tg_op = 'INSERT'
            or coalesce((
                select h.is_seed
                from public.admin_config_history as h
                where h.config_key = new.config_key
                order by h.id desc
                limit 1
            ), false)
        )
    );
    return null;
end
$$;

-- A process that never saw the last good state of a row runs on the same one as those that did.
create or replace function private.configuration_if_newer(p_version bigint) returns json
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select case when v.version is distinct from p_version then json_build_object(
        'version', v.version,
        'rows', (select json_object_agg(a.config_key, a.config_data) from public.admin_config as a),
        'lastGood', (
            select json_object_agg(broken.config_key, good.config_data)
            from (
                select k.config_key
                from (select distinct h.config_key from public.admin_config_history as h) as k
                left join public.admin_config as a on a.config_key = k.config_key
                where private.admin_config_problem(k.config_key, a.config_data) is not null
            ) as broken
            cross join lateral (
                select h.config_data
                from public.admin_config_history as h
                where h.config_key = broken.config_key
                    and h.config_data is not null
                    and private.admin_config_problem(h.config_key, h.config_data) is null
                order by h.id desc
                limit 1
            ) as good
        )
    ) end
    from private.configuration_version as v
$$;
comment on function private.configuration_if_newer is
    'All rows by their keys, and for those that are missing, or got in by hand and are broken, the last good ones.';

create function private.entity_tag(p_row jsonb) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    -- Who changed it goes when his account is deleted, and the text of a time depends on who reads it.
    select left(
        encode(sha256(convert_to((p_row - array['updated_by', 'updated_at', 'created_at'])::text, 'UTF8')), 'hex'), 32
    )
$$;
comment on function private.entity_tag is 'Says which state of a row a caller has seen.';

create function private.hold_administration(p_email text, p_name text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.ensure_profile(p_email, p_name);
    if not public.is_current_user_admin() then
        perform private.fail('TK403', 'forbidden:auth');
    end if;
    -- The same one that every change of a model takes: a setting may name a model, and the model must still be there.
    perform pg_advisory_xact_lock(hashtext('threadkeep.model_config'));
end
$$;
comment on function private.hold_administration is
    'The caller is an administrator with a profile, and until the transaction ends the only one who changes anything.';

create function private.configuration_obstacles(p_key text, p_data jsonb, p_before jsonb) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        jsonb_agg(jsonb_build_object('field', o.field, 'message', o.message) order by o.field),
        '[]'
    )
    from (
        select 'activeProvider' as field, 'has no active default model' as message
        where not exists (
            select from public.model_config as m
            where m.provider = p_data ->> 'activeProvider'
                and m.is_default
                and m.is_active
        )
        union all
        select
            format('fallback.models[%s]', f.place - 1),
            case when m.id is null then 'is not a model here' else 'is not an active model' end
        from jsonb_array_elements_text(
            case jsonb_typeof(p_data #> '{fallback,models}')
                when 'array' then p_data #> '{fallback,models}'
                else '[]'
            end
        ) with ordinality as f (model_id, place)
        left join public.model_config as m on m.model_id = f.model_id
        -- A model may be switched off while it is named; that must not stand in the way of another change.
        where m.id is null
            or not m.is_active and not coalesce(p_before #> '{fallback,models}' ? f.model_id, false)
    ) as o
    where p_key = 'app_settings'
$$;
comment on function private.configuration_obstacles is
    'Why a configuration of the right shape cannot work with the models there are, as [{field, message}]; p_before is what it replaces.';

create function private.hold_configuration(
    p_key text, p_if_match text[], p_email text, p_name text
) returns public.admin_config
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_row public.admin_config;
begin
    perform private.hold_administration(p_email, p_name);
    -- A statement of its own: it sees what was changed while this one waited for the lock.
    select a.* into v_row from public.admin_config as a where a.config_key = p_key for update;
    if not (
        p_if_match is null
        or v_row.id is not null and p_if_match && array['*', private.entity_tag(to_jsonb(v_row))]
    ) then
        perform private.fail('TK412', 'precondition_failed:configuration');
    end if;
    return v_row;
end
$$;
comment on function private.hold_configuration is
    'The row of a key, which nobody changes until the transaction ends, or null if there is none; TK412 if it is not as p_if_match says.';

create function private.set_configuration(
    p_key text, p_data jsonb, p_if_match text[], p_email text, p_name text
) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_before constant public.admin_config := private.hold_configuration(p_key, p_if_match, p_email, p_name);
    v_fields constant jsonb := private.configuration_obstacles(p_key, p_data, v_before.config_data);
begin
    if v_fields <> '[]' then
        perform private.fail('TK422', 'invalid:api', jsonb_build_object('fields', v_fields));
    end if;
    if v_before.id is null then
        insert into public.admin_config (config_key, config_data, updated_by) values (p_key, p_data, auth.uid());
        return true;
    end if;
    -- As text: 5.0 and 5 are equal, but only one of them is a whole number to a reader.
    if v_before.config_data::text <> p_data::text then
        update public.admin_config as a
        set config_data = p_data,
            updated_by = auth.uid()
        where a.config_key = p_key;
    end if;
    return false;
end
$$;
comment on function private.set_configuration is
    'Puts a configuration under its key; true if there was none. The same again changes nothing.';

create function private.remove_configuration(p_key text, p_if_match text[], p_email text, p_name text) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform private.hold_configuration(p_key, p_if_match, p_email, p_name);
    delete from public.admin_config as a where a.config_key = p_key;
    return found;
end
$$;

create function private.hold_model(
    p_model text, p_if_match text[], p_email text, p_name text
) returns public.model_config
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_row public.model_config;
begin
    perform private.hold_administration(p_email, p_name);
    select m.* into v_row from public.model_config as m where m.model_id = p_model for update;
    if not found then
        perform private.fail('TK404', 'not_found:model', '{"detail": "There is no such model."}');
    end if;
    if not p_if_match && array['*', private.entity_tag(to_jsonb(v_row))] then
        perform private.fail('TK412', 'precondition_failed:model');
    end if;
    return v_row;
end
$$;
comment on function private.hold_model is
    'A model, which nobody changes until the transaction ends; TK404, and TK412 if it is not as p_if_match says.';

create function private.make_model_default(p_model text, p_if_match text[], p_email text, p_name text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_model constant public.model_config := private.hold_model(p_model, p_if_match, p_email, p_name);
begin
    if not v_model.is_active then
        perform private.fail(
            'TK409', 'conflict:model', '{"detail": "This model is not active. Activate it first."}'
        );
    end if;
    if not v_model.is_default then
        update public.model_config as m set is_default = true where m.id = v_model.id;
    end if;
end
$$;

create function private.delete_model(p_model text, p_if_match text[], p_email text, p_name text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_model constant public.model_config := private.hold_model(p_model, p_if_match, p_email, p_name);
    v_settings constant jsonb := (
        select a.config_data from public.admin_config as a where a.config_key = 'app_settings'
    );
begin
    if v_settings #> '{fallback,models}' ? p_model then
        perform private.fail(
            'TK409', 'conflict:model',
            '{"detail": "app_settings names this model as a fallback. Take it out there first."}'
        );
    end if;
    delete from public.model_config as m where m.id = v_model.id;
    if v_settings ->> 'activeProvider' = v_model.provider
        and not exists (select from public.model_config as m where m.provider = v_model.provider)
    then
        perform private.fail(
            'TK409', 'conflict:model',
            '{"detail": "This is the last model of the active provider. Make another provider the active one first."}'
        );
    end if;
end
$$;

revoke all on function
    private.entity_tag(jsonb),
    private.hold_administration(text, text),
    private.configuration_obstacles(text, jsonb, jsonb),
    private.hold_configuration(text, text[], text, text),
    private.set_configuration(text, jsonb, text[], text, text),
    private.remove_configuration(text, text[], text, text),
    private.hold_model(text, text[], text, text),
    private.make_model_default(text, text[], text, text),
    private.delete_model(text, text[], text, text)
from public, anon, authenticated, service_role;
grant execute on function
    private.entity_tag(jsonb)
to anon, authenticated, service_role;
grant execute on function
    private.hold_administration(text, text),
    private.configuration_obstacles(text, jsonb, jsonb),
    private.hold_configuration(text, text[], text, text),
    private.set_configuration(text, jsonb, text[], text, text),
    private.remove_configuration(text, text[], text, text),
    private.hold_model(text, text[], text, text),
    private.make_model_default(text, text[], text, text),
    private.delete_model(text, text[], text, text)
to authenticated, service_role;
