"""What administrators configure: read, changed, put back, and who did what when.

A row is judged whole before it is written: by its shape, then by whether it can work with the models there are. Rows
that got in by hand may be broken: they can be read with what is wrong with them, replaced and put back. Of
administrators at the same time none overwrites what he has not seen, if he says what he has seen (`if_match`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import zip_longest
from typing import Any, Final, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from threadkeep import activity, configuration, pages, patches
from threadkeep.activity import ActivityType
from threadkeep.configuration import parse_configuration
from threadkeep.database import Database, Parameters
from threadkeep.errors import FieldError, ThreadkeepError, not_found
from threadkeep.identity import Principal
from threadkeep.pages import Slice

IfMatch = Sequence[str] | None
"""The tags one of which has to be that of what is there; `*` is any, None also nothing at all."""
Operation = Literal["insert", "update", "delete"]

MAXIMUM_KEY_CHARACTERS: Final = 100
MAXIMUM_SHOWN_CHANGES: Final = 50
MAXIMUM_SHOWN_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Person:
    """An administrator who changed something, as far as he is still known."""

    id: UUID
    email: str | None
    full_name: str | None


@dataclass(frozen=True, slots=True)
class Configuration:
    """A row of `admin_config`, and what is wrong with it, if it got in by hand.

    A key that should have a row and has none comes in lists without version, tag and times. `is_seeded` says that it
    is as `sql/` made it.
    """

    key: str
    data: Any
    version: int | None
    tag: str | None
    is_seeded: bool
    updated_at: datetime | None
    updated_by: Person | None
    problems: tuple[FieldError, ...]

    @property
    def is_known(self) -> bool:
        """Whether anything reads this key."""
        return configuration.is_key(self.key)


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that a change wrote or took away; long texts are cut for showing."""

    path: str
    change: Literal["added", "removed", "changed"]
    before: Any = None
    after: Any = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a change wrote; a deletion has no data. `changes` is against the entry before, up to 50 of them."""

    id: int
    version: int
    operation: Operation
    is_seed: bool
    changed_at: datetime
    changed_by: Person | None
    data: Any
    changes: tuple[Difference, ...] = field(default=())


_ROWS: Final = """
    select
        a.config_key as key, a.config_data as data, a.version, private.entity_tag(to_jsonb(a)) as tag,
        a.updated_at, p.id as person, p.email, p.full_name,
        coalesce(a.config_data::text = (
            select h.config_data::text
            from public.admin_config_history as h
            where h.config_key = a.config_key
                and h.is_seed
            order by h.id desc
            limit 1
        ), false) as is_seeded,
        private.configuration_obstacles(a.config_key, a.config_data, null) as obstacles
    from public.admin_config as a
    left join public.user_profiles as p on p.id = a.updated_by
    where %(key)s::text is null or a.config_key = %(key)s
    order by a.config_key
"""
_ENTRIES: Final = """
    select
        h.id, h.version, h.operation, h.is_seed, h.changed_at, h.config_data as data,
        p.id as person, p.email, p.full_name
    from public.admin_config_history as h
    left join public.user_profiles as p on p.id = h.changed_by
    where h.config_key = %(key)s
        and (%(last)s::bigint is null or h.id < %(last)s)
        and (%(entry)s::bigint is null or h.id <= %(entry)s)
        and (not %(seeds)s or h.is_seed)
    order by h.id desc
    limit %(limit)s
"""


async def all_rows(database: Database, administrator: Principal) -> list[Configuration]:
    """Every configuration by its key, also those that are missing and those under a key that nothing reads."""
    viewed = activity.noting(activity.note(database, "admin_provider_view", ("configuration", None)))
    rows, _ = await database.run(administrator, (_ROWS, {"key": None}), viewed)
    found = {row["key"]: _configuration(row) for row in rows}
    missing = {key: _missing(key) for key in configuration.SHAPES if key not in found}
    return sorted((found | missing).values(), key=lambda row: row.key)


async def read(database: Database, administrator: Principal, key: str) -> Configuration:
    """The configuration of a key, whatever state it is in; raises `not_found:configuration`."""
    viewed: Final = """
        select private.log_user_activity(%(activity)s)
        from public.admin_config as a
        where a.config_key = %(key)s
    """
    values = {"key": _possible(key), "activity": _view(database, key)}
    rows, _ = await database.run(administrator, (_ROWS, values), (viewed, values))
    return _only(rows)


def json_schema(key: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a key's data; raises `not_found:configuration`."""
    return configuration.json_schema(_known(key))


