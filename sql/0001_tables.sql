-- Every table. Names of the source design stay as written, so that its databases can move over.

create table public.user_profiles (
    id uuid primary key,
    auth_user_id uuid unique references auth.users (id) on delete cascade,
    email varchar(320),
    full_name varchar(200),
    preferences jsonb not null default '{}' check (jsonb_typeof(preferences) = 'object'),
    is_guest boolean not null default false,
    disabled_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint user_profiles_auth_user_is_self check (auth_user_id = id)
);
comment on table public.user_profiles is 'The root of everything a user has; auth_user_id is null for guests and users of other issuers.';

create table public."Chat" (
    id uuid primary key default gen_random_uuid(),
    "createdAt" timestamptz not null default now(),
    title text not null,
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    visibility varchar(10) not null default 'private' check (visibility in ('public', 'private')),
    status varchar(10) not null default 'active' check (status in ('active', 'archived')),
    "lastContext" jsonb,
    total_input_tokens bigint not null default 0,
    total_output_tokens bigint not null default 0,
    total_cost numeric(20, 12) not null default 0,
    message_count integer not null default 0,
    last_seq bigint not null default 0,
    last_active timestamptz not null default now(),
    updated_at timestamptz not null default now()
) with (fillfactor = 85);
comment on column public."Chat".last_seq is 'The seq given to the newest message, moved under this row''s lock.';

create function private.message_text(p_parts jsonb) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- Bounded, because a tsvector holds at most 1 MB.
    select left(string_agg(p.value ->> 'text', ' ' order by p.place), 100000)
    from jsonb_array_elements(p_parts) with ordinality as p (value, place)
    where p.value ->> 'type' = 'text'
$$;

create table public."Message_v2" (
    id uuid primary key default gen_random_uuid(),
    "chatId" uuid not null references public."Chat" (id) on delete cascade,
    seq bigint not null,
    role varchar(20) not null check (role in ('user', 'assistant', 'system')),
    status varchar(12) not null default 'complete'
        check (status in ('streaming', 'complete', 'interrupted', 'failed')),
    parts jsonb not null check (jsonb_typeof(parts) = 'array'),
    attachments jsonb not null default '[]' check (jsonb_typeof(attachments) = 'array'),
    model_messages jsonb,
    metadata jsonb not null default '{}',
    "createdAt" timestamptz not null default clock_timestamp(),
    model_used varchar(100),
    input_tokens bigint,
    output_tokens bigint,
    cost numeric(20, 12),
    search tsvector generated always as (to_tsvector('simple', coalesce(private.message_text(parts), ''))) stored,
    constraint message_v2_chat_message unique ("chatId", id)
);
comment on column public."Message_v2".model_messages is 'What the model needs back verbatim: the agent library''s lossless form.';
comment on column public."Message_v2".attachments is 'Inline files with their data, kept out of parts and loaded only for the model.';

create table public."Vote_v2" (
    "chatId" uuid not null,
    "messageId" uuid not null,
    "isUpvoted" boolean not null,
    primary key ("chatId", "messageId"),
    constraint vote_v2_message foreign key ("chatId", "messageId")
        references public."Message_v2" ("chatId", id) on delete cascade
);

create table public."Document" (
    id uuid not null default gen_random_uuid(),
    "createdAt" timestamptz not null default clock_timestamp(),
    version_id uuid not null default gen_random_uuid(),
    title text not null,
    content text,
    kind varchar(20) not null default 'text' check (kind in ('text', 'python code', 'mermaid code', 'sheet')),
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    chat_id uuid references public."Chat" (id) on delete cascade,
    parent_version_id uuid,
    version_number integer not null default 1 check (version_number >= 1),
    metadata jsonb not null default '{}',
    primary key (id, "createdAt"),
    constraint document_version_id unique (version_id),
    constraint document_id_version unique (id, version_id),
    constraint document_version_number unique (id, version_number),
    constraint document_parent foreign key (id, parent_version_id)
        references public."Document" (id, version_id) on delete set null (parent_version_id)
);
comment on column public."Document".version_id is 'One version''s own id; it is the ETag. All versions of a document share id.';

create table public."Suggestion" (
    id uuid primary key default gen_random_uuid(),
    "documentId" uuid not null,
    "documentCreatedAt" timestamptz not null,
    "originalText" text not null,
    "suggestedText" text not null,
    description text,
    "isResolved" boolean not null default false,
    resolution varchar(10) check (resolution in ('accepted', 'rejected')),
    resolved_at timestamptz,
    made_by varchar(50) not null default 'user',
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    "createdAt" timestamptz not null default now(),
    constraint suggestion_document foreign key ("documentId", "documentCreatedAt")
        references public."Document" (id, "createdAt") on delete cascade,
    constraint suggestion_resolved check ("isResolved" = (resolution is not null))
);

