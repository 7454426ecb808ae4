"""What a reset drops, and what it refuses."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.databases import SQL
from threadkeep.migrations import MigrationError, apply
from threadkeep.reset import reset
from threadkeep.schema_check import verify


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


def ask(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None


def test_a_reset_needs_the_explicit_flag(database_url: str) -> None:
    with pytest.raises(MigrationError, match="explicit"):
        reset(database_url, SQL, delete_everything=False)

    assert verify(database_url, SQL).ok


def test_after_a_reset_nothing_of_ours_is_left_and_a_migration_works_again(database_url: str) -> None:
    execute(database_url, "create table public.stranger as select 1 as kept")

    reset(database_url, SQL, delete_everything=True)

    left = "select string_agg(relname, ', ') from pg_class where relnamespace = 'public'::regnamespace"
    assert ask(database_url, left) == "stranger"
    assert ask(database_url, "select count(*) from pg_proc where pronamespace = 'public'::regnamespace") == 0
    assert ask(database_url, "select count(*) from pg_namespace where nspname in ('private', 'auth')") == 0
    execute(database_url, "drop table public.stranger")
    apply(database_url, SQL)
    assert verify(database_url, SQL).ok


def test_a_database_with_an_identity_providers_accounts_is_not_reset(hosted_database_url: str) -> None:
    apply(hosted_database_url, SQL)

    with pytest.raises(MigrationError, match="stand-in"):
        reset(hosted_database_url, SQL, delete_everything=True)

    assert verify(hosted_database_url, SQL).ok
