"""The users of an installation as administrators see them, and what it means to be shut out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from functions.admin import app as admin
from functions.documents import app as documents
from functions.sessions import app as sessions
from local.token import token
from tests.administrators import ROOT, admin_api, all_pages, problem, read, wrong_fields
from tests.chat_server import KEYS, ChatServer, running, settings_for
from tests.crowd import Owner, at_once, begin, refusals, rolled_up, somebody
from tests.emulator import Emulator, Reply
from tests.providers import OTHER_ISSUER
from threadkeep import upkeep
from threadkeep.database import Database
from threadkeep.identity import SERVICE, user_id_of
from threadkeep.settings import Settings


@pytest.fixture
async def api(settings: Settings, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with admin_api(settings, database) as client:
        yield client


async def add(owner: Owner, email: str | None = None, name: str | None = None, days: int = 0, **more: Any) -> UUID:
    user = uuid4()
    await owner.rows(
        """
        insert into public.user_profiles (id, email, full_name, is_guest, created_at)
        values (%(id)s, %(email)s, %(name)s, %(is_guest)s, now() - make_interval(days => %(days)s))
        """,
        {"id": user, "email": email, "name": name, "days": days, "is_guest": False} | more,
    )
    return user


async def test_users_are_found_by_their_e_mail_their_name_and_their_id(api: httpx.AsyncClient, owner: Owner) -> None:
    ada = await add(owner, "Ada@Example.com", "Ada Lovelace", 2)
    grace = await add(owner, "grace@example.org", "Grace Hopper", 1)
    visitor = await add(owner, is_guest=True)
    for query, wanted in (
        ({}, [visitor, grace, ada]),
        ({"q": "example"}, [grace, ada]),
        ({"q": "LOVELACE"}, [ada]),
        ({"q": " ada@example.com "}, [ada]),
        ({"q": str(grace)}, [grace]),
        ({"q": str(grace)[:13].upper()}, [grace]),
        ({"q": "%"}, []),
        ({"q": "_"}, []),
        ({"kind": "guest"}, [visitor]),
        ({"kind": "account", "q": "hopper"}, [grace]),
        ({"disabled": "true"}, []),
        ({"disabled": "false"}, [visitor, grace, ada]),
    ):
        found = (await read(api, "users", **query))["items"]
        assert [item["id"] for item in found] == [str(user) for user in wanted], query


async def test_users_are_read_page_by_page(api: httpx.AsyncClient, owner: Owner) -> None:
    users = [await add(owner, days=place // 3) for place in range(8)]
    pages = await all_pages(api, "users", limit=3)
    assert [len(page) for page in pages] == [3, 3, 2]
    assert sorted(item["id"] for page in pages for item in page) == sorted(map(str, users))
    cursor = (await read(api, "users", limit=3))["nextCursor"]
    answer = await api.get("/api/admin/users", headers=ROOT, params={"cursor": cursor, "q": "ada"})
    assert wrong_fields(answer) == ["cursor"]


async def test_a_user_s_spend_is_that_of_the_month_and_of_all_time(
    api: httpx.AsyncClient, owner: Owner, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ROLLED_UP_AFTER", timedelta(0))
    ada = await add(owner)
    quiet = await add(owner)

    async def use(days: int, cost: float) -> None:
        await owner.rows(
            """
            insert into public.usage_logs
                (request_id, user_id, agent_type, input_tokens, output_tokens, total_cost, request_timestamp)
            values (
                gen_random_uuid(), %(user)s, 'chat_model_agent', 10, 5, %(cost)s,
                date_trunc('month', now() at time zone 'UTC') at time zone 'UTC' + make_interval(days => %(days)s)
            )
            """,
            {"user": ada, "days": days, "cost": cost},
        )

    await use(-1, 8)
    await use(0, 1)
    assert await rolled_up(database, 2)
    await use(-40, 16)
    await use(0, 2)
    found = {item["id"]: item for item in (await read(api, "users"))["items"]}
    spent = found[str(ada)]
    assert (spent["monthCost"], spent["totalCost"], spent["totalTokens"]) == (3.0, 27.0, 60)
    assert spent["lastSeen"] is not None
    assert (found[str(quiet)]["totalCost"], found[str(quiet)]["lastSeen"]) == (0.0, None)


async def test_a_user_is_disabled_and_enabled_again(api: httpx.AsyncClient, owner: Owner) -> None:
    ada = await add(owner, "ada@example.com")
    change = partial(api.patch, f"/api/admin/users/{ada}", headers=ROOT)
    disabled = await change(json={"disabled": True})
    again = await change(json={"disabled": True})
    assert (disabled.status_code, again.status_code) == (200, 200)
    assert disabled.json()["disabledAt"] == again.json()["disabledAt"] is not None
    assert [item["id"] for item in (await read(api, "users", disabled="true"))["items"]] == [str(ada)]
    enabled = await change(json={"disabled": False})
    assert (enabled.status_code, enabled.json()["disabledAt"]) == (200, None)


async def test_an_administrator_cannot_disable_himself(
    api: httpx.AsyncClient, owner: Owner, settings: Settings
) -> None:
    root = user_id_of(settings, OTHER_ISSUER, "root")
    await owner.rows("insert into public.user_profiles (id) values (%(root)s)", {"root": root})
    for disabled in (True, False):
        answer = await api.patch(f"/api/admin/users/{root}", headers=ROOT, json={"disabled": disabled})
        assert problem(answer) == (409, "conflict:account")
    assert await owner.number("select count(*) from public.user_profiles where disabled_at is not null") == 0


async def test_who_is_not_there_is_not_found(api: httpx.AsyncClient) -> None:
    answer = await api.patch(f"/api/admin/users/{uuid4()}", headers=ROOT, json={"disabled": True})
    assert problem(answer) == (404, "not_found:user")
    answer = await api.patch("/api/admin/users/ada", headers=ROOT, json={"disabled": True})
    assert wrong_fields(answer) == ["user"]


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "disabled"), ({"disabled": "true"}, "disabled"), ({"disabled": True, "email": "a@b.c"}, "email")],
)
async def test_a_change_that_is_wrong_changes_nothing(
    api: httpx.AsyncClient, owner: Owner, body: dict[str, Any], field: str
) -> None:
    ada = await add(owner)
    assert wrong_fields(await api.patch(f"/api/admin/users/{ada}", headers=ROOT, json=body)) == [field]
    assert await owner.number("select count(*) from public.user_profiles where disabled_at is not null") == 0


async def test_many_who_disable_and_enable_at_once_leave_one_of_the_two(api: httpx.AsyncClient, owner: Owner) -> None:
    ada = await add(owner)
    changes = [
        partial(api.patch, f"/api/admin/users/{ada}", headers=ROOT, json={"disabled": place % 2 == 0})
        for place in range(10)
    ]
    assert {answer.status_code for answer in await at_once(*changes)} == {200}


# What it means to be shut out, through a real server and with a token that stays valid


@pytest.fixture
async def server(api_database_url: str, database_url: str, emulator: Emulator) -> AsyncIterator[ChatServer]:
    settings = settings_for(api_database_url, emulator, DATABASE_POOL_SIZE="8")
    async with running(settings, database_url, sessions.router, documents.router, *admin.ROUTERS) as server:
        # Without titles a turn is one model request.
        await server.rows(
            'update admin_config set config_data = config_data || \'{"titles": {"enabled": false}}\' '
            "where config_key = 'app_settings'"
        )
        yield server


ADMINISTRATOR = {"authorization": f"Bearer {token(KEYS, 'root', is_admin=True)}"}


async def set_disabled(server: ChatServer, *, disabled: bool) -> None:
    [ada] = await server.rows("select id from user_profiles where email like 'ada%%'")
    answer = await server.http.patch(
        f"/api/admin/users/{ada['id']}", headers=ADMINISTRATOR, json={"disabled": disabled}
    )
    assert answer.status_code == 200, answer.text


async def test_a_disabled_account_is_refused_everywhere_at_once_and_let_in_again(server: ChatServer) -> None:
    answer = await server.say("Hello")
    assert answer.status == 200
    session = answer.session
    document = {"title": "Trains", "content": "one"}
    made = await server.http.post("/api/documents", headers=server.headers("ada"), json=document)
    assert made.status_code == 201
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/api/chat", {"message": "Hello", "id": str(session)}),
        ("GET", f"/api/chat/{session}/stream", None),
        ("POST", f"/api/chat/{session}/stop", None),
        ("GET", "/api/sessions", None),
        ("GET", f"/api/sessions/{session}", None),
        ("GET", f"/api/sessions/{session}/messages", None),
        ("POST", "/api/sessions", {}),
        ("DELETE", f"/api/sessions/{session}", None),
        ("GET", "/api/documents", None),
        ("POST", "/api/documents", document),
        ("GET", f"/api/documents/{made.json()['id']}", None),
        ("PUT", f"/api/documents/{made.json()['id']}", {"content": "two"}),
    ]
    await set_disabled(server, disabled=True)
    for method, path, body in calls:
        refused = await server.http.request(method, path, headers=server.headers("ada"), json=body)
        assert problem(refused) == (403, "forbidden:account"), (method, path)

    await set_disabled(server, disabled=False)
    assert (await server.say({"message": "Hello again", "id": str(session)})).status == 200
    assert (await server.http.get("/api/documents", headers=server.headers("ada"))).status_code == 200


async def test_a_running_turn_of_a_disabled_account_is_stopped_and_what_it_said_and_cost_is_kept(
    server: ChatServer, emulator: Emulator
) -> None:
    emulator.script(Reply(text=[f"word{n} " for n in range(1000)], delay_between=0.02))
    answering = asyncio.create_task(server.say("Hello"))
    await server.until("select * from stream_chunks where payload like '%%word3 %%'")
    await set_disabled(server, disabled=True)
    answer = await answering
    assert answer.metadata["finishReason"] == "stopped"
    [_, stored] = await server.messages(answer.session)
    assert (stored["status"], stored["parts"][-1]["text"]) == ("interrupted", answer.text)
    assert await server.rows("select source from usage_logs") != []


async def test_a_turn_that_begins_as_its_user_is_disabled_is_refused_or_told_to_stop(
    database: Database, owner: Owner
) -> None:
    root = somebody(is_admin=True)
    for _ in range(10):
        user = somebody()
        await database.rows(SERVICE, "select private.make_profile(%(user)s, null, null, false)", {"user": user.user_id})
        results = await at_once(
            partial(begin, database, user),
            partial(
                database.rows,
                root,
                "select private.set_account_disabled(%(user)s, true)",
                {"user": user.user_id},
            ),
        )
        assert refusals(results) <= {"forbidden:account"}
        alive = """
            select count(*)
            from public."Stream" as s
            join public."Chat" as c on c.id = s."chatId"
            where c.user_id = %(user)s
                and not s.stop_requested
        """
        assert await owner.number(alive, {"user": user.user_id}) == 0
