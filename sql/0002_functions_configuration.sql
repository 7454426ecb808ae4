-- What a row of admin_config and the metadata of a model may hold: the shapes of threadkeep/configuration.py, judged
-- here again because a row can be written without that code. A test holds the two together.

create function private.admin_config_shape(p_key text) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_agent constant text := substring(p_key from '^(.+)_(?:google|openai|anthropic)$');
    v_rate_limit constant jsonb := '{
        "perMinute": "integer 0 1000000",
        "perHour": "integer 0 1000000",
        "perDay": "integer 0 1000000"
    }';
    v_tool constant jsonb := '{"description": "text 4000", "enabled": "boolean"}';
    v_operation constant jsonb := v_tool || '{
        "systemPrompt??": "text 100000",
        "userPromptTemplate??": "template 100000"
    }';
    v_any_agent constant jsonb := jsonb_build_object('enabled', 'boolean', 'rateLimit', v_rate_limit);
    v_prompted_agent constant jsonb := v_any_agent || '{"systemPrompt": "text 100000"}';
begin
    return case
        when v_agent = 'chat_model_agent' then v_prompted_agent || jsonb_build_object(
            'capabilities', '{"fileInput?": "boolean"}'::jsonb,
            'fileInputTypes', '{
                "codeFiles?": "boolean",
                "textFiles?": "boolean",
                "pdf?": "boolean",
                "ppt?": "boolean",
                "excel?": "boolean",
                "images?": "boolean"
            }'::jsonb,
            'tools', jsonb_build_object(
                'providerToolsAgent?', v_tool,
                'documentAgent?', v_tool,
                'pythonAgent?', v_tool,
                'mermaidAgent?', v_tool,
                'gitMcpAgent?', v_tool
            )
        )
        when v_agent = 'provider_tools_agent' then v_prompted_agent || jsonb_build_object(
            'tools', jsonb_build_object('googleSearch?', v_tool, 'urlContext?', v_tool, 'codeExecution?', v_tool)
        )
        when v_agent = 'document_agent' then v_any_agent || jsonb_build_object(
            'tools', jsonb_build_object(
                'create?', v_operation,
                'update?', v_operation,
                'suggestion?', v_operation,
                'revert?', v_operation
            )
        )
        when v_agent = 'python_agent' then v_any_agent || jsonb_build_object(
            'tools', jsonb_build_object(
                'generate?', v_operation,
                'create?', v_operation,
                'update?', v_operation,
                'fix?', v_operation,
                'explain?', v_operation,
                'revert?', v_operation
            )
        )
        when v_agent = 'mermaid_agent' then v_any_agent || jsonb_build_object(
            'tools', jsonb_build_object(
                'generate?', v_operation,
                'create?', v_operation,
                'update?', v_operation,
                'fix?', v_operation,
                'revert?', v_operation
            )
        )
        when v_agent = 'git_mcp_agent' then v_prompted_agent || jsonb_build_object(
            'tools', jsonb_build_object(
                'repos?', v_tool,
                'issues?', v_tool,
                'pull_requests?', v_tool,
                'users?', v_tool,
                'code_search?', v_tool,
                'branches?', v_tool
            )
        )
        when p_key = 'app_settings' then '{
            "activeProvider": "one of google openai anthropic",
            "availableProviders": ["one of google openai anthropic"],
            "guests?": {
                "enabled?": "boolean",
                "perAddressPerHour?": "integer 0 1000000",
                "totalPerHour?": "integer 0 1000000"
            },
            "turn?": {
                "maxRequests?": "integer 1 100",
                "maxToolCalls?": "integer 0 200",
                "maxOutputTokens?": "integer 1 1000000",
                "maxSeconds?": "integer 1 840",
                "maxCostUsd?": "number 0 1000000"
            },
            "titles?": {"enabled?": "boolean"},
            "budgets?": {
                "perUserMonthlyUsd??": "number 0 1000000",
                "guestsMonthlyUsd??": "number 0 1000000"
            },
            "fallback?": {"enabled?": "boolean", "models?": ["text 100"]}
        }'::jsonb
        when p_key = 'logging_settings' then '{
            "error_logging_enabled": "boolean",
            "user_activity_logging_enabled": "boolean",
            "agent_activity_logging_enabled": "boolean",
            "log_retention_days": {
                "error_logs": "integer 1 3650",
                "user_activity_logs": "integer 1 3650",
                "agent_activity_logs": "integer 1 3650"
            },
            "category_toggles?": {
                "log_auth_events?": "boolean",
                "log_chat_events?": "boolean",
                "log_document_events?": "boolean",
                "log_admin_events?": "boolean",
                "log_vote_events?": "boolean",
                "log_file_events?": "boolean",
                "log_artifact_events?": "boolean",
                "log_ai_operations?": "boolean",
                "log_tool_invocations?": "boolean",
                "log_code_execution?": "boolean"
            },
            "performance_settings?": {
                "batch_writes?": "boolean",
                "batch_size?": "integer 1 10000",
                "batch_interval_ms?": "integer 0 3600000",
                "async_logging?": "boolean",
                "sampling_enabled?": "boolean",
                "sampling_rate?": "number 0 1"
            },
            "privacy_settings?": {
                "anonymize_ip?": "boolean",
                "hash_email?": "boolean",
                "log_user_agent?": "boolean",
                "exclude_sensitive_paths?": ["path 500"]
            }
        }'::jsonb
    end;
