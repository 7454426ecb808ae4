-- The named indexes of the source design, each in the kind that serves its purpose at the lowest write cost.
-- Those that would equal another, or be the plain prefix of another, are left out:
-- left out: idx_chat_user_id: prefix of idx_chat_user_active
-- left out: idx_document_user_id: prefix of idx_document_user
-- left out: idx_document_versions: equals the unique constraint document_version_number
-- left out: idx_usage_logs_user_id: prefix of idx_usage_logs_user_timestamp
-- left out: idx_usage_logs_date_agent: equals idx_usage_logs_agent_timestamp read by date
-- left out: idx_rate_limit_user_id: prefix of idx_rate_limit_user_agent_period
-- left out: idx_rate_limit_user_agent: prefix of idx_rate_limit_user_agent_period
-- left out: idx_github_repos_user_id: prefix of the unique constraint github_repositories_once
-- left out: idx_github_repos_user: prefix of idx_github_repos_user_active
-- left out: idx_error_logs_user_id: prefix of idx_error_logs_user_created
-- left out: idx_error_logs_error_type: prefix of idx_error_logs_type_severity
-- left out: idx_model_config_provider: prefix of idx_model_config_provider_active
-- left out: idx_user_activity_user_id: prefix of idx_user_activity_user_created
-- left out: idx_user_activity_type: no query reads one type over all users without a time; idx_user_activity_user_type_date and the BRIN serve
-- left out: idx_agent_activity_agent_type: prefix of idx_agent_activity_agent_op_date
-- made as constraints in 0001_tables.sql: idx_admin_config_key, idx_model_config_model_id, idx_model_config_provider_default, idx_rate_limit_user_agent_period

create index idx_user_profiles_guests on public.user_profiles (updated_at) where is_guest;

create index idx_chat_user_created on public."Chat" (user_id, "createdAt" desc);
create index idx_chat_user_active on public."Chat" (user_id, last_active desc, id desc);

create unique index idx_message_chat on public."Message_v2" ("chatId", seq);
create unique index idx_message_one_running on public."Message_v2" ("chatId") where status = 'streaming';
create index idx_message_search on public."Message_v2" using gin (search);

create index idx_document_user on public."Document" (user_id, "createdAt" desc);
create index idx_document_chat on public."Document" (chat_id) where chat_id is not null;
create index idx_document_parent on public."Document" (id, parent_version_id) where parent_version_id is not null;
create index idx_document_kind on public."Document" (user_id, kind);

create index idx_suggestion_user_id on public."Suggestion" (user_id);
create index idx_suggestion_document on public."Suggestion" ("documentId", "documentCreatedAt");

create index idx_stream_message on public."Stream" ("chatId", message_id);
create index idx_stream_running on public."Stream" (lease_until) where status = 'running';
create index idx_stream_closed on public."Stream" (closed_at) where status = 'closed';

create index idx_files_user on public.files (user_id, created_at desc);
create index idx_files_chat on public.files (chat_id) where chat_id is not null;
create index idx_files_pending on public.files (created_at) where state = 'pending';

create index idx_usage_logs_user_timestamp on public.usage_logs (user_id, request_timestamp desc);
create index idx_usage_logs_agent_timestamp on public.usage_logs (agent_type, request_timestamp desc);
create index idx_usage_logs_model_provider on public.usage_logs (provider, model_used, request_timestamp desc);
create index idx_usage_logs_date_range on public.usage_logs using brin (request_timestamp);
create index idx_usage_logs_cost_date on public.usage_logs (request_timestamp desc, total_cost) where total_cost > 0;
create index idx_usage_logs_chat on public.usage_logs (chat_id) where chat_id is not null;
create index idx_usage_logs_message on public.usage_logs (message_id) where message_id is not null;

create index idx_budget_reservations_lease on public.budget_reservations (scope, month, user_id, lease_until);
create index idx_budget_reservations_stream on public.budget_reservations (stream_id);
create index idx_budget_reservations_user on public.budget_reservations (user_id);

create index idx_rate_limit_period_end on public.rate_limit_tracking using brin (period_end);

create index idx_github_repos_user_active on public.github_repositories (user_id, last_accessed desc) where is_active;

create index idx_error_logs_error_category on public.error_logs (error_category, created_at desc);
create index idx_error_logs_severity on public.error_logs (severity, created_at desc);
create index idx_error_logs_created_at on public.error_logs (created_at desc);
create index idx_error_logs_resolved on public.error_logs (created_at desc) where not resolved;
create index idx_error_logs_user_created on public.error_logs (user_id, created_at desc) where user_id is not null;
create index idx_error_logs_type_severity on public.error_logs (error_type, severity, created_at desc);

create index idx_admin_config_updated on public.admin_config (updated_at desc);
create index idx_admin_config_history_key on public.admin_config_history (config_key, id desc);

create index idx_model_config_provider_active on public.model_config (provider, is_active);
create index idx_model_config_active on public.model_config (model_id) where is_active;

create index idx_user_activity_correlation on public.user_activity_logs (correlation_id);
create index idx_user_activity_category on public.user_activity_logs (activity_category, created_at desc);
create index idx_user_activity_created on public.user_activity_logs using brin (created_at);
create index idx_user_activity_user_created on public.user_activity_logs (user_id, created_at desc);
create index idx_user_activity_user_type_date on public.user_activity_logs (user_id, activity_type, created_at desc);
create index idx_user_activity_resource on public.user_activity_logs (resource_id) where resource_id is not null;
create index idx_user_activity_success on public.user_activity_logs (created_at desc) where not success;

create index idx_agent_activity_user_id on public.agent_activity_logs (user_id, created_at desc);
create index idx_agent_activity_correlation on public.agent_activity_logs (correlation_id);
create index idx_agent_activity_operation on public.agent_activity_logs (operation_type, created_at desc);
create index idx_agent_activity_category on public.agent_activity_logs (operation_category, created_at desc);
create index idx_agent_activity_created on public.agent_activity_logs using brin (created_at);
create index idx_agent_activity_model on public.agent_activity_logs (provider, model_id, created_at desc);
create index idx_agent_activity_success on public.agent_activity_logs (created_at desc) where not success;
create index idx_agent_activity_resource on public.agent_activity_logs (resource_id) where resource_id is not null;
create index idx_agent_activity_duration on public.agent_activity_logs (agent_type, duration_ms desc)
    where duration_ms > 1000;
create index idx_agent_activity_cost on public.agent_activity_logs (created_at desc, total_cost) where total_cost > 0;
create index idx_agent_activity_agent_op_date on public.agent_activity_logs (agent_type, operation_type, created_at desc);
