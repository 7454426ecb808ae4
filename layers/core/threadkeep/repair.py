"""Mends a database that holds our tables without our constraints, as after an import.

Everything happens in one transaction: profiles are made for users who have none, what refers to nothing is mended,
and the constraints are added. No row is ever deleted: one that cannot be kept where it is goes to
`private.quarantine`, whole and with the reason. The rules:

- A user who is in `auth.users`, or whose id stands in a `user_id`, gets a profile: a session of a user whom nobody
  knows is kept, for the day when they sign in again. A deleted user, whose mark is still in force, gets none; their
  rows are quarantined.
- A reference that may be empty is emptied (a document without its session stays its user's document).
- A row that needs what is not there is quarantined: a message without its session, a vote without its message. A
  session is never invented for messages: whose they are is not known, and it may have been deleted on purpose.
- A row that breaks another constraint (a second one with the same key, a value that is not allowed) is quarantined.

If only constraints, indexes and triggers are missing, they are added to the tables that are there. If more is, the
tables are moved aside, made anew by the migrations, and filled from the old ones (`threadkeep.rebuild`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psycopg
from psycopg import sql
from pydantic import BaseModel, ConfigDict

from threadkeep.catalog import Catalog, Definition, differing_fields, load_catalog, quoted, read_catalog
from threadkeep.mending import (
    MESSAGES,
    SESSIONS,
    Mended,
    count_orphans,
    count_users_without_profile,
    drop_foreign_keys,
    make_profiles,
    mend,
    read_tables,
    recount_sessions,
    switch_triggers,
)
from threadkeep.migrations import Connection, MigrationError, Timeouts, configure, connect, locked, missing_constraints
from threadkeep.rebuild import rebuild
from threadkeep.schema_check import expected_here

# A repair reads and may copy every row.
TIMEOUTS: Final = Timeouts(lock_ms=60_000, statement_ms=3_600_000)
# What can be added to tables that are there; of a column only that it must have a value, and its default.
ADDED_IN_PLACE: Final = ("Constraints", "Indexes", "Triggers")
# What a new schema would not change, or what changes by itself.
LEFT_ALONE: Final = ("Roles", "Memberships", "Partitions", "Seed data")

Way = Literal["nothing to do", "in place", "rebuilt"]


class Finding(BaseModel):
    """Rows of one table, and what was done with them."""

    model_config = ConfigDict(frozen=True)

    table: str
    reason: str
    rows: int


class RepairReport(BaseModel):
    """What was found and done, or would be by a dry run.

    The three counts are from before; `restored` names the constraints, indexes and triggers that were added in place.
    """

    model_config = ConfigDict(frozen=True)

    dry_run: bool
    way: Way
    users_without_profile: int = 0
    sessions_without_user: int = 0
    messages_without_session: int = 0
    profiles_made: int = 0
    quarantined: tuple[Finding, ...] = ()
    emptied: tuple[Finding, ...] = ()
    set_right: tuple[Finding, ...] = ()
    sessions_recounted: int = 0
    restored: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether anything was, or would be, changed."""
        return self.way != "nothing to do"


def repair(dsn: str, folder: Path, *, dry_run: bool = False) -> RepairReport:
    """Mend the database in one transaction; a second run finds nothing to do.

    Raises MigrationError, with nothing changed, if the database is not ours or would lose something.
    """
    catalog = load_catalog(folder)
    with connect(dsn) as connection:
        try:
            with locked(connection, force_rollback=dry_run):
                configure(connection, TIMEOUTS, for_transaction=True)
                return _repair(connection, folder, catalog, dry_run)
        except psycopg.Error as error:
            said = ": ".join(part for part in (error.diag.message_primary, error.diag.message_detail) if part)
            raise MigrationError(f"The repair failed and nothing was changed. {said or error}") from error


def _repair(connection: Connection, folder: Path, catalog: Catalog, dry_run: bool) -> RepairReport:
    here = read_catalog(connection)
    tables = read_tables(connection, catalog.with_tables(here.of("Tables")), {})
    if SESSIONS not in tables or MESSAGES not in tables:
        raise MigrationError("This database has no sessions and messages of Threadkeep's. Run db-migrate.")
    found = RepairReport(
        dry_run=dry_run,
        way="nothing to do",
        users_without_profile=count_users_without_profile(connection, tables),
        sessions_without_user=count_orphans(connection, tables, SESSIONS, "user_id"),
        messages_without_session=count_orphans(connection, tables, MESSAGES, "chatId"),
    )
    expected = expected_here(catalog, connection)
    damage = Damage.of(expected, here)
    if missing_constraints(connection) and not damage.is_additive:
        mended = rebuild(connection, folder, catalog, TIMEOUTS)
        return _report(found, "rebuilt", mended, recount_sessions(connection), [])
    if damage.is_additive and damage.names:
        relations = [table.relation for table in tables.values()]
        drop_foreign_keys(connection, relations)
        switch_triggers(connection, relations, on=False)
        mended = Mended()
        mend(connection, tables, mended)
        recounted = recount_sessions(connection)
        switch_triggers(connection, relations, on=True)
        _restore(connection, expected)
        return _report(found, "in place", mended, recounted, damage.names)
    made = make_profiles(connection, tables)
    return _report(found, "in place" if made else "nothing to do", Mended(profiles=made), 0, [])


