"""Everything of a caller in one file: complete, only his, readable anywhere, and never whole in memory."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import tracemalloc
import zipfile
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from psycopg.types.json import Jsonb

from functions.account import app
from tests.aws import LambdaContext, recorded
from tests.crowd import Owner, begin, finish, somebody
from tests.functions.account import ada, by_token, client_of, new_guest, problem, wrong_fields
from tests.providers import OTHER_ISSUER, bearer
from threadkeep import account_export, documents, suggestions, votes
from threadkeep.database import Database
from threadkeep.errors import ThreadkeepError
from threadkeep.identity import Principal, user_id_of
from threadkeep.settings import Settings
from threadkeep.web import LambdaHandler

EVERYWHERE = re.compile(r"[\w.-]+(/[\w.-]+)*")


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(settings, database) as client:
        yield client


@pytest.fixture
def user(settings: Settings) -> Principal:
    return somebody(user_id_of(settings, OTHER_ISSUER, "ada"))


def read(data: bytes) -> dict[str, bytes]:
    """The files of an archive by their names, each checked against its checksum."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


async def exported(api: httpx.AsyncClient, headers: dict[str, str] | None = None, query: str = "") -> dict[str, bytes]:
    answer = await api.get(f"/api/me/export{query}", headers=headers or ada())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    return read(answer.content)


def only(files: dict[str, bytes], pattern: str) -> bytes:
    [data] = [data for name, data in files.items() if PurePosixPath(name).match(pattern)]
    return data


async def something_of_everything(database: Database, owner: Owner, user: Principal) -> None:
    assert user.user_id is not None
    run = await begin(database, user)
    await finish(database, user.user_id, run)
    await votes.put(database, user, run.session, votes.Vote(run.answer, True))
    document, _ = await documents.create(
        database, user, uuid4(), title="A letter", kind="text", content="Dear Grace", session=run.session
    )
    await documents.save(database, user, document.id, content="Dear Ada", title=None, if_match=None)
    await suggestions.add(
        database, user, document.id, original_text="Dear", suggested_text="Hi", description=None, version=None
    )
    values = {"user": user.user_id, "chat": run.session}
    for statement in (
        """
        insert into public.files (user_id, chat_id, storage_key, filename, kind, media_type, size_bytes)
        values (%(user)s, %(chat)s, 'secret/key', 'photo.png', 'image', 'image/png', 7)
        """,
        """
        insert into public.github_repositories (user_id, repo_owner, repo_name, repo_url)
        values (%(user)s, 'octocat', 'hello', 'https://github.com/octocat/hello')
        """,
        """
        insert into public.user_activity_logs (user_id, correlation_id, activity_type, activity_category, ip_address)
        values (%(user)s, gen_random_uuid(), 'chat_create', 'chat', '192.0.2.7')
        """,
        """
        insert into public.agent_activity_logs
            (user_id, correlation_id, agent_type, operation_type, operation_category)
        values (%(user)s, gen_random_uuid(), 'python_agent', 'create', 'ai')
        """,
        """
        insert into public.error_logs (user_id, error_type, error_category, error_message, error_details)
        values (%(user)s, 'api', 'chat', 'It failed.', '{"frames": ["app.py:7"]}')
        """,
    ):
        await owner.rows(statement, values)


async def test_everything_of_the_caller_is_in_it(
    api: httpx.AsyncClient, database: Database, owner: Owner, user: Principal
) -> None:
    await something_of_everything(database, owner, user)

    files = await exported(api)

    assert json.loads(files["profile.json"])["id"] == str(user.user_id)
    session = json.loads(only(files, "sessions/*.json"))
    assert [(message["role"], message["isUpvoted"]) for message in session["messages"]] == [
        ("user", None),
        ("assistant", True),
    ]
    assert session["messages"][1]["parts"] == [{"type": "text", "text": "Hello too"}]
    assert only(files, "sessions/*.md").decode() == "# Hello\n\n## User\n\nHello\n\n## Assistant\n\nHello too\n"
    document = json.loads(only(files, "documents/*/document.json"))
    assert [(one["version"], one["file"]) for one in document["versions"]] == [
        (1, "versions/0001.md"),
        (2, "versions/0002.md"),
    ]
    assert [one["state"] for one in document["suggestions"]] == ["open"]
    assert only(files, "documents/*/versions/0001.md") == b"Dear Grace"
    assert only(files, "documents/*/versions/0002.md") == b"Dear Ada"
    assert [one["filename"] for one in json.loads(files["files.json"])] == ["photo.png"]
    assert [one["name"] for one in json.loads(files["repositories.json"])] == ["hello"]
    assert [one["inputTokens"] for one in json.loads(files["usage.json"])] == [3]
    assert [one["ipAddress"] for one in json.loads(files["activity/person.json"])] == ["192.0.2.7"]
    assert "python_agent" in [one["agent"] for one in json.loads(files["activity/agents.json"])]
    assert [one["message"] for one in json.loads(files["activity/errors.json"])] == ["It failed."]
    assert b"secret/key" not in b"".join(files.values())
    assert b"app.py:7" not in b"".join(files.values())


