"""The routes of sessions: for their owner, for somebody else, for a guest and for nobody in particular."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from psycopg.types.json import Jsonb
from starlette.applications import Starlette
from starlette.routing import Mount

from functions.sessions import app
from tests.aws import LambdaContext, recorded
from tests.crowd import Owner, begin, finish, somebody
from tests.providers import OTHER_ISSUER, bearer
from threadkeep import documents, ids, suggestions
from threadkeep.database import Database
from threadkeep.guests import issue_guest
from threadkeep.identity import Authenticator, user_id_of
from threadkeep.settings import Settings
from threadkeep.web import LambdaHandler, Runtime, create_app

ORIGIN = "https://app.example.com"
ADA, GRACE = bearer("ada", email="ada@example.com", name="Ada"), bearer("grace")
ADMINISTRATOR = bearer("root", app_metadata={"role": "admin"})
NOBODY: dict[str, str] = {}


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return environment | {"ALLOWED_ORIGINS": ORIGIN}


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    application = create_app(app.router, runtime=Runtime(settings, database, Authenticator(settings)))
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as client:
        yield client


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def wrong_fields(answer: httpx.Response) -> list[str]:
    assert problem(answer) == (422, "invalid:api")
    return [error["field"].rpartition(".")[2] for error in answer.json()["errors"]]


async def made(api: httpx.AsyncClient, headers: dict[str, str] = ADA, **body: Any) -> str:
    answer = await api.post("/api/sessions", headers=headers, json=body)
    assert answer.status_code == 201
    session: str = answer.json()["id"]
    return session


async def say(owner: Owner, session: str, *texts: str, role: str = "user", **columns: Any) -> list[str]:
    """Messages with these texts, in this order; their ids."""
    values = {"role": role, "attachments": Jsonb([])} | columns
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    insert = f"""
        insert into public."Message_v2" ("chatId", parts, {names})
        values (%(chat)s, %(parts)s, {places})
        returning id
    """
    said = []
    for text in texts:
        parts = Jsonb([{"type": "text", "text": text}])
        [row] = await owner.rows(insert, {"chat": session, "parts": parts, **values})
        said.append(str(row["id"]))
    return said


def texts(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200
    return [message["parts"][0]["text"] for message in answer.json()["items"]]


def titles(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200
    return [session["title"] for session in answer.json()["items"]]


async def all_pages(api: httpx.AsyncClient, path: str, headers: dict[str, str], **query: Any) -> list[list[Any]]:
    """The items of each page, until there is no cursor."""
    found = []
    cursor: str | None = None
    while True:
        answer = await api.get(path, headers=headers, params=query | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200
        found.append(answer.json()["items"])
        cursor = answer.json()["nextCursor"]
        if cursor is None:
            return found


# Making sessions


async def test_a_new_session_is_its_makers_private_one(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/sessions", headers=ADA)
    session = answer.json()
    assert answer.status_code == 201
    assert UUID(session.pop("id"))
    created_at = datetime.fromisoformat(session.pop("createdAt"))
    assert abs((datetime.now(UTC) - created_at).total_seconds()) < 60
    assert datetime.fromisoformat(session.pop("lastActive")) == created_at
    assert session == {
        "title": "New chat",
        "visibility": "private",
        "status": "active",
        "messageCount": 0,
        "totalInputTokens": 0,
        "totalOutputTokens": 0,
        "totalCost": 0.0,
        "lastContext": None,
    }


async def test_the_same_id_again_is_the_same_session_as_it_is(api: httpx.AsyncClient) -> None:
    first = await api.post(
        "/api/sessions", headers=ADA, json={"id": "x7-Y_2", "title": "  Trains ", "visibility": "public"}
    )
    again = await api.post("/api/sessions", headers=ADA, json={"id": "x7-Y_2", "title": "Planes"})
    by_uuid = await api.post("/api/sessions", headers=ADA, json={"id": first.json()["id"]})
    assert (first.status_code, again.status_code, by_uuid.status_code) == (201, 200, 200)
    assert first.json()["id"] == str(ids.session_id("x7-Y_2"))
    assert (first.json()["title"], first.json()["visibility"]) == ("Trains", "public")
    assert first.json() == again.json() == by_uuid.json()


async def test_calls_at_once_with_one_id_make_one_session(api: httpx.AsyncClient, owner: Owner) -> None:
    answers = await asyncio.gather(
        *[api.post("/api/sessions", headers=ADA, json={"id": "one", "title": f"{number}"}) for number in range(40)]
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 39 + [201]
    assert len({answer.text for answer in answers}) == 1
    assert await owner.number('select count(*) from public."Chat"') == 1


@pytest.mark.parametrize("visibility", ["private", "public"])
async def test_somebody_elses_id_cannot_be_taken(api: httpx.AsyncClient, visibility: str) -> None:
    await made(api, id="hers", visibility=visibility)
    answer = await api.post("/api/sessions", headers=GRACE, json={"id": "hers"})
    assert problem(answer) == (404, "not_found:session")


async def test_who_brings_no_token_becomes_a_guest_with_a_session(api: httpx.AsyncClient, owner: Owner) -> None:
    answer = await api.post("/api/sessions", json={"id": "mine"})
    token = answer.headers["x-guest-token"]
    assert answer.status_code == 201
    assert token in answer.headers["set-cookie"]
    api.cookies.clear()
    again = await api.post("/api/sessions", json={"id": "mine"}, headers={"authorization": f"Bearer {token}"})
    assert (again.status_code, again.json()) == (200, answer.json())
    assert "x-guest-token" not in again.headers
    listed = await api.get("/api/sessions", headers={"cookie": f"threadkeep_guest={token}"})
    assert [session["id"] for session in listed.json()["items"]] == [answer.json()["id"]]
    assert await owner.rows("select is_guest from public.user_profiles") == [{"is_guest": True}]


async def test_a_browser_gives_a_guests_cookie_back_below_whatever_path_the_api_stands(
    settings: Settings, database: Database
) -> None:
    """A stage of API Gateway is the first part of the browser's path, and of none that the function sees."""
    application = create_app(app.router, runtime=Runtime(settings, database, Authenticator(settings)))
    gateway = httpx.ASGITransport(Starlette(routes=[Mount("/v1", application)]))
    async with httpx.AsyncClient(transport=gateway, base_url="https://api.example.com/v1") as browser:
        made = await browser.post("/api/sessions", headers={"origin": ORIGIN}, json={"id": "mine"})
        again = await browser.post("/api/sessions", headers={"origin": ORIGIN}, json={"id": "mine"})
    assert (made.status_code, again.status_code, again.json()) == (201, 200, made.json())


