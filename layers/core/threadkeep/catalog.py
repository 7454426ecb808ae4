"""What a database of ours consists of, read from its system catalog into plain data.

The same schema reads the same on PostgreSQL 15 to 18: not-null constraints (catalogued from 18 on) are a property of
their column, the privilege `maintain` (from 17 on) is left out, function bodies are hashes of their source.
`sql/catalog.json` is this data of a freshly migrated database; `threadkeep.schema_check` compares with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, LiteralString, cast

from psycopg import sql
from pydantic import BaseModel, ConfigDict

from threadkeep.migrations import Connection, MigrationError, read_folder, scalar

CATALOG_FILE: Final = "catalog.json"
STAND_IN: Final = "threadkeep stand-in"
OUR_ROLES: Final = ("anon", "authenticated", "service_role", "threadkeep_api")
# Roles of a hosted PostgreSQL that own and may do what no migration decides.
PLATFORM_ROLES: Final = r"^(supabase_.*|dashboard_user|authenticator|pgbouncer|pgsodium.*|rds.*|cloudsql.*|azure.*)$"
# The months of the append-only logs come and go.
MONTHLY_PARTITION: Final = r"_[0-9]{4}_(0[1-9]|1[0-2])$"
LEFT_OUT: Final = re.compile(r"^-- left out: (\w+): (.+)$", re.MULTILINE)

Definition = dict[str, object]
Objects = dict[str, Definition]


class Catalog(BaseModel):
    """Objects by kind and name, each with its definition; and what `sql/` says about indexes that are not there.

    A name is qualified (`public."Chat"`); an object of the stand-in's schema starts with `auth.`. Of a seeded row the
    definition is a hash of its value.
    """

    model_config = ConfigDict(frozen=True)

    objects: dict[str, Objects]
    left_out_indexes: dict[str, str] = {}

    def of(self, kind: str) -> Objects:
        """The objects of a kind, none if the catalog does not know it."""
        return self.objects.get(kind, {})

    def with_tables(self, names: Iterable[str]) -> Catalog:
        """This catalog with only those of its tables that are among the names."""
        among = set(names)
        tables = {name: definition for name, definition in self.of("Tables").items() if name in among}
        return self.model_copy(update={"objects": self.objects | {"Tables": tables}})


def read_catalog(connection: Connection) -> Catalog:
    """Read the live catalog in a transaction that changes nothing."""
    with reading(connection):
        schemas = ["public", "private"]
        if has_stand_in(connection):
            schemas.append("auth")
        parameters = {
            "schemas": schemas,
            "roles": list(OUR_ROLES),
            "platform": PLATFORM_ROLES,
            "monthly": MONTHLY_PARTITION,
        }
        objects = {kind: _read(connection, query, parameters) for kind, query in QUERIES.items()}
        objects["Seed data"] = _read_seeds(connection)
        objects["Migrations"] = _read_ledger(connection)
        return Catalog(objects=objects)


def load_catalog(folder: Path) -> Catalog:
    """The committed catalog of a folder of migrations. Raises MigrationError if there is none."""
    try:
        return Catalog.model_validate_json((folder / CATALOG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MigrationError(f"{folder / CATALOG_FILE} is missing; `catalog` makes it.") from None


def catalog_text(connection: Connection, folder: Path) -> str:
    """What `catalog.json` has to hold for a database that was just migrated from this folder."""
    left_out = {name: reason for migration in read_folder(folder) for name, reason in LEFT_OUT.findall(migration.text)}
    objects = read_catalog(connection).objects
    kinds = ",\n".join(f"{_json(kind)}: {_lines(objects[kind])}" for kind in objects)
    return f'{{"objects": {{\n{kinds}\n}}, "left_out_indexes": {_lines(left_out)}}}\n'


def _lines(members: Mapping[str, object]) -> str:
    """A JSON object with a member a line, so that a change of the schema is a change of few lines."""
    return "{\n" + ",\n".join(f"{_json(name)}: {_json(members[name])}" for name in sorted(members)) + "\n}"


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def differing_fields(expected: Definition, here: Definition) -> list[str]:
    """In what two definitions differ, apart from how PostgreSQL happens to write an expression."""
    return [field for field in {**expected, **here} if _canonical(expected.get(field)) != _canonical(here.get(field))]


def has_stand_in(connection: Connection) -> bool:
    """Whether the schema `auth` is the one that our first migration made."""
    comment = scalar(connection, "select obj_description(to_regnamespace('auth'), 'pg_namespace')")
    return comment == STAND_IN


@contextmanager
def reading(connection: Connection) -> Iterator[None]:
    """A transaction that is rolled back, and in which every name is written out with its schema."""
    with connection.transaction(force_rollback=True):
        connection.execute("select set_config('search_path', '', true)")
        yield


def quoted(text: object) -> sql.SQL:
    """What PostgreSQL wrote itself (a quoted name, a definition) as a part of a statement; never anybody's input."""
    return sql.SQL(cast("LiteralString", text))


