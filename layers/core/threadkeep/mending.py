"""Makes rows obey the constraints that their tables are about to get; `threadkeep.repair` has the rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Final

from psycopg import sql

from threadkeep.catalog import Catalog, Definition, quoted
from threadkeep.migrations import Connection, scalar

PROFILES: Final = "public.user_profiles"
SESSIONS: Final = 'public."Chat"'
MESSAGES: Final = 'public."Message_v2"'
DOCUMENTS: Final = 'public."Document"'
MODELS: Final = "public.model_config"
STREAMS: Final = 'public."Stream"'
REVOKED: Final = "private.revoked_principals"
QUARANTINE: Final = "private.quarantine"
LEDGER: Final = "private.migrations"
ACCOUNTS: Final = "auth.users"
CHECK: Final = re.compile(r"CHECK \((.*)\)(?: NO INHERIT)?(?: NOT VALID)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Columns that refer to columns of another table, by the names of a catalog."""

    name: str
    columns: tuple[str, ...]
    references: str
    referenced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A condition that a row must not fail."""

    name: str
    columns: tuple[str, ...]
    expression: str


@dataclass(frozen=True, slots=True)
class Table:
    """What a table has to be, by a catalog; and where its rows are now, with which columns (of which type)."""

    name: str
    relation: sql.Composable
    present: Mapping[str, str]
    partitioned: bool
    columns: Mapping[str, Definition]
    keys: tuple[tuple[str, ...], ...]
    checks: tuple[Check, ...]
    foreign_keys: tuple[ForeignKey, ...]

    def may_be_empty(self, column: str) -> bool:
        """Whether a row may go without a value here."""
        return not self.columns[column]["not null"]

    def has(self, columns: Iterable[str]) -> bool:
        """Whether the rows have all of these columns."""
        return all(column in self.present for column in columns)

    def copied(self) -> list[str]:
        """The columns to copy: those that are there and are not computed."""
        return [column for column, of in self.columns.items() if column in self.present and "generated" not in of]


@dataclass(slots=True)
class Mended:
    """What was done, each with how many rows."""

    profiles: int = 0
    quarantined: dict[tuple[str, str], int] = field(default_factory=dict)
    emptied: dict[tuple[str, str], int] = field(default_factory=dict)
    set_right: dict[tuple[str, str], int] = field(default_factory=dict)


def read_tables(connection: Connection, reference: Catalog, locations: Mapping[str, str]) -> dict[str, Table]:
    """The tables of a catalog that are to be mended, those that are referred to first.

    `locations` says where the rows of a table are, if not under its own name.
    """
    tables = {
        name: read_table(connection, reference, name, locations.get(name, name))
        for name in reference.of("Tables")
        if not name.startswith("auth.") and name not in (LEDGER, QUARANTINE)
    }
    graph = {
        name: {key.references for key in table.foreign_keys if key.references in tables and key.references != name}
        for name, table in tables.items()
    }
    return {name: tables[name] for name in TopologicalSorter(graph).static_order()}


def read_table(connection: Connection, reference: Catalog, name: str, location: str) -> Table:
    """One table of a catalog, whose rows are at `location`."""
    rows = connection.execute(
        """
        select a.attname, format_type(a.atttypid, a.atttypmod)
        from pg_catalog.pg_attribute a
        where a.attrelid = %(location)s::regclass
          and a.attnum > 0
          and not a.attisdropped
        """,
        {"location": location},
    )
    constraints = members(reference.of("Constraints"), name)
    return Table(
        name=name,
        relation=quoted(location),
        present={str(column): str(kind) for column, kind in rows},
        partitioned="partitioned by" in reference.of("Tables")[name],
        columns={_unquoted(column): of for column, of in members(reference.of("Columns"), name).items()},
        keys=tuple(
            _names(of["columns"])
            # The primary key first: what follows may tell rows by it.
            for constraint, of in sorted(constraints.items(), key=lambda item: str(item[1]["definition"]))
            if str(of["definition"]).startswith(("PRIMARY KEY", "UNIQUE"))
        ),
        checks=tuple(
            Check(_unquoted(constraint), _names(of.get("columns", [])), match[1])
            for constraint, of in constraints.items()
            if (match := CHECK.fullmatch(str(of["definition"])))
        ),
        foreign_keys=tuple(
            ForeignKey(
                _unquoted(constraint), _names(of["columns"]), str(of["references"]), _names(of["referenced columns"])
            )
            for constraint, of in constraints.items()
            if "references" in of
        ),
    )


def members(objects: Mapping[str, Definition], table: str) -> dict[str, Definition]:
    """Of a kind whose names are `table: thing`, the things of one table."""
    prefix = f"{table}: "
    return {name.removeprefix(prefix): of for name, of in objects.items() if name.startswith(prefix)}


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _names(columns: object) -> tuple[str, ...]:
    assert isinstance(columns, list)
    return tuple(map(str, columns))


def make_profiles(connection: Connection, tables: Mapping[str, Table]) -> int:
    """Make a profile for everybody in `auth.users` and everybody whose id stands in a `user_id`; return how many."""
    profiles, revoked = tables[PROFILES], tables[REVOKED]
    values: dict[str, sql.Composable] = {
        "id": sql.SQL("wanted.id"),
        "auth_user_id": sql.SQL("u.id"),
        "email": sql.SQL("left(u.email, 320)"),
        "full_name": sql.SQL(
            "left(coalesce(u.raw_user_meta_data ->> 'full_name', u.raw_user_meta_data ->> 'name'), 200)"
        ),
        # Of a user whom no identity provider here knows it is not known; a guest would be deleted in time.
        "is_guest": sql.SQL("coalesce(u.is_anonymous, false)"),
    }
    known = {column: value for column, value in values.items() if column in profiles.present}
    return connection.execute(
        sql.SQL(
            """
            insert into {profiles} ({columns})
            select {values}
            from ({users}) wanted (id)
            left join auth.users u on u.id = wanted.id
            where not exists (select from {profiles} p where p.id = wanted.id)
              and not exists (select from {revoked} r where r.user_id = wanted.id and r.until > now())
            """
        ).format(
            profiles=profiles.relation,
            columns=identifiers(known),
            values=sql.SQL(", ").join(known.values()),
            users=_users(connection, tables.values()),
            revoked=revoked.relation,
        )
    ).rowcount


def count_users_without_profile(connection: Connection, tables: Mapping[str, Table]) -> int:
    """How many there are in `auth.users` and in every `user_id` without a profile."""
    known: sql.Composable = sql.SQL("false")
    if PROFILES in tables:
        known = sql.SQL("exists (select from {} p where p.id = wanted.id)").format(tables[PROFILES].relation)
    query = sql.SQL("select count(*) from ({}) wanted (id) where not {}")
    return count(connection, query.format(_users(connection, tables.values()), known))


def _users(connection: Connection, tables: Iterable[Table]) -> sql.Composable:
    sources: list[sql.Composable] = [
        sql.SQL("select user_id from {} where user_id is not null").format(table.relation)
        for table in tables
        if "user_id" in table.present
        and any(key.columns == ("user_id",) and key.references == PROFILES for key in table.foreign_keys)
    ]
    if scalar(connection, "select to_regclass('auth.users') is not null"):
        sources.append(sql.SQL("select id from auth.users"))
    return sql.SQL(" union ").join(sources)


def count_orphans(connection: Connection, tables: Mapping[str, Table], name: str, column: str) -> int:
    """How many rows of a table refer to nothing, or are empty, in a column that must refer to something."""
    table = tables[name]
    key = next(key for key in table.foreign_keys if key.columns == (column,))
    if column not in table.present:
        return count(connection, sql.SQL("select count(*) from {}").format(table.relation))
    query = sql.SQL("select count(*) from {} t where ({}) or t.{} is null")
    return count(connection, query.format(table.relation, _is_orphan(tables, key), sql.Identifier(column)))


def mend(connection: Connection, tables: Mapping[str, Table], mended: Mended) -> None:
    """Make all rows obey; the tables have no foreign keys and no triggers in force. What was done goes to `mended`."""
    _unlink_strangers(connection, tables[PROFILES])
    mended.profiles = make_profiles(connection, tables)
    _end_dead_answers(connection, tables, mended)
    _keep_one_default(connection, tables[MODELS])
    for table in tables.values():
        fill(connection, table)
        _quarantine_incomplete(connection, table, mended)
        for check in table.checks:
            if table.has(check.columns):
                where = sql.SQL("not ({})").format(quoted(check.expression))
                _quarantine(connection, table, where, f"breaks {check.name}", mended)
        for columns in table.keys[:1]:
            quarantine_repeated(connection, table, columns, mended)
        _number(connection, table, mended)
        for columns in table.keys[1:]:
            quarantine_repeated(connection, table, columns, mended)
        for key in table.foreign_keys:
            _mend_reference(connection, tables, table, key, mended)


def _unlink_strangers(connection: Connection, profiles: Table) -> None:
    # `auth_user_id` is only a link; nobody's whole history may be quarantined because of it.
    if "auth_user_id" in profiles.present:
        connection.execute(
            sql.SQL("update {} set auth_user_id = null where auth_user_id <> id").format(profiles.relation)
        )


def _end_dead_answers(connection: Connection, tables: Mapping[str, Table], mended: Mended) -> None:
    """An answer whose stream did not come along would be unfinished for ever, and its session closed to messages."""
    messages, streams = tables[MESSAGES], tables[STREAMS]
    if "status" not in messages.present:
        return
    running: sql.Composable = sql.SQL("false")
    if streams.has(("message_id", "status")):
        running = sql.SQL("exists (select from {} s where s.message_id = m.id and s.status = 'running')").format(
            streams.relation
        )
    ended = connection.execute(
        sql.SQL("update {} m set status = 'interrupted' where m.status = 'streaming' and not {}").format(
            messages.relation, running
        )
    ).rowcount
    _add(mended.set_right, (MESSAGES, "an answer that nobody is writing is marked interrupted"), ended)


def _keep_one_default(connection: Connection, models: Table) -> None:
    """Of several defaults of a provider the oldest stays; a newly seeded model is none beside an old one."""
    if models.has(("provider", "is_default", "created_at")):
        connection.execute(
            sql.SQL(
                """
                update {relation} t
                set is_default = false
                where t.is_default
                  and exists (
                      select
                      from {relation} older
                      where older.provider = t.provider
                        and older.is_default
                        and (older.created_at, older.model_id) < (t.created_at, t.model_id)
                  )
                """
            ).format(relation=models.relation)
        )


def fill(connection: Connection, table: Table) -> None:
    """Give a column that must have a value and has none its default."""
    for column, of in table.columns.items():
        if of["not null"] and "default" in of and "generated" not in of and column in table.present:
            name = sql.Identifier(column)
            connection.execute(
                sql.SQL("update {} set {} = {} where {} is null").format(
                    table.relation, name, quoted(of["default"]), name
                )
            )


def _quarantine_incomplete(connection: Connection, table: Table, mended: Mended) -> None:
    numbered = NUMBERED.get(table.name)
    for column, of in table.columns.items():
        if not of["not null"] or {"identity", "generated"} & of.keys() or (numbered and column == numbered.column):
            continue
        if column in table.present:
            where: sql.Composable = sql.SQL("{} is null").format(sql.Identifier(column))
        elif "default" in of:
            continue
        else:
            where = sql.SQL("true")
        _quarantine(connection, table, where, f"has no {column}", mended)


def quarantine_repeated(connection: Connection, table: Table, columns: Sequence[str], mended: Mended) -> None:
    """Of rows with the same values in these columns, keep the first."""
    if not table.has(columns):
        return
    where = sql.SQL(
        """
        (t.tableoid, t.ctid) in (
            select c.tableoid, c.ctid
            from (
                select
                    d.tableoid,
                    d.ctid,
                    row_number() over (partition by {columns} order by d.tableoid, d.ctid) as place
                from {relation} d
                where row({columns}) is not null
            ) c
            where c.place > 1
        )
        """
    ).format(columns=identifiers(columns), relation=table.relation)
    _quarantine(connection, table, where, f"repeats {', '.join(columns)}", mended)


@dataclass(frozen=True, slots=True)
class Numbering:
    """A column that counts the rows of a group from 1, in the order in which they came."""

    column: str
    group: str
    order: tuple[str, ...]


NUMBERED: Final = {
    MESSAGES: Numbering("seq", "chatId", ("createdAt", "id")),
    DOCUMENTS: Numbering("version_number", "id", ("createdAt",)),
}


def _number(connection: Connection, table: Table, mended: Mended) -> None:
    """Number the groups anew in which a number is missing or stands twice."""
    numbering = NUMBERED.get(table.name)
    if not numbering or not table.has((numbering.column, numbering.group, *numbering.order)):
        return
    numbered = connection.execute(
        sql.SQL(
            """
            update {relation} t
            set {column} = n.place
            from (
                select c.ctid, row_number() over (partition by c.{group} order by {order}) as place
                from {relation} c
                where c.{group} in (
                    select d.{group}
                    from {relation} d
                    group by d.{group}
                    having count(*) <> count(distinct d.{column})
                )
            ) n
            where n.ctid = t.ctid
            """
        ).format(
            relation=table.relation,
            column=sql.Identifier(numbering.column),
            group=sql.Identifier(numbering.group),
            order=identifiers(numbering.order),
        )
    ).rowcount
    _add(mended.set_right, (table.name, f"{numbering.column} is given anew"), numbered)


def _mend_reference(
    connection: Connection, tables: Mapping[str, Table], table: Table, key: ForeignKey, mended: Mended
) -> None:
    if not table.has(key.columns):
        return
    orphan = _is_orphan(tables, key)
    optional = [column for column in key.columns if table.may_be_empty(column)]
    if not optional:
        _quarantine(connection, table, orphan, f"there is no {key.references} for {', '.join(key.columns)}", mended)
        return
    emptied = connection.execute(
        sql.SQL("update {} t set {} where {}").format(
            table.relation,
            sql.SQL(", ").join(sql.SQL("{} = null").format(sql.Identifier(column)) for column in optional),
            orphan,
        )
    ).rowcount
    _add(mended.emptied, (table.name, ", ".join(optional)), emptied)


def _is_orphan(tables: Mapping[str, Table], key: ForeignKey) -> sql.Composable:
    """The condition that row `t` has a value in all columns of the key and refers to nothing."""
    complete = sql.SQL(" and ").join(sql.SQL("t.{} is not null").format(sql.Identifier(ours)) for ours in key.columns)
    parent = tables.get(key.references)
    if not parent and key.references != ACCOUNTS:
        return complete
    relation = parent.relation if parent else quoted(ACCOUNTS)
    there = sql.SQL(" and ").join(
        sql.SQL("p.{} = t.{}").format(sql.Identifier(theirs), sql.Identifier(ours))
        for ours, theirs in zip(key.columns, key.referenced, strict=True)
    )
    return sql.SQL("{} and not exists (select from {} p where {})").format(complete, relation, there)


def _quarantine(connection: Connection, table: Table, where: sql.Composable, reason: str, mended: Mended) -> None:
    moved = connection.execute(
        sql.SQL(
            """
            with gone as (
                delete from {relation} t
                where {where}
                returning to_jsonb(t) as original
            )
            insert into private.quarantine (source_table, reason, original)
            select {name}, {reason}, gone.original
            from gone
            """
        ).format(relation=table.relation, where=where, name=sql.Literal(table.name), reason=sql.Literal(reason))
    ).rowcount
    _add(mended.quarantined, (table.name, reason), moved)


def recount_sessions(connection: Connection) -> int:
    """Bring a session's count, last number and last activity in line with its messages; return how many were not."""
    return connection.execute(
        """
        update public."Chat" c
        set message_count = m.messages,
            last_seq = greatest(c.last_seq, m.last_seq),
            last_active = greatest(c.last_active, m.last_active)
        from (
            select
                s.id,
                count(v.id)::integer as messages,
                coalesce(max(v.seq), 0) as last_seq,
                coalesce(max(v."createdAt"), max(s.last_active)) as last_active
            from public."Chat" s
            left join public."Message_v2" v on v."chatId" = s.id
            group by s.id
        ) m
        where m.id = c.id
          and (c.message_count <> m.messages or c.last_seq < m.last_seq or c.last_active < m.last_active)
        """
    ).rowcount


