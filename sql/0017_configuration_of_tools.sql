-- A team's own tools are configured like the agents: a row `tool_<name>` has its limit, whether it is on, and for a
-- tool server where it is. The rest of the shapes is as in 0002_functions_configuration.sql.

alter function private.admin_config_shape(text) rename to admin_config_shape_of_agents;

create function private.admin_config_shape(p_key text) returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when p_key ~ '^tool_[a-z][a-z0-9_]{0,39}$' then '{
            "enabled": "boolean",
            "rateLimit": {
                "perMinute": "integer 0 1000000",
                "perHour": "integer 0 1000000",
                "perDay": "integer 0 1000000"
            },
            "server??": {
                "url": "address 2000",
                "secret??": "text 100",
                "allowedTools": ["text 100"]
            }
        }'::jsonb
        else private.admin_config_shape_of_agents(p_key)
    end
$$;
comment on function private.admin_config_shape is 'What config_data must look like under a key, for private.shape_problem; null for an unknown key.';

alter function private.leaf_problem(text, jsonb) rename to leaf_problem_of_agents;

create function private.leaf_problem(p_leaf text, p_value jsonb) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_text constant text := p_value #>> '{}';
begin
    if p_leaf not like 'address %' then
        return private.leaf_problem_of_agents(p_leaf, p_value);
    end if;
    return coalesce(
        private.leaf_problem_of_agents('text ' || split_part(p_leaf, ' ', 2), p_value),
        case when v_text !~ '^https?://[^\s/?#@]+([/?][^\s#]*)?$' then 'must be an address such as https://tools.example.com/mcp' end
    );
end
$$;
comment on function private.leaf_problem is 'Why a value is not what a leaf of a shape says, or null if it is.';

create or replace function private.agent_configuration(p_agent text, p_provider text) returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- A team's own tool has one row, whatever the provider.
    v_key constant text := case when p_agent like 'tool\_%' then p_agent else p_agent || '_' || p_provider end;
    v_data jsonb;
begin
    select a.config_data into v_data from public.admin_config as a where a.config_key = v_key;
    if jsonb_typeof(v_data -> 'rateLimit' -> 'perMinute') = 'number'
        and jsonb_typeof(v_data -> 'rateLimit' -> 'perHour') = 'number'
        and jsonb_typeof(v_data -> 'rateLimit' -> 'perDay') = 'number'
    then
        return v_data;
    end if;
    -- A row that was broken by hand leaves the last good one in force.
    select h.config_data into v_data
    from public.admin_config_history as h
    where h.config_key = v_key
        and h.config_data is not null
        and private.admin_config_problem(h.config_key, h.config_data) is null
    order by h.id desc
    limit 1;
    return v_data;
end
$$;

revoke all on function
    private.admin_config_shape(text), private.admin_config_shape_of_agents(text),
    private.leaf_problem(text, jsonb), private.leaf_problem_of_agents(text, jsonb)
from public, anon, authenticated, service_role;
grant execute on function
    private.admin_config_shape(text), private.admin_config_shape_of_agents(text),
    private.leaf_problem(text, jsonb), private.leaf_problem_of_agents(text, jsonb)
to service_role;