def _read(connection: Connection, query: LiteralString, parameters: Mapping[str, object]) -> Objects:
    return {str(name): _as_definition(value) for name, value in connection.execute(query, parameters)}


def _as_definition(value: object) -> Definition:
    assert isinstance(value, dict)
    return {str(field): content for field, content in value.items() if content is not None}


# After a dump and a restore PostgreSQL writes the same expression with other casts of text, in other parentheses.
TEXT_CAST: Final = re.compile(r"::(?:character varying|text)(?:\[\])?")
PIECE: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[()]|[^'\"()]+")
ATOM: Final = re.compile(r"'(?:[^']|'')*'|[\w.]+")


def _canonical(value: object) -> object:
    """Text to compare by: without casts of text, and without parentheses around one value or around others."""
    if not isinstance(value, str):
        return value
    groups: list[list[str]] = [[]]
    for piece in PIECE.findall(TEXT_CAST.sub("", value)):
        if piece == "(":
            groups.append([])
        elif piece == ")" and len(groups) > 1:
            parts = groups.pop()
            text = "".join(parts)
            alone = ATOM.fullmatch(text) or (len(parts) == 1 and text.startswith("("))
            groups[-1].append(text if alone else f"({text})")
        else:
            groups[-1].append(piece)
    return "(".join("".join(parts) for parts in groups)


# What every seed has to have: the table, the key by which a row is known, and what of it an administrator may change.
SEEDS: Final[tuple[tuple[LiteralString, LiteralString, LiteralString], ...]] = (
    ("public.admin_config", "config_key", "config_data"),
    ("public.model_config", "model_id", "to_jsonb(seed) - 'id' - 'created_at' - 'updated_at'"),
    ("private.configuration_version", "only_row::text", "'{}'::jsonb"),
)


def _read_seeds(connection: Connection) -> Objects:
    seeds: Objects = {}
    for table, key, value in SEEDS:
        if scalar(connection, "select to_regclass(%(table)s) is not null", {"table": table}):
            query = sql.SQL(
                "select {key}, encode(sha256(convert_to(({value})::text, 'UTF8')), 'hex') from {table} seed order by 1"
            ).format(key=sql.SQL(key), value=sql.SQL(value), table=sql.SQL(table))
            seeds |= {f"{table}: {name}": {"value": digest} for name, digest in connection.execute(query)}
    return seeds


def _read_ledger(connection: Connection) -> Objects:
    if not scalar(connection, "select to_regclass('private.migrations') is not null"):
        return {}
    rows = connection.execute("select name, sha256 from private.migrations order by name")
    return {str(name): {"sha256": sha256} for name, sha256 in rows}


# In each query: a name, and a JSON object with the definition. What an extension made, or a platform's role owns, is
# not ours; partitions are compared by their own rule, and what they inherit is compared at their parent.

TABLES: Final = """
    select
        format('%%I.%%I', n.nspname, c.relname),
        jsonb_build_object(
            'kind', case c.relkind
                when 'r' then 'table'
                when 'p' then 'partitioned table'
                when 'v' then 'view'
                when 'm' then 'materialized view'
                when 'f' then 'foreign table'
                when 'S' then 'sequence'
            end,
            'persistence', nullif(c.relpersistence, 'p'),
            'partitioned by', pg_get_partkeydef(c.oid),
            'options', nullif(array_to_string(c.reloptions, ', '), ''),
            'query', case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end
        )
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = any(%(schemas)s)
      and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
      and not c.relispartition
      and pg_get_userbyid(c.relowner) !~ %(platform)s
      and not exists (
          select
          from pg_depend d
          where d.classid = 'pg_class'::regclass
            and d.objid = c.oid
            and (d.deptype = 'e' or (d.deptype = 'i' and c.relkind = 'S'))
      )
    order by 1
"""

COLUMNS: Final = """
    select
        format('%%I.%%I: %%I', n.nspname, c.relname, a.attname),
        jsonb_build_object(
            'type', format_type(a.atttypid, a.atttypmod),
            'not null', a.attnotnull,
            'default', pg_get_expr(d.adbin, d.adrelid),
            'identity', nullif(a.attidentity, ''),
            'generated', nullif(a.attgenerated, '')
        )
    from pg_attribute a
    join pg_class c on c.oid = a.attrelid
    join pg_namespace n on n.oid = c.relnamespace
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where n.nspname = any(%(schemas)s)
      and c.relkind in ('r', 'p')
      and not c.relispartition
      and a.attnum > 0
      and not a.attisdropped
      and pg_get_userbyid(c.relowner) !~ %(platform)s
      and not exists (
          select
          from pg_depend e
          where e.classid = 'pg_class'::regclass
            and e.objid = c.oid
            and e.deptype = 'e'
      )
    order by 1
"""

PARTITIONS: Final = """
    select
        case
            when c.relname ~ %(monthly)s and n.nspname = 'private'
                then format('%%I.%%I: every month', n.nspname, p.relname)
            else format('%%I.%%I', n.nspname, c.relname)
        end,
        jsonb_build_object(
            'parent', min(format('%%I', p.relname)),
            'row level security', bool_and(c.relrowsecurity),
            'rights', nullif(string_agg(distinct c.relname::text || ': ' || g.grantee, ', '), ''),
            'policies', nullif(string_agg(distinct c.relname::text || ': ' || l.polname, ', '), '')
        )
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    join pg_class p on p.oid = i.inhparent
    join pg_namespace n on n.oid = c.relnamespace
    join pg_namespace pn on pn.oid = p.relnamespace
    left join lateral (
        select distinct case when a.grantee = 0 then 'public' else pg_get_userbyid(a.grantee) end::text as grantee
        from aclexplode(c.relacl) a
        where a.grantee <> c.relowner
    ) g on true
    left join pg_policy l on l.polrelid = c.oid
    where pn.nspname = any(%(schemas)s)
      and c.relkind in ('r', 'p')
    group by 1
    order by 1
"""

CONSTRAINTS: Final = """
    select
        format('%%I.%%I: %%I', n.nspname, c.relname, k.conname),
        jsonb_build_object(
            'definition', pg_get_constraintdef(k.oid),
            'columns', (
                select jsonb_agg(a.attname order by u.place)
                from unnest(k.conkey) with ordinality u (number, place)
                join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.number
            ),
            'references', nullif(k.confrelid, 0)::regclass::text,
            'referenced columns', (
                select jsonb_agg(a.attname order by u.place)
                from unnest(k.confkey) with ordinality u (number, place)
                join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.number
            )
        )
    from pg_constraint k
    join pg_class c on c.oid = k.conrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = any(%(schemas)s)
      and k.contype in ('p', 'u', 'f', 'c', 'x')
      and k.conparentid = 0
      and not c.relispartition
      and pg_get_userbyid(c.relowner) !~ %(platform)s
      and not exists (
          select
          from pg_depend e
          where e.classid = 'pg_class'::regclass
            and e.objid = c.oid
            and e.deptype = 'e'
      )
    order by 1
"""

INDEXES: Final = """
    select
        format('%%I.%%I', n.nspname, x.relname),
        jsonb_build_object(
            'definition', pg_get_indexdef(x.oid),
            'state', case when i.indisvalid and i.indisready and i.indislive then null else 'invalid' end
        )
    from pg_index i
    join pg_class x on x.oid = i.indexrelid
    join pg_class c on c.oid = i.indrelid
    join pg_namespace n on n.oid = x.relnamespace
    where n.nspname = any(%(schemas)s)
      and not c.relispartition
      and not x.relispartition
      and pg_get_userbyid(x.relowner) !~ %(platform)s
      and not exists (
          select
          from pg_depend e
          where e.classid = 'pg_class'::regclass
            and e.objid = c.oid
            and e.deptype = 'e'
      )
    order by 1
"""

TYPES: Final = """
    select
        format('%%I.%%I', n.nspname, t.typname),
        jsonb_build_object(
            'kind', case t.typtype
                when 'e' then 'enum'
                when 'd' then 'domain'
                when 'c' then 'composite'
                else 'range'
            end,
            'labels', (select jsonb_agg(e.enumlabel order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid),
            'base', format_type(nullif(t.typbasetype, 0), t.typtypmod)
        )
    from pg_type t
    join pg_namespace n on n.oid = t.typnamespace
    left join pg_class c on c.oid = t.typrelid
    where n.nspname = any(%(schemas)s)
      and t.typtype in ('e', 'd', 'c', 'r')
      and (c.oid is null or c.relkind = 'c')
      and pg_get_userbyid(t.typowner) !~ %(platform)s
      and not exists (
          select
          from pg_depend e
          where e.classid = 'pg_type'::regclass
            and e.objid = t.oid
            and e.deptype = 'e'
      )
    order by 1
"""

FUNCTIONS: Final = """
    select
        format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
        jsonb_build_object(
            'kind', case p.prokind when 'f' then 'function' when 'p' then 'procedure' else p.prokind::text end,
            'arguments', pg_get_function_arguments(p.oid),
            'result', pg_get_function_result(p.oid),
            'language', l.lanname,
            'security', case when p.prosecdef then 'definer' else 'invoker' end,
            'volatility', case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
            'settings', array_to_string(p.proconfig, '; '),
            'strict', nullif(p.proisstrict, false),
            'leakproof', nullif(p.proleakproof, false),
            'parallel', nullif(p.proparallel, 'u'),
            'body', encode(sha256(convert_to(replace(b.source, E'\\r', ''), 'UTF8')), 'hex')
        )
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
    join pg_language l on l.oid = p.prolang
    cross join lateral coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) b (source)
    where n.nspname = any(%(schemas)s)
      and pg_get_userbyid(p.proowner) !~ %(platform)s
      and not exists (
          select
          from pg_depend e
          where e.classid = 'pg_proc'::regclass
            and e.objid = p.oid
            and e.deptype = 'e'
      )
    order by 1
"""

# A trigger on a table of somebody else (`auth.users` on Supabase) is ours if it calls a function of ours.
TRIGGERS: Final = """
    select
        format('%%I.%%I: %%I', n.nspname, c.relname, t.tgname),
        jsonb_build_object(
            'definition', pg_get_triggerdef(t.oid),
            'state', case t.tgenabled when 'O' then null when 'D' then 'disabled' else t.tgenabled::text end
        )
    from pg_trigger t
    join pg_class c on c.oid = t.tgrelid
    join pg_namespace n on n.oid = c.relnamespace
    join pg_proc p on p.oid = t.tgfoid
    join pg_namespace pn on pn.oid = p.pronamespace
    where (n.nspname = any(%(schemas)s) or pn.nspname in ('public', 'private'))
      and not t.tgisinternal
      and not c.relispartition
      and pg_get_userbyid(c.relowner) !~ case when n.nspname = 'auth' then '^$' else %(platform)s end
    order by 1
"""

POLICIES: Final = """
    select
        format('%%I.%%I: %%s', n.nspname, c.relname, p.polname),
        jsonb_build_object(
            'command', case p.polcmd
                when 'r' then 'select'
                when 'a' then 'insert'
                when 'w' then 'update'
                when 'd' then 'delete'
                else 'all'
            end,
            'kind', case when p.polpermissive then 'permissive' else 'restrictive' end,
            'roles', (
                select jsonb_agg(r.name order by r.name)
                from (
                    select case when o = 0 then 'public' else pg_get_userbyid(o) end::text as name
                    from unnest(p.polroles) o
                ) r
            ),
            'using', pg_get_expr(p.polqual, p.polrelid),
            'check', pg_get_expr(p.polwithcheck, p.polrelid)
        )
    from pg_policy p
    join pg_class c on c.oid = p.polrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = any(%(schemas)s)
      and not c.relispartition
      and pg_get_userbyid(c.relowner) !~ %(platform)s
    order by 1
"""

ROW_SECURITY: Final = """
    select
        format('%%I.%%I', n.nspname, c.relname),
        jsonb_build_object(
            'enabled', c.relrowsecurity,
            'forced', nullif(c.relforcerowsecurity, false)
        )
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = any(%(schemas)s)
      and c.relkind in ('r', 'p')
      and not c.relispartition
      and pg_get_userbyid(c.relowner) !~ %(platform)s
      and not exists (
          select
          from pg_depend e
          where e.classid = 'pg_class'::regclass
            and e.objid = c.oid
            and e.deptype = 'e'
      )
    order by 1
"""

# The owner's rights are not a grant, and neither are a superuser's or a platform's.
GRANTS: Final = """
    with objects as (
        select 'schema' as kind, format('%%I', n.nspname) as name, n.nspowner as owner, n.nspacl as acl, 'n' as type
        from pg_namespace n
        where n.nspname = any(%(schemas)s)
        union all
        select
            case when c.relkind = 'S' then 'sequence' else 'table' end,
            format('%%I.%%I', n.nspname, c.relname),
            c.relowner,
            c.relacl,
            case when c.relkind = 'S' then 's' else 'r' end
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = any(%(schemas)s)
          and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
          and not c.relispartition
          and not exists (
              select
              from pg_depend e
              where e.classid = 'pg_class'::regclass
                and e.objid = c.oid
                and e.deptype = 'e'
          )
        union all
        select 'column', format('%%I.%%I: %%I', n.nspname, c.relname, a.attname), c.relowner, a.attacl, null
        from pg_attribute a
        join pg_class c on c.oid = a.attrelid
        join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = any(%(schemas)s)
          and not c.relispartition
          and a.attacl is not null
          and not a.attisdropped
        union all
        select
            'function',
            format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
            p.proowner,
            p.proacl,
            'f'
        from pg_proc p
        join pg_namespace n on n.oid = p.pronamespace
        where n.nspname = any(%(schemas)s)
          and not exists (
              select
              from pg_depend e
              where e.classid = 'pg_proc'::regclass
                and e.objid = p.oid
                and e.deptype = 'e'
          )
        union all
        select 'type', format('%%I.%%I', n.nspname, t.typname), t.typowner, t.typacl, 'T'
        from pg_type t
        join pg_namespace n on n.oid = t.typnamespace
        where n.nspname = any(%(schemas)s)
          and t.typacl is not null
          and t.typtype in ('e', 'd')
    )
    select
        format('%%s on %%s %%s', coalesce(r.rolname, 'public'), o.kind, o.name),
        jsonb_build_object(
            'rights', jsonb_agg(
                lower(a.privilege_type) || case when a.is_grantable then ' with grant option' else '' end
                order by a.privilege_type, a.is_grantable
            )
        )
    from objects o
    cross join lateral aclexplode(coalesce(o.acl, acldefault(o.type::"char", o.owner))) a
    left join pg_roles r on r.oid = a.grantee
    where a.grantee <> o.owner
      and pg_get_userbyid(o.owner) !~ %(platform)s
      and a.privilege_type <> 'MAINTAIN'
      and (
          a.grantee = 0
          or (
              not r.rolsuper
              and r.rolname !~ %(platform)s
              and a.grantee <> (select n.nspowner from pg_namespace n where n.nspname = 'private')
          )
      )
    group by 1
    order by 1
"""

# Whether service_role has BYPASSRLS is up to the server; that nobody else has it is up to us.
ROLES: Final = """
    select
        r.rolname::text,
        jsonb_build_object(
            'login', r.rolcanlogin,
            'superuser', r.rolsuper,
            'create role', r.rolcreaterole,
            'create database', r.rolcreatedb,
            'replication', r.rolreplication,
            'bypass row level security', case when r.rolname <> 'service_role' then r.rolbypassrls end,
            'inherit', case when r.rolname = 'threadkeep_api' then r.rolinherit end
        )
    from pg_roles r
    where r.rolname = any(%(roles)s)
    order by 1
"""

MEMBERSHIPS: Final = """
    select
        format('%%s in %%s', m.rolname, g.rolname),
        jsonb_build_object(
            'inherits', bool_or(pg_has_role(m.oid, g.oid, 'usage')),
            'admin', bool_or(a.admin_option)
        )
    from pg_auth_members a
    join pg_roles m on m.oid = a.member
    join pg_roles g on g.oid = a.roleid
    where m.rolname = any(%(roles)s)
    group by 1
    order by 1
"""

QUERIES: Final[dict[str, LiteralString]] = {
    "Tables": TABLES,
    "Columns": COLUMNS,
    "Partitions": PARTITIONS,
    "Constraints": CONSTRAINTS,
    "Indexes": INDEXES,
    "Types": TYPES,
    "Functions": FUNCTIONS,
    "Triggers": TRIGGERS,
    "Policies": POLICIES,
    "Row level security": ROW_SECURITY,
    "Grants": GRANTS,
    "Roles": ROLES,
    "Memberships": MEMBERSHIPS,
}