create table public."Stream" (
    id uuid primary key default gen_random_uuid(),
    "chatId" uuid not null references public."Chat" (id) on delete cascade,
    "createdAt" timestamptz not null default now(),
    message_id uuid not null,
    status varchar(10) not null default 'running' check (status in ('running', 'closed')),
    stop_requested boolean not null default false,
    lease_until timestamptz not null,
    usage jsonb not null default '[]',
    correlation_id uuid not null,
    closed_at timestamptz,
    constraint stream_message foreign key ("chatId", message_id)
        references public."Message_v2" ("chatId", id) on delete cascade
) with (fillfactor = 70);
comment on column public."Stream".lease_until is 'Renewed by every chunk write; a running stream past it is dead and is recovered.';
comment on column public."Stream".usage is 'The model requests so far in the form of private.settle_usage, for the recovery of a dead turn.';

create table public.stream_chunks (
    stream_id uuid not null references public."Stream" (id) on delete cascade,
    seq integer not null,
    payload text not null,
    created_at timestamptz not null default now(),
    primary key (stream_id, seq)
);
comment on column public.stream_chunks.payload is 'Events of the UI message stream, one JSON object a line.';

create table public.files (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    chat_id uuid references public."Chat" (id) on delete set null,
    storage_key varchar(500) not null unique,
    filename varchar(255) not null,
    kind varchar(20) not null,
    media_type varchar(120) not null,
    size_bytes bigint not null check (size_bytes between 0 and 1073741824),
    state varchar(10) not null default 'pending' check (state in ('pending', 'ready', 'refused', 'deleted')),
    created_at timestamptz not null default now(),
    checked_at timestamptz
);

create table public.admin_config (
    id uuid primary key default gen_random_uuid(),
    config_key varchar(100) not null,
    config_data jsonb not null,
    version integer not null default 1,
    updated_by uuid references public.user_profiles (id) on delete set null,
    updated_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    constraint idx_admin_config_key unique (config_key)
);

create table public.admin_config_history (
    id bigint generated always as identity primary key,
    config_key varchar(100) not null,
    config_data jsonb,
    version integer not null,
    operation varchar(10) not null check (operation in ('insert', 'update', 'delete')),
    changed_by uuid references public.user_profiles (id) on delete set null,
    changed_at timestamptz not null default clock_timestamp()
);
comment on table public.admin_config_history is 'What each change wrote; a delete has no config_data.';

create table public.model_config (
    id uuid primary key default gen_random_uuid(),
    model_id varchar(100) not null,
    name varchar(200) not null,
    description text,
    provider varchar(50) not null check (provider in ('google', 'openai', 'anthropic')),
    is_active boolean not null default true,
    is_default boolean not null default false,
    thinking_enabled boolean not null default true,
    input_pricing_per_million_tokens numeric(14, 8) not null
        check (input_pricing_per_million_tokens between 0 and 10000),
    output_pricing_per_million_tokens numeric(14, 8) not null
        check (output_pricing_per_million_tokens between 0 and 10000),
    metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint idx_model_config_model_id unique (model_id),
    -- Deferred, so that one statement may move the default from one model to another.
    constraint idx_model_config_provider_default exclude using btree (provider with =)
        where (is_default) deferrable initially deferred
);

create table public.usage_logs (
    id uuid primary key default gen_random_uuid(),
    request_id uuid not null unique,
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    chat_id uuid references public."Chat" (id) on delete set null,
    message_id uuid references public."Message_v2" (id) on delete set null,
    agent_type varchar(50) not null,
    model_used varchar(100),
    provider varchar(50),
    input_tokens bigint,
    output_tokens bigint,
    cached_input_tokens bigint,
    cache_write_tokens bigint,
    reasoning_tokens bigint,
    total_tokens bigint,
    input_cost numeric(20, 12),
    output_cost numeric(20, 12),
    total_cost numeric(20, 12),
    source varchar(10) not null default 'provider' check (source in ('provider', 'estimated')),
    is_priced boolean not null default true,
    request_timestamp timestamptz not null default now(),
    response_timestamp timestamptz,
    duration_ms integer,
    metadata jsonb
);
comment on column public.usage_logs.request_id is 'Derived from the assistant message and the request''s place in the turn, before it is sent.';
comment on column public.usage_logs.input_tokens is 'All input, cached or not; cached_input_tokens and cache_write_tokens are parts of it.';

create table public.usage_daily (
    day date not null,
    agent_type varchar(50) not null,
    provider varchar(50) not null,
    model_used varchar(100) not null,
    user_kind varchar(10) not null check (user_kind in ('guest', 'account')),
    shard smallint not null,
    requests bigint not null default 0,
    input_tokens bigint not null default 0,
    output_tokens bigint not null default 0,
    cached_input_tokens bigint not null default 0,
    cache_write_tokens bigint not null default 0,
    reasoning_tokens bigint not null default 0,
    total_cost numeric(20, 12) not null default 0,
    primary key (day, agent_type, provider, model_used, user_kind, shard)
) with (fillfactor = 70);
comment on column public.usage_daily.shard is 'Spreads one day''s row over 16, so that turns do not queue for its lock; readers sum over it.';

create table public.budget_reservations (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    scope varchar(10) not null check (scope in ('user', 'guests')),
    month date not null,
    amount numeric(20, 12) not null check (amount >= 0),
    stream_id uuid not null,
    lease_until timestamptz not null,
    created_at timestamptz not null default now()
);