async def put(
    database: Database,
    administrator: Principal,
    key: str,
    data: Any,
    *,
    if_match: IfMatch = None,
    noted_as: ActivityType = "admin_config_update",
) -> tuple[Configuration, bool]:
    """The configuration with all of its data replaced, and whether there was none before.

    The next turn in any process uses it. The same again changes nothing. Raises `not_found:configuration` for a key
    that nothing reads, `invalid:api` with the JSON path and the reason of each wrong field, and
    `precondition_failed:configuration` with what is there as `current`.
    """
    parse_configuration(_known(key), data)
    change: Final = """
        select made.is_new
        from private.set_configuration(
            p_key => %(key)s,
            p_data => %(data)s,
            p_if_match => %(if_match)s,
            p_email => %(email)s,
            p_name => %(name)s
        ) as made (is_new)
    """
    # Only of a row that this transaction wrote: the same again is no change.
    noted: Final = """
        select private.log_user_activity(%(activity)s)
        from public.admin_config as a
        where a.config_key = %(key)s
            and a.xmin = pg_current_xact_id_if_assigned()::xid
    """
    note = activity.note(database, noted_as, ("configuration", None), metadata={"key": key})
    values = _of(administrator, key, if_match) | {"data": Jsonb(data), "activity": note}
    try:
        # The function refuses a disabled caller itself.
        [made], _, [row] = await database.run(
            administrator, (change, values), (noted, values), (_ROWS, values), require_active=False
        )
    except ThreadkeepError as error:
        raise await _with_current(database, administrator, key, error) from None
    return _configuration(row), made["is_new"]


async def patch(
    database: Database, administrator: Principal, key: str, changes: Any, *, if_match: IfMatch = None
) -> Configuration:
    """The configuration with a JSON merge patch (RFC 7396) applied; raises as `put` does.

    Without `if_match` the patch is applied to whatever is there, and what others change meanwhile stays.
    """

    wanted = None if if_match is None or "*" in if_match else if_match

    async def change() -> Configuration:
        row = _only(await database.rows(administrator, _ROWS, {"key": _known(key)}))
        if wanted is not None and row.tag not in wanted:
            raise _changed_meanwhile(row)
        changed, _ = await put(database, administrator, key, patches.merged(row.data, changes), if_match=[str(row.tag)])
        return changed

    return await patches.until_unchanged(change) if wanted is None else await change()


async def reset(
    database: Database, administrator: Principal, key: str, *, if_match: IfMatch = None
) -> Configuration | None:
    """Puts a configuration back to what `sql/` made; that of a team's own tool, or of nothing, is deleted (None).

    Every other key is needed by every turn, so none of them is ever without a row. Raises as `put` does, and
    `conflict:configuration` where no seed is known.
    """
    if key not in configuration.SHAPES:
        await _remove(database, administrator, key, if_match)
        return None
    seeds = await database.rows(administrator, _ENTRIES, _page(key, limit=1) | {"seeds": True})
    if not seeds:
        raise ThreadkeepError("conflict:configuration")
    row, _ = await put(database, administrator, key, seeds[0]["data"], if_match=if_match)
    return row


async def history(
    database: Database, administrator: Principal, key: str, *, limit: int, cursor: str | None
) -> Slice[Entry]:
    """What was changed of a configuration, by whom and when, newest first; raises `not_found:configuration`."""
    belongs_to = f"history of {_possible(key)}"
    [last] = pages.place(cursor, belongs_to, pages.bigint)
    # One more, which is what the last one of the page changed.
    viewed: Final = """
        select private.log_user_activity(%(activity)s)
        where exists (select from public.admin_config_history as h where h.config_key = %(key)s)
    """
    values = _page(key, limit=limit + 1) | {"last": last, "activity": None if cursor else _view(database, key)}
    rows, _ = await database.run(administrator, (_ENTRIES, values), (viewed, values))
    if not rows and cursor is None and key not in configuration.SHAPES:
        raise not_found("configuration")
    items = _entries(rows)[:limit]
    return Slice(items, pages.cursor(belongs_to, items[-1].id) if len(rows) > limit else None)


async def entry(database: Database, administrator: Principal, key: str, number: int) -> Entry:
    """One entry of a configuration's history; raises `not_found:history`."""
    viewed: Final = """
        select private.log_user_activity(%(activity)s)
        from public.admin_config_history as h
        where h.config_key = %(key)s
            and h.id = %(entry)s
    """
    values = _page(_possible(key), limit=2) | {"entry": number, "activity": _view(database, key)}
    rows, _ = await database.run(administrator, (_ENTRIES, values), (viewed, values))
    return _entry_of(rows, number)


async def revert(
    database: Database, administrator: Principal, key: str, number: int, *, if_match: IfMatch = None
) -> Configuration:
    """The configuration as an entry of its history wrote it; raises as `put` does, and `not_found:history`.

    What was valid then is judged by what is valid now.
    """
    rows = await database.rows(administrator, _ENTRIES, _page(_known(key), limit=2) | {"entry": number})
    wanted = _entry_of(rows, number)
    if wanted.operation == "delete":
        raise ThreadkeepError("conflict:configuration", "This entry is a deletion. Choose one that wrote something.")
    row, _ = await put(database, administrator, key, wanted.data, if_match=if_match, noted_as="admin_config_revert")
    return row


def current(row: Configuration) -> dict[str, Any]:
    """The configuration as an error carries it: `{key, version, etag, updatedAt, data}`."""
    return {
        "key": row.key,
        "version": row.version,
        "etag": f'"{row.tag}"',
        "updatedAt": row.updated_at and row.updated_at.isoformat(),
        "data": row.data,
    }


