"""The migrations at deploy time: what CloudFormation is told, and what an operator gets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from functions.migrate import app
from tests.aws import LambdaContext, recorded
from tests.databases import SQL, DatabaseServer, own_cluster
from threadkeep.settings import Settings

PASSWORD = "correct-horse-battery-staple"


class CloudFormation:
    """The address that a custom resource answers to: keeps the answers, after as many refusals as it is told."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.content_types: list[str | None] = []
        self.refusals = 0
        stack = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                refused = stack.refusals > 0
                stack.refusals -= refused
                if not refused:
                    assert len(body) < 4096
                    stack.answers.append(json.loads(body))
                    stack.content_types.append(self.headers.get("content-type"))
                self.send_response(503 if refused else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/answer?X-Amz-Signature=5f2a9c"

    def event(self, kind: str) -> dict[str, Any]:
        """A recorded event that is to be answered here; of a deletion too, which is an update without its old self."""
        event: dict[str, Any] = recorded(f"cloudformation_{'create' if kind == 'Create' else 'update'}")
        return event | {"RequestType": kind, "ResponseURL": self.url}


@pytest.fixture
def stack() -> Iterator[CloudFormation]:
    made = CloudFormation()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def empty_database_url(postgres_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = postgres_server.create_database()
    url = postgres_server.dsn(name)
    monkeypatch.setenv("MIGRATION_DATABASE_URL", url)
    monkeypatch.setenv("DATABASE_URL", "postgresql://threadkeep_api@127.0.0.1:9/nothing")
    yield url
    postgres_server.drop_database(name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of migrations of this test's own."""
    monkeypatch.setattr(app, "SQL", tmp_path)
    return tmp_path


def ask(url: str, query: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return [row[0] for row in connection.execute(query.encode())]


def test_a_deploy_applies_everything_once_under_a_name_that_never_changes(
    stack: CloudFormation, empty_database_url: str
) -> None:
    context = LambdaContext(milliseconds=900_000)
    app.handler(stack.event("Create"), context)
    app.handler(stack.event("Update"), context)

    files = len(list(SQL.glob("*.sql")))
    assert [(answer["Status"], answer["Data"]["Applied"]) for answer in stack.answers] == [
        ("SUCCESS", files),
        ("SUCCESS", 0),
    ]
    assert {answer["PhysicalResourceId"] for answer in stack.answers} == {"threadkeep-migrations"}
    for name in ("StackId", "RequestId", "LogicalResourceId"):
        assert stack.answers[0][name] == recorded("cloudformation_create")[name]
    assert stack.content_types == ["", ""]
    assert ask(empty_database_url, "select count(*) from private.migrations") == [files]


def test_deleting_the_stack_keeps_every_row_and_needs_no_database(
    stack: CloudFormation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATION_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
    app.handler(stack.event("Delete"), LambdaContext())
    assert [answer["Status"] for answer in stack.answers] == ["SUCCESS"]


def test_a_deploy_that_goes_back_gets_back_though_the_database_is_away(
    stack: CloudFormation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CloudFormation runs the old code again: were that to fail, the stack would stay half way."""
    monkeypatch.setenv("MIGRATION_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
    forward = stack.event("Update")
    new, old = forward["ResourceProperties"], forward["OldResourceProperties"]
    back = stack.event("Update") | {"ResourceProperties": old, "OldResourceProperties": new}
    for event in (forward, back):
        app.handler(event, LambdaContext())
    assert [answer["Status"] for answer in stack.answers] == ["FAILED", "SUCCESS"]
    # It was tried all the same: the old functions may need the login role's old password.
    assert caplog.text.count("migrate failed") == 2


def test_two_deploys_at_once_both_succeed_and_apply_each_file_once(
    stack: CloudFormation, empty_database_url: str
) -> None:
    barrier = threading.Barrier(2)

    def deploy() -> None:
        barrier.wait(10)
        app.handler(stack.event("Update"), LambdaContext(milliseconds=120_000))

    threads = [threading.Thread(target=deploy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [answer["Status"] for answer in stack.answers] == ["SUCCESS", "SUCCESS"]
    assert sum(answer["Data"]["Applied"] for answer in stack.answers) == len(list(SQL.glob("*.sql")))


def test_a_file_that_fails_fails_the_deploy_with_its_line_and_nobodys_data(
    stack: CloudFormation, empty_database_url: str, folder: Path
) -> None:
    (folder / "0001_a.sql").write_text(
        "create table a (email text unique);\ninsert into a values ('ada@example.com'), ('ada@example.com');"
    )
    assert app.handler(stack.event("Create"), LambdaContext()) is None

    [answer] = stack.answers
    assert answer["Status"] == "FAILED"
    assert answer["Reason"].startswith("0001_a.sql: duplicate key value violates unique constraint")
    assert LambdaContext().log_stream_name in answer["Reason"]
    assert "ada@example.com" not in answer["Reason"]
    assert ask(empty_database_url, "select to_regclass('public.a') is null") == [True]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"MIGRATION_DATABASE_URL": "postgresql://owner:hunter2@127.0.0.1:9/x"}, "The database cannot be reached"),
        (
            {"MIGRATION_DATABASE_URL": "postgresql://owner@127.0.0.1:hunter2/x"},
            "MIGRATION_DATABASE_URL: is no address",
        ),
        ({"MIGRATION_DATABASE_URL": "postgresql://owner@127.0.0.1/x?hunter2=hunter2"}, "The database refused"),
        ({"MIGRATION_DATABASE_URL": "hunter2"}, "MIGRATION_DATABASE_URL: does not start with postgresql://"),
        ({"MIGRATION_DATABASE_URL": "", "DATABASE_URL": ""}, "MIGRATION_DATABASE_URL: missing or empty"),
        ({"API_DATABASE_PASSWORD": "hunter2"}, "API_DATABASE_PASSWORD: is no password"),
    ],
)
def test_whatever_is_wrong_the_deploy_is_told_and_no_secret_with_it(
    stack: CloudFormation,
    empty_database_url: str,
    variables: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app.handler(stack.event("Create"), LambdaContext())
    [answer] = stack.answers
    assert answer["Status"] == "FAILED"
    assert answer["Reason"].startswith(reason)
    assert "hunter2" not in answer["Reason"]


def test_what_takes_too_long_is_rolled_back_and_told_before_lambda_ends(
    stack: CloudFormation, empty_database_url: str, folder: Path
) -> None:
    (folder / "0001_a.sql").write_text("create table a ();\nselect pg_sleep(60);")
    app.handler(stack.event("Create"), LambdaContext(milliseconds=2_000))

    [answer] = stack.answers
    assert (answer["Status"], answer["Reason"][:21]) == ("FAILED", "The run was not over ")
    assert ask(empty_database_url, "select to_regclass('public.a') is null") == [True]
    working = "select query from pg_stat_activity where application_name = 'threadkeep-migrations' and datname = "
    assert ask(empty_database_url, working + "current_database()") == []


def test_an_answer_that_is_not_taken_is_given_again(
    stack: CloudFormation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("functions.migrate.cloudformation.PAUSE_SECONDS", 0.01)
    stack.refusals = 2
    app.handler(stack.event("Delete"), LambdaContext())
    assert len(stack.answers) == 1
    assert "status 503" in caplog.text
    assert "Signature" not in caplog.text


def test_a_stack_that_cannot_be_reached_is_logged_without_its_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("functions.migrate.cloudformation.PAUSE_SECONDS", 0.01)
    event = recorded("cloudformation_create") | {"RequestType": "Delete"}
    app.handler(event | {"ResponseURL": "http://127.0.0.1:9/answer?X-Amz-Signature=5f2a9c"}, LambdaContext())
    app.handler(event | {"ResponseURL": "file:///etc/passwd"}, LambdaContext())
    assert "attempt 3 of 3" in caplog.text
    assert "5f2a9c" not in caplog.text
    assert urlsplit(event["ResponseURL"]).path not in caplog.text


def test_an_operator_rehearses_migrates_and_verifies(empty_database_url: str) -> None:
    context = LambdaContext(milliseconds=120_000)
    rehearsed = app.handler({"action": "dry-run"}, context)
    assert rehearsed is not None
    assert rehearsed["dry_run"]
    assert ask(empty_database_url, "select to_regnamespace('private') is null") == [True]

    before = app.handler({"action": "verify"}, context)
    migrated = app.handler({"action": "migrate"}, context)
    after = app.handler({"action": "verify"}, context)
    assert migrated is not None
    assert before is not None
    assert after is not None
    assert len(migrated["applied"]) == len(rehearsed["applied"]) == len(list(SQL.glob("*.sql")))
    assert (before["ok"], after["ok"]) == (False, True)
    json.dumps([rehearsed, before, migrated, after])


@pytest.mark.parametrize("event", [{}, {"action": "drop"}, {"action": None}])
def test_an_operator_who_says_something_else_is_told_what_to_say(
    empty_database_url: str, event: dict[str, Any]
) -> None:
    with pytest.raises(app.MigrationFailed, match="migrate, dry-run or verify"):
        app.handler(event, LambdaContext())
    assert ask(empty_database_url, "select to_regnamespace('private') is null") == [True]


def test_the_login_role_gets_the_password_of_its_secret_and_logs_in_with_it(
    secrets_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both secrets are as RDS writes them, and the functions' address is made of the second."""
    with own_cluster(listen_tcp=True) as server:
        owner = conninfo_to_dict(server.tcp_dsn())
        place = {
            "host": owner["host"],
            "port": int(str(owner["port"])),
            "dbname": owner["dbname"],
            "sslmode": "disable",
        }
        master = {"engine": "postgres", "username": owner["user"], "password": owner["password"], **place}
        api = {"username": "threadkeep_api", **place}
        given = secrets_manager.create_secret(Name="master", SecretString=json.dumps(master))["ARN"]
        monkeypatch.setenv("MIGRATION_DATABASE_URL_SECRET_ARN", given)
        for number, password in enumerate((PASSWORD, "{" + PASSWORD[::-1] + "@/%'\\")):
            text = json.dumps(api | {"password": password})
            arn = secrets_manager.create_secret(Name=f"api-{number}", SecretString=text)["ARN"]
            monkeypatch.setenv("API_DATABASE_PASSWORD_SECRET_ARN", arn)

            report = app.handler({"action": "migrate"}, LambdaContext(milliseconds=120_000))

            assert report is not None
            assert report["password_set"]
            address = Settings.load({"DATABASE_URL_SECRET_ARN": arn}).database_url.get_secret_value()
            assert ask(address, "select session_user::text") == ["threadkeep_api"]
        with pytest.raises(psycopg.OperationalError):
            ask(address.replace("%7B", ""), "select 1")