async def test_too_many_guests_are_refused_with_their_sessions(api: httpx.AsyncClient, owner: Owner) -> None:
    await owner.rows("""
        update public.admin_config
        set config_data = config_data || '{"guests": {"perAddressPerHour": 1}}'
        where config_key = 'app_settings'
    """)
    assert (await api.post("/api/sessions")).status_code == 201
    api.cookies.clear()
    refused = await api.post("/api/sessions")
    assert problem(refused) == (429, "rate_limit:guest")
    assert int(refused.headers["retry-after"]) >= 1
    assert "x-guest-token" not in refused.headers
    assert await owner.number('select count(*) from public."Chat"') == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"id": ""}, "id"),
        ({"id": "a b"}, "id"),
        ({"id": "x" * 65}, "id"),
        ({"id": 7}, "id"),
        ({"title": " \n "}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": None}, "title"),
        ({"title": "a\u0000b"}, "body"),
        ({"visibility": "secret"}, "visibility"),
        ({"userId": "somebody"}, "userId"),
        ({"total_cost": 0}, "total_cost"),
    ],
    ids=str,
)
async def test_a_session_that_makes_no_sense_is_not_made(
    api: httpx.AsyncClient, owner: Owner, body: dict[str, Any], field: str
) -> None:
    assert wrong_fields(await api.post("/api/sessions", headers=ADA, json=body)) == [field]
    assert await owner.number('select count(*) from public."Chat"') == 0


# The list


async def test_the_list_is_the_callers_own_most_recently_active_first(api: httpx.AsyncClient, owner: Owner) -> None:
    first, *_ = [await made(api, title=title) for title in ("one", "two", "three")]
    await made(api, GRACE, title="hers", visibility="public")
    await say(owner, first, "Hello")
    answer = await api.get("/api/sessions", headers=ADA)
    assert titles(answer) == ["one", "three", "two"]
    assert answer.json()["nextCursor"] is None
    assert set(answer.json()["items"][0]) == {
        "id", "title", "visibility", "status", "createdAt", "lastActive", "messageCount",
    }  # fmt: skip
    assert titles(await api.get("/api/sessions", headers=ADMINISTRATOR)) == []
    assert problem(await api.get("/api/sessions")) == (401, "unauthorized:auth")


