-- A removal that finds nothing deletes nothing: the trigger of the statement alone would have every process read its
-- configuration again.
create or replace function private.remove_configuration(
    p_key text, p_if_match text[], p_email text, p_name text
) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_held constant public.admin_config := private.hold_configuration(p_key, p_if_match, p_email, p_name);
begin
    if v_held.id is null then
        return false;
    end if;
    delete from public.admin_config as a where a.config_key = p_key;
    return found;
end
$$;
