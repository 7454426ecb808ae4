"""The routes of attached files, on both stores: announcing, uploading, checking, reading, deleting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from functions.files import app as files
from functions.sessions import app as sessions
from local import uploads
from tests.aws import LambdaContext, recorded
from tests.chat_server import ChatServer, running, settings_for, user_message
from tests.stores import GIF, HTML, PNG, SAMPLES, SVG, announced, file_part, post_form, uploaded
from threadkeep.file_kinds import XLSX
from threadkeep.guests import issue_guest
from threadkeep.settings import Settings
from threadkeep.web import LambdaHandler

MEGABYTE = 1024 * 1024


@pytest.fixture
async def server(store: dict[str, str], database_url: str, api_database_url: str) -> AsyncIterator[ChatServer]:
    """On each of the two stores."""
    settings = settings_for(api_database_url, None, **store)
    async with running(settings, database_url, uploads.router, files.router, sessions.router) as chat_server:
        yield chat_server


@pytest.fixture
async def local(on_disk: dict[str, str], database_url: str, api_database_url: str) -> AsyncIterator[ChatServer]:
    """On the store of one machine, for what does not depend on it."""
    settings = settings_for(api_database_url, None, **on_disk)
    async with running(settings, database_url, uploads.router, files.router, sessions.router) as chat_server:
        yield chat_server


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


async def get(server: ChatServer, file: dict[str, Any], user: str | None = "ada", **headers: str) -> httpx.Response:
    return await server.http.get(file["url"], headers=server.headers(user) | headers)


async def announce(server: ChatServer, user: str | None = "ada", **members: Any) -> httpx.Response:
    body = {"name": "dot.png", "mediaType": "image/png", "size": len(PNG)} | members
    return await server.http.post("/api/files", json=body, headers=server.headers(user))


async def said(server: ChatServer, file: dict[str, Any], user: str = "ada", **members: Any) -> Any:
    """A message that names this file."""
    message = user_message("Look")
    message["parts"].append(file_part(file))
    return await server.say({"message": message} | members, user=user)


# Announcing and uploading


async def test_a_file_is_announced_uploaded_checked_and_read_again(server: ChatServer) -> None:
    file = await announced(server)

    assert file["url"] == f"/api/files/{file['id']}"
    assert (file["state"], file["download"], file["kind"], file["size"]) == ("pending", None, "images", len(PNG))
    assert file["upload"]["method"] == "POST"
    assert file["upload"]["url"].startswith("http://")
    waiting = await get(server, file)
    assert (waiting.status_code, waiting.json()["state"], waiting.json()["download"]) == (200, "pending", None)
    assert (await post_form(server, file)).status_code == 204
    ready = (await get(server, file)).json()
    assert (ready["state"], ready["problem"], ready["sessionId"]) == ("ready", None, None)
    downloaded = await server.http.get(ready["download"]["url"])
    assert downloaded.content == PNG
    assert downloaded.headers["content-type"] == "image/png"
    assert downloaded.headers["content-disposition"].startswith('inline; filename="dot.png"')


@pytest.mark.parametrize("sample", SAMPLES)
async def test_every_kind_is_taken(local: ChatServer, sample: str) -> None:
    file = await uploaded(local, *SAMPLES[sample])
    assert (await get(local, file)).json()["state"] == "ready"


@pytest.mark.parametrize("data", [SVG, HTML, GIF], ids=["svg", "html", "gif"])
async def test_what_poses_as_an_image_is_refused(server: ChatServer, data: bytes) -> None:
    file = await uploaded(server, data)

    refused = (await get(server, file)).json()
    assert (refused["state"], refused["download"]) == ("refused", None)
    assert refused["problem"] == "The file is not what its type image/png says."
    assert problem(await get(server, file, accept="image/*")) == (422, "invalid:file")
    answer = await said(server, file)
    assert (answer.status, answer.problem["code"]) == (422, "invalid:file")


async def test_an_upload_of_another_size_is_never_used(server: ChatServer) -> None:
    file = await announced(server)
    await server.rows("update files set size_bytes = size_bytes + 1")
    await post_form(server, file)
    assert (await get(server, file)).json()["state"] == "refused"


async def test_the_form_used_again_changes_nothing_that_was_checked(server: ChatServer) -> None:
    file = await uploaded(server)
    assert (await get(server, file)).json()["state"] == "ready"

    other = PNG[:-1] + b"!"
    assert (await post_form(server, file, other)).status_code == 204

    again = (await get(server, file)).json()
    assert (await server.http.get(again["download"]["url"])).content == PNG


async def test_checks_at_once_make_it_ready_once(server: ChatServer) -> None:
    file = await uploaded(server)
    answers = await asyncio.gather(*[get(server, file) for _ in range(8)])
    assert {answer.json()["state"] for answer in answers} <= {"ready", "pending"}
    ready = (await get(server, file)).json()
    assert (await server.http.get(ready["download"]["url"])).content == PNG
    [row] = await server.rows("select storage_key from files")
    left = await server.rows("select storage_key from private.file_deletions")
    assert row["storage_key"] not in {one["storage_key"] for one in left}


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "../etc/passwd"}, "name"),
        ({"name": "a\\b"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\u0000b"}, "body"),
        ({"name": "x" * 256}, "name"),
        ({"size": 0}, "size"),
        ({"size": -1}, "size"),
        ({"size": "5"}, "size"),
        ({"size": 1.5}, "size"),
        ({"mediaType": None}, "mediaType"),
        ({"mediaType": "image/svg+xml"}, "mediaType"),
        ({"mediaType": "application/zip"}, "mediaType"),
        ({"mediaType": "", "name": "a.exe"}, "mediaType"),
        ({"kind": "images"}, "kind"),
    ],
    ids=str,
)
async def test_a_file_that_makes_no_sense_is_not_announced(
    local: ChatServer, members: dict[str, Any], field: str
) -> None:
    answer = await announce(local, **members)
    assert problem(answer) == (422, "invalid:api")
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert await local.rows("select * from files") == []


@pytest.mark.parametrize(
    ("media_type", "megabytes"), [("image/png", 10), ("application/pdf", 14), (XLSX, 10), ("text/plain", 1)]
)
async def test_each_kind_has_its_size(local: ChatServer, media_type: str, megabytes: int) -> None:
    fits = await announce(local, mediaType=media_type, size=megabytes * MEGABYTE)
    too_large = await announce(local, mediaType=media_type, size=megabytes * MEGABYTE + 1)
    absurd = await announce(local, mediaType=media_type, size=10**30)
    assert fits.status_code == 201
    assert problem(too_large) == problem(absurd) == (413, "too_large:file")


async def configure(server: ChatServer, provider: str, change: str) -> None:
    await server.rows(
        "update admin_config set config_data = jsonb_set(config_data, %(path)s::text[], 'false') "
        "where config_key = %(key)s",
        path=change,
        key=f"chat_model_agent_{provider}",
    )


async def test_only_the_kinds_that_the_active_providers_agent_takes_are_announced(local: ChatServer) -> None:
    await configure(local, "google", "{fileInputTypes,pdf}")
    await configure(local, "openai", "{fileInputTypes,images}")
    assert problem(await announce(local, mediaType="application/pdf", size=9)) == (422, "invalid:kind")
    assert (await announce(local)).status_code == 201
    await configure(local, "google", "{capabilities,fileInput}")
    assert problem(await announce(local)) == (422, "invalid:kind")


async def test_what_a_person_keeps_is_bounded_also_for_many_at_once(local: ChatServer) -> None:
    await announced(local)
    await local.rows("update files set size_bytes = 1024::bigint * 1024 * 1024 - 10 * 1024 * 1024, state = 'ready'")

    answers = await asyncio.gather(*[announce(local, size=3 * MEGABYTE) for _ in range(8)])

    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [413] * 5
    [refused] = {problem(answer) for answer in answers if answer.status_code != 201}
    assert refused == (413, "too_large:files")
    assert (await announce(local, "grace")).status_code == 201


async def test_a_guest_keeps_less(local: ChatServer) -> None:
    guest = (await local.say("Hello", user=None)).headers["x-guest-token"]
    headers = {"authorization": f"Bearer {guest}"}
    body = {"name": "dot.png", "mediaType": "image/png", "size": MEGABYTE}
    assert (await local.http.post("/api/files", json=body, headers=headers)).status_code == 201
    await local.rows("update files set size_bytes = 99 * 1024 * 1024 + 1, state = 'ready'")
    answer = await local.http.post("/api/files", json=body, headers=headers)
    assert problem(answer) == (413, "too_large:files")
    assert (answer.json()["used"], answer.json()["allowed"]) == (99 * MEGABYTE + 1, 100 * MEGABYTE)


async def test_uploads_that_are_begun_and_never_finished_are_bounded(local: ChatServer) -> None:
    await announced(local)
    await local.rows("""
        insert into files (user_id, storage_key, filename, kind, media_type, size_bytes)
        select user_id, 'uploads/' || n, 'a', 'images', 'image/png', 1 from files, generate_series(1, 49) as n
    """)
    answer = await announce(local)
    assert problem(answer) == (429, "rate_limit:files")
    assert answer.headers["retry-after"] == "600"


# Uploading to this machine


async def test_put_is_no_way_to_upload(local: ChatServer) -> None:
    file = await announced(local)
    assert problem(await local.http.put(file["upload"]["url"], content=PNG)) == (405, "method_not_allowed:api")
    assert problem(await local.http.post(file["url"], content=PNG)) == (415, "unsupported_media:api")


async def test_a_form_that_was_changed_or_is_none_is_refused(local: ChatServer) -> None:
    file = await announced(local)
    url, fields = file["upload"]["url"], file["upload"]["fields"]
    changes = [{"key": f"uploads/{uuid4()}"}, {"key": "../../x"}, {"Content-Type": "text/html"}, {"policy": "e30="}]
    for changed in changes:
        assert problem(await post_form(local, file, changed=changed)) == (403, "forbidden:upload")
    assert problem(await post_form(local, file, PNG + b"x")) == (413, "too_large:file")
    assert problem(await local.http.post(url, data=fields)) == (415, "unsupported_media:api")
    assert problem(await local.http.post(url, json=fields)) == (415, "unsupported_media:api")
    no_file = await local.http.post(url, data=fields, files={"other": ("a", PNG)})
    assert problem(no_file) == (400, "bad_request:api")
    two = await local.http.post(url, data=fields, files=[("file", ("a", PNG)), ("file", ("b", PNG))])
    assert problem(two) == (400, "bad_request:api")
    garbage = await local.http.post(
        url, content=b"garbage", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert problem(garbage) == (400, "bad_request:api")
    no_boundary = await local.http.post(url, content=b"garbage", headers={"content-type": "multipart/form-data"})
    assert problem(no_boundary) == (400, "bad_request:api")
    assert (await get(local, file)).json()["state"] == "pending"


async def test_a_form_that_is_too_large_is_refused_before_it_is_read(local: ChatServer) -> None:
    file = await announced(local)
    answer = await post_form(local, file, bytes(15 * MEGABYTE))
    assert problem(answer) == (413, "too_large:file")

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"

    unsized = await local.http.post(
        file["upload"]["url"], content=endless(), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert problem(unsized) == (400, "bad_request:api")


async def test_a_page_of_an_allowed_origin_may_upload(local: ChatServer) -> None:
    file = await announced(local)
    asked = await local.http.options(
        file["upload"]["url"],
        headers={"origin": "http://localhost:5173", "access-control-request-method": "POST"},
    )
    assert asked.headers["access-control-allow-origin"] == "http://localhost:5173"


async def test_content_is_served_so_that_a_browser_runs_nothing_of_it(local: ChatServer) -> None:
    file = await uploaded(local, HTML, "page.html", "text/html")
    answer = await get(local, file, accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert answer.status_code == 302
    content = await local.http.get(answer.headers["location"])
    assert content.content == HTML
    assert content.headers["content-type"] == "text/plain; charset=utf-8"
    assert content.headers["x-content-type-options"] == "nosniff"
    assert content.headers["content-security-policy"] == "default-src 'none'"
    assert content.headers["content-disposition"].startswith("attachment")
    changed = answer.headers["location"][:-1] + ("0" if answer.headers["location"][-1] != "0" else "1")
    assert problem(await local.http.get(changed)) == (403, "forbidden:download")


# Reading


@pytest.mark.parametrize(
    ("accept", "query", "status"),
    [
        ("*/*", "", 200),
        ("application/json", "", 200),
        ("application/json, text/html", "", 200),
        ("image/avif,image/webp,*/*;q=0.8", "", 302),
        ("text/html,*/*;q=0.8", "", 302),
        ("*/*", "?redirect=true", 302),
        ("image/*", "?redirect=false", 200),
        ("*/*", "?redirect=perhaps", 422),
    ],
)
async def test_a_page_is_led_to_the_bytes_and_a_program_gets_json(
    local: ChatServer, accept: str, query: str, status: int
) -> None:
    file = await uploaded(local)
    headers = local.headers("ada") | {"accept": accept}
    answer = await local.http.get(file["url"] + query, headers=headers)
    assert answer.status_code == status
    if status == 302:
        assert answer.headers["cache-control"] == "private, max-age=300"
        assert (await local.http.get(answer.headers["location"])).content == PNG


async def test_a_file_is_nobody_elses(server: ChatServer) -> None:
    file = await uploaded(server)
    await get(server, file)
    guest = (await server.say("Hello", user=None)).headers["x-guest-token"]
    server.http.cookies.clear()
    as_guest = {"authorization": f"Bearer {guest}"}
    as_admin = {"authorization": f"Bearer {server.token('root', is_admin=True)}"}

    for headers in (server.headers("grace"), as_guest, as_admin, {}):
        assert problem(await server.http.get(file["url"], headers=headers)) == (404, "not_found:file")
        deleted = await server.http.delete(file["url"], headers=headers)
        assert problem(deleted) == ((404, "not_found:file") if headers else (401, "unauthorized:auth"))
    answer = await said(server, file, user="grace")
    assert (answer.status, answer.problem["code"]) == (404, "not_found:file")
    assert problem(await announce(server, None)) == (401, "unauthorized:auth")
    assert (await get(server, file)).json()["messageId"] is None


async def test_a_disabled_person_reaches_no_file(local: ChatServer) -> None:
    file = await uploaded(local)
    await local.rows("update user_profiles set disabled_at = now()")
    assert problem(await announce(local)) == (403, "forbidden:account")
    assert problem(await get(local, file)) == (403, "forbidden:account")
    assert problem(await local.http.delete(file["url"], headers=local.headers("ada"))) == (403, "forbidden:account")


NOBODYS = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize("file", ["x", "..%2f..%2fetc%2fpasswd", "%00", "0" * 33, NOBODYS])
async def test_an_id_that_is_none_finds_nothing(local: ChatServer, file: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await local.http.request(method, f"/api/files/{file}", headers=local.headers("ada"))
        assert answer.status_code in {404, 422}


async def test_a_guest_has_files_too(server: ChatServer) -> None:
    guest = (await server.say("Hello", user=None)).headers["x-guest-token"]
    headers = {"authorization": f"Bearer {guest}"}
    body = {"name": "dot.png", "mediaType": "image/png", "size": len(PNG)}
    file = (await server.http.post("/api/files", json=body, headers=headers)).json()
    assert (await post_form(server, file)).status_code == 204
    assert (await server.http.get(file["url"], headers=headers)).json()["state"] == "ready"


# Deleting


async def test_a_deleted_file_is_gone_at_once_and_its_objects_are_listed(server: ChatServer) -> None:
    file = await uploaded(server)
    await get(server, file)
    [row] = await server.rows("select storage_key from files")

    answers = await asyncio.gather(*[server.http.delete(file["url"], headers=server.headers("ada")) for _ in range(5)])

    assert sorted(answer.status_code for answer in answers) == [204] + [404] * 4
    assert problem(await get(server, file)) == (404, "not_found:file")
    due = await server.rows("select storage_key from private.file_deletions where due_at <= now()")
    assert due == [row]
    later = await server.rows("select storage_key from private.file_deletions where due_at > now()")
    assert later == [{"storage_key": f"uploads/{file['id']}"}]


# Without a store, and as a Lambda function


async def test_without_a_store_files_are_unavailable_and_chat_is_not(database_url: str, api_database_url: str) -> None:
    without = settings_for(api_database_url, None).model_copy(update={"files_directory": None})
    async with running(without, database_url, uploads.router, files.router) as server:
        assert problem(await announce(server)) == (503, "unavailable:files")
        assert await server.rows("select * from files") == []
        assert (await server.say("Hello")).is_done


def test_events_of_the_http_api_are_answered(
    process: asyncio.AbstractEventLoop, bucket: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FILES_BUCKET", bucket)
    handler = LambdaHandler(files.router)
    guest = issue_guest(settings)

    def answer(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        event = recorded("http_api_sessions_list") | {"rawPath": path, "rawQueryString": "", "cookies": []}
        event["requestContext"]["http"] |= {"method": method, "path": path}
        event["headers"] |= {"authorization": f"Bearer {guest.token}", "content-type": "application/json"}
        if body is not None:
            event |= {"body": json.dumps(body), "isBase64Encoded": False}
        return handler(event, LambdaContext())

    announced_file = answer("POST", "/api/files", {"name": "a.png", "mediaType": "image/png", "size": len(PNG)})
    file = json.loads(announced_file["body"])
    form = file["upload"]
    posted = httpx.post(form["url"], data=form["fields"], files={"file": ("a.png", PNG)}, trust_env=False)
    read = answer("GET", file["url"])
    process.run_until_complete(handler.runtime.database.close())

    assert (announced_file["statusCode"], posted.status_code, read["statusCode"]) == (201, 204, 200)
    assert httpx.get(json.loads(read["body"])["download"]["url"], trust_env=False).content == PNG


async def test_a_failing_store_is_unavailable_and_the_file_waits(
    database_url: str, api_database_url: str, bucket: str
) -> None:
    import boto3  # type: ignore[import-untyped]

    async with running(settings_for(api_database_url, None, FILES_BUCKET=bucket), database_url, files.router) as server:
        file = await announced(server)
        client = boto3.client("s3")
        client.delete_bucket(Bucket=bucket)
        client.close()
        assert problem(await get(server, file)) == (503, "unavailable:files")
        assert await server.rows("select state from files") == [{"state": "pending"}]