async def test_pages_hold_every_session_once_also_those_of_one_moment(api: httpx.AsyncClient, owner: Owner) -> None:
    for number in range(23):
        await made(api, title=f"{number}")
    await owner.rows("""update public."Chat" set last_active = '2026-03-14' where title::integer %% 2 = 0""")
    pages = await all_pages(api, "/api/sessions", ADA, limit=5)
    assert [len(page) for page in pages] == [5, 5, 5, 5, 3]
    listed = [(session["lastActive"], session["id"]) for page in pages for session in page]
    assert len(set(listed)) == 23
    assert listed == sorted(listed, reverse=True)


async def test_the_list_can_be_of_one_status(api: httpx.AsyncClient) -> None:
    kept, filed = await made(api, title="kept"), await made(api, title="filed")
    await api.patch(f"/api/sessions/{filed}", headers=ADA, json={"status": "archived"})
    assert titles(await api.get("/api/sessions?status=active", headers=ADA)) == ["kept"]
    assert titles(await api.get("/api/sessions?status=archived", headers=ADA)) == ["filed"]
    assert wrong_fields(await api.get("/api/sessions?status=deleted", headers=ADA)) == ["status"]
    assert kept != filed


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1.5", "99999999999999999999999"])
async def test_a_limit_is_1_to_100(api: httpx.AsyncClient, limit: str) -> None:
    session = await made(api)
    for path in ("/api/sessions", f"/api/sessions/{session}/messages", f"/api/sessions/{session}/votes"):
        assert wrong_fields(await api.get(path, headers=ADA, params={"limit": limit})) == ["limit"]


async def test_search_finds_titles_and_all_words_of_one_message(api: httpx.AsyncClient, owner: Owner) -> None:
    trains, planes, _ = [await made(api, title=title) for title in ("Night trains", "Flights", "Cooking")]
    await say(owner, planes, "Is the sleeper to Vienna an aeroplane?", "No, a TRAIN")
    hers = await made(api, GRACE, title="Night trains of hers")
    await say(owner, hers, "sleeper vienna train")

    async def found(words: str) -> list[str]:
        return titles(await api.get("/api/sessions", headers=ADA, params={"q": words}))

    assert await found("train") == ["Flights", "Night trains"]
    assert await found("GHT TRAI") == ["Night trains"]
    assert await found("vienna sleeper") == ["Flights"]
    assert await found("sleeper vie") == ["Flights"]
    assert await found("vie sleeper") == []
    assert await found("vienna train") == []
    assert await found("%") == []
    assert await found("' | ! & (:*") == []
    assert len(await found("  ")) == 3
    assert trains


async def test_a_search_is_paged(api: httpx.AsyncClient) -> None:
    for number in range(7):
        await made(api, title=f"night {number}")
        await made(api, title=f"day {number}")
    pages = await all_pages(api, "/api/sessions", ADA, q="night", limit=3)
    assert [[session["title"] for session in page] for page in pages] == [
        ["night 6", "night 5", "night 4"], ["night 3", "night 2", "night 1"], ["night 0"],
    ]  # fmt: skip


@pytest.mark.parametrize("q", ["a\x00b", "x" * 201])
async def test_a_search_for_what_cannot_be_is_refused(api: httpx.AsyncClient, q: str) -> None:
    assert wrong_fields(await api.get("/api/sessions", headers=ADA, params={"q": q})) == ["q"]


# Cursors


async def a_cursor(api: httpx.AsyncClient, path: str = "/api/sessions", **query: Any) -> str:
    answer = await api.get(path, headers=ADA, params={"limit": 1, **query})
    cursor: str = answer.json()["nextCursor"]
    assert cursor
    return cursor


async def test_a_cursor_belongs_to_one_list_with_its_filters(api: httpx.AsyncClient, owner: Owner) -> None:
    session, other = await made(api), await made(api)
    for chat in (session, other):
        await say(owner, chat, "one", "two", "three")
    for query, cursor in [
        ({"path": "/api/sessions", "status": "active"}, await a_cursor(api)),
        ({"path": "/api/sessions"}, await a_cursor(api, q="new")),
        ({"path": "/api/sessions"}, await a_cursor(api, f"/api/sessions/{session}/messages")),
        ({"path": f"/api/sessions/{other}/messages"}, await a_cursor(api, f"/api/sessions/{session}/messages")),
        ({"path": f"/api/sessions/{session}/votes"}, await a_cursor(api, f"/api/sessions/{session}/messages")),
    ]:
        path = query.pop("path")
        answer = await api.get(path, headers=ADA, params={**query, "cursor": cursor})
        assert wrong_fields(answer) == ["cursor"]