async def _remove(database: Database, administrator: Principal, key: str, if_match: IfMatch) -> None:
    remove: Final = """
        select gone.is_removed, case when gone.is_removed then private.log_user_activity(%(activity)s) end
        from private.remove_configuration(
            p_key => %(key)s,
            p_if_match => %(if_match)s,
            p_email => %(email)s,
            p_name => %(name)s
        ) as gone (is_removed)
    """
    note = activity.note(database, "admin_config_delete", ("configuration", None), metadata={"key": key})
    try:
        values = _of(administrator, _possible(key), if_match) | {"activity": note}
        row = await database.row(administrator, remove, values)
    except ThreadkeepError as error:
        raise await _with_current(database, administrator, key, error) from None
    if row is None or not row["is_removed"]:
        raise not_found("configuration")


async def _with_current(
    database: Database, administrator: Principal, key: str, error: ThreadkeepError
) -> ThreadkeepError:
    """The loser of a condition is told what is there now, so that he need not ask; other errors stay as they are."""
    if error.code != "precondition_failed:configuration":
        return error
    row = await database.row(administrator, _ROWS, {"key": key})
    return error if row is None else _changed_meanwhile(_configuration(row))


def _changed_meanwhile(row: Configuration) -> ThreadkeepError:
    return ThreadkeepError("precondition_failed:configuration", extra={"current": current(row)})


def _possible(key: str) -> str:
    if len(key) > MAXIMUM_KEY_CHARACTERS or "\0" in key:
        raise not_found("configuration")
    return key


def _known(key: str) -> str:
    if not configuration.is_key(key):
        raise not_found("configuration")
    return key


def _of(administrator: Principal, key: str, if_match: IfMatch) -> dict[str, Any]:
    return {
        "key": key,
        "if_match": None if if_match is None else list(if_match),
        "email": administrator.email,
        "name": administrator.name,
    }


def _page(key: str, *, limit: int) -> dict[str, Any]:
    return {"key": key, "last": None, "entry": None, "seeds": False, "limit": limit}


def _view(database: Database, key: str) -> Jsonb | None:
    """What is set for a provider is a view of that provider; settings of the whole belong to the dashboard."""
    is_of_provider = key.endswith(tuple(f"_{provider}" for provider in configuration.PROVIDERS))
    viewed: ActivityType = "admin_provider_view" if is_of_provider else "admin_dashboard_view"
    return activity.note(database, viewed, ("configuration", None), metadata={"key": key})


def _only(rows: Sequence[Parameters]) -> Configuration:
    if not rows:
        raise not_found("configuration")
    return _configuration(rows[0])


def _entry_of(rows: Sequence[Parameters], number: int) -> Entry:
    if not rows or rows[0]["id"] != number:
        raise not_found("history")
    return _entries(rows)[0]


def _configuration(row: Parameters) -> Configuration:
    problems: tuple[FieldError, ...] = ()
    try:
        parse_configuration(row["key"], row["data"])
    except ThreadkeepError as error:
        problems = error.fields
    return Configuration(
        key=row["key"],
        data=row["data"],
        version=row["version"],
        tag=row["tag"],
        is_seeded=row["is_seeded"],
        updated_at=row["updated_at"],
        updated_by=_person(row),
        problems=problems or tuple(FieldError(**obstacle) for obstacle in row["obstacles"]),
    )


def _missing(key: str) -> Configuration:
    return Configuration(
        key=key,
        data=None,
        version=None,
        tag=None,
        is_seeded=False,
        updated_at=None,
        updated_by=None,
        problems=(FieldError("configData", "is missing"),),
    )


def _entries(rows: Sequence[Parameters]) -> list[Entry]:
    befores = [row["data"] for row in rows[1:]]
    return [_entry(row, before) for row, before in zip_longest(rows, befores)]


def _entry(row: Parameters, before: Any) -> Entry:
    # The first entry adds all of its members, and a deletion removes them.
    changes = list(_differences(_or_nothing(before), _or_nothing(row["data"]), ""))
    return Entry(
        id=row["id"],
        version=row["version"],
        operation=row["operation"],
        is_seed=row["is_seed"],
        changed_at=row["changed_at"],
        changed_by=_person(row),
        data=row["data"],
        changes=tuple(changes[:MAXIMUM_SHOWN_CHANGES]),
    )


def _person(row: Parameters) -> Person | None:
    return None if row["person"] is None else Person(row["person"], row["email"], row["full_name"])


def _differences(before: Any, after: Any, path: str) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*after, *(name for name in before if name not in after)]:
            here = f"{path}.{name}" if path else name
            if name not in before:
                yield Difference(here, "added", after=_shown(after[name]))
            elif name not in after:
                yield Difference(here, "removed", before=_shown(before[name]))
            else:
                yield from _differences(before[name], after[name], here)
    # As text: to Python, true is 1.
    elif json.dumps(before) != json.dumps(after):
        yield Difference(path or "configData", "changed", _shown(before), _shown(after))


def _or_nothing(data: Any) -> Any:
    return {} if data is None else data


def _shown(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return value if len(text) <= MAXIMUM_SHOWN_CHARACTERS else text[: MAXIMUM_SHOWN_CHARACTERS - 1] + "…"
