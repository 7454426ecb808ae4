"""Compares a database with what the migrations make, kind by kind."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from threadkeep.catalog import (
    Catalog,
    Definition,
    Objects,
    differing_fields,
    has_stand_in,
    load_catalog,
    read_catalog,
    reading,
)
from threadkeep.migrations import Connection, connect, scalar

SEED_DATA: Final = "Seed data"
# What lies in the stand-in, by its name; `anon on function auth.uid()` is a grant on something in it.
IN_STAND_IN: Final = re.compile(r"auth\.|\w+ on \w+ auth(\.|$)")
INDEXED_TABLE: Final = re.compile(r" ON (?:ONLY )?(\S+) USING ")


class Difference(BaseModel):
    """An object that is not as the migrations make it, and in what."""

    model_config = ConfigDict(frozen=True)

    name: str
    reason: str


class KindReport(BaseModel):
    """What was found of one kind of object; `compared` is how many should be there."""

    model_config = ConfigDict(frozen=True)

    kind: str
    compared: int
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    different: tuple[Difference, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all of this kind is as it should be."""
        return not (self.missing or self.extra or self.different)


class VerifyReport(BaseModel):
    """A comparison of a whole database; `information` is what differs and may."""

    model_config = ConfigDict(frozen=True)

    kinds: tuple[KindReport, ...]
    information: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the database is as the migrations make it."""
        return all(kind.ok for kind in self.kinds)


def verify(database: str | Connection, folder: Path) -> VerifyReport:
    """Compare the schemas `public` and `private`, and the stand-in where it is ours, with the folder's catalog.

    `database` is a DSN or a connection. Nothing is changed. Of seeded rows only a missing key or an invalid shape
    counts; a changed value is information, because administrators change them.
    """
    expected = load_catalog(folder)
    with connect(database) if isinstance(database, str) else nullcontext(database) as connection:
        actual = read_catalog(connection)
        expected = expected_here(expected, connection)
        invalid = _invalid_seeds(connection)
    actual = _ours(actual, expected)
    kinds = [
        _compare(kind, objects, actual.of(kind)) for kind, objects in expected.objects.items() if kind != SEED_DATA
    ]
    seeds, changed = _compare_seeds(expected.of(SEED_DATA), actual.of(SEED_DATA), invalid)
    left_out = [f"Index {name} is left out: {reason}" for name, reason in expected.left_out_indexes.items()]
    return VerifyReport(kinds=(*kinds, seeds), information=(*changed, *left_out))


def expected_here(catalog: Catalog, connection: Connection) -> Catalog:
    """The catalog as it should be in this database: where `auth` is an identity provider's, of it only our triggers."""
    if has_stand_in(connection):
        return catalog
    objects = {
        kind: {name: definition for name, definition in members.items() if not IN_STAND_IN.match(name)}
        for kind, members in catalog.objects.items()
    }
    return catalog.model_copy(update={"objects": objects | {"Triggers": catalog.of("Triggers")}})


def _ours(actual: Catalog, expected: Catalog) -> Catalog:
    """The catalog without what a project has of its own in `public`: tables with all that is on them, and functions.

    What is on one of our tables is ours to judge, whoever made it; so is an overload of one of our functions.
    """
    subjects = {*expected.of("Tables"), *(_subject(name) for name in expected.of("Functions"))}

    def is_ours(kind: str, name: str, definition: Definition) -> bool:
        if kind == "Indexes":
            table = INDEXED_TABLE.search(str(definition.get("definition")))
            subject = table[1] if table else name
        elif kind == "Grants":
            object_kind, subject = name.partition(" on ")[2].split(" ", 1)
            if object_kind == "schema":
                return True
            subject = _subject(subject)
        else:
            subject = _subject(name)
        return not subject.startswith("public.") or subject in subjects

    objects = {
        kind: {name: definition for name, definition in members.items() if is_ours(kind, name, definition)}
        for kind, members in actual.objects.items()
    }
    return actual.model_copy(update={"objects": objects})


def _subject(name: str) -> str:
    """The table or function that a name in the catalog begins with."""
    return name.partition(": ")[0].partition("(")[0]


def _compare(kind: str, expected: Objects, actual: Objects) -> KindReport:
    return KindReport(
        kind=kind,
        compared=len(expected),
        missing=tuple(name for name in expected if name not in actual),
        extra=tuple(name for name in actual if name not in expected),
        different=tuple(
            Difference(name=name, reason=_reason(definition, actual[name]))
            for name, definition in expected.items()
            if name in actual and differing_fields(definition, actual[name])
        ),
    )


def _reason(expected: Definition, actual: Definition) -> str:
    return "; ".join(
        f"{field} is {_shown(actual.get(field))}, not {_shown(expected.get(field))}"
        for field in differing_fields(expected, actual)
    )


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _compare_seeds(expected: Objects, actual: Objects, invalid: list[Difference]) -> tuple[KindReport, list[str]]:
    report = KindReport(
        kind=SEED_DATA,
        compared=len(expected),
        missing=tuple(name for name in expected if name not in actual),
        different=tuple(invalid),
    )
    changed = [f"{name} was changed" for name in expected if name in actual and actual[name] != expected[name]]
    added = [f"{name} was added" for name in actual if name not in expected]
    return report, changed + added


def _invalid_seeds(connection: Connection) -> list[Difference]:
    # A database that lacks the function or the table is reported for that.
    check = "to_regprocedure('private.admin_config_problem(text, jsonb)')"
    table = "to_regclass('public.admin_config')"
    with reading(connection):
        if not scalar(connection, f"select {check} is not null and {table} is not null"):
            return []
        rows = connection.execute(
            """
            select
                config_key,
                private.admin_config_problem(config_key, config_data)
            from public.admin_config
            where private.admin_config_problem(config_key, config_data) is not null
            order by config_key
            """
        )
        return [Difference(name=f"public.admin_config: {key}", reason=str(problem)) for key, problem in rows]