async def test_a_changed_cursor_is_refused_wherever_it_was_changed(api: httpx.AsyncClient) -> None:
    await made(api)
    await made(api)
    cursor = await a_cursor(api)
    changed = [
        cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :] for place in range(len(cursor))
    ]
    changed += [cursor[:-1], cursor + "A", cursor + "=", cursor + "\n", " " + cursor, "", "0", "ä", "null", "a" * 4000]
    for text in changed:
        answer = await api.get("/api/sessions", headers=ADA, params={"cursor": text})
        assert wrong_fields(answer) == ["cursor"], text
        assert answer.json()["errors"][0]["message"]


# One session


async def test_reading_is_for_the_owner_and_of_public_ones_for_everybody(
    api: httpx.AsyncClient, database: Database, settings: Settings
) -> None:
    run = await begin(database, somebody(user_id_of(settings, OTHER_ISSUER, "ada")))
    await finish(database, user_id_of(settings, OTHER_ISSUER, "ada"), run)
    path = f"/api/sessions/{run.session}"
    guest = {"authorization": f"Bearer {issue_guest(settings).token}"}
    others = [GRACE, ADMINISTRATOR, guest, NOBODY]

    own = (await api.get(path, headers=ADA)).json()
    assert (own["totalInputTokens"], own["totalOutputTokens"], own["messageCount"]) == (3, 4, 2)
    for suffix in ("", "/messages", "/export"):
        for reader in others:
            assert problem(await api.get(path + suffix, headers=reader)) == (404, "not_found:session")

    await api.patch(path, headers=ADA, json={"visibility": "public"})
    for reader in others:
        session = (await api.get(path, headers=reader)).json()
        assert set(session) == {"id", "title", "visibility", "status", "createdAt", "lastActive", "messageCount"}
        seen = (await api.get(f"{path}/messages", headers=reader)).json()["items"]
        assert [message["usage"] for message in seen] == [None, None]
        assert (await api.get(f"{path}/export", headers=reader)).status_code == 200
    assert "totalCost" in (await api.get(path, headers=ADA)).json()


async def test_nobody_but_the_owner_changes_anything_even_of_a_public_session(
    api: httpx.AsyncClient, owner: Owner, settings: Settings
) -> None:
    public, private = await made(api, visibility="public"), await made(api)
    guest = {"authorization": f"Bearer {issue_guest(settings).token}"}
    for session in (public, private):
        [message] = await say(owner, session, "Hello")
        path = f"/api/sessions/{session}"
        calls: list[tuple[str, str, Any]] = [
            ("PATCH", path, {"title": "Mine"}),
            ("DELETE", path, None),
            ("DELETE", f"{path}/messages/{message}", None),
            ("GET", f"{path}/votes", None),
            ("PUT", f"{path}/messages/{message}/vote", {"isUpvoted": True}),
            ("DELETE", f"{path}/messages/{message}/vote", None),
        ]
        for reader in (GRACE, ADMINISTRATOR, guest):
            for method, where, body in calls:
                answer = await api.request(method, where, headers=reader, json=body)
                assert problem(answer) == (404, "not_found:session"), (method, where)
        for method, where, body in calls:
            answer = await api.request(method, where, json=body)
            assert problem(answer) == (401, "unauthorized:auth"), (method, where)
    assert (await api.delete("/api/sessions", headers=GRACE)).status_code == 204
    assert problem(await api.delete("/api/sessions")) == (401, "unauthorized:auth")
    counts = "select count(*) from public.\"Chat\" where title = 'New chat' and message_count = 1"
    assert await owner.number(counts) == 2


