"""What the history of a configuration calls a seed, in a database that was there before it did so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from uuid import uuid4

import psycopg

from tests.databases import SQL, DatabaseServer
from tests.sql.callers import BECOME
from threadkeep.migrations import apply

FIRST = "0011_functions_administration.sql"
CHANGE = "update public.admin_config set config_data = config_data || %(change)s where config_key = %(key)s"


def seeds(connection: psycopg.Connection[tuple[str, bool]], key: str) -> list[tuple[str, bool]]:
    """The prompts that were under a key, oldest first, each with whether it is called a seed."""
    return connection.execute(
        """
        select left(config_data ->> 'systemPrompt', 5), is_seed
        from public.admin_config_history
        where config_key = %(key)s
        order by id
        """,
        {"key": key},
    ).fetchall()


def test_what_stood_there_before_anybody_changed_it_is_a_seed(postgres_server: DatabaseServer, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    for file in SQL.glob("*.sql"):
        if file.name < FIRST:
            shutil.copy(file, earlier)
    name = postgres_server.create_database()
    dsn = postgres_server.dsn(name)
    try:
        apply(dsn, earlier)
        with psycopg.connect(dsn, autocommit=True) as connection:
            by_operator = {"key": "chat_model_agent_google", "change": json.dumps({"systemPrompt": "First"})}
            connection.execute(CHANGE, by_operator)
            user = uuid4()
            connection.execute("insert into public.user_profiles (id) values (%(user)s)", {"user": user})
            claims = {"sub": str(user), "role": "authenticated", "app_metadata": {"role": "admin"}}
            for key in ("chat_model_agent_google", "chat_model_agent_anthropic"):
                with connection.transaction():
                    connection.execute(BECOME, {"role": "authenticated", "claims": json.dumps(claims)})
                    connection.execute(CHANGE, {"key": key, "change": json.dumps({"systemPrompt": "Admin"})})
            connection.execute(CHANGE, by_operator | {"change": json.dumps({"systemPrompt": "Later"})})

        apply(dsn, SQL)

        with psycopg.connect(dsn, autocommit=True) as connection:
            [(seed, _), *later] = seeds(connection, "chat_model_agent_google")
            assert [is_seed for _, is_seed in later] == [True, False, False]
            assert [prompt for prompt, _ in later] == ["First", "Admin", "Later"]
            assert seeds(connection, "chat_model_agent_anthropic") == [(seed, True), ("Admin", False)]
            connection.execute(CHANGE, by_operator)
            assert seeds(connection, "chat_model_agent_google")[-1] == ("First", False)
    finally:
        postgres_server.drop_database(name)
