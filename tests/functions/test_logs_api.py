"""Each setting of the logs, by what people do through the API of a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from functions.account import app as account
from functions.admin import app as administration
from functions.documents import app as documents
from functions.sessions import app as sessions
from tests.chat_server import ChatServer, running, settings_for, user_message
from tests.crowd import Owner
from tests.logs import LogLines, activities, configure
from threadkeep.errors import ThreadkeepError
from threadkeep.web import Administrator, Moment, SignedIn, moment

ADMIN = administration.ROUTERS
SECRET = "sk-proj-0123456789abcdef0123456789abcdef"

broken = APIRouter()


@broken.post("/api/broken")
async def break_down(user: SignedIn, here: Annotated[Moment, Depends(moment)]) -> None:
    """Writes something, and fails in the same transaction."""
    insert = """insert into public."Chat" (user_id, title) values (%(user)s, 'Lost')"""
    await here.database.run(user, (insert, {"user": user.user_id}), ("select 1 / 0", {}))


@broken.get("/api/leaks")
async def leak() -> None:
    raise RuntimeError(f"the provider said: Incorrect API key provided: {SECRET}")


@broken.get("/api/breaks-off")
async def break_off(user: SignedIn) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"the beginning"
        raise RuntimeError(f"the provider said: Incorrect API key provided: {SECRET}")

    return StreamingResponse(pieces())


@broken.get("/api/breaks-off-without-a-database")
async def lose_the_database(user: SignedIn) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"the beginning"
        raise ThreadkeepError("unavailable:database")

    return StreamingResponse(pieces())


@broken.get("/api/admin/nothing")
async def administrators_only(user: Administrator) -> None: ...


@pytest.fixture
async def server(api_database_url: str, database_url: str) -> AsyncIterator[ChatServer]:
    routers = (sessions.router, documents.router, account.router, *ADMIN, broken)
    async with running(settings_for(api_database_url, None), database_url, *routers) as server:
        yield server


async def call(
    server: ChatServer, method: str, path: str, *, user: str | None = "ada", **options: Any
) -> httpx.Response:
    headers = server.headers(user) | options.pop("headers", {})
    return await server.http.request(method, path, headers=headers, **options)


async def errors(owner: Owner) -> list[dict[str, Any]]:
    return await owner.rows("select * from public.error_logs order by created_at")


async def test_everything_that_people_do_is_on_record(server: ChatServer, owner: Owner) -> None:
    await configure(owner)
    answer = await server.say({"id": "s", "message": user_message("Hello", "m")})
    session, question = answer.session, (await server.messages(answer.session))[0]["id"]
    document = (
        await call(
            server, "POST", "/api/documents", json={"id": "d", "title": "T", "content": "one two", "kind": "text"}
        )
    ).json()["id"]
    steps: list[tuple[str, str, str, dict[str, Any]]] = [
        ("chat_view", "GET", f"/api/sessions/{session}", {}),
        ("chat_view", "GET", f"/api/sessions/{session}/messages", {}),
        ("chat_search", "GET", "/api/sessions?q=hello", {}),
        ("chat_update", "PATCH", f"/api/sessions/{session}", {"json": {"title": "Mine", "visibility": "public"}}),
        ("chat_archive", "PATCH", f"/api/sessions/{session}", {"json": {"status": "archived"}}),
        ("chat_export", "GET", f"/api/sessions/{session}/export", {}),
        ("vote_message", "PUT", f"/api/sessions/{session}/messages/{question}/vote", {"json": {"isUpvoted": True}}),
        ("vote_remove", "DELETE", f"/api/sessions/{session}/messages/{question}/vote", {}),
        ("chat_message_delete", "DELETE", f"/api/sessions/{session}/messages/{question}", {}),
        ("chat_delete", "DELETE", f"/api/sessions/{session}", {}),
        ("chat_create", "POST", "/api/sessions", {}),
        ("chat_delete", "DELETE", "/api/sessions", {}),
        ("document_view", "GET", f"/api/documents/{document}", {}),
        ("document_update", "PUT", f"/api/documents/{document}", {"json": {"content": "one three"}}),
        ("document_view", "GET", f"/api/documents/{document}/diff?from=1&to=2", {}),
        ("document_revert", "POST", f"/api/documents/{document}/revert", {"json": {"version": 1}}),
        ("document_export", "GET", f"/api/documents/{document}/export", {}),
        *[
            (
                "suggestion_create",
                "POST",
                f"/api/documents/{document}/suggestions",
                {"json": {"originalText": old, "suggestedText": "four"}},
            )
            for old in ("one", "two")
        ],
        ("suggestion_view", "GET", f"/api/documents/{document}/suggestions", {}),
        ("suggestion_accept", "POST", f"/api/documents/{document}/suggestions/ID/accept", {}),
        ("suggestion_reject", "POST", f"/api/documents/{document}/suggestions/ID/reject", {}),
        ("document_version_delete", "DELETE", f"/api/documents/{document}/versions?after=1", {}),
        ("document_delete", "DELETE", f"/api/documents/{document}", {}),
        ("account_update", "PATCH", "/api/me", {"json": {"fullName": "Ada"}}),
        ("account_export", "GET", "/api/me/export", {}),
        ("account_repository_add", "POST", "/api/repositories", {"json": {"owner": "ada", "name": "notes"}}),
    ]
    expected = ["chat_create", "chat_message_send", "document_create"]
    for activity, method, path, options in steps:
        if "ID" in path:
            open_ones = await owner.rows("""select id from public."Suggestion" where not "isResolved" order by 1""")
            path = path.replace("ID", str(open_ones[0]["id"]))
        answered = await call(server, method, path, **options)
        assert answered.status_code < 300, (path, answered.text)
        expected.append(activity)
        assert sorted(await activities(owner)) == sorted(expected), path
        correlation = {"id": UUID(answered.headers["x-correlation-id"])}
        [row] = await owner.rows("select * from public.user_activity_logs where correlation_id = %(id)s", correlation)
        assert (row["activity_type"], row["request_method"]) == (activity, method)
        assert row["request_path"] == path.partition("?")[0]
        assert row["ip_address"] == "127.0.0.1"
        assert row["user_agent"].startswith("python-httpx/")


async def test_what_administrators_change_is_on_record(server: ChatServer, owner: Owner) -> None:
    await configure(owner)
    administrator = {"authorization": "Bearer " + server.token("root", is_admin=True)}
    key = "/api/admin/config/app_settings"
    model = {"name": "M", "provider": "google", "inputPrice": 1, "outputPrice": 1}
    steps: list[tuple[str, str, str, dict[str, Any]]] = [
        ("admin_config_update", "PATCH", key, {"json": {"titles": {"enabled": False}}}),
        ("admin_config_update", "DELETE", key, {}),
        ("admin_model_create", "POST", "/api/admin/models", {"json": {"modelId": "m"} | model}),
        ("admin_model_update", "PATCH", "/api/admin/models/m", {"json": {"name": "N"}}),
        ("admin_model_delete", "DELETE", "/api/admin/models/m", {}),
    ]
    for number, (_, method, path, options) in enumerate(steps, start=1):
        answer = await server.http.request(method, path, headers=administrator, **options)
        assert answer.status_code < 300, answer.text
        assert await activities(owner) == [kind for kind, *_ in steps[:number]]
    await call(server, "GET", "/api/me", user="eve")
    [eve] = await owner.rows("select id from public.user_profiles order by created_at desc limit 1")
    assert (await call(server, "POST", "/api/broken")).status_code == 500
    [error] = await owner.rows("select id from public.error_logs")
    for path, body in ((f"users/{eve['id']}", {"disabled": True}), (f"errors/{error['id']}", {"resolved": True})):
        answer = await server.http.patch(f"/api/admin/{path}", headers=administrator, json=body)
        assert answer.status_code == 200, answer.text
    assert (await activities(owner))[-2:] == ["admin_user_update", "admin_error_resolve"]
    [row] = await owner.rows("select * from public.user_activity_logs order by created_at limit 1")
    assert (row["activity_category"], row["activity_metadata"]) == ("admin", {"key": "app_settings"})


async def test_what_administrators_look_at_is_on_record(server: ChatServer, owner: Owner) -> None:
    administrator = {"authorization": "Bearer " + server.token("root", is_admin=True)}
    await server.http.get("/api/me", headers=administrator)
    await configure(owner)
    history = "select min(id) from public.admin_config_history where config_key = 'app_settings'"
    first_entry = await owner.number(history)
    dashboard, provider = "admin_dashboard_view", "admin_provider_view"
    steps: list[tuple[str, str, dict[str, Any]]] = [
        *[(dashboard, page, {"view": page}) for page in ("usage", "errors", "activity", "agents", "users", "purge")],
        (dashboard, "usage?groupBy=user", {"view": "usage"}),
        (dashboard, "health", {"view": "health"}),
        (dashboard, "config/app_settings", {"key": "app_settings"}),
        (dashboard, "config/app_settings/history", {"key": "app_settings"}),
        (dashboard, f"config/app_settings/history/{first_entry}", {"key": "app_settings"}),
        (provider, "config", {}),
        (provider, "config/python_agent_openai", {"key": "python_agent_openai"}),
        (provider, "config/python_agent_openai/history", {"key": "python_agent_openai"}),
        (provider, "models", {}),
        (provider, "models/gpt-6.1-terra", {"model": "gpt-6.1-terra"}),
    ]
    for number, (kind, path, metadata) in enumerate(steps, start=1):
        answer = await server.http.get(f"/api/admin/{path}", headers=administrator)
        assert answer.status_code == 200, answer.text
        rows = await owner.rows("select * from public.user_activity_logs order by created_at")
        assert [row["activity_type"] for row in rows] == [kind for kind, *_ in steps[:number]], path
        assert rows[-1]["activity_metadata"] == metadata
        assert str(rows[-1]["correlation_id"]) == answer.headers["x-correlation-id"]

    more = (await server.http.get("/api/admin/activity?limit=1", headers=administrator)).json()["nextCursor"]
    before = await activities(owner)
    for path, status in (
        (f"activity?limit=1&cursor={more}", 200),
        ("models/none", 404),
        ("config/nothing", 404),
        ("config/nothing/history", 404),
        ("config/app_settings/history/999999", 404),
        ("config/app_settings/schema", 200),
    ):
        assert (await server.http.get(f"/api/admin/{path}", headers=administrator)).status_code == status
    assert await activities(owner) == before


async def test_the_first_thing_that_an_administrator_does_is_on_record_whatever_it_is(
    server: ChatServer, owner: Owner
) -> None:
    await configure(owner)
    await call(server, "GET", "/api/me", user="eve")
    [eve] = await owner.rows("select id from public.user_profiles")
    assert (await call(server, "POST", "/api/broken", user="eve")).status_code == 500
    [error] = await owner.rows("select id from public.error_logs")
    steps = (
        ("PATCH", f"users/{uuid4()}", {"disabled": True}, None),
        ("PATCH", f"errors/{uuid4()}", {"resolved": True}, None),
        ("PATCH", f"users/{eve['id']}", {"disabled": True}, "admin_user_update"),
        ("PATCH", f"errors/{error['id']}", {"resolved": True}, "admin_error_resolve"),
        ("POST", "purge", None, "admin_purge_start"),
    )
    expected = []
    for number, (method, path, body, kind) in enumerate(steps):
        headers = {"authorization": "Bearer " + server.token(f"root{number}", is_admin=True)}
        answer = await server.http.request(method, f"/api/admin/{path}", headers=headers, json=body)
        assert answer.status_code == (404 if kind is None else 202 if kind == "admin_purge_start" else 200)
        expected += [] if kind is None else [kind]
        assert await activities(owner) == expected
        # What is refused makes no profile.
        assert await owner.number("select count(*) from public.user_profiles") == 1 + len(expected)


async def test_the_same_again_is_on_record_as_no_change(server: ChatServer, owner: Owner) -> None:
    await configure(owner)
    administrator = {"authorization": "Bearer " + server.token("root", is_admin=True)}
    [model] = await owner.rows("select model_id from public.model_config where is_default and provider = 'openai'")
    for _ in range(2):
        for method, path, body in (
            ("PATCH", "config/app_settings", {"titles": {"enabled": False}}),
            ("PATCH", f"models/{model['model_id']}", {"name": "M"}),
            ("POST", f"models/{model['model_id']}/default", None),
        ):
            answer = await server.http.request(method, f"/api/admin/{path}", headers=administrator, json=body)
            assert answer.status_code == 200, answer.text
    assert await activities(owner) == ["admin_config_update", "admin_model_update"]


async def test_a_message_is_joined_with_what_the_agent_did_by_the_correlation_id(
    server: ChatServer, owner: Owner
) -> None:
    await configure(owner)
    correlation = uuid4()
    answer = await server.say("Hello", headers={"x-correlation-id": str(correlation)})
    [row] = await owner.rows("""
        select u.session_id, u.resource_id, a.resource_id as agents, u.correlation_id
        from public.user_activity_logs as u
        join public.agent_activity_logs as a using (correlation_id)
        where u.activity_type = 'chat_message_send'
    """)
    assert row["correlation_id"] == correlation
    assert {row["session_id"], str(row["resource_id"]), str(row["agents"])} == {str(answer.session)}


async def test_a_guest_who_comes_by_chat_his_stop_and_his_claim_are_on_record(server: ChatServer, owner: Owner) -> None:
    await configure(owner)
    answer = await server.say("Hello", user=None)
    assert sorted(await activities(owner)) == ["auth_guest", "chat_create", "chat_message_send"]
    claim = {"guestToken": answer.headers["x-guest-token"]}
    assert (await call(server, "POST", "/api/me/claim", json=claim)).status_code == 200
    assert (await activities(owner))[-1] == "auth_claim"
    await call(server, "POST", "/api/auth/guest", user=None)
    assert (await activities(owner))[-1] == "auth_guest"


async def test_what_is_refused_missing_or_nobodys_is_not_on_record_as_done(server: ChatServer, owner: Owner) -> None:
    await configure(owner)
    made = (await call(server, "POST", "/api/sessions", json={"visibility": "public"})).json()["id"]
    for user, method, path in (
        ("eve", "PATCH", f"/api/sessions/{made}"),
        ("eve", "DELETE", f"/api/sessions/{made}"),
        ("ada", "GET", f"/api/sessions/{uuid4()}"),
        ("ada", "DELETE", f"/api/sessions/{made}/messages/x/vote"),
        ("ada", "GET", f"/api/documents/{uuid4()}"),
        (None, "PATCH", f"/api/sessions/{made}"),
    ):
        body = {"json": {"title": "Mine"}} if method == "PATCH" else {}
        assert (await call(server, method, path, user=user, **body)).status_code in {401, 404}
    assert (await call(server, "GET", f"/api/sessions/{made}", user=None)).status_code == 200
    assert await activities(owner) == ["chat_create"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"user_activity_logging_enabled": False}, set()),
        ({"category_toggles": {"log_chat_events": False}}, {"document_create"}),
        ({"category_toggles": {"log_document_events": False}}, {"chat_create"}),
        ({"performance_settings": {"sampling_enabled": True, "sampling_rate": 0}}, set()),
        ({"privacy_settings": {"exclude_sensitive_paths": ["/api/documents"]}}, {"chat_create"}),
    ],
)
async def test_a_setting_is_in_force_with_the_next_call(
    server: ChatServer, owner: Owner, settings: dict[str, Any], expected: set[str]
) -> None:
    await configure(owner, **settings)
    await call(server, "POST", "/api/sessions")
    await call(server, "POST", "/api/documents", json={"title": "T"})
    assert set(await activities(owner)) == expected


async def test_of_a_person_only_what_may_be_kept_is(server: ChatServer, owner: Owner) -> None:
    await configure(owner, privacy_settings={"anonymize_ip": True, "log_user_agent": False})
    await call(server, "POST", "/api/sessions")
    [row] = await owner.rows("select ip_address, user_agent from public.user_activity_logs")
    assert row == {"ip_address": "127.0.0.0", "user_agent": None}


# Errors


async def test_an_error_is_on_record_though_its_transaction_was_rolled_back(
    server: ChatServer, owner: Owner, log_lines: LogLines
) -> None:
    await call(server, "GET", "/api/me")
    answer = await call(server, "POST", "/api/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal:api")
    [row] = await errors(owner)
    assert (row["error_type"], row["error_category"], row["severity"]) == ("api", "internal:api", "error")
    assert (row["request_method"], row["request_path"], row["ip_address"]) == ("POST", "/api/broken", "127.0.0.1")
    assert str(row["correlation_id"]) == answer.headers["x-correlation-id"]
    assert row["error_details"]["sqlstate"] == "22012"
    assert (row["resolved"], row["user_id"]) == (False, (await owner.rows("select id from user_profiles"))[0]["id"])
    assert await owner.number('select count(*) from public."Chat"') == 0
    [line] = log_lines.of("error")
    assert line["correlation_id"] == answer.headers["x-correlation-id"]


async def test_an_error_outlives_its_user_and_says_no_more_who_he_was(server: ChatServer, owner: Owner) -> None:
    await call(server, "GET", "/api/me")
    await call(server, "POST", "/api/broken")
    await owner.rows("update public.error_logs set session_id = 's'")
    [before] = await errors(owner)
    assert None not in (before["user_id"], before["ip_address"], before["user_agent"])
    assert (await call(server, "DELETE", "/api/me")).status_code == 204
    [after] = await errors(owner)
    gone = dict.fromkeys(("user_id", "ip_address", "user_agent", "session_id"))
    assert after == before | gone


async def test_what_an_error_says_reaches_neither_the_caller_nor_a_row_and_its_secrets_no_log(
    server: ChatServer, owner: Owner, log_lines: LogLines
) -> None:
    answer = await call(server, "GET", "/api/leaks", headers={"authorization": "Bearer " + server.token()})
    assert answer.status_code == 500
    [row] = await errors(owner)
    for text in (answer.text, str(row), log_lines.text):
        assert SECRET not in text
        assert server.token() not in text
    assert "the provider said" in log_lines.text
    assert "the provider said" not in answer.text + str(row)


@pytest.mark.parametrize(
    ("path", "category", "exception"),
    [
        ("/api/breaks-off", "internal:api", "RuntimeError"),
        ("/api/breaks-off-without-a-database", "unavailable:database", "ThreadkeepError"),
    ],
)
async def test_an_answer_that_breaks_off_is_on_record_and_cut(
    server: ChatServer,
    owner: Owner,
    log_lines: LogLines,
    capfd: pytest.CaptureFixture[str],
    path: str,
    category: str,
    exception: str,
) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await call(server, "GET", path)
    [row] = await errors(owner)
    assert (row["error_category"], row["request_path"], row["severity"]) == (category, path, "error")
    assert row["error_details"]["exception"] == exception
    assert [line["path"] for line in log_lines.of("request")] == [path]
    for text in (str(row), log_lines.text, *capfd.readouterr()):
        assert SECRET not in text


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [("127.0.0.1", True)]),
        ({"error_logging_enabled": False}, []),
        ({"privacy_settings": {"exclude_sensitive_paths": ["/api/broken"]}}, []),
        ({"privacy_settings": {"anonymize_ip": True, "log_user_agent": False}}, [("127.0.0.0", False)]),
        ({"performance_settings": {"sampling_enabled": True, "sampling_rate": 0}}, [("127.0.0.1", True)]),
    ],
)
async def test_the_settings_hold_for_errors_too(
    server: ChatServer, owner: Owner, settings: dict[str, Any], expected: list[tuple[str, bool]]
) -> None:
    await configure(owner, **settings)
    assert (await call(server, "POST", "/api/broken")).status_code == 500
    assert [(row["ip_address"], row["user_agent"] is not None) for row in await errors(owner)] == expected


async def test_who_is_refused_is_on_record_once_a_minute_and_nobody_has_to_see_to_it(
    server: ChatServer, owner: Owner
) -> None:
    for user in ("eve", "eve", "mallory"):
        await call(server, "GET", "/api/me", user=user)
        assert (await call(server, "GET", "/api/admin/nothing", user=user)).status_code == 403
    rows = await errors(owner)
    assert [(row["error_type"], row["error_category"], row["severity"], row["resolved"]) for row in rows] == [
        ("permission", "forbidden:auth", "warning", True)
    ] * 2
    for status, path in ((401, "/api/me"), (404, "/api/nothing")):
        assert (await call(server, "GET", path, user=None)).status_code == status
    assert len(await errors(owner)) == 2


async def test_of_many_refusals_at_once_one_is_on_record(server: ChatServer, owner: Owner) -> None:
    answers = await asyncio.gather(*[call(server, "GET", "/api/admin/nothing", user="eve") for _ in range(30)])
    assert {answer.status_code for answer in answers} == {403}
    assert len(await errors(owner)) == 1


async def test_without_a_database_the_log_line_has_the_error_and_the_answer_is_503(
    api_database_url: str, database_url: str, log_lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadkeep.database.WAIT_FOR_CONNECTION_SECONDS", 0.2)
    gone = settings_for("postgresql://nobody@127.0.0.1:9/nothing", None)
    async with running(gone, database_url, sessions.router) as server:
        answer = await call(server, "GET", "/api/sessions")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable:database")
    assert int(answer.headers["retry-after"]) > 0
    [line] = log_lines.of("error")
    assert (line["error_category"], line["request_path"]) == ("unavailable:database", "/api/sessions")
    assert line["correlation_id"] == answer.headers["x-correlation-id"]
    assert line["ip_address"] == "127.0.0.0"
    assert len(log_lines.of("error row not written")) == 1


async def test_a_hundred_actions_at_once_leave_a_hundred_rows(server: ChatServer, owner: Owner) -> None:
    await configure(owner)
    await call(server, "GET", "/api/me")
    answers = await asyncio.gather(*[call(server, "POST", "/api/sessions") for _ in range(100)])
    assert {answer.status_code for answer in answers} == {201}
    assert await activities(owner) == ["chat_create"] * 100