end
$$;
comment on function private.admin_config_shape is 'What config_data must look like under a key, for private.shape_problem; null for an unknown key.';

create function private.leaf_problem(p_leaf text, p_value jsonb) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_words constant text[] := string_to_array(p_leaf, ' ');
    v_type constant text := jsonb_typeof(p_value);
    v_text constant text := p_value #>> '{}';
    v_unknown text;
begin
    case v_words[1]
        when 'boolean' then
            return case when v_type <> 'boolean' then 'must be true or false' end;
        when 'integer', 'number' then
            -- 5.0 is no whole number here: its readers cast the text to an integer.
            if v_type <> 'number' or (v_words[1] = 'integer' and v_text !~ '^-?[0-9]+$') then
                return case v_words[1] when 'integer' then 'must be a whole number' else 'must be a number' end;
            end if;
            if not v_text::numeric between v_words[2]::numeric and v_words[3]::numeric then
                return format('must be from %s to %s', v_words[2], v_words[3]);
            end if;
        when 'one' then
            if v_type <> 'string' or not v_text = any (v_words[3:]) then
                return format('must be one of %s', array_to_string(v_words[3:], ', '));
            end if;
        when 'day' then
            return case when v_type <> 'string' or not private.is_day(v_text) then 'must be a day as YYYY-MM-DD' end;
        when 'text', 'template', 'path' then
            if v_type <> 'string' then
                return 'must be a text';
            elsif length(v_text) > v_words[2]::integer then
                return format('must have at most %s characters', v_words[2]);
            elsif v_text !~ '[^ \t\r\n\f\v]' then
                return 'must not be blank';
            elsif v_words[1] = 'path' and v_text not like '/%' then
                return 'must begin with /';
            elsif v_words[1] = 'template' then
                select found.placeholder[1]
                into v_unknown
                from regexp_matches(v_text, '\{([ \t]*[A-Za-z0-9_]+[ \t]*)\}', 'g') as found (placeholder)
                where found.placeholder[1] not in (
                    'title', 'instruction', 'currentContent', 'updateInstruction', 'errorInfo'
                )
                limit 1;
                return 'has an unknown placeholder: {' || v_unknown || '}';
            end if;
    end case;
    return null;
end
$$;
comment on function private.leaf_problem is 'Why a value is not what a leaf of a shape says, or null if it is.';

create function private.is_day(p_text text) returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_text !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' then
        return false;
    end if;
    perform make_date(substr(p_text, 1, 4)::integer, substr(p_text, 6, 2)::integer, substr(p_text, 9, 2)::integer);
    return true;
exception when datetime_field_overflow then
    return false;
end
$$;