async def test_a_change_is_of_what_was_sent_and_does_not_make_a_session_active(api: httpx.AsyncClient) -> None:
    session = await made(api, title="Before")
    before = (await api.get(f"/api/sessions/{session}", headers=ADA)).json()
    for change in ({"title": " After "}, {"visibility": "public"}, {"status": "archived"}, {}):
        answer = await api.patch(f"/api/sessions/{session}", headers=ADA, json=change)
        assert answer.status_code == 200
    assert answer.json() == before | {"title": "After", "visibility": "public", "status": "archived"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": None}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"visibility": "everybody"}, "visibility"),
        ({"status": None}, "status"),
        ({"totalCost": 0}, "totalCost"),
        ({"messageCount": 9}, "messageCount"),
    ],
    ids=str,
)
async def test_a_wrong_change_names_its_field(api: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    session = await made(api)
    assert wrong_fields(await api.patch(f"/api/sessions/{session}", headers=ADA, json=body)) == [field]


async def test_a_deleted_session_is_gone(api: httpx.AsyncClient) -> None:
    session = await made(api)
    deleted = await api.delete(f"/api/sessions/{session}", headers=ADA)
    assert (deleted.status_code, deleted.content) == (204, b"")
    for method, body in (("GET", None), ("PATCH", {"title": "x"}), ("DELETE", None)):
        answer = await api.request(method, f"/api/sessions/{session}", headers=ADA, json=body)
        assert problem(answer) == (404, "not_found:session")


async def test_all_sessions_go_and_only_the_callers(api: httpx.AsyncClient, owner: Owner) -> None:
    for _ in range(3):
        await say(owner, await made(api), "Hello")
    hers = await made(api, GRACE)
    for _ in range(2):
        assert (await api.delete("/api/sessions", headers=ADA)).status_code == 204
    assert await owner.rows('select id from public."Chat"') == [{"id": UUID(hers)}]


@pytest.mark.parametrize("session", ["a b", "ä", "x" * 65, "a%00b", "a.b", "'--"])
@pytest.mark.parametrize(
    ("method", "suffix"), [("GET", ""), ("DELETE", ""), ("GET", "/messages"), ("GET", "/votes"), ("GET", "/export")]
)
async def test_a_malformed_id_is_said_to_be_one(api: httpx.AsyncClient, session: str, method: str, suffix: str) -> None:
    assert wrong_fields(await api.request(method, f"/api/sessions/{session}{suffix}", headers=ADA)) == ["id"]


async def test_a_disabled_account_is_refused_everywhere(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api, visibility="public")
    [message] = await say(owner, session, "Hello")
    await owner.rows("update public.user_profiles set disabled_at = now()")
    path = f"/api/sessions/{session}"
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/api/sessions", {}),
        ("GET", "/api/sessions", None),
        ("GET", "/api/sessions?q=hello", None),
        ("DELETE", "/api/sessions", None),
        ("GET", path, None),
        ("PATCH", path, {"title": "x"}),
        ("DELETE", path, None),
        ("GET", f"{path}/messages", None),
        ("GET", f"{path}/export", None),
        ("DELETE", f"{path}/messages/{message}", None),
        ("GET", f"{path}/votes", None),
        ("PUT", f"{path}/messages/{message}/vote", {"isUpvoted": True}),
        ("DELETE", f"{path}/messages/{message}/vote", None),
    ]
    for method, where, body in calls:
        answer = await api.request(method, where, headers=ADA, json=body)
        assert problem(answer) == (403, "forbidden:account"), (method, where)


# Messages


async def test_the_newest_page_comes_first_and_ascends(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api, visibility="public")
    await say(owner, session, *[f"{number}" for number in range(7)])
    for reader in (ADA, GRACE, NOBODY):
        pages = await all_pages(api, f"/api/sessions/{session}/messages", reader, limit=3)
        said = [[message["parts"][0]["text"] for message in page] for page in pages]
        assert said == [["4", "5", "6"], ["1", "2", "3"], ["0"]]


async def test_a_page_of_messages_has_50_unless_told(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api)
    await say(owner, session, *[f"{number}" for number in range(51)])
    answer = await api.get(f"/api/sessions/{session}/messages", headers=ADA)
    assert texts(answer) == [f"{number}" for number in range(1, 51)]
    assert answer.json()["nextCursor"]


async def test_a_page_of_messages_is_no_larger_than_an_answer(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api, visibility="public")
    lengths = [1000, 200_000, 400_000, 600_000, 1_200_000, 300_000, 10]
    await say(owner, session, *["路" * length for length in lengths])
    for reader in (ADA, NOBODY):
        pages = await all_pages(api, f"/api/sessions/{session}/messages", reader, limit=100)
        found = [[len(message["parts"][0]["text"]) for message in page] for page in pages]
        # The newest page comes first; the long one is too long for any page, and comes alone.
        assert found == [[300_000, 10], [1_200_000], [400_000, 600_000], [1000, 200_000]]


