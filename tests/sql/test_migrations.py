"""The runner: each file once, in order, whole or not at all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from local.postgres import EmbeddedPostgres
from tests.databases import SQL, DatabaseServer, own_cluster
from threadkeep.migrations import MigrationError, MigrationReport, Timeouts, apply
from threadkeep.schema_check import verify

Write = Callable[..., Path]


@pytest.fixture
def empty_database_url(postgres_server: DatabaseServer) -> Iterator[str]:
    name = postgres_server.create_database()
    yield postgres_server.dsn(name)
    postgres_server.drop_database(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write migrations, `_0001_name="text"`, and return their folder."""

    def write_files(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / f"{name.removeprefix('_')}.sql").write_text(text)
        return tmp_path

    return write_files


def ask(dsn: str, query: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return [row[0] for row in connection.execute(query.encode())]


def tables(dsn: str) -> list[str]:
    return ask(dsn, "select tablename from pg_tables where schemaname in ('public', 'private') order by 1")


def names(report: MigrationReport) -> list[str]:
    return [migration.name for migration in report.applied]


def test_files_are_applied_once_and_in_the_order_of_their_names(empty_database_url: str, write: Write) -> None:
    folder = write(_0002_b="alter table a add b integer;", _0001_a="create table a ();")

    assert names(apply(empty_database_url, folder)) == ["0001_a.sql", "0002_b.sql"]
    again = apply(empty_database_url, folder)

    assert names(again) == []
    assert again.already_applied == ("0001_a.sql", "0002_b.sql")


def test_runs_at_the_same_time_all_succeed_and_apply_each_file_once(empty_database_url: str, write: Write) -> None:
    folder = write(
        _0001_a="create table a (id integer); create table done (name text);",
        _0002_b="insert into done values ('0002');",
        # It waits for every older snapshot: a run that waits for the lock may not hold one.
        _0003_c="-- threadkeep: no-transaction\ncreate index concurrently if not exists a_id on a (id);",
        _0004_d="insert into done values ('0004');",
    )
    barrier = threading.Barrier(4)
    reports: list[MigrationReport] = []

    def run() -> None:
        barrier.wait(10)
        reports.append(apply(empty_database_url, folder))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(name for report in reports for name in names(report)) == [
        "0001_a.sql",
        "0002_b.sql",
        "0003_c.sql",
        "0004_d.sql",
    ]
    assert len(reports) == 4
    assert ask(empty_database_url, "select name from done order by 1") == ["0002", "0004"]


def test_an_edited_file_is_refused_by_name(empty_database_url: str, write: Write) -> None:
    apply(empty_database_url, write(_0001_a="create table a ();", _0002_b="create table b ();"))

    with pytest.raises(MigrationError, match=r"0001_a\.sql was edited"):
        apply(empty_database_url, write(_0001_a="create table a (id integer);", _0003_c="create table c ();"))

    assert tables(empty_database_url) == ["a", "b", "migrations"]


def test_line_ends_are_no_edit(empty_database_url: str, write: Write) -> None:
    folder = write(_0001_a="create table a ();\nselect 1;\n")
    apply(empty_database_url, folder)

    (folder / "0001_a.sql").write_bytes(b"create table a ();\r\nselect 1;\r\n")

    assert names(apply(empty_database_url, folder)) == []


def test_a_file_out_of_order_is_refused_by_name(empty_database_url: str, write: Write) -> None:
    apply(empty_database_url, write(_0001_a="create table a ();", _0003_c="create table c ();"))

    with pytest.raises(MigrationError, match=r"0002_b\.sql is out of order"):
        apply(empty_database_url, write(_0002_b="create table b ();"))


def test_a_file_that_went_away_is_refused_by_name(empty_database_url: str, write: Write) -> None:
    folder = write(_0001_a="create table a ();", _0002_b="create table b ();")
    apply(empty_database_url, folder)
    (folder / "0001_a.sql").unlink()

    with pytest.raises(MigrationError, match=r"0001_a\.sql is in the ledger but not in the folder"):
        apply(empty_database_url, folder)


def test_older_code_leaves_a_newer_database_alone(empty_database_url: str, write: Write) -> None:
    folder = write(_0001_a="create table a ();", _0002_b="create table b ();")
    apply(empty_database_url, folder)
    (folder / "0002_b.sql").unlink()

    report = apply(empty_database_url, folder)

    assert (names(report), report.ahead) == ([], ("0002_b.sql",))


@pytest.mark.parametrize("name", ["1_short.sql", "0001_Upper.sql", "notes.sql"])
def test_a_file_with_no_number_is_refused_rather_than_forgotten(
    empty_database_url: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("select 1")

    with pytest.raises(MigrationError, match=name):
        apply(empty_database_url, tmp_path)


def test_a_failing_file_leaves_nothing_of_the_run_and_is_named_with_its_line(
    empty_database_url: str, write: Write
) -> None:
    folder = write(_0001_a="create table a ();", _0002_b="create table b ();\n\nselect nothing from b;")

    with pytest.raises(MigrationError, match=r'0002_b\.sql, line 3: column "nothing" does not exist'):
        apply(empty_database_url, folder)

    assert tables(empty_database_url) == []


def test_a_deferred_constraint_fails_in_the_file_that_broke_it(empty_database_url: str, write: Write) -> None:
    folder = write(
        _0001_a="create table a (id integer primary key); "
        "create table b (a integer references a deferrable initially deferred);",
        _0002_b="insert into b values (1);",
        _0003_c="insert into a values (1);",
    )

    with pytest.raises(MigrationError, match=r"0002_b\.sql: .*Key \(a\)=\(1\) is not present"):
        apply(empty_database_url, folder)


def test_a_constraint_is_deferred_again_for_the_next_file(empty_database_url: str, write: Write) -> None:
    folder = write(
        _0001_a="create table a (id integer primary key); "
        "create table b (a integer references a deferrable initially deferred);",
        _0002_b="insert into b values (1); insert into a values (1);",
        # Altering a table is refused while a check of its rows is outstanding.
        _0003_c="alter table b add c integer;",
        _0004_d="insert into b values (2); insert into a values (2);",
    )

    assert len(apply(empty_database_url, folder).applied) == 4


@pytest.mark.parametrize("control", ["commit;", "  ROLLBACK ;", "begin work;", "start transaction;"])
def test_a_file_that_ends_the_transaction_is_refused_before_anything_runs(
    empty_database_url: str, write: Write, control: str
) -> None:
    folder = write(_0001_a="create table a ();", _0002_b=f"create table b ();\n{control}\ncreate table c ();")

    with pytest.raises(MigrationError, match=r"0002_b\.sql, line 2"):
        apply(empty_database_url, folder)

    assert tables(empty_database_url) == []


def test_a_dry_run_rehearses_all_and_changes_nothing(empty_database_url: str, write: Write) -> None:
    folder = write(
        _0001_a="create table a (id integer);",
        _0002_b="-- threadkeep: no-transaction\ncreate index concurrently a_id on a (id);",
        _0003_c="alter table a add b integer;",
    )

    report = apply(empty_database_url, folder, dry_run=True)

    assert names(report) == ["0001_a.sql", "0003_c.sql"]
    assert report.not_rehearsed == ("0002_b.sql",)
    assert ask(empty_database_url, "select count(*) from pg_namespace where nspname = 'private'") == [0]
    assert tables(empty_database_url) == []


def test_a_dry_run_fails_where_the_real_one_would(empty_database_url: str, write: Write) -> None:
    with pytest.raises(MigrationError, match=r"0001_a\.sql"):
        apply(empty_database_url, write(_0001_a="create table a ();\nselect x from a;"), dry_run=True)


def test_a_file_that_needs_no_transaction_runs_between_the_others(empty_database_url: str, write: Write) -> None:
    folder = write(
        _0001_a="create table a (id integer);",
        _0002_b="-- threadkeep: no-transaction\ncreate index concurrently a_id on a (id);",
        _0003_c="comment on index a_id is 'there';",
    )

    report = apply(empty_database_url, folder)

    assert names(report) == ["0001_a.sql", "0002_b.sql", "0003_c.sql"]
    assert ask(empty_database_url, "select indisvalid from pg_index where indexrelid = 'a_id'::regclass") == [True]


def test_a_file_waits_for_a_lock_no_longer_than_it_may(empty_database_url: str, write: Write) -> None:
    apply(empty_database_url, write(_0001_a="create table a ();"))
    with psycopg.connect(empty_database_url) as reader:
        reader.execute("select from a")
        with pytest.raises(MigrationError, match=r"0002_b\.sql: canceling statement due to lock timeout"):
            apply(empty_database_url, write(_0002_b="alter table a add b integer;"), timeouts=Timeouts(lock_ms=50))


def test_one_file_cannot_change_the_settings_of_the_next(empty_database_url: str, write: Write) -> None:
    folder = write(
        _0001_a="create schema elsewhere; set search_path = elsewhere; set lock_timeout = 0;",
        _0002_b="create table a as select current_setting('lock_timeout') as value;",
    )

    apply(empty_database_url, folder)

    assert ask(empty_database_url, "select value from public.a") == ["10s"]


def test_tables_without_a_ledger_are_refused_and_db_repair_is_named(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute('create table "Chat" (id uuid, user_id uuid, title text)')

    with pytest.raises(MigrationError, match="db-repair"):
        apply(empty_database_url, SQL)

    assert tables(empty_database_url) == ["Chat"]


def test_a_database_without_its_foreign_keys_is_refused_and_db_repair_is_named(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute('alter table "Message_v2" drop constraint "Message_v2_chatId_fkey"')

    with pytest.raises(MigrationError, match=r"Message_v2\.Message_v2_chatId_fkey.*db-repair"):
        apply(database_url, SQL)


def test_an_owner_who_is_no_superuser_is_enough() -> None:
    with own_cluster() as server:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            connection.execute("create role plain_owner login createrole")
            connection.execute("create database owned owner plain_owner")
        dsn = server.dsn("owned", "plain_owner")

        apply(dsn, SQL, api_password="a password")
        apply(dsn, SQL, api_password="another password")

        assert verify(dsn, SQL).ok


def test_the_password_of_the_login_role_never_stands_in_the_servers_log() -> None:
    with own_cluster(settings={"log_statement": "all"}) as server:
        apply(server.dsn(), SQL, api_password="correct horse battery")

        stored = ask(server.dsn(), "select rolpassword from pg_authid where rolname = 'threadkeep_api'")
        logged = server.log.read_text()

    assert stored[0].startswith("SCRAM-SHA-256$")
    assert "alter role" in logged
    assert "correct horse battery" not in logged


def test_a_server_that_takes_no_hash_gets_the_password_after_all_else_is_committed() -> None:
    with own_cluster(listen_tcp=True) as server, like_neon(server) as dsn:
        report = apply(dsn, SQL, api_password="correct horse battery")
        again = apply(dsn, SQL, api_password="another horse battery")
        stored = ask(server.dsn(), "select rolpassword from pg_authid where rolname = 'threadkeep_api'")
        login = make_conninfo(server.tcp_dsn(), user="threadkeep_api", password="another horse battery")
        assert ask(login, "select session_user::text") == ["threadkeep_api"]

    assert (len(report.applied), report.password_set) == (len(list(SQL.glob("*.sql"))), True)
    assert (again.applied, again.password_set) == ((), True)
    assert stored[0].startswith("SCRAM-SHA-256$")


@contextmanager
def like_neon(server: EmbeddedPostgres) -> Iterator[str]:
    """The address of a proxy with which a transaction cannot commit that gave a role a hash as its password."""
    with psycopg.connect(server.dsn(), autocommit=True) as owner:
        owner.execute("""
            create schema control_plane;
            create table control_plane.hashes (role text);
            create function control_plane.refuse() returns trigger language plpgsql as $$
            begin
                raise exception using errcode = 'XX000', message = 'Received HTTP code 400 from control plane: '
                    '{"error":"Neon only supports being given plaintext passwords."}';
            end $$;
            create constraint trigger refuse after insert on control_plane.hashes deferrable initially deferred
                for each row execute function control_plane.refuse()
        """)
    target = conninfo_to_dict(server.tcp_dsn())

    class Client(BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((str(target["host"]), int(str(target["port"])))) as upstream:
                threading.Thread(target=self._answers, args=(upstream,), daemon=True).start()
                while data := self.request.recv(1 << 16):
                    if b"SCRAM-SHA-256$" in data:
                        data = query(b"insert into control_plane.hashes values ('one');" + data[5:-1])
                    upstream.sendall(data)

        def _answers(self, upstream: socket.socket) -> None:
            with suppress(OSError):
                while data := upstream.recv(1 << 16):
                    self.request.sendall(data)

    def query(text: bytes) -> bytes:
        return b"Q" + (len(text) + 5).to_bytes(4, "big") + text + b"\0"

    with ThreadingTCPServer(("127.0.0.1", 0), Client) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, args=(0.02,)).start()
        yield make_conninfo(server.tcp_dsn(), port=proxy.server_address[1], host="127.0.0.1", sslmode="disable")
        proxy.shutdown()
