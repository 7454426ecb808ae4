"""Drops all that the migrations made in one database; the roles belong to the server and stay."""

from __future__ import annotations

from pathlib import Path

from psycopg import sql
from pydantic import BaseModel, ConfigDict

from threadkeep.catalog import Catalog, has_stand_in, load_catalog, quoted
from threadkeep.migrations import Connection, MigrationError, Timeouts, configure, connect, locked, scalar

# The owner's own schemas; `auth` is dropped only where it is the stand-in.
OWN_SCHEMAS = ("private", "auth")


class ResetReport(BaseModel):
    """The names of what was dropped."""

    model_config = ConfigDict(frozen=True)

    dropped: tuple[str, ...]


def reset(dsn: str, folder: Path, *, delete_everything: bool) -> ResetReport:
    """Drop our tables, functions, types and schemas with everything in them; a migration works again afterwards.

    Tables of others in `public` stay. Raises MigrationError without `delete_everything`, and on a database whose
    `auth` schema is not our stand-in: it is an identity provider's, with real accounts.
    """
    if not delete_everything:
        raise MigrationError("A reset deletes every account, session and message. Ask for it with the explicit flag.")
    catalog = load_catalog(folder)
    with connect(dsn) as connection, locked(connection):
        if not has_stand_in(connection):
            raise MigrationError(
                "This database's schema auth is not Threadkeep's stand-in (an identity provider's, or none). "
                "Nothing was dropped."
            )
        configure(connection, Timeouts(), for_transaction=True)
        dropped = [*_drop_tables(connection, catalog), *drop_functions_and_types(connection, catalog)]
        for schema in OWN_SCHEMAS:
            connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema)))
            dropped.append(f"schema {schema}")
    return ResetReport(dropped=tuple(dropped))


def _drop_tables(connection: Connection, catalog: Catalog) -> list[str]:
    tables = [
        name
        for name in catalog.of("Tables")
        if name.startswith("public.") and scalar(connection, "select to_regclass(%(name)s) is not null", {"name": name})
    ]
    for name in tables:
        connection.execute(sql.SQL("drop table {} cascade").format(quoted(name)))
    return tables


def drop_functions_and_types(connection: Connection, catalog: Catalog) -> list[str]:
    """Drop the functions (of any arguments) and types in `public` that have a name of ours; return what was dropped."""
    rows = connection.execute(
        """
        select format('%%s %%s', case p.prokind when 'p' then 'procedure' else 'function' end, p.oid::regprocedure)
        from pg_catalog.pg_proc p
        where p.pronamespace = 'public'::regnamespace
          and format('public.%%I', p.proname) = any(%(functions)s)
        union all
        select format('type public.%%I', t.typname)
        from pg_catalog.pg_type t
        where t.typnamespace = 'public'::regnamespace
          and format('public.%%I', t.typname) = any(%(types)s)
        """,
        {
            "functions": [name.partition("(")[0] for name in catalog.of("Functions")],
            "types": list(catalog.of("Types")),
        },
    ).fetchall()
    dropped = [str(name) for (name,) in rows]
    for name in dropped:
        connection.execute(sql.SQL("drop {} cascade").format(quoted(name)))
    return dropped
