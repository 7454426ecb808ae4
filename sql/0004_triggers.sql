create trigger on_auth_user_created
    after insert on auth.users
    for each row execute function public.handle_new_user();

create trigger on_auth_user_deleted
    before delete on auth.users
    for each row execute function public.handle_auth_user_deletion();

create trigger validate_chat_user_id
    before insert or update of user_id on public."Chat"
    for each row execute function public.validate_user_id();

create trigger validate_document_user_id
    before insert or update of user_id on public."Document"
    for each row execute function public.validate_user_id();

create trigger validate_suggestion_user_id
    before insert or update of user_id on public."Suggestion"
    for each row execute function public.validate_user_id();

create trigger validate_usage_logs_user_id
    before insert or update of user_id on public.usage_logs
    for each row execute function public.validate_user_id();

create trigger validate_rate_limit_user_id
    before insert or update of user_id on public.rate_limit_tracking
    for each row execute function public.validate_user_id();

create trigger validate_github_repos_user_id
    before insert or update of user_id on public.github_repositories
    for each row execute function public.validate_user_id();

create trigger trigger_user_profiles_updated_at
    before update on public.user_profiles
    for each row execute function private.touch_updated_at();

create trigger trigger_message_take_seq
    before insert on public."Message_v2"
    for each row execute function private.take_message_seq();

create trigger trigger_message_count_deleted
    after delete on public."Message_v2"
    referencing old table as gone
    for each statement execute function private.count_deleted_messages();

-- Named to sort after validate_document_user_id: triggers of one event fire in the order of their names.
create trigger zz_document_next_version
    before insert on public."Document"
    for each row execute function private.next_document_version();

create trigger trigger_admin_config_updated_at
    before update of config_key, config_data on public.admin_config
    for each row execute function public.update_admin_config_timestamp();

create trigger trigger_validate_admin_config
    before insert or update of config_key, config_data on public.admin_config
    for each row execute function public.validate_admin_config_data();

create trigger trigger_admin_config_history
    after insert or update of config_key, config_data or delete on public.admin_config
    for each row execute function private.keep_admin_config_history();

create trigger trigger_admin_config_version
    after insert or update of config_key, config_data or delete on public.admin_config
    for each statement execute function private.move_configuration_version();

create trigger trigger_model_config_version
    after insert or update or delete on public.model_config
    for each statement execute function private.move_configuration_version();

create trigger trigger_model_config_updated_at
    before update on public.model_config
    for each row execute function public.update_model_config_timestamp();

create trigger trigger_model_config_one_writer
    before insert or update or delete on public.model_config
    for each statement execute function private.lock_model_defaults();

create trigger trigger_ensure_single_default_model
    after insert or update of is_default, provider on public.model_config
    for each row when (new.is_default)
    execute function public.ensure_single_default_model_per_provider();

create constraint trigger trigger_provider_keeps_default
    after insert or update or delete on public.model_config
    deferrable initially deferred
    for each row execute function private.require_provider_default();

-- A price that is missing, negative or misspelt is refused here and not discovered in the bills.
alter table public.model_config
    add constraint model_config_metadata_shape check (private.model_metadata_problem(metadata) is null);
