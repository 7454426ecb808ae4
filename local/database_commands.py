"""The database's commands: `python -m local.database_commands migrate | verify | reset | repair | catalog`.

They work on `DATABASE_URL`, or on the embedded server in `DATA_DIR`; both may stand in `.env`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

from local.configuration import data_dir, environment
from local.postgres import EmbeddedPostgres, EmbeddedPostgresError
from threadkeep.catalog import CATALOG_FILE, catalog_text
from threadkeep.migrations import MigrationError, apply, connect
from threadkeep.repair import repair
from threadkeep.reset import reset
from threadkeep.schema_check import KindReport, verify
from threadkeep.settings import MigrationSettings, SettingsError

SQL: Final = Path(__file__).parents[1] / "sql"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all is well, 1 if something is off or was refused."""
    chosen = _parser().parse_args(arguments)
    try:
        match chosen.command:
            case "migrate":
                return _migrate(dry_run=chosen.dry_run)
            case "verify":
                return _verify()
            case "reset":
                return _reset(delete_everything=chosen.yes_delete_everything)
            case "repair":
                return _repair(dry_run=chosen.dry_run)
            case _:
                return _catalog()
    except (MigrationError, EmbeddedPostgresError, SettingsError) as error:
        print(error, file=sys.stderr)
    except psycopg.Error as error:
        print(f"The database refused: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local.database_commands", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    migrate = commands.add_parser("migrate", help="apply the pending files of sql/")
    migrate.add_argument("--dry-run", action="store_true", help="run them, then roll back")
    commands.add_parser("verify", help="compare the database with what sql/ makes")
    reset_parser = commands.add_parser("reset", help="drop everything of Threadkeep's")
    reset_parser.add_argument("--yes-delete-everything", action="store_true", help="without it nothing happens")
    repair_parser = commands.add_parser("repair", help="mend a database that was imported without constraints")
    repair_parser.add_argument("--dry-run", action="store_true", help="report what would be mended, change nothing")
    commands.add_parser("catalog", help=f"write sql/{CATALOG_FILE} anew, from a fresh database")
    return parser


@contextmanager
def database() -> Iterator[str]:
    """The address of `DATABASE_URL`, or of the embedded server, as its owner."""
    environ = environment()
    if given := environ.get("DATABASE_URL"):
        yield given
        return
    with EmbeddedPostgres(data_dir(environ) / "postgres") as postgres:
        yield postgres.dsn()


def _migrate(*, dry_run: bool) -> int:
    with database() as dsn:
        settings = MigrationSettings.load(environment() | {"DATABASE_URL": dsn, "DATABASE_URL_SECRET_ARN": ""})
        report = apply(dsn, SQL, dry_run=dry_run, api_password=settings.api_password())
    for migration in report.applied:
        print(f"{migration.name}  {migration.duration_ms} ms")
    for name in report.not_rehearsed:
        print(f"{name}  not rehearsed: it cannot run in a transaction")
    if report.ahead:
        print(f"The database is ahead of this code: {', '.join(report.ahead)}")
    if report.password_set:
        print("The login role has the password of API_DATABASE_PASSWORD.")
    done = "would be applied; nothing was changed" if dry_run else "applied"
    print(f"{len(report.applied)} {done}, {len(report.already_applied)} were there already.")
    return 0


def _verify() -> int:
    with database() as dsn:
        report = verify(dsn, SQL)
    for kind in report.kinds:
        print(f"{'PASSED' if kind.ok else 'FAILED'} - {kind.kind} ({kind.compared})")
        for line in _problems(kind):
            print(f"    {line}")
    for line in report.information:
        print(f"note: {line}")
    print("The database is as it should be." if report.ok else "The database is not as it should be.")
    return 0 if report.ok else 1


def _problems(kind: KindReport) -> list[str]:
    return [
        *(f"missing: {name}" for name in kind.missing),
        *(f"extra: {name}" for name in kind.extra),
        *(f"different: {difference.name}: {difference.reason}" for difference in kind.different),
    ]


def _reset(*, delete_everything: bool) -> int:
    if not delete_everything:
        print("This deletes every account, session and message. Repeat it with --yes-delete-everything.")
        return 1
    with database() as dsn:
        report = reset(dsn, SQL, delete_everything=True)
    print(f"{len(report.dropped)} objects dropped. `migrate` makes them anew.")
    return 0


def _repair(*, dry_run: bool) -> int:
    with database() as dsn:
        report = repair(dsn, SQL, dry_run=dry_run)
    print(f"users without profile: {report.users_without_profile}; profiles made: {report.profiles_made}")
    print(f"sessions without user: {report.sessions_without_user}")
    print(f"messages without session: {report.messages_without_session}")
    for finding in report.quarantined:
        print(f"quarantined: {finding.rows} of {finding.table}: {finding.reason}")
    for finding in report.emptied:
        print(f"emptied: {finding.reason} in {finding.rows} of {finding.table}, which referred to nothing")
    for finding in report.set_right:
        print(f"set right: {finding.rows} of {finding.table}: {finding.reason}")
    print(f"sessions counted anew: {report.sessions_recounted}")
    for name in report.restored:
        print(f"restored: {name}")
    rows = sum(finding.rows for finding in report.quarantined)
    print(f"{report.way}; {rows} rows {'would go' if dry_run else 'went'} to private.quarantine.")
    if dry_run:
        print("Nothing was changed.")
    return 0


def _catalog() -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder) / "postgres", temporary=True, durable=False) as postgres,
    ):
        apply(postgres.dsn(), SQL)
        with connect(postgres.dsn()) as connection:
            text = catalog_text(connection, SQL)
    (SQL / CATALOG_FILE).write_text(text, encoding="utf-8")
    print(f"{SQL / CATALOG_FILE} is written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