async def test_an_older_page_stays_where_it_was_while_new_messages_come(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api)
    await say(owner, session, "0", "1", "2", "3")
    path = f"/api/sessions/{session}/messages"
    cursor = await a_cursor(api, path, limit=2)
    await say(owner, session, "4", "5", "6")
    assert texts(await api.get(path, headers=ADA, params={"cursor": cursor})) == ["0", "1"]


async def test_a_message_shows_what_it_is_and_no_data_of_its_files(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api, visibility="public")
    files = [
        {"filename": "a.png", "mediaType": "image/png", "size": 3, "data": "U0VDUkVU"},
        {"filename": None, "mediaType": "text/plain", "size": 6, "data": "U0VDUkVU"},
    ]
    [asked] = await say(owner, session, "Look", attachments=Jsonb(files))
    inside = {"model": "offline", "usage": {"cost": 1}, "recoveredStream": "s", "error": {"detail": "inside"}}
    [answered] = await say(
        owner, session, "I see", role="assistant", metadata=Jsonb(inside), model_used="offline",
        input_tokens=5, output_tokens=6, cost=0.25, model_messages=Jsonb([{"kept": "for the model"}]),
    )  # fmt: skip

    answer = await api.get(f"/api/sessions/{session}/messages", headers=ADA)
    question, reply = answer.json()["items"]

    assert "SECRET" not in answer.text
    assert "U0VDUkVU" not in answer.text
    assert question.pop("createdAt") <= reply.pop("createdAt")
    assert question == {
        "id": asked,
        "role": "user",
        "parts": [{"type": "text", "text": "Look"}],
        "metadata": {},
        "status": "complete",
        "model": None,
        "usage": None,
        "attachments": [
            {"filename": "a.png", "mediaType": "image/png", "size": 3, "url": None},
            {"filename": None, "mediaType": "text/plain", "size": 6, "url": None},
        ],
    }
    assert reply == {
        "id": answered,
        "role": "assistant",
        "parts": [{"type": "text", "text": "I see"}],
        "metadata": {"model": "offline", "usage": {"cost": 1}, "error": {"detail": "inside"}},
        "status": "complete",
        "model": "offline",
        "usage": {"inputTokens": 5, "outputTokens": 6, "cost": 0.25},
        "attachments": [],
    }
    in_public = await api.get(f"/api/sessions/{session}/messages")
    shown_question, shown_reply = in_public.json()["items"]
    assert shown_question["attachments"] == question["attachments"]
    assert (shown_reply["usage"], shown_reply["metadata"]) == (None, {"model": "offline"})
    assert "U0VDUkVU" not in in_public.text


async def test_reading_ends_an_answer_that_died(
    api: httpx.AsyncClient, database: Database, owner: Owner, settings: Settings
) -> None:
    run = await begin(database, somebody(user_id_of(settings, OTHER_ISSUER, "ada")))
    path = f"/api/sessions/{run.session}/messages"
    alive = (await api.get(path, headers=ADA)).json()["items"]
    await owner.rows("""update public."Stream" set lease_until = now() - interval '1 second'""")
    dead = (await api.get(path, headers=ADA)).json()["items"]
    assert [messages[-1]["status"] for messages in (alive, dead)] == ["streaming", "interrupted"]


async def test_a_message_goes_with_all_after_it(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api)
    said = await say(owner, session, "0", "1", "2", "3")
    path = f"/api/sessions/{session}"
    before = (await api.get(path, headers=ADA)).json()
    deleted = await api.delete(f"{path}/messages/{said[2]}", headers=ADA)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert texts(await api.get(f"{path}/messages", headers=ADA)) == ["0", "1"]
    assert (await api.get(path, headers=ADA)).json() == before | {"messageCount": 2}
    assert problem(await api.delete(f"{path}/messages/{said[2]}", headers=ADA)) == (404, "not_found:message")
    await say(owner, session, "4")
    assert texts(await api.get(f"{path}/messages", headers=ADA)) == ["0", "1", "4"]


