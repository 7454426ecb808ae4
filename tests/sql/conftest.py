"""What the tests of the schema share: a database that is hosted by an identity provider."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.databases import DatabaseServer

# An identity provider's `auth` schema, and the default rights that a hosted database gives on all that is made.
HOSTED = """
    create schema auth;
    create table auth.users (
        id uuid primary key,
        email varchar(255),
        raw_user_meta_data jsonb,
        raw_app_meta_data jsonb,
        is_anonymous boolean not null default false,
        created_at timestamptz,
        somebody_elses text
    );
    create function auth.uid() returns uuid language sql stable as
        $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
    create function auth.jwt() returns jsonb language sql stable as
        $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
    create function auth.role() returns text language sql stable as
        $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' $$;
    alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
    alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
    alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
"""


@pytest.fixture
def hosted_database_url(postgres_server: DatabaseServer) -> Iterator[str]:
    """A database with an `auth` schema that is not ours, and nothing of ours."""
    postgres_server.template()  # makes the roles, which the default rights name
    name = postgres_server.create_database()
    dsn = postgres_server.dsn(name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(HOSTED.encode())
    yield dsn
    postgres_server.drop_database(name)
