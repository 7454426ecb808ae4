"""The caller's repositories on GitHub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.crowd import Owner, at_once
from tests.functions.account import ada, by_token, client_of, new_guest, problem, wrong_fields
from tests.providers import OTHER_ISSUER, bearer
from threadkeep import repositories
from threadkeep.database import Database
from threadkeep.identity import Principal, user_id_of
from threadkeep.settings import Settings

HELLO = {"owner": "octocat", "name": "Hello-World"}


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(settings, database) as client:
        yield client


@pytest.fixture
def user(settings: Settings) -> Principal:
    return Principal(user_id=user_id_of(settings, OTHER_ISSUER, "ada"), role="authenticated")


async def add(api: httpx.AsyncClient, headers: dict[str, str] | None = None, **members: Any) -> httpx.Response:
    return await api.post("/api/repositories", headers=headers or ada(), json=HELLO | members)


async def listed(api: httpx.AsyncClient, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await api.get("/api/repositories", headers=headers or ada())).json()["items"]
    return items


async def test_a_repository_is_added_listed_and_removed(
    api: httpx.AsyncClient, database: Database, user: Principal
) -> None:
    added = await add(api)
    repository = added.json()
    assert added.status_code == 201
    assert {name: repository[name] for name in ("owner", "name", "url", "defaultBranch")} == HELLO | {
        "url": "https://github.com/octocat/Hello-World",
        "defaultBranch": "main",
    }
    assert await listed(api) == [repository]
    assert [str(one.id) for one in await repositories.active(database, user)] == [repository["id"]]

    removed = await api.delete(f"/api/repositories/{repository['id']}", headers=ada())

    assert (removed.status_code, removed.content) == (204, b"")
    again = await api.delete(f"/api/repositories/{repository['id']}", headers=ada())
    assert problem(again) == (404, "not_found:repository")
    assert await listed(api) == []
    assert await repositories.active(database, user) == []


async def test_twice_the_same_is_one_in_whatever_letters(api: httpx.AsyncClient) -> None:
    first = await add(api)
    second = await add(api, owner="OctoCat", name="hello-world")
    assert (second.status_code, second.json()) == (200, first.json())
    branched = await add(api, defaultBranch="feature/ü#1")
    assert (branched.status_code, branched.json()["defaultBranch"]) == (200, "feature/ü#1")
    assert (await add(api)).json()["defaultBranch"] == "feature/ü#1"
    assert len(await listed(api)) == 1


async def test_one_that_was_switched_off_comes_back(api: httpx.AsyncClient, owner: Owner) -> None:
    await add(api)
    await owner.rows("update public.github_repositories set is_active = false")
    assert await listed(api) == []
    assert (await add(api)).status_code == 200
    assert len(await listed(api)) == 1


async def test_twenty_at_once_add_one(api: httpx.AsyncClient, owner: Owner) -> None:
    answers = await at_once(*[partial(add, api, name=name) for name in ("Hello-World", "hello-world")] * 10)
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert await owner.number("select count(*) from public.github_repositories") == 1


async def test_of_several_at_once_only_as_many_as_have_room_are_added(
    api: httpx.AsyncClient, owner: Owner, user: Principal
) -> None:
    await api.get("/api/me", headers=ada())
    await owner.rows(
        """
        insert into public.github_repositories (user_id, repo_owner, repo_name)
        select %(user)s, 'octocat', 'r' || n
        from generate_series(1, 97) as n
        """,
        {"user": user.user_id},
    )
    answers = await at_once(*[partial(add, api, name=f"new-{n}") for n in range(8)])
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 5
    assert problem(await add(api, name="new-9")) == (409, "conflict:repositories")
    assert (await add(api, name="r1")).status_code == 200
    assert (await add(api, bearer("grace"))).status_code == 201
    assert len(await listed(api)) == 100


async def test_a_list_is_read_page_by_page(api: httpx.AsyncClient) -> None:
    for n in range(5):
        await add(api, name=f"r{n}")
    names, cursor = [], ""
    while cursor is not None:
        page = (await api.get(f"/api/repositories?limit=2{cursor and f'&cursor={cursor}'}", headers=ada())).json()
        names += [one["name"] for one in page["items"]]
        cursor = page["nextCursor"]
    assert names == ["r4", "r3", "r2", "r1", "r0"]
    assert wrong_fields(await api.get("/api/repositories?cursor=x", headers=ada())) == ["cursor"]


async def test_somebody_elses_repository_is_as_if_it_did_not_exist(api: httpx.AsyncClient) -> None:
    repository = (await add(api)).json()["id"]
    guest = by_token((await new_guest(api))["token"])
    admin = bearer("root", app_metadata={"role": "admin"})
    for headers in (bearer("grace"), guest, admin):
        assert await listed(api, headers) == []
        answer = await api.delete(f"/api/repositories/{repository}", headers=headers)
        assert problem(answer) == (404, "not_found:repository")
    assert len(await listed(api)) == 1


async def test_a_guest_has_repositories_and_takes_them_along(api: httpx.AsyncClient) -> None:
    guest = (await new_guest(api))["token"]
    assert (await add(api, by_token(guest))).status_code == 201
    await api.post("/api/me/claim", headers=ada(), json={"guestToken": guest})
    assert [one["name"] for one in await listed(api)] == ["Hello-World"]


async def test_nobody_and_a_disabled_user_are_refused(api: httpx.AsyncClient, owner: Owner) -> None:
    path = f"/api/repositories/{uuid4()}"
    assert problem(await api.post("/api/repositories", json=HELLO)) == (401, "unauthorized:auth")
    assert problem(await api.delete(path)) == (401, "unauthorized:auth")
    await api.get("/api/me", headers=ada())
    await owner.rows("update public.user_profiles set disabled_at = now()")
    assert problem(await add(api)) == (403, "forbidden:account")
    assert problem(await api.delete(path, headers=ada())) == (403, "forbidden:account")


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"owner": ""}, "owner"),
        ({"owner": "-octocat"}, "owner"),
        ({"owner": "octocat-"}, "owner"),
        ({"owner": "octo--cat"}, "owner"),
        ({"owner": "octo cat"}, "owner"),
        ({"owner": "octo/cat"}, "owner"),
        ({"owner": "öctocat"}, "owner"),
        ({"owner": "o" * 40}, "owner"),
        ({"owner": "octocat\n"}, "owner"),
        ({"owner": None}, "owner"),
        ({"name": "."}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "hello.git"}, "name"),
        ({"name": "hello.Wiki"}, "name"),
        ({"name": "hello world"}, "name"),
        ({"name": "../../etc"}, "name"),
        ({"name": "n" * 101}, "name"),
        ({"name": 7}, "name"),
        ({"defaultBranch": ""}, "defaultBranch"),
        ({"defaultBranch": "a b"}, "defaultBranch"),
        ({"defaultBranch": "a..b"}, "defaultBranch"),
        ({"defaultBranch": "-a"}, "defaultBranch"),
        ({"defaultBranch": "a.lock"}, "defaultBranch"),
        ({"defaultBranch": "a/"}, "defaultBranch"),
        ({"defaultBranch": "a/.b"}, "defaultBranch"),
        ({"defaultBranch": "@"}, "defaultBranch"),
        ({"defaultBranch": "a\u202eb"}, "defaultBranch"),
        ({"defaultBranch": "b" * 101}, "defaultBranch"),
        ({"url": "https://example.com"}, "url"),
        ({"owner": "a\x00b"}, "body"),
    ],
)
async def test_what_github_would_not_take_names_its_field(
    api: httpx.AsyncClient, members: dict[str, Any], field: str
) -> None:
    assert wrong_fields(await add(api, **members)) == [field]
    assert await listed(api) == []


@pytest.mark.parametrize(
    "members",
    [
        {"owner": "a", "name": "a"},
        {"owner": "o" * 39, "name": "n" * 100},
        {"owner": "octo_acme", "name": ".github"},
        {"owner": "0x-7", "name": "-_."},
        {"name": "git", "defaultBranch": "release/1.0"},
    ],
)
async def test_what_github_takes_is_taken(api: httpx.AsyncClient, members: dict[str, Any]) -> None:
    assert (await add(api, **members)).status_code == 201


async def test_an_id_that_is_none_is_wrong(api: httpx.AsyncClient) -> None:
    assert wrong_fields(await api.delete("/api/repositories/x", headers=ada())) == ["repository"]
