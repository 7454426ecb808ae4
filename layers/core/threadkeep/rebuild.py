"""Makes the schema anew around rows that came without it: aside with the old tables, migrate, mend, copy back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, LiteralString

from psycopg import sql

from threadkeep.catalog import SEEDS, Catalog, has_stand_in, quoted, read_catalog
from threadkeep.mending import (
    ACCOUNTS,
    LEDGER,
    MESSAGES,
    QUARANTINE,
    SESSIONS,
    Mended,
    Table,
    drop_foreign_keys,
    fill,
    identifiers,
    mend,
    quarantine_repeated,
    read_table,
    read_tables,
    switch_triggers,
)
from threadkeep.migrations import (
    Connection,
    Migration,
    MigrationError,
    Timeouts,
    create_ledger,
    has_ledger,
    read_folder,
    read_ledger,
    run,
)
from threadkeep.reset import drop_functions_and_types

ASIDE: Final = "threadkeep_aside"
# What an older table lacks and no default can give: the column, and its value from those that it has.
FILLED: Final[tuple[tuple[str, str, LiteralString], ...]] = (
    (SESSIONS, "last_active", '"createdAt"'),
    (MESSAGES, "seq", "null"),
    ("public.usage_logs", "request_id", "gen_random_uuid()"),
)
# What the mending itself writes to or asks.
FIRST: Final = (QUARANTINE, ACCOUNTS)
# A log's rows may be older than the months that a migration makes; what is older than this lands in the default one.
MOST_MONTHS: Final = 60


def rebuild(connection: Connection, folder: Path, catalog: Catalog, timeouts: Timeouts) -> Mended:
    """Move our tables aside, run the migrations, mend the old rows and copy them back, in the caller's transaction.

    The migrations are those of the ledger that came along, else all. Raises MigrationError if that would lose anything:
    tables or columns that no migration makes.
    """
    migrations = _migrations_to_run(connection, folder)
    schemas = ["private", "auth"] if has_stand_in(connection) else ["private"]
    aside = _move_aside(connection, catalog, schemas)
    _drop_schemas(connection, schemas)
    drop_functions_and_types(connection, catalog)
    create_ledger(connection)
    for migration in migrations:
        run(connection, migration, timeouts)
    # Tables of somebody else are none of this repair's.
    reference = read_catalog(connection).with_tables(catalog.of("Tables"))
    connection.execute("select set_config('search_path', '', true), set_config('timezone', 'UTC', true)")
    mended = Mended()
    for name in FIRST:
        if name in aside:
            _copy_first(connection, read_table(connection, reference, name, aside[name]), mended)
    tables = read_tables(connection, reference, aside)
    old = {name: table for name, table in tables.items() if name in aside}
    _refuse_unknown(old.values(), [name for name in aside if name not in old and name not in FIRST])
    for table in old.values():
        _bring_to_form(connection, table)
    _add_new_seeds(connection, old)
    mend(connection, read_tables(connection, reference, aside), mended)
    _copy_back(connection, [table for name, table in read_tables(connection, reference, aside).items() if name in old])
    _drop_aside(connection, aside)
    return mended


def _migrations_to_run(connection: Connection, folder: Path) -> list[Migration]:
    migrations = list(read_folder(folder))
    if has_ledger(connection) and (ledger := read_ledger(connection)):
        unknown = sorted(ledger.keys() - {migration.name for migration in migrations})
        if unknown:
            raise MigrationError(f"The ledger names files that this code does not have: {', '.join(unknown)}.")
        migrations = [migration for migration in migrations if migration.name in ledger]
    # What cannot run here is left, with all after it, to the next migration.
    outside = [place for place, migration in enumerate(migrations) if not migration.in_transaction]
    return migrations[: outside[0]] if outside else migrations


def _move_aside(connection: Connection, catalog: Catalog, schemas: Sequence[str]) -> dict[str, str]:
    """Move our tables and their partitions into a schema of their own; return where each one is now."""
    connection.execute(sql.SQL("create schema {}").format(sql.Identifier(ASIDE)))
    rows = connection.execute(
        """
        select
            t.name,
            format('%%I.%%I', %(aside)s::text, c.relname),
            array(
                select i.inhrelid::regclass::text
                from pg_catalog.pg_inherits i
                where i.inhparent = c.oid
            )
        from unnest(%(tables)s::text[]) t (name)
        join pg_catalog.pg_class c on c.oid = to_regclass(t.name)
        where c.relkind in ('r', 'p')
        """,
        {
            "aside": ASIDE,
            "tables": [
                name
                for name in catalog.of("Tables")
                if name != LEDGER and name.partition(".")[0] in ("public", *schemas)
            ],
        },
    ).fetchall()
    for name, _, partitions in rows:
        assert isinstance(partitions, list)
        for relation in [name, *partitions]:
            connection.execute(sql.SQL("alter table {} set schema {}").format(quoted(relation), sql.Identifier(ASIDE)))
    aside = {str(name): str(location) for name, location, _ in rows}
    relations = [quoted(location) for location in aside.values()]
    drop_foreign_keys(connection, relations)
    switch_triggers(connection, relations, on=False)
    return aside


def _drop_schemas(connection: Connection, schemas: Sequence[str]) -> None:
    rows = connection.execute(
        """
        select c.oid::regclass::text
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = any(%(schemas)s)
          and c.relkind in ('r', 'p', 'v', 'm', 'f')
          and c.oid is distinct from to_regclass(%(ledger)s)
        order by 1
        """,
        {"schemas": list(schemas), "ledger": LEDGER},
    )
    _refuse_unknown([], [str(name) for (name,) in rows])
    for schema in schemas:
        connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema)))


def _refuse_unknown(tables: Iterable[Table], relations: Sequence[str]) -> None:
    columns = [f"{table.name}: {column}" for table in tables for column in table.present if column not in table.columns]
    if columns or relations:
        raise MigrationError(
            f"A repair would lose what no migration makes: {', '.join([*relations, *columns])}. Move it away."
        )


def _copy_first(connection: Connection, table: Table, mended: Mended) -> None:
    _refuse_unknown([table], [])
    switch_triggers(connection, [quoted(table.name)], on=False)
    fill(connection, table)
    quarantine_repeated(connection, table, table.keys[0], mended)
    _copy(connection, table)
    switch_triggers(connection, [quoted(table.name)], on=True)


def _bring_to_form(connection: Connection, table: Table) -> None:
    """Give the old table the types of the new one, and the columns that no default can fill."""
    for column, kind in table.present.items():
        wanted = table.columns[column]
        if kind != wanted["type"] and "generated" not in wanted:
            name, new_kind = sql.Identifier(column), quoted(wanted["type"])
            connection.execute(
                sql.SQL(
                    "alter table {relation} alter column {name} drop default, "
                    "alter column {name} type {kind} using {name}::{kind}"
                ).format(relation=table.relation, name=name, kind=new_kind)
            )
    for owner, column, value in FILLED:
        if owner == table.name and column not in table.present:
            parts = {"relation": table.relation, "name": sql.Identifier(column), "value": sql.SQL(value)}
            kind_of = quoted(table.columns[column]["type"])
            connection.execute(sql.SQL("alter table {relation} add column {name} {kind}").format(kind=kind_of, **parts))
            connection.execute(sql.SQL("update {relation} set {name} = {value}").format(**parts))


def _add_new_seeds(connection: Connection, old: Mapping[str, Table]) -> None:
    """Put the seeded rows whose key the old table does not have beside its own."""
    for name, key, _ in SEEDS:
        if name in old:
            connection.execute(
                sql.SQL(
                    """
                    insert into {old} ({columns})
                    select {columns}
                    from {new} fresh
                    where not exists (select from {old} seed where seed.{key} = fresh.{key})
                    """
                ).format(
                    old=old[name].relation,
                    new=quoted(name),
                    columns=identifiers(old[name].copied()),
                    key=sql.SQL(key),
                )
            )


def _copy_back(connection: Connection, tables: list[Table]) -> None:
    new = [quoted(table.name) for table in tables]
    switch_triggers(connection, new, on=False)
    for table in tables:
        _make_months(connection, table)
        connection.execute(sql.SQL("delete from {}").format(quoted(table.name)))
        _copy(connection, table)
    # Who runs on the configuration of before reads it again.
    connection.execute("update private.configuration_version set version = version + 1")
    connection.execute(
        """
        update public.user_profiles p
        set auth_user_id = u.id
        from auth.users u
        where u.id = p.id
          and p.auth_user_id is null
        """
    )
    switch_triggers(connection, new, on=True)


def _copy(connection: Connection, table: Table) -> None:
    connection.execute(
        sql.SQL("insert into {new} ({columns}) overriding system value select {columns} from {old}").format(
            new=quoted(table.name), columns=identifiers(table.copied()), old=table.relation
        )
    )
    for column, of in table.columns.items():
        if "identity" in of:
            connection.execute(
                sql.SQL("select setval(pg_get_serial_sequence({name}, {text}), max({column})) from {new}").format(
                    name=sql.Literal(table.name),
                    text=sql.Literal(column),
                    column=sql.Identifier(column),
                    new=quoted(table.name),
                )
            )


def _make_months(connection: Connection, table: Table) -> None:
    if not table.partitioned or "created_at" not in table.present:
        return
    connection.execute(
        sql.SQL(
            """
            select private.create_log_partition({log}, m.month)
            from (
                select distinct date_trunc('month', created_at at time zone 'UTC')::date as month
                from {old}
                order by month desc
                limit {most}
            ) m
            """
        ).format(log=table.name.partition(".")[2], old=table.relation, most=MOST_MONTHS)
    )


def _drop_aside(connection: Connection, aside: Mapping[str, str]) -> None:
    # Without cascade: if something of somebody else stands on an old table, the repair ends here and undoes itself.
    connection.execute(sql.SQL("drop table {}").format(sql.SQL(", ").join(map(quoted, aside.values()))))
    connection.execute(sql.SQL("drop schema {}").format(sql.Identifier(ASIDE)))