async def test_a_message_of_another_session_is_not_there(api: httpx.AsyncClient, owner: Owner) -> None:
    session, other = await made(api), await made(api)
    [message] = await say(owner, other, "Hello")
    path = f"/api/sessions/{session}/messages/{message}"
    assert problem(await api.delete(path, headers=ADA)) == (404, "not_found:message")
    assert problem(await api.put(f"{path}/vote", headers=ADA, json={"isUpvoted": True})) == (404, "not_found:message")
    assert await owner.number('select count(*) from public."Message_v2"') == 1


async def test_ids_of_the_client_work_in_paths(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api, id="my-session")
    message = str(ids.message_id(UUID(session), "msg-1"))
    await say(owner, session, "Hello", id=message)
    path = "/api/sessions/my-session/messages/msg-1"
    voted = await api.put(f"{path}/vote", headers=ADA, json={"isUpvoted": True})
    assert voted.json() == {"messageId": message, "isUpvoted": True}
    assert (await api.delete(path, headers=ADA)).status_code == 204
    assert wrong_fields(await api.delete("/api/sessions/my-session/messages/a.b", headers=ADA)) == ["messageId"]


async def test_deleting_the_answer_that_is_being_given_ends_it(
    api: httpx.AsyncClient, database: Database, owner: Owner, settings: Settings
) -> None:
    user_id = user_id_of(settings, OTHER_ISSUER, "ada")
    run = await begin(database, somebody(user_id))
    deleted = await api.delete(f"/api/sessions/{run.session}/messages/{run.answer}", headers=ADA)
    assert deleted.status_code == 204
    assert await finish(database, user_id, run) == "superseded"
    assert await owner.rows('select role from public."Message_v2"') == [{"role": "user"}]
    assert await owner.number('select count(*) from public."Stream"') == 0
    assert await owner.rows("select chat_id, message_id, output_tokens from public.usage_logs") == [
        {"chat_id": run.session, "message_id": None, "output_tokens": 4}
    ]


# Votes


async def test_a_vote_is_set_changed_and_taken_back(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api)
    first, second = sorted(await say(owner, session, "one", "two"))
    path = f"/api/sessions/{session}"
    for is_upvoted in (True, True, False):
        answer = await api.put(f"{path}/messages/{first}/vote", headers=ADA, json={"isUpvoted": is_upvoted})
        assert (answer.status_code, answer.json()) == (200, {"messageId": first, "isUpvoted": is_upvoted})
    await api.put(f"{path}/messages/{second}/vote", headers=ADA, json={"isUpvoted": True})
    votes = [{"messageId": first, "isUpvoted": False}, {"messageId": second, "isUpvoted": True}]
    assert await all_pages(api, f"{path}/votes", ADA) == [votes]
    assert await all_pages(api, f"{path}/votes", ADA, limit=1) == [[votes[0]], [votes[1]]]

    assert (await api.delete(f"{path}/messages/{first}/vote", headers=ADA)).status_code == 204
    assert problem(await api.delete(f"{path}/messages/{first}/vote", headers=ADA)) == (404, "not_found:vote")
    assert await all_pages(api, f"{path}/votes", ADA) == [votes[1:]]
    await api.delete(f"{path}/messages/{second}", headers=ADA)
    assert (await api.get(f"{path}/votes", headers=ADA)).json()["items"] == (votes[1:] if first > second else [])


@pytest.mark.parametrize("body", [{}, {"isUpvoted": None}, {"isUpvoted": 1}, {"isUpvoted": "true"}], ids=str)
async def test_a_vote_is_true_or_false(api: httpx.AsyncClient, owner: Owner, body: dict[str, Any]) -> None:
    session = await made(api)
    [message] = await say(owner, session, "Hello")
    answer = await api.put(f"/api/sessions/{session}/messages/{message}/vote", headers=ADA, json=body)
    assert wrong_fields(answer) == ["isUpvoted"]


async def test_a_vote_needs_a_message(api: httpx.AsyncClient) -> None:
    session = await made(api)
    path = f"/api/sessions/{session}/messages/{uuid4()}/vote"
    assert problem(await api.put(path, headers=ADA, json={"isUpvoted": True})) == (404, "not_found:message")
    assert problem(await api.delete(path, headers=ADA)) == (404, "not_found:vote")


# Export