create function private.shape_problem(p_shape jsonb, p_value jsonb, p_path text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_prefix constant text := case when p_path = '' then '' else p_path || '.' end;
    v_member text;
    v_name text;
    v_problem text;
begin
    if jsonb_typeof(p_shape) = 'string' then
        return p_path || ': ' || private.leaf_problem(p_shape #>> '{}', p_value);
    end if;

    if jsonb_typeof(p_shape) = 'array' then
        if jsonb_typeof(p_value) <> 'array' then
            return p_path || ': must be a list';
        elsif jsonb_array_length(p_value) > 100 then
            return p_path || ': must have at most 100 entries';
        end if;
        for v_position in 0 .. jsonb_array_length(p_value) - 1 loop
            v_problem := private.shape_problem(
                p_shape -> 0, p_value -> v_position, format('%s[%s]', p_path, v_position)
            );
            if v_problem is not null then
                return v_problem;
            end if;
        end loop;
        if (select count(distinct entry) < count(*) from jsonb_array_elements(p_value) as entry) then
            return p_path || ': must not name anything twice';
        end if;
        return null;
    end if;

    if jsonb_typeof(p_value) is distinct from 'object' then
        return coalesce(nullif(p_path, ''), 'configData') || ': must be an object';
    end if;
    for v_member in select jsonb_object_keys(p_shape) loop
        v_name := rtrim(v_member, '?');
        if p_value -> v_name = 'null' and v_member like '%??' then
            continue;
        elsif p_value ? v_name then
            v_problem := private.shape_problem(p_shape -> v_member, p_value -> v_name, v_prefix || v_name);
        elsif v_member = v_name then
            v_problem := v_prefix || v_name || ': is missing';
        end if;
        if v_problem is not null then
            return v_problem;
        end if;
    end loop;
    select name
    into v_name
    from jsonb_object_keys(p_value) as name
    where not p_shape ?| array[name, name || '?', name || '??']
    limit 1;
    return case when found then v_prefix || v_name || ': is not a known field' end;
end
$$;
comment on function private.shape_problem is 'The first problem of a value, as `path: reason`, or null. A shape is an object of members (`?`: may be left out; `??`: may be null too), a list with the shape of its entries, or a leaf.';

create function private.admin_config_problem(p_key text, p_data jsonb) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_shape constant jsonb := private.admin_config_shape(p_key);
    v_problem text;
begin
    if v_shape is null then
        return 'configKey: is not the key of a configuration';
    end if;
    v_problem := private.shape_problem(v_shape, p_data, '');
    if v_problem is null
        and p_key = 'app_settings'
        and not p_data -> 'availableProviders' ? (p_data ->> 'activeProvider')
    then
        return 'availableProviders: must name the active provider';
    end if;
    return v_problem;
end
$$;
comment on function private.admin_config_problem is 'The first problem of a configuration, as `field: reason`; null if it is valid.';

create function public.validate_admin_config_data() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_problem constant text := private.admin_config_problem(new.config_key, new.config_data);
    v_field constant text := split_part(v_problem, ': ', 1);
begin
    -- A definer, so that an administrator needs no right on the functions in private.
    if v_problem is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s: %s', new.config_key, v_problem),
            detail = jsonb_build_object(
                'code', 'invalid:api',
                'fields', jsonb_build_array(
                    jsonb_build_object('field', v_field, 'message', substr(v_problem, length(v_field) + 3))
                )
            );
    end if;
    return new;
end
$$;

create function private.model_metadata_problem(p_metadata jsonb) returns text
language plpgsql immutable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_price constant text := 'number 0 10000';
    v_finer constant jsonb := jsonb_build_object(
        'cachedInputPrice??', v_price,
        'cacheWritePrice??', v_price
    );
    v_full constant jsonb := v_finer || jsonb_build_object('inputPrice', v_price, 'outputPrice', v_price);
    v_long_context constant jsonb := jsonb_build_object(
        'longContext??', v_full || '{"aboveInputTokens": "integer 1 100000000"}'
    );
    v_shape constant jsonb := v_finer || v_long_context || jsonb_build_object(
        'contextWindow??', 'integer 1 100000000',
        'maxOutputTokens??', 'integer 1 100000000',
        'capabilities?', '["one of images pdf tools"]'::jsonb,
        'priceChanges?', jsonb_build_array(v_full || v_long_context || '{"from": "day"}')
    );
    v_problem constant text := private.shape_problem(v_shape, p_metadata, 'metadata');
    v_days text[];
begin
    if v_problem is not null then
        return v_problem;
    end if;
    select array_agg(change.value ->> 'from' order by change.place)
    into v_days
    from jsonb_array_elements(coalesce(p_metadata -> 'priceChanges', '[]')) with ordinality as change (value, place);
    if v_days is distinct from (select array_agg(distinct day collate "C") from unnest(v_days) as day) then
        return 'metadata.priceChanges: must be in the order of their days, each day once';
    end if;
    return null;
end
$$;
comment on function private.model_metadata_problem is 'The first problem of a model''s metadata, as `field: reason`; null if it is valid.';