create table public.rate_limit_tracking (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    agent_type varchar(50) not null,
    period_start timestamptz not null,
    period_end timestamptz not null,
    request_count integer not null default 0,
    limit_type varchar(20) not null check (limit_type in ('minutely', 'hourly', 'daily')),
    limit_value integer not null,
    created_at timestamptz not null default now(),
    constraint idx_rate_limit_user_agent_period unique (user_id, agent_type, limit_type, period_start)
) with (fillfactor = 70);

create table public.github_repositories (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    repo_owner varchar(100) not null,
    repo_name varchar(100) not null,
    repo_url text,
    default_branch varchar(100) not null default 'main',
    is_active boolean not null default true,
    last_accessed timestamptz,
    created_at timestamptz not null default now(),
    constraint github_repositories_once unique (user_id, repo_owner, repo_name)
);

create table public.error_logs (
    id uuid primary key default gen_random_uuid(),
    user_id uuid references public.user_profiles (id) on delete set null,
    correlation_id uuid,
    error_type varchar(50) not null
        check (error_type in ('auth', 'api', 'admin', 'app', 'user', 'permission', 'system')),
    error_category varchar(100) not null,
    error_message text not null,
    error_details jsonb,
    request_path varchar(500),
    request_method varchar(10),
    user_agent text,
    ip_address varchar(45),
    session_id varchar(100),
    severity varchar(20) not null default 'error' check (severity in ('info', 'warning', 'error', 'critical')),
    resolved boolean not null default false,
    resolved_by uuid references public.user_profiles (id) on delete set null,
    resolved_at timestamptz,
    resolution_notes text,
    created_at timestamptz not null default now()
);

create table public.user_activity_logs (
    id uuid not null default gen_random_uuid(),
    user_id uuid not null references public.user_profiles (id) on delete cascade,
    correlation_id uuid not null,
    activity_type varchar(50) not null,
    activity_category varchar(50) not null,
    activity_metadata jsonb not null default '{}',
    resource_id uuid,
    resource_type varchar(50),
    ip_address varchar(45),
    user_agent text,
    request_path varchar(500),
    request_method varchar(10),
    session_id varchar(100),
    success boolean not null default true,
    error_message text,
    created_at timestamptz not null default now(),
    primary key (id, created_at)
) partition by range (created_at);

create table public.agent_activity_logs (
    id uuid not null default gen_random_uuid(),
    user_id uuid references public.user_profiles (id) on delete cascade,
    correlation_id uuid not null,
    agent_type varchar(50) not null,
    operation_type varchar(50) not null,
    operation_category varchar(50) not null,
    operation_metadata jsonb not null default '{}',
    resource_id uuid,
    resource_type varchar(50),
    duration_ms integer,
    start_time timestamptz,
    end_time timestamptz,
    model_id varchar(100),
    provider varchar(50),
    thinking_mode boolean not null default false,
    input_tokens bigint,
    output_tokens bigint,
    reasoning_tokens bigint,
    total_tokens bigint,
    input_cost numeric(20, 12),
    output_cost numeric(20, 12),
    total_cost numeric(20, 12),
    success boolean not null default true,
    error_type varchar(100),
    error_message text,
    retry_count integer not null default 0,
    created_at timestamptz not null default now(),
    primary key (id, created_at)
) partition by range (created_at);

-- An insert never fails for want of a partition: what no month takes lands here until the purge has made the month.
create table private.user_activity_logs_default partition of public.user_activity_logs default;
create table private.agent_activity_logs_default partition of public.agent_activity_logs default;

create table private.configuration_version (
    only_row boolean primary key default true check (only_row),
    version bigint not null
);
comment on table private.configuration_version is 'Moves with every change of admin_config and model_config, and travels with every turn.';
insert into private.configuration_version (version) values (1);

create table private.revoked_principals (
    user_id uuid primary key,
    reason varchar(20) not null check (reason in ('deleted', 'claimed')),
    claimed_by uuid references public.user_profiles (id) on delete set null,
    revoked_at timestamptz not null default now(),
    until timestamptz not null
);
comment on table private.revoked_principals is 'Users whose tokens are refused though still valid, for the longest life of a token.';

create table private.guest_windows (
    address_hash varchar(64) not null,
    purpose varchar(60) not null,
    limit_type varchar(20) not null check (limit_type in ('minutely', 'hourly', 'daily')),
    period_start timestamptz not null,
    used integer not null default 0,
    primary key (address_hash, purpose, limit_type, period_start)
) with (fillfactor = 70);
comment on table private.guest_windows is 'How many guests an address made (purpose ''guest''; the address '''' counts all) and what its guests used of each agent.';

create table private.quarantine (
    id bigint generated always as identity primary key,
    source_table varchar(100) not null,
    reason text not null,
    original jsonb not null,
    quarantined_at timestamptz not null default now()
);
comment on table private.quarantine is 'Rows that a repair could not place, whole and with the reason; nothing is deleted for being an orphan.';