async def test_a_session_is_exported_to_be_read(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api, title="Night\ntrains")
    await say(owner, session, "Which one?")
    parts = [
        {"type": "reasoning", "text": "Hm"},
        {"type": "tool-search", "toolCallId": "c", "state": "output-available", "input": {}, "output": {}},
        {"type": "file", "mediaType": "image/png", "filename": "map.png", "url": "attachment:0"},
        {"type": "text", "text": "The *Nightjet*.\n"},
    ]
    await owner.rows(
        """
        insert into public."Message_v2" ("chatId", role, status, parts)
        values (%(chat)s, 'assistant', 'interrupted', %(parts)s)
        """,
        {"chat": session, "parts": Jsonb(parts)},
    )
    answer = await api.get(f"/api/sessions/{session}/export?format=markdown", headers=ADA)
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="{session}.md"'
    assert answer.text == (
        "# Night trains\n\n## User\n\nWhich one?\n\n## Assistant\n\n*Tool: search*\n\n*File: map.png*\n\n"
        "The *Nightjet*.\n\n*This answer is interrupted.*\n"
    )


async def test_an_export_has_every_message_as_the_routes_give_them(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api)
    await say(owner, session, *[f"{number}" for number in range(205)])
    path = f"/api/sessions/{session}"
    answer = await api.get(f"{path}/export?format=json", headers=ADA)
    assert answer.headers["content-disposition"] == f'attachment; filename="{session}.json"'
    exported = answer.json()
    assert exported["session"] == (await api.get(path, headers=ADA)).json()
    newest_first = await all_pages(api, f"{path}/messages", ADA, limit=100)
    assert exported["messages"] == [message for page in reversed(newest_first) for message in page]
    assert [message["parts"][0]["text"] for message in exported["messages"]] == [f"{number}" for number in range(205)]


async def test_an_export_that_is_too_large_says_what_to_do(api: httpx.AsyncClient, owner: Owner) -> None:
    session = await made(api)
    await say(owner, session, *["路" * 500_000] * 3)
    answer = await api.get(f"/api/sessions/{session}/export", headers=ADA)
    assert problem(answer) == (413, "too_large:export")


@pytest.mark.parametrize("file_format", ["markdown", "json"])
async def test_no_export_of_a_public_session_holds_its_documents(
    api: httpx.AsyncClient, database: Database, settings: Settings, file_format: str
) -> None:
    ada = somebody(user_id_of(settings, OTHER_ISSUER, "ada"))
    run = await begin(database, ada)
    await finish(database, user_id_of(settings, OTHER_ISSUER, "ada"), run)
    document, _ = await documents.create(
        database, ada, uuid4(), title="Secret title", kind="text", content="Secret text", session=run.session
    )
    suggestion = await suggestions.add(
        database, ada, document.id, original_text="text", suggested_text="Secret suggestion"
    )
    await api.patch(f"/api/sessions/{run.session}", headers=ADA, json={"visibility": "public"})
    guest = {"authorization": f"Bearer {issue_guest(settings).token}"}

    for reader in (ADA, GRACE, ADMINISTRATOR, guest, NOBODY):
        answer = await api.get(f"/api/sessions/{run.session}/export?format={file_format}", headers=reader)
        assert answer.status_code == 200
        assert "Hello" in answer.text
        for hidden in ("Secret", str(document.id), str(document.version_id), str(suggestion.id)):
            assert hidden not in answer.text


async def test_an_export_has_one_of_two_formats(api: httpx.AsyncClient) -> None:
    session = await made(api)
    assert wrong_fields(await api.get(f"/api/sessions/{session}/export?format=pdf", headers=ADA)) == ["format"]


# On Lambda


def test_the_function_answers_events_of_the_http_api(
    process: asyncio.AbstractEventLoop, settings: Settings, database_url: str
) -> None:
    handler = LambdaHandler(app.router)
    guest = issue_guest(settings)
    create, listing = recorded("http_api_sessions_create"), recorded("http_api_sessions_list")
    for event in (create, listing):
        event["cookies"] = [cookie.replace("GUEST_TOKEN", guest.token) for cookie in event["cookies"]]
    assert json.loads(base64.b64decode(create["body"]))["title"] == "Züge bei Nacht"

    created = handler(create, LambdaContext())
    again = handler(create, LambdaContext())
    listed = handler(listing, LambdaContext())
    create["headers"].pop("origin")
    refused = handler(create, LambdaContext())
    process.run_until_complete(handler.runtime.database.close())

    assert (created["statusCode"], again["statusCode"], listed["statusCode"]) == (201, 200, 200)
    assert [session["title"] for session in json.loads(listed["body"])["items"]] == ["Züge bei Nacht"]
    assert refused["statusCode"] == 403
