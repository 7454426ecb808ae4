"""The routes of documents: for their owner, for somebody else, for a guest and for nobody in particular."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from functions.documents import app
from tests.aws import LambdaContext, recorded
from tests.crowd import Owner
from tests.providers import bearer
from threadkeep import ids
from threadkeep.database import Database
from threadkeep.guests import issue_guest
from threadkeep.identity import Authenticator
from threadkeep.settings import Settings
from threadkeep.web import LambdaHandler, Runtime, create_app

ADA, GRACE = bearer("ada"), bearer("grace")
ADMINISTRATOR = bearer("root", app_metadata={"role": "admin"})
MEGABYTE = 1024 * 1024


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


async def made(api: httpx.AsyncClient, content: str = "", headers: dict[str, str] = ADA, **body: Any) -> dict[str, Any]:
    answer = await api.post("/api/documents", headers=headers, json={"title": "Trains", "content": content} | body)
    assert answer.status_code == 201
    document: dict[str, Any] = answer.json()
    return document


async def saved(api: httpx.AsyncClient, document: dict[str, Any], *contents: str) -> dict[str, Any]:
    """The newest version after these contents were saved one after another."""
    newest = document
    for content in contents:
        answer = await api.put(f"/api/documents/{document['id']}", headers=ADA, json={"content": content})
        assert answer.status_code == 200
        newest = answer.json()
    return newest


async def suggested(api: httpx.AsyncClient, document: dict[str, Any], original: str, new: str) -> str:
    answer = await api.post(
        f"/api/documents/{document['id']}/suggestions",
        headers=ADA,
        json={"originalText": original, "suggestedText": new},
    )
    assert answer.status_code == 201
    suggestion: str = answer.json()["id"]
    return suggestion


async def session_of(owner: Owner, document: dict[str, Any], session: str | None = None) -> str:
    """A session of the one who made this document."""
    [row] = await owner.rows(
        """
        insert into public."Chat" (id, user_id, title)
        select %(session)s, d.user_id, 'A chat'
        from public."Document" as d
        where d.id = %(document)s
        limit 1
        returning id
        """,
        {"session": session or uuid4(), "document": document["id"]},
    )
    return str(row["id"])


async def all_pages(api: httpx.AsyncClient, path: str, **query: Any) -> list[list[Any]]:
    """The items of each page, until there is no cursor."""
    found = []
    cursor: str | None = None
    while True:
        answer = await api.get(path, headers=ADA, params=query | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200
        found.append(answer.json()["items"])
        cursor = answer.json()["nextCursor"]
        if cursor is None:
            return found


# Making documents


async def test_a_new_document_is_its_first_version(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/documents", headers=ADA, json={"title": " Trains ", "content": "Ünder way"})
    document = answer.json()
    assert answer.status_code == 201
    assert UUID(document.pop("id"))
    assert answer.headers["etag"] == f'"{document.pop("versionId")}"'
    assert abs((datetime.now(UTC) - datetime.fromisoformat(document.pop("createdAt"))).total_seconds()) < 60
    assert document == {
        "version": 1,
        "parentVersionId": None,
        "title": "Trains",
        "kind": "text",
        "sessionId": None,
        "size": 10,
        "metadata": {"origin": "person"},
        "content": "Ünder way",
        "problems": None,
    }


async def test_the_same_again_is_the_same_document_however_it_went_on(api: httpx.AsyncClient) -> None:
    body = {"id": "x7-Y_2", "title": "Trains", "content": "one"}
    first = await api.post("/api/documents", headers=ADA, json=body)
    again = await api.post("/api/documents", headers=ADA, json=body)
    newest = await saved(api, first.json(), "two")
    later = await api.post("/api/documents", headers=ADA, json=body)
    assert (first.status_code, again.status_code, later.status_code) == (201, 200, 200)
    assert first.json()["id"] == str(ids.document_id("x7-Y_2"))
    assert (again.json(), later.json()) == (first.json(), newest)
    for other in ({"content": "other"}, {"title": "Other"}, {"kind": "python code"}):
        answer = await api.post("/api/documents", headers=ADA, json=body | other)
        assert problem(answer) == (409, "conflict:document")


async def test_calls_at_once_with_one_id_make_one_document(api: httpx.AsyncClient, owner: Owner) -> None:
    body = {"id": "one", "title": "Trains", "content": "one"}
    answers = await asyncio.gather(*[api.post("/api/documents", headers=ADA, json=body) for _ in range(20)])
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert await owner.number('select count(*) from public."Document"') == 1


async def test_a_document_of_a_session_goes_with_it_whole(api: httpx.AsyncClient, owner: Owner) -> None:
    other = await made(api)
    session = await session_of(owner, other)
    document = await made(api, "one", sessionId=session)
    newest = await saved(api, document, "two")
    await suggested(api, newest, "two", "three")
    assert newest["sessionId"] == session
    await owner.rows('delete from public."Chat"')
    assert await owner.rows('select id::text from public."Document"') == [{"id": other["id"]}]
    assert await owner.number('select count(*) from public."Suggestion"') == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"id": "a b"}, "id"),
        ({"title": " \n "}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": None}, "title"),
        ({"kind": "image"}, "kind"),
        ({"content": 7}, "content"),
        ({"content": "a\u0000b"}, "body"),
        ({"sessionId": "a b"}, "sessionId"),
        ({"version": 9}, "version"),
    ],
    ids=str,
)
async def test_a_document_that_makes_no_sense_is_not_made(
    api: httpx.AsyncClient, owner: Owner, body: dict[str, Any], field: str
) -> None:
    answer = await api.post("/api/documents", headers=ADA, json={"title": "Trains"} | body)
    assert wrong_fields(answer) == [field]
    assert await owner.number('select count(*) from public."Document"') == 0


async def test_a_document_has_a_megabyte_and_not_a_byte_more(api: httpx.AsyncClient) -> None:
    full = await made(api, "ü" * (MEGABYTE // 2))
    assert full["size"] == MEGABYTE
    body = {"title": "Trains", "content": "ü" * (MEGABYTE // 2) + "x"}
    assert problem(await api.post("/api/documents", headers=ADA, json=body)) == (413, "too_large:document")
    answer = await api.put(f"/api/documents/{full['id']}", headers=ADA, json={"content": body["content"]})
    assert problem(answer) == (413, "too_large:document")


# Whose they are


async def test_a_document_is_nobody_elses_in_any_position(
    api: httpx.AsyncClient, owner: Owner, settings: Settings
) -> None:
    started = await made(api, "one")
    session = await session_of(owner, started)
    # That everybody may read the chat says nothing about what came out of it.
    await owner.rows("update public.\"Chat\" set visibility = 'public'")
    document = await made(api, "one", id="hers", sessionId=session)
    suggestion = await suggested(api, document, "one", "two")
    path = f"/api/documents/{document['id']}"
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/api/documents", {"id": "hers", "title": "Trains", "content": "one"}),
        ("GET", path, None),
        ("PUT", path, {"content": "mine"}),
        ("DELETE", path, None),
        ("GET", f"{path}/versions", None),
        ("GET", f"{path}/versions/1", None),
        ("DELETE", f"{path}/versions?after=1", None),
        ("GET", f"{path}/diff?from=1&to=1", None),
        ("POST", f"{path}/revert", {"version": 1}),
        ("GET", f"{path}/export", None),
        ("GET", f"{path}/suggestions", None),
        ("POST", f"{path}/suggestions", {"originalText": "one", "suggestedText": "mine"}),
        ("POST", f"{path}/suggestions/accept", None),
        ("POST", f"{path}/suggestions/{suggestion}/accept", None),
        ("POST", f"{path}/suggestions/{suggestion}/reject", None),
    ]
    guest = {"authorization": f"Bearer {issue_guest(settings).token}"}
    for reader in (GRACE, ADMINISTRATOR, guest):
        for method, where, body in calls:
            answer = await api.request(method, where, headers=reader, json=body)
            assert problem(answer) == (404, "not_found:document"), (method, where)
        own = await made(api, "one", reader)
        for verb in ("accept", "reject"):
            answer = await api.post(f"/api/documents/{own['id']}/suggestions/{suggestion}/{verb}", headers=reader)
            assert problem(answer) == (404, "not_found:suggestion")
        in_session = await api.post("/api/documents", headers=reader, json={"title": "Mine", "sessionId": session})
        assert problem(in_session) == (404, "not_found:session")
        listed = await api.get(f"/api/documents?sessionId={session}", headers=reader)
        assert problem(listed) == (404, "not_found:session")
        assert [one["id"] for one in (await api.get("/api/documents", headers=reader)).json()["items"]] == [own["id"]]
    for method, where, body in calls:
        assert problem(await api.request(method, where, json=body)) == (401, "unauthorized:auth")
    assert (await api.get(path, headers=ADA)).json() == document


async def test_a_disabled_account_is_refused_everywhere(api: httpx.AsyncClient, owner: Owner) -> None:
    document = await made(api, "one")
    await owner.rows("update public.user_profiles set disabled_at = now()")
    path = f"/api/documents/{document['id']}"
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/api/documents", {"title": "Trains"}),
        ("GET", "/api/documents", None),
        ("GET", path, None),
        ("PUT", path, {"content": "two"}),
        ("DELETE", path, None),
        ("POST", f"{path}/suggestions/accept", None),
    ]
    for method, where, body in calls:
        answer = await api.request(method, where, headers=ADA, json=body)
        assert problem(answer) == (403, "forbidden:account"), (method, where)


# The list


async def test_the_list_has_the_newest_version_of_each_last_changed_first(api: httpx.AsyncClient, owner: Owner) -> None:
    first, second = await made(api, "one"), await made(api, "a,b", kind="sheet")
    session = await session_of(owner, first)
    third = await made(api, "three", sessionId=session)
    await saved(api, first, "two", "three")
    listed = (await api.get("/api/documents", headers=ADA)).json()["items"]
    assert [(one["id"], one["version"]) for one in listed] == [(first["id"], 3), (third["id"], 1), (second["id"], 1)]
    assert "content" not in listed[0]
    assert await all_pages(api, "/api/documents", kind="sheet") == [[listed[2]]]
    assert await all_pages(api, "/api/documents", sessionId=session) == [[listed[1]]]
    assert wrong_fields(await api.get("/api/documents?kind=image", headers=ADA)) == ["kind"]


async def test_pages_hold_every_document_once_also_those_of_one_moment(api: httpx.AsyncClient, owner: Owner) -> None:
    for number in range(11):
        document = await made(api, title=f"{number}")
        await saved(api, document, "again")
    await owner.rows(
        """
        update public."Document"
        set "createdAt" = '2030-03-14'
        where version_number = 2 and title::integer %% 2 = 0
        """
    )
    pages = await all_pages(api, "/api/documents", limit=4)
    assert [len(page) for page in pages] == [4, 4, 3]
    listed = [(one["createdAt"], one["id"]) for page in pages for one in page]
    assert len({document for _, document in listed}) == 11
    assert listed == sorted(listed, reverse=True)


async def test_a_cursor_belongs_to_one_list(api: httpx.AsyncClient) -> None:
    document = await made(api)
    await made(api)
    await saved(api, document, "two")
    cursor = (await api.get("/api/documents?limit=1", headers=ADA)).json()["nextCursor"]
    for path in (
        f"/api/documents?kind=text&cursor={cursor}",
        f"/api/documents/{document['id']}/versions?cursor={cursor}",
        f"/api/documents/{document['id']}/suggestions?cursor={cursor}",
        "/api/documents?cursor=x",
    ):
        assert wrong_fields(await api.get(path, headers=ADA)) == ["cursor"]


# Saving, with and without a condition


async def test_every_save_is_a_version_with_its_parent(api: httpx.AsyncClient) -> None:
    first = await made(api, "one")
    path = f"/api/documents/{first['id']}"
    answer = await api.put(path, headers=ADA, json={"content": "two", "title": "Planes"})
    second = answer.json()
    assert (second["version"], second["parentVersionId"]) == (2, first["versionId"])
    assert (second["title"], second["content"], second["kind"]) == ("Planes", "two", "text")
    assert answer.headers["etag"] == f'"{second["versionId"]}"'
    third = await saved(api, first, "two")
    assert (third["version"], third["title"]) == (3, "Planes")
    assert (await api.get(path, headers=ADA)).json() == third
    assert (await api.get(f"{path}/versions/1", headers=ADA)).json() == first
    [listed] = await all_pages(api, f"{path}/versions")
    assert [one["version"] for one in listed] == [3, 2, 1]
    assert [len(page) for page in await all_pages(api, f"{path}/versions", limit=2)] == [2, 1]
    assert problem(await api.get(f"{path}/versions/4", headers=ADA)) == (404, "not_found:version")
    for number in ("0", "-1", "x", "99999999999"):
        assert wrong_fields(await api.get(f"{path}/versions/{number}", headers=ADA)) == ["version"]


async def test_of_many_with_the_same_condition_one_wins(api: httpx.AsyncClient) -> None:
    first = await made(api, "one")
    path = f"/api/documents/{first['id']}"
    headers = ADA | {"if-match": f'"{first["versionId"]}"'}
    answers = await asyncio.gather(
        *[api.put(path, headers=headers, json={"content": f"{number}"}) for number in range(16)]
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 15
    [won] = [answer.json() for answer in answers if answer.status_code == 200]
    for lost in (answer for answer in answers if answer.status_code == 412):
        assert problem(lost) == (412, "precondition_failed:document")
        assert {name: lost.json()["current"][name] for name in ("version", "versionId", "content")} == {
            name: won[name] for name in ("version", "versionId", "content")
        }


@pytest.mark.parametrize(
    ("condition", "status"),
    [("*", 200), ('"{}"', 200), ('"x", "{}"', 200), ('W/"{}"', 412), ('"x"', 412), ("{}", 412), ("", 412)],
)
async def test_a_condition_is_read_as_http_has_it(api: httpx.AsyncClient, condition: str, status: int) -> None:
    first = await made(api, "one")
    headers = ADA | {"if-match": condition.format(first["versionId"])}
    answer = await api.put(f"/api/documents/{first['id']}", headers=headers, json={"content": "two"})
    assert answer.status_code == status


async def test_a_condition_guards_every_change(api: httpx.AsyncClient) -> None:
    first = await made(api, "one")
    path = f"/api/documents/{first['id']}"
    await saved(api, first, "two")
    headers = ADA | {"if-match": f'"{first["versionId"]}"'}
    for method, where, body in (
        ("PUT", path, {"content": "three"}),
        ("DELETE", path, None),
        ("POST", f"{path}/revert", {"version": 1}),
        ("DELETE", f"{path}/versions?after=1", None),
    ):
        answer = await api.request(method, where, headers=headers, json=body)
        assert problem(answer) == (412, "precondition_failed:document")
    assert (await api.get(path, headers=ADA)).json()["version"] == 2


# Going back, and deleting


async def test_going_back_makes_a_new_version(api: httpx.AsyncClient) -> None:
    first = await made(api, "one")
    path = f"/api/documents/{first['id']}"
    await saved(api, first, "two")
    answer = await api.post(f"{path}/revert", headers=ADA, json={"version": 1})
    assert (answer.status_code, answer.json()["version"], answer.json()["content"]) == (200, 3, "one")
    assert answer.json()["metadata"] == {"origin": "revert", "version": 1}
    missing = await api.post(f"{path}/revert", headers=ADA, json={"version": 4})
    assert problem(missing) == (404, "not_found:version")
    for version in (0, "1", None, 2**31):
        assert wrong_fields(await api.post(f"{path}/revert", headers=ADA, json={"version": version})) == ["version"]


async def test_later_versions_go_with_their_suggestions_and_numbers_go_on(api: httpx.AsyncClient, owner: Owner) -> None:
    first = await made(api, "one")
    path = f"/api/documents/{first['id']}"
    kept = await suggested(api, first, "one", "1")
    await saved(api, first, "two")
    await suggested(api, first, "two", "2")
    await saved(api, first, "three")
    assert (await api.delete(f"{path}/versions?after=1", headers=ADA)).status_code == 204
    [left] = await all_pages(api, f"{path}/suggestions")
    assert [one["id"] for one in left] == [kept]
    newest = await saved(api, first, "2")
    assert (newest["version"], newest["parentVersionId"]) == (2, first["versionId"])
    assert wrong_fields(await api.delete(f"{path}/versions?after=0", headers=ADA)) == ["after"]
    assert wrong_fields(await api.delete(f"{path}/versions", headers=ADA)) == ["after"]


async def test_a_deleted_document_is_gone_and_nothing_else(api: httpx.AsyncClient, owner: Owner) -> None:
    document, other = await made(api, "one"), await made(api, "one")
    await suggested(api, document, "one", "two")
    await saved(api, document, "two")
    await suggested(api, other, "one", "two")
    path = f"/api/documents/{document['id']}"
    assert (await api.delete(path, headers=ADA)).status_code == 204
    for method in ("GET", "DELETE"):
        assert problem(await api.request(method, path, headers=ADA)) == (404, "not_found:document")
    assert await owner.number('select count(*) from public."Document"') == 1
    assert await owner.number('select count(*) from public."Suggestion"') == 1


# Differences


async def test_a_difference_is_given_as_text_and_as_hunks(api: httpx.AsyncClient) -> None:
    first = await made(api, "one\ntwo\nthree\n")
    await saved(api, first, "one\n2\nthree")
    path = f"/api/documents/{first['id']}/diff"
    answer = await api.get(f"{path}?from=1&to=2", headers=ADA)
    assert answer.json() == {
        "fromVersion": 1,
        "toVersion": 2,
        "unified": (
            "--- version 1\n+++ version 2\n@@ -1,3 +1,3 @@\n"
            " one\n-two\n-three\n+2\n+three\n\\ No newline at end of file\n"
        ),
        "hunks": [
            {
                "fromLine": 1,
                "fromCount": 3,
                "toLine": 1,
                "toCount": 3,
                "changes": [
                    {"kind": "context", "text": "one\n"},
                    {"kind": "removed", "text": "two\nthree\n"},
                    {"kind": "added", "text": "2\nthree"},
                ],
            }
        ],
    }
    same = await api.get(f"{path}?from=2&to=2", headers=ADA)
    assert (same.json()["unified"], same.json()["hunks"]) == ("", [])
    assert problem(await api.get(f"{path}?from=1&to=3", headers=ADA)) == (404, "not_found:version")
    assert wrong_fields(await api.get(f"{path}?from=1", headers=ADA)) == ["to"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Every line holds what JSON makes longer, twice on its way out of AWS Lambda.
        ('"a","b"\n' * 120_000, '"c","d"\n' * 120_000),
        # Each change has more around it than in it.
        (
            "".join(f"{number}\n" for number in range(100_000)),
            "".join(f"{number}\n" if number % 2 else f"x{number}\n" for number in range(100_000)),
        ),
    ],
    ids=["quotes", "small changes"],
)
async def test_a_difference_that_no_answer_carries_is_refused(api: httpx.AsyncClient, old: str, new: str) -> None:
    document = await made(api, old)
    await saved(api, document, new)
    answer = await api.get(f"/api/documents/{document['id']}/diff?from=1&to=2", headers=ADA)
    assert problem(answer) == (413, "too_large:difference")


# Suggestions


async def test_an_accepted_suggestion_is_a_version_and_is_accepted_once(api: httpx.AsyncClient) -> None:
    first = await made(api, "The slow train")
    suggestion = await suggested(api, first, "slow", "fast")
    await saved(api, first, "Here: the slow train!")
    path = f"/api/documents/{first['id']}"
    accepting = f"{path}/suggestions/{suggestion}/accept"
    answers = await asyncio.gather(*[api.post(accepting, headers=ADA) for _ in range(8)])
    assert [answer.status_code for answer in answers] == [200] * 8
    newest = (await api.get(path, headers=ADA)).json()
    assert (newest["version"], newest["content"]) == (3, "Here: the fast train!")
    assert newest["metadata"] == {"origin": "suggestion", "suggestionIds": [suggestion]}
    accepted = answers[0].json()["suggestion"]
    assert (accepted["state"], accepted["version"], accepted["madeBy"]) == ("accepted", 1, "user")
    assert accepted["resolvedAt"]
    refused = await api.post(f"{path}/suggestions/{suggestion}/reject", headers=ADA)
    assert (problem(refused), refused.json()["state"]) == ((409, "conflict:resolution"), "accepted")


@pytest.mark.parametrize("now", ["Another train", "slow and slow", ""])
async def test_a_suggestion_that_fits_no_more_is_refused_with_what_is_there(api: httpx.AsyncClient, now: str) -> None:
    first = await made(api, "The slow train")
    suggestion = await suggested(api, first, "slow", "fast")
    await saved(api, first, now)
    path = f"/api/documents/{first['id']}"
    answer = await api.post(f"{path}/suggestions/{suggestion}/accept", headers=ADA)
    assert problem(answer) == (409, "conflict:suggestion")
    assert (answer.json()["current"]["version"], answer.json()["current"]["content"]) == (2, now)
    [listed] = await all_pages(api, f"{path}/suggestions", state="open")
    assert [one["id"] for one in listed] == [suggestion]


async def test_a_rejected_suggestion_changes_nothing(api: httpx.AsyncClient) -> None:
    first = await made(api, "one")
    suggestion = await suggested(api, first, "one", "two")
    path = f"/api/documents/{first['id']}"
    for _ in range(2):
        answer = await api.post(f"{path}/suggestions/{suggestion}/reject", headers=ADA)
        assert (answer.status_code, answer.json()["state"]) == (200, "rejected")
    refused = await api.post(f"{path}/suggestions/{suggestion}/accept", headers=ADA)
    assert problem(refused) == (409, "conflict:resolution")
    assert (await api.get(path, headers=ADA)).json() == first
    for state, expected in (("open", []), ("accepted", []), ("rejected", [suggestion])):
        [listed] = await all_pages(api, f"{path}/suggestions", state=state)
        assert [one["id"] for one in listed] == expected
    assert wrong_fields(await api.get(f"{path}/suggestions?state=resolved", headers=ADA)) == ["state"]


async def test_all_open_suggestions_are_accepted_as_one_version_and_what_does_not_fit_stays(
    api: httpx.AsyncClient,
) -> None:
    first = await made(api, "one two three")
    one, again, three = [
        await suggested(api, first, *texts) for texts in (("one", "1"), ("one two", "x"), ("three", "two"))
    ]
    two = await suggested(api, first, "two", "2")
    path = f"/api/documents/{first['id']}"
    answer = (await api.post(f"{path}/suggestions/accept", headers=ADA)).json()
    assert answer["accepted"] == [one, three]
    assert answer["unapplied"] == [{"id": again, "outcome": "missing"}, {"id": two, "outcome": "ambiguous"}]
    assert (answer["document"]["version"], answer["document"]["content"]) == (2, "1 two two")
    assert answer["document"]["metadata"]["suggestionIds"] == [one, three]
    nothing = (await api.post(f"{path}/suggestions/accept", headers=ADA)).json()
    assert (nothing["accepted"], nothing["document"]) == ([], answer["document"])
    pages = await all_pages(api, f"{path}/suggestions", limit=3)
    assert [[one["id"] for one in page] for page in pages] == [[one, again, three], [two]]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"originalText": "four"}, "originalText"),
        ({"originalText": "o"}, "originalText"),
        ({"originalText": ""}, "originalText"),
        ({"originalText": "x" * 100_001}, "originalText"),
        ({"suggestedText": None}, "suggestedText"),
        ({"description": "x" * 2001}, "description"),
        ({"version": 0}, "version"),
        ({"madeBy": "agent"}, "madeBy"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_suggestion_that_makes_no_sense_is_not_made(
    api: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    document = await made(api, "one two")
    suggestion = {"originalText": "one", "suggestedText": "1"} | body
    path = f"/api/documents/{document['id']}/suggestions"
    assert wrong_fields(await api.post(path, headers=ADA, json=suggestion)) == [field]
    assert await all_pages(api, path) == [[]]


async def test_a_page_of_suggestions_is_no_larger_than_an_answer(api: httpx.AsyncClient) -> None:
    document = await made(api, " ".join(f"<{number}>" for number in range(12)))
    made_ones = [await suggested(api, document, f"<{number}>", "路" * 100_000) for number in range(12)]
    pages = await all_pages(api, f"/api/documents/{document['id']}/suggestions", limit=100)
    assert [len(page) for page in pages] == [10, 2]
    assert [suggestion["id"] for page in pages for suggestion in page] == made_ones


async def test_a_suggestion_cannot_make_a_document_too_large(api: httpx.AsyncClient) -> None:
    document = await made(api, "x" * (MEGABYTE - 1) + "y")
    suggestion = await suggested(api, document, "y", "zz")
    path = f"/api/documents/{document['id']}/suggestions"
    assert problem(await api.post(f"{path}/{suggestion}/accept", headers=ADA)) == (413, "too_large:document")
    assert problem(await api.post(f"{path}/accept", headers=ADA)) == (413, "too_large:document")


# Sheets and files


async def test_a_broken_sheet_is_refused_by_line_and_column(api: httpx.AsyncClient) -> None:
    body = {"title": "Fares", "kind": "sheet", "content": 'city,fare\nBonn,"4\nKöln,5,6\n'}
    answer = await api.post("/api/documents", headers=ADA, json=body)
    assert wrong_fields(answer) == ["content"]
    assert answer.json()["problems"] == [{"line": 2, "column": 6, "message": "This quote is never closed."}]
    document = await made(api, "city,fare\nBonn,4\n", kind="sheet")
    assert document["problems"] == []
    answer = await api.put(
        f"/api/documents/{document['id']}", headers=ADA, json={"content": "city,fare\nBonn\nKöln,5,6\n"}
    )
    assert wrong_fields(answer) == ["content", "content"]
    assert [(one["line"], one["column"]) for one in answer.json()["problems"]] == [(2, 5), (3, 8)]


@pytest.mark.parametrize(
    ("kind", "name", "media_type"),
    [
        ("text", "Trains.md", "text/markdown; charset=utf-8"),
        ("python code", "Trains.py", "text/x-python; charset=utf-8"),
        ("mermaid code", "Trains.mmd", "text/vnd.mermaid; charset=utf-8"),
        ("sheet", "Trains.csv", "text/csv; charset=utf-8"),
    ],
)
async def test_a_document_is_exported_as_its_natural_file(
    api: httpx.AsyncClient, kind: str, name: str, media_type: str
) -> None:
    document = await made(api, "Zürich\r\n", kind=kind)
    answer = await api.get(f"/api/documents/{document['id']}/export", headers=ADA)
    assert answer.content == "Zürich\r\n".encode()
    assert answer.headers["content-type"] == media_type
    assert answer.headers["content-disposition"] == f"attachment; filename=\"{name}\"; filename*=UTF-8''{name}"


@pytest.mark.parametrize(
    ("title", "disposition"),
    [
        ("Zürich", "attachment; filename=\"Zrich.md\"; filename*=UTF-8''Z%C3%BCrich.md"),
        ('../a"b\r\nx: y', "attachment; filename=\"a b x y.md\"; filename*=UTF-8''a%20b%20x%20y.md"),
        ("😀", "attachment; filename=\"document.md\"; filename*=UTF-8''%F0%9F%98%80.md"),
        ("...", "attachment; filename=\"document.md\"; filename*=UTF-8''document.md"),
    ],
)
async def test_any_title_makes_a_safe_file_name(api: httpx.AsyncClient, title: str, disposition: str) -> None:
    document = await made(api, title=title)
    answer = await api.get(f"/api/documents/{document['id']}/export", headers=ADA)
    assert answer.headers["content-disposition"] == disposition


@pytest.mark.parametrize("document", ["a b", "ä", "x" * 65, "a%00b", "a.b"])
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("DELETE", ""), ("GET", "/versions"), ("GET", "/export")])
async def test_a_malformed_id_is_said_to_be_one(
    api: httpx.AsyncClient, document: str, method: str, suffix: str
) -> None:
    assert wrong_fields(await api.request(method, f"/api/documents/{document}{suffix}", headers=ADA)) == ["id"]


# Text that PostgreSQL does not store

NO_TEXT = {
    "U+0000": rb'"a\u0000b"',
    "a half of a pair": rb'"\ud800"',
    "the other half": rb'"b\uDFFFb"',
    "halves in the wrong order": rb'"\ude00\ud83d"',
    "a raw U+0000": b'"a\0b"',
    "no UTF-8": b'"a\xffb"',
    "a half of a pair in UTF-8": b'"\xed\xa0\x80"',
}
FIELDS = [
    ("POST", "", b'{"title": %s}'),
    ("POST", "", b'{"title": "Trains", "content": %s}'),
    ("POST", "", b'{"title": "Trains", "content": %s, "kind": "sheet"}'),
    ("POST", "", b'{"title": "Trains", "id": %s}'),
    ("POST", "", b'{"title": "Trains", "kind": %s}'),
    ("POST", "", b'{"title": "Trains", "sessionId": %s}'),
    ("POST", "", b'{"title": "Trains", %s: "x"}'),
    ("PUT", "/x", b'{"content": %s}'),
    ("PUT", "/x", b'{"content": "two", "title": %s}'),
    ("POST", "/x/revert", b'{"version": %s}'),
    ("POST", "/x/suggestions", b'{"originalText": %s, "suggestedText": "two"}'),
    ("POST", "/x/suggestions", b'{"originalText": "one", "suggestedText": %s}'),
    ("POST", "/x/suggestions", b'{"originalText": "one", "suggestedText": "two", "description": %s}'),
]
PLACES = [
    ("GET", "?sessionId=%s"),
    ("GET", "?kind=%s"),
    ("GET", "?limit=%s"),
    ("GET", "?cursor=%s"),
    *[(method, "/%s") for method in ("GET", "PUT", "DELETE")],
    ("GET", "/%s/versions"),
    ("GET", "/x/versions?cursor=%s"),
    ("GET", "/x/versions/%s"),
    ("DELETE", "/x/versions?after=%s"),
    ("GET", "/x/diff?from=%s&to=1"),
    ("GET", "/x/diff?from=1&to=%s"),
    ("POST", "/%s/revert"),
    ("GET", "/%s/export"),
    ("GET", "/x/suggestions?state=%s"),
    ("GET", "/x/suggestions?cursor=%s"),
    ("POST", "/%s/suggestions"),
    ("POST", "/%s/suggestions/accept"),
    *[("POST", f"/x/suggestions/%s/{verb}") for verb in ("accept", "reject")],
]


@pytest.mark.parametrize(("method", "path", "body"), FIELDS, ids=[f"{m} {p} {b.decode()}" for m, p, b in FIELDS])
async def test_no_field_takes_text_that_cannot_be_stored(
    api: httpx.AsyncClient, owner: Owner, method: str, path: str, body: bytes
) -> None:
    await made(api, "one", id="x")
    for name, text in NO_TEXT.items():
        answer = await api.request(
            method,
            f"/api/documents{path}",
            headers=ADA | {"content-type": "application/json"},
            content=body.replace(b"%s", text),
        )
        assert problem(answer) in [(400, "bad_request:api"), (422, "invalid:api")], name
    assert await owner.number('select count(*) from public."Document"') == 1
    assert await owner.number('select count(*) from public."Suggestion"') == 0


@pytest.mark.parametrize(("method", "path"), PLACES, ids=[" ".join(place) for place in PLACES])
async def test_no_address_takes_text_that_is_none(api: httpx.AsyncClient, method: str, path: str) -> None:
    await made(api, "one", id="x")
    bodies: dict[str, Any] = {
        "PUT": {"content": "two"},
        "/%s/revert": {"version": 1},
        "/%s/suggestions": {"originalText": "one", "suggestedText": "two"},
    }
    for text in ("%00", "a%00b", "%FF", "%ED%A0%80", "%ED%B0%80x", "%F0%9F%98%80", "%E2%80%A8"):
        where = f"/api/documents{path.replace('%s', text)}"
        answer = await api.request(method, where, headers=ADA, json=bodies.get(path, bodies.get(method)))
        assert problem(answer) == (422, "invalid:api"), text
    newest = (await api.get("/api/documents/x", headers=ADA)).json()
    assert (newest["version"], newest["content"]) == (1, "one")


@pytest.mark.parametrize("tag", [b'"a\xffb"', b'"\xed\xa0\x80"', b'"\xc3\xbc"'], ids=str)
async def test_a_condition_that_is_no_text_matches_nothing(api: httpx.AsyncClient, tag: bytes) -> None:
    await made(api, "one", id="x")
    headers: Any = [(name.encode(), value.encode()) for name, value in ADA.items()] + [(b"if-match", tag)]
    answer = await api.put("/api/documents/x", headers=headers, json={"content": "two"})
    assert problem(answer) == (412, "precondition_failed:document")


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\\u0000 \\ud800"', r"\u0000 \ud800"),
        (rb'"\u0001\u007f\u2028\ufffe\uffff"', "\x01\x7f\u2028\ufffe\uffff"),
        ('"\u202e\u0301\U0010ffff"'.encode(), "\u202e\u0301\U0010ffff"),
    ],
)
async def test_all_other_text_is_kept_as_it_is_and_exported(api: httpx.AsyncClient, escaped: bytes, text: str) -> None:
    headers = ADA | {"content-type": "application/json"}
    body = b'{"title": ' + escaped + b', "content": ' + escaped + b"}"
    answer = await api.post("/api/documents", headers=headers, content=body)
    assert answer.status_code == 201
    assert (answer.json()["title"], answer.json()["content"]) == (text, text)
    path = f"/api/documents/{answer.json()['id']}"
    suggestion = (
        b'{"originalText": ' + escaped + b', "suggestedText": ' + escaped + b', "description": ' + escaped + b"}"
    )
    made_of_it = await api.post(f"{path}/suggestions", headers=headers, content=suggestion)
    assert (made_of_it.status_code, made_of_it.json()["description"]) == (201, text)
    exported = await api.get(f"{path}/export", headers=ADA)
    assert exported.content == text.encode()
    name = exported.headers["content-disposition"]
    assert name.isascii()
    assert name.isprintable()


# On Lambda


def test_the_function_answers_events_of_the_http_api(
    process: asyncio.AbstractEventLoop, settings: Settings, database_url: str
) -> None:
    handler = LambdaHandler(app.router)
    guest = issue_guest(settings)

    def event(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        made: dict[str, Any] = recorded("http_api_sessions_list") | {
            "rawPath": path,
            "rawQueryString": "",
            "cookies": [],
        }
        made["requestContext"]["http"] |= {"method": method, "path": path}
        made["headers"] |= {"authorization": f"Bearer {guest.token}", "content-type": "application/json"}
        if body is not None:
            made |= {"body": json.dumps(body), "isBase64Encoded": False}
        return made

    body = {"id": "trains", "title": "Züge", "kind": "sheet", "content": "Köln,4\n"}
    created = handler(event("POST", "/api/documents", body), LambdaContext())
    exported = handler(event("GET", "/api/documents/trains/export"), LambdaContext())
    process.run_until_complete(handler.runtime.database.close())

    assert (created["statusCode"], exported["statusCode"]) == (201, 200)
    assert created["headers"]["etag"] == exported["headers"]["etag"]
    assert (exported["body"], exported["isBase64Encoded"]) == ("Köln,4\n", False)