def drop_foreign_keys(connection: Connection, relations: Iterable[sql.Composable]) -> None:
    """Drop what could delete rows in cascade before they are in quarantine."""
    for relation in relations:
        rows = connection.execute(
            """
            select k.conname
            from pg_catalog.pg_constraint k
            where k.conrelid = %(relation)s::regclass
              and k.contype = 'f'
              and k.conparentid = 0
            """,
            {"relation": relation.as_string()},
        ).fetchall()
        for (name,) in rows:
            connection.execute(sql.SQL("alter table {} drop constraint {}").format(relation, sql.Identifier(str(name))))


def switch_triggers(connection: Connection, relations: Iterable[sql.Composable], *, on: bool) -> None:
    """Let the tables' own triggers fire, or not: a row that moves is not a new version, and not a new message."""
    for relation in relations:
        connection.execute(
            sql.SQL("alter table {} {} trigger user").format(relation, sql.SQL("enable" if on else "disable"))
        )


def count(connection: Connection, query: sql.Composed) -> int:
    """The number that a query counts."""
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(str(row[0]))


def identifiers(names: Iterable[str]) -> sql.Composable:
    """Names as a list in a statement."""
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _add(counts: dict[tuple[str, str], int], key: tuple[str, str], rows: int) -> None:
    if rows:
        counts[key] = counts.get(key, 0) + rows