async def test_nothing_of_anybody_else_is_in_it(
    api: httpx.AsyncClient, database: Database, owner: Owner, user: Principal
) -> None:
    await something_of_everything(database, owner, user)
    guest = by_token((await new_guest(api))["token"])
    for headers in (bearer("grace"), guest, bearer("root", app_metadata={"role": "admin"})):
        files = await exported(api, headers)
        lists = [json.loads(data) for name, data in files.items() if name.endswith(".json") and name != "profile.json"]
        assert lists == [[]] * 6
        assert not any(name.startswith(("sessions", "documents")) for name in files)


async def test_parts_can_be_asked_for(
    api: httpx.AsyncClient, database: Database, owner: Owner, user: Principal
) -> None:
    await something_of_everything(database, owner, user)
    files = await exported(api, query="?part=usage&part=profile")
    assert list(files) == ["README.md", "profile.json", "usage.json"]
    assert wrong_fields(await api.get("/api/me/export?part=secrets", headers=ada())) == ["part[0]"]


TITLES = (
    "../../etc/passwd",
    "..\\..\\windows\\system32",
    "/absolute",
    "CON",
    "a\u202egnp.exe",
    "Füße & Fäuste 日本語",
    "x" * 200,
    "...",
    "a\nb\tc",
    "same",
    "same",
)


async def test_no_title_leads_out_of_the_folder(
    api: httpx.AsyncClient, database: Database, owner: Owner, user: Principal
) -> None:
    for title in TITLES:
        await session_of(owner, user, title=title)
        await documents.create(database, user, uuid4(), title=title, kind="sheet", content="a,b")

    files = await exported(api)

    sessions = [json.loads(data) for name, data in files.items() if PurePosixPath(name).match("sessions/*.json")]
    assert sorted(session["title"] for session in sessions) == sorted(TITLES)
    assert len([name for name in files if name.startswith("documents/")]) == 2 * len(TITLES)
    for name in files:
        assert EVERYWHERE.fullmatch(name), name
        assert ".." not in name
        assert all(len(step.encode()) <= 255 for step in name.split("/"))


async def many_messages(owner: Owner, session: UUID, number: int, text: str) -> None:
    await owner.rows(
        """
        insert into public."Message_v2" ("chatId", role, parts)
        select %(chat)s, 'user', jsonb_build_array(jsonb_build_object('type', 'text', 'text', n || ' ' || %(text)s))
        from generate_series(1, %(number)s) as n
        """,
        {"chat": session, "number": number, "text": text},
    )


async def session_of(owner: Owner, user: Principal, **members: Any) -> UUID:
    session = uuid4()
    await owner.rows(
        "insert into public.user_profiles (id) values (%(user)s) on conflict do nothing", {"user": user.user_id}
    )
    await owner.rows(
        """
        insert into public."Chat" (id, user_id, title, "createdAt")
        values (%(id)s, %(user)s, %(title)s, coalesce(%(created)s, now()))
        """,
        {"id": session, "user": user.user_id, "title": "Long", "created": None} | members,
    )
    return session


