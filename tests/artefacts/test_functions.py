"""Each packaged function under Lambda's runtime loop, with its artefact and layers and nothing else."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import psycopg
import pytest

from local.build import recipes
from tests.artefacts.conftest import Deploy
from tests.artefacts.environments import UNCOMPILED, Built, LambdaFunction, function_name
from tests.aws import recorded
from tests.providers import bearer

Record = Callable[[str, object], None]
HANDLERS = sorted(set(recipes()) - {"CoreLayer", "AgentsLayer", "ChatStreamFunction"})
OF_EVENTS = {"PurgeFunction", "MigrateFunction"}
ADA = "3f8a9c1e-5b7d-4e21-9a64-0c2f7e8d1b35"


def rows(database_url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(query.encode()).fetchall()


def request(method: str, path: str, body: object = None, **headers: str) -> dict[str, Any]:
    """An event of the HTTP API, made of a recorded one."""
    event: dict[str, Any] = recorded("http_api_chat")
    event["routeKey"] = f"{method} {path}"
    event["rawPath"] = event["requestContext"]["http"]["path"] = path
    event["requestContext"]["http"]["method"] = method
    event["headers"] |= {"content-length": "0"} | headers
    event["body"] = None if body is None else json.dumps(body)
    return event


def measured(function: LambdaFunction, logical_id: str, record_property: Record) -> None:
    """One line of the table that is printed at the end of the run."""
    first, *_, last = function.durations
    record_property(
        f"artefact {logical_id}",
        {
            "init": function.init_milliseconds,
            "first": first,
            "warm": last,
            "memory": function.peak_mebibytes,
            "python": function.python_version,
        },
    )


@pytest.mark.parametrize("logical_id", sorted(set(HANDLERS) - OF_EVENTS))
def test_a_function_behind_the_http_api_starts_once_and_answers_its_callers(
    deploy: Deploy, logical_id: str, record_property: Record
) -> None:
    function = deploy(logical_id, **UNCOMPILED)
    answers = [function.invoke(request("GET", "/api/health")) for _ in range(3)]
    nowhere = function.invoke(request("GET", "/api/nowhere"))

    assert [(answer["statusCode"], json.loads(answer["body"])) for answer in answers] == [(200, {"status": "ok"})] * 3
    assert (nowhere["statusCode"], json.loads(nowhere["body"])["code"]) == (404, "not_found:api")
    assert function.environments == 1
    measured(function, logical_id, record_property)


def test_the_account_function_makes_a_guest_who_is_known_again(deploy: Deploy, database_url: str) -> None:
    function = deploy("AccountFunction")
    made = function.invoke(recorded("http_api_auth_guest"))
    guest = json.loads(made["body"])
    known = function.invoke(request("GET", "/api/me", authorization=f"Bearer {guest['token']}"))

    assert (made["statusCode"], known["statusCode"]) == (201, 200)
    assert json.loads(known["body"])["id"] == guest["userId"]
    assert rows(database_url, "select id::text, is_guest from public.user_profiles") == [(guest["userId"], True)]


def test_the_sessions_function_keeps_a_session(deploy: Deploy) -> None:
    function = deploy("SessionsFunction")
    ada = bearer("ada")
    made = function.invoke(request("POST", "/api/sessions", {"title": "Züge"}, **ada))
    listed = function.invoke(request("GET", "/api/sessions", **ada))
    refused = function.invoke(request("GET", "/api/sessions", authorization="Bearer rubbish"))

    assert (made["statusCode"], listed["statusCode"], refused["statusCode"]) == (201, 200, 401)
    assert [session["title"] for session in json.loads(listed["body"])["items"]] == ["Züge"]


def test_the_documents_function_keeps_a_document(deploy: Deploy) -> None:
    function = deploy("DocumentsFunction")
    body = {"title": "Trains", "kind": "text", "content": "By night."}
    made = function.invoke(request("POST", "/api/documents", body, **bearer("ada")))
    found = function.invoke(request("GET", f"/api/documents/{json.loads(made['body'])['id']}", **bearer("ada")))
    assert (made["statusCode"], found["statusCode"]) == (201, 200)
    assert json.loads(found["body"])["content"] == "By night."


def test_the_chat_function_answers_whole_through_both_kinds_of_api(deploy: Deploy, database_url: str) -> None:
    function = deploy("ChatFunction")
    answers = [function.invoke(recorded(name)) for name in ("http_api_chat", "rest_api_chat")]

    assert [answer["statusCode"] for answer in answers] == [200, 200]
    assert all(answer["body"].endswith("data: [DONE]\n\n") for answer in answers)
    stored = 'select role, status, count(*) from "Message_v2" group by role, status order by role'
    assert rows(database_url, stored) == [("assistant", "complete", 2), ("user", "complete", 2)]
    assert function.environments == 1


def test_the_trigger_makes_a_profile_and_needs_no_key_of_guests(deploy: Deploy, database_url: str) -> None:
    function = deploy("AuthTriggerFunction", GUEST_TOKEN_KEYS=None)
    event = recorded("cognito_post_confirmation_confirm_sign_up")
    assert [function.invoke(event) for _ in range(2)] == [event, event]
    assert rows(database_url, "select id::text from public.user_profiles") == [(ADA,)]
    assert function.environments == 1


def test_the_schedule_reports_what_it_did(deploy: Deploy, record_property: Record) -> None:
    function = deploy("PurgeFunction", GUEST_TOKEN_KEYS=None, AUTH_ISSUERS=None, **UNCOMPILED)
    reports = [function.invoke(recorded("scheduler_purge")) for _ in range(2)]
    assert [[kind for kind in report["kinds"] if kind["error"]] for report in reports] == [[], []]
    assert function.environments == 1
    measured(function, "PurgeFunction", record_property)


def test_a_deploy_is_answered_and_a_migration_applied_by_what_is_packaged(
    deploy: Deploy, database_url: str, record_property: Record
) -> None:
    answers: list[dict[str, Any]] = []

    class Stack(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            answers.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Stack) as server:
        listening = threading.Thread(target=partial(server.serve_forever, 0.02))
        listening.start()
        function = deploy("MigrateFunction", DATABASE_URL=None, MIGRATION_DATABASE_URL=database_url, **UNCOMPILED)
        url = f"http://127.0.0.1:{server.server_port}/answer"
        assert function.invoke(recorded("cloudformation_create") | {"ResponseURL": url}) is None
        server.shutdown()
        listening.join()
    assert [(answer["Status"], answer["Data"]) for answer in answers] == [("SUCCESS", {"Applied": 0, "Ahead": 0})]
    assert function.invoke({"action": "verify"})["ok"] is True
    measured(function, "MigrateFunction", record_property)


def test_a_handler_that_raises_ends_its_event_and_not_its_environment(deploy: Deploy, database_url: str) -> None:
    function = deploy("MigrateFunction", DATABASE_URL=None, MIGRATION_DATABASE_URL=database_url)
    failed = function.invoke({"action": "drop"})
    assert (failed["errorType"], failed["errorMessage"]) == (
        "MigrationFailed",
        "Send an action: migrate, dry-run or verify.",
    )
    assert function.invoke({"action": "verify"})["ok"] is True
    assert function.environments == 1


def test_an_event_that_takes_too_long_ends_its_environment_and_the_next_starts_one(
    deploy: Deploy, database_url: str
) -> None:
    limits = {"DATABASE_URL": None, "MIGRATION_DATABASE_URL": database_url, "AWS_LAMBDA_FUNCTION_TIMEOUT": "4"}
    function = deploy("MigrateFunction", **limits)
    with socket.create_server(("127.0.0.1", 0)) as silence:
        url = f"http://127.0.0.1:{silence.getsockname()[1]}/answer"
        event = recorded("cloudformation_create") | {"RequestType": "Delete", "ResponseURL": url}
        assert function.invoke(event) == "Task timed out after 4.00 seconds"
    assert function.environments == 1
    assert function.invoke({"action": "drop"})["errorType"] == "MigrationFailed"
    assert function.environments == 2


def test_a_function_without_its_settings_fails_at_its_start_and_names_them(deploy: Deploy) -> None:
    function = deploy("SessionsFunction", DATABASE_URL=None, GUEST_TOKEN_KEYS="hunter2")
    answer = function.invoke(request("GET", "/api/health"))
    assert answer["errorType"] == "SettingsError"
    assert "DATABASE_URL: missing or empty" in answer["errorMessage"]
    assert "GUEST_TOKEN_KEYS: is not valid JSON" in answer["errorMessage"]
    assert "hunter2" not in function.log


LOADED = """
import json, sys, functions.{name}.app
print(json.dumps([file for module in sys.modules.values() if (file := getattr(module, "__file__", None))]))
"""


@pytest.mark.parametrize("logical_id", HANDLERS)
def test_a_function_loads_only_what_is_packaged_and_python_itself(
    built: Built, variables: dict[str, str], logical_id: str
) -> None:
    """Lambda's own libraries change without a deploy: the AWS SDK is loaded when it is needed, and no other."""
    program = LOADED.format(name=function_name(logical_id))
    finished = subprocess.run(
        [built.folder / "bin/python3", "-c", program],
        env=built.environment(logical_id, variables),
        cwd="/",
        capture_output=True,
        check=True,
    )
    files = json.loads(finished.stdout)
    # Powertools writes its name into what the SDK says of itself, for which it looks whether there is one.
    presence = str(built.runtime / "botocore/__init__.py")
    assert {file for file in files if file.startswith(str(built.runtime))} <= {presence}
    assert {file for file in files if "/threadkeep" in file and not file.startswith(str(built.folder))} == set()


def test_a_request_in_base64_is_read(deploy: Deploy) -> None:
    function = deploy("SessionsFunction")
    event = request("POST", "/api/sessions", {}, **bearer("ada"))
    event |= {"body": base64.b64encode('{"title": "Köln"}'.encode()).decode(), "isBase64Encoded": True}
    assert function.invoke(event)["statusCode"] == 201
