-- The schema for what is not an API, the four roles, and, where no identity provider brought one, a stand-in
-- for Supabase's `auth` schema by the same conventions. An `auth` schema that is there already is left alone.

create schema if not exists private;

do $$
declare
    wanted text;
begin
    foreach wanted in array array['anon', 'authenticated', 'service_role'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin noinherit', wanted);
            exception when duplicate_object or unique_violation then
                null; -- another database of this cluster was migrated at the same moment
            end;
        end if;
    end loop;

    if not exists (select from pg_roles where rolname = 'threadkeep_api') then
        begin
            create role threadkeep_api login noinherit;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end if;

    -- One that was made by hand inherits by default: then it could do everything without becoming anybody.
    if (select rolinherit from pg_roles where rolname = 'threadkeep_api') then
        begin
            alter role threadkeep_api noinherit;
        exception when internal_error then
            null;
        end;
    end if;

    -- A managed server's master user may not give BYPASSRLS; nothing relies on it (see 0005_rls.sql).
    if not (select rolbypassrls from pg_roles where rolname = 'service_role') then
        begin
            alter role service_role bypassrls;
        exception when insufficient_privilege or internal_error then
            null;
        end;
    end if;

    foreach wanted in array array['anon', 'authenticated', 'service_role'] loop
        if not pg_has_role('threadkeep_api', wanted, 'member') then
            begin
                execute format('grant %I to threadkeep_api', wanted);
            exception when unique_violation or internal_error then
                null;
            end;
        end if;
    end loop;
end
$$;

do $stand_in$
begin
    if exists (select from pg_namespace where nspname = 'auth') then
        return;
    end if;

    create schema auth;
    comment on schema auth is 'threadkeep stand-in';

    create table auth.users (
        id uuid primary key default gen_random_uuid(),
        email varchar(255),
        raw_user_meta_data jsonb not null default '{}',
        raw_app_meta_data jsonb not null default '{}',
        is_anonymous boolean not null default false,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now()
    );

    -- After a transaction-local setting has ended it reads as '', not as null.
    create function auth.jwt() returns jsonb
    language sql stable
    as $$
        select nullif(current_setting('request.jwt.claims', true), '')::jsonb
    $$;

    create function auth.uid() returns uuid
    language sql stable
    as $$
        select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
    $$;

    create function auth.role() returns text
    language sql stable
    as $$
        select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
    $$;

    grant usage on schema auth to anon, authenticated, service_role;
    grant execute on function auth.jwt(), auth.uid(), auth.role() to anon, authenticated, service_role;
end
$stand_in$;