@dataclass(frozen=True, slots=True)
class Damage:
    """What is missing or different: `is_additive` if it can be added to the tables that are there."""

    is_additive: bool
    names: tuple[str, ...]

    @classmethod
    def of(cls, expected: Catalog, here: Catalog) -> Damage:
        """Compare a database with what is expected of it."""
        names: list[str] = []
        is_additive = True
        for kind, objects in expected.objects.items():
            off = [name for name, _ in _off(expected, here, kind)]
            if kind in ADDED_IN_PLACE:
                names += off
            elif kind == "Columns":
                names += off
                is_additive &= all(_same_but_for_rules(objects[name], here.of(kind).get(name)) for name in off)
            elif kind not in LEFT_ALONE:
                is_additive &= not off
        return cls(is_additive, tuple(names))


def _same_but_for_rules(expected: Definition, here: Definition | None) -> bool:
    return here is not None and {"not null", "default"}.issuperset(differing_fields(expected, here))


def _restore(connection: Connection, expected: Catalog) -> None:
    connection.execute("select set_config('search_path', '', true)")
    here = read_catalog(connection)
    for name, of in _off(expected, here, "Columns"):
        _restore_column(connection, name, of)
    constraints = _off(expected, here, "Constraints")
    # A foreign key needs the key that it refers to.
    for name, of in sorted(constraints, key=lambda item: "references" in item[1]):
        table, constraint = name.split(": ", 1)
        parts = {"table": quoted(table), "name": quoted(constraint), "definition": quoted(of["definition"])}
        connection.execute(sql.SQL("alter table {table} drop constraint if exists {name}").format(**parts))
        connection.execute(sql.SQL("alter table {table} add constraint {name} {definition}").format(**parts))
    for name, of in _off(expected, read_catalog(connection), "Indexes"):
        connection.execute(sql.SQL("drop index if exists {}").format(quoted(name)))
        # Of a partitioned table's index PostgreSQL shows the parent's part alone.
        connection.execute(quoted(str(of["definition"]).replace(" ON ONLY ", " ON ", 1)))
    for name, of in _off(expected, here, "Triggers"):
        table, trigger = name.split(": ", 1)
        connection.execute(sql.SQL("drop trigger if exists {} on {}").format(quoted(trigger), quoted(table)))
        connection.execute(quoted(of["definition"]))


def _off(expected: Catalog, here: Catalog, kind: str) -> list[tuple[str, Definition]]:
    there = here.of(kind)
    return [
        (name, of) for name, of in expected.of(kind).items() if name not in there or differing_fields(of, there[name])
    ]


def _restore_column(connection: Connection, name: str, of: Definition) -> None:
    table, column = map(quoted, name.split(": ", 1))
    if "generated" not in of:
        default = (
            sql.SQL("set default {}").format(quoted(of["default"])) if "default" in of else sql.SQL("drop default")
        )
        connection.execute(sql.SQL("alter table {} alter column {} {}").format(table, column, default))
    rule = sql.SQL("set not null" if of["not null"] else "drop not null")
    connection.execute(sql.SQL("alter table {} alter column {} {}").format(table, column, rule))


def _report(
    found: RepairReport, way: Way, mended: Mended, sessions_recounted: int, restored: Iterable[str]
) -> RepairReport:
    return found.model_copy(
        update={
            "way": way,
            "profiles_made": mended.profiles,
            "quarantined": _findings(mended.quarantined),
            "emptied": _findings(mended.emptied),
            "set_right": _findings(mended.set_right),
            "sessions_recounted": sessions_recounted,
            "restored": tuple(restored),
        }
    )


def _findings(counts: Mapping[tuple[str, str], int]) -> tuple[Finding, ...]:
    return tuple(Finding(table=table, reason=reason, rows=rows) for (table, reason), rows in counts.items())