async def test_what_fills_many_pages_is_whole_and_in_order(
    api: httpx.AsyncClient, owner: Owner, user: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_export, "ROWS_A_PAGE", 7)
    monkeypatch.setattr(account_export, "BYTES_A_PAGE", 5000)
    # All of one moment, as after an import: only their ids tell them apart.
    sessions = [await session_of(owner, user, created="2026-01-01T00:00:00Z") for _ in range(30)]
    await many_messages(owner, sessions[0], 100, "x" * 400)

    files = await exported(api, query="?part=sessions")

    found = [json.loads(data) for name, data in files.items() if name.endswith(".json")]
    assert sorted(one["id"] for one in found) == sorted(map(str, sessions))
    [long] = [one for one in found if one["id"] == str(sessions[0])]
    assert [int(message["parts"][0]["text"].split()[0]) for message in long["messages"]] == list(range(1, 101))


async def test_an_export_of_40_mb_takes_a_fraction_of_that(database: Database, owner: Owner, user: Principal) -> None:
    await many_messages(owner, await session_of(owner, user), 400, "y" * 100_000)
    tracemalloc.start()
    try:
        export = await account_export.begin(database, user, ["sessions"])
        pieces = [piece async for piece in export.chunks()]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(only(read(b"".join(pieces)), "sessions/*.md")) > 40_000_000
    assert peak < 16_000_000


async def test_a_message_written_meanwhile_does_not_move_the_others(
    database: Database, owner: Owner, user: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_export, "ROWS_A_PAGE", 5)
    sessions = [await session_of(owner, user) for _ in range(12)]
    export = await account_export.begin(database, user, ["sessions"])
    pieces = []
    async for piece in export.chunks():
        pieces.append(piece)
        await many_messages(owner, sessions[0], 1, "late")
    found = [json.loads(data) for name, data in read(b"".join(pieces)).items() if name.endswith(".json")]
    assert sorted(one["id"] for one in found) == sorted(map(str, sessions))


async def test_whoever_is_deleted_meanwhile_gets_no_more(database: Database, owner: Owner, user: Principal) -> None:
    for _ in range(3):
        await many_messages(owner, await session_of(owner, user), 3, "z")
    export = await account_export.begin(database, user)
    chunks = export.chunks()
    await anext(chunks)
    await owner.rows("select private.remove_user(%(user)s)", {"user": user.user_id})
    with pytest.raises(ThreadkeepError) as refused:
        _ = [piece async for piece in chunks]
    assert refused.value.code == "forbidden:account"


async def test_a_client_that_leaves_leaves_nothing_open(database: Database, owner: Owner, user: Principal) -> None:
    await many_messages(owner, await session_of(owner, user), 20, "z" * 100_000)
    export = await account_export.begin(database, user)
    chunks = export.chunks()
    for _ in range(3):
        await anext(chunks)
    await chunks.aclose()
    await asyncio.gather(*[database.rows(user, "select 1") for _ in range(16)])


async def test_what_is_too_much_for_lambda_is_refused_and_says_what_to_do(
    api: httpx.AsyncClient, owner: Owner, user: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "account")
    monkeypatch.setattr(app, "MAXIMUM_LAMBDA_EXPORT_BYTES", 20_000)
    session = await session_of(owner, user)
    await many_messages(owner, session, 10, "short")
    assert json.loads(only(await exported(api), "sessions/*.json"))["id"] == str(session)
    await owner.rows(
        'update public."Message_v2" set parts = %(parts)s where seq = 1',
        {"parts": Jsonb([{"type": "text", "text": "".join(str(uuid4()) for _ in range(3000))}])},
    )
    answer = await api.get("/api/me/export", headers=ada())
    assert problem(answer) == (413, "too_large:account")
    assert "/api/sessions/{id}/export" in answer.json()["detail"]
    assert "usage.json" in await exported(api, query="?part=usage")


def test_on_lambda_the_archive_comes_in_base64(
    process: asyncio.AbstractEventLoop, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "account")
    event = recorded("http_api_auth_guest")
    event |= {"rawPath": "/api/me/export", "headers": event["headers"] | ada()}
    event["requestContext"]["http"] |= {"method": "GET", "path": "/api/me/export"}
    handler = LambdaHandler(app.router)

    answer = handler(event, LambdaContext())

    process.run_until_complete(handler.runtime.database.close())
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, True)
    assert json.loads(read(base64.b64decode(answer["body"]))["profile.json"])["fullName"] == "Ada"
