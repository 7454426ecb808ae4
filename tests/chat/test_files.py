"""Files in messages: how they reach each provider's model, whose they are, and when they go."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from functions.account import app as account
from functions.files import app as files
from functions.sessions import app as sessions
from local import uploads
from tests.chat_server import MODELS, Answer, ChatServer, running, settings_for, user_message
from tests.emulator import Emulator
from tests.stores import GIF, PDF, PNG, SAMPLES, announced, archive, file_part, uploaded
from threadkeep.database import Database
from threadkeep.file_kinds import XLSX
from threadkeep.identity import Principal

PROVIDERS = ("google", "openai", "anthropic")
ROUTERS = (uploads.router, files.router, sessions.router, account.router)


@pytest.fixture
async def server(
    on_disk: dict[str, str], database_url: str, api_database_url: str, emulator: Emulator
) -> AsyncIterator[ChatServer]:
    """With keys for all three providers, and the store of one machine."""
    async with running(settings_for(api_database_url, emulator, **on_disk), database_url, *ROUTERS) as chat_server:
        await without_titles(chat_server)
        yield chat_server


async def without_titles(server: ChatServer) -> None:
    await server.rows(
        'update admin_config set config_data = config_data || \'{"titles": {"enabled": false}}\' '
        "where config_key = 'app_settings'"
    )


def message_with(*named: dict[str, Any], text: str = "Look", message_id: str | None = None) -> dict[str, Any]:
    message = user_message(text, message_id)
    message["parts"] += [file_part(file) for file in named]
    return message


async def say(server: ChatServer, *named: dict[str, Any], user: str | None = "ada", **members: Any) -> Answer:
    return await server.say({"message": message_with(*named)} | members, user=user)


async def state_of(server: ChatServer, file: dict[str, Any], user: str | None = "ada") -> int | str:
    answer = await server.http.get(file["url"], headers=server.headers(user))
    return str(answer.json()["state"]) if answer.status_code == 200 else answer.status_code


# What the models get


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_each_provider_gets_images_and_pdf_as_they_are_and_the_rest_as_text(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    named = [await uploaded(server, *SAMPLES[sample]) for sample in ("png", "pdf", "python", "pptx", "xlsx")]

    answer = await say(server, *named, model=MODELS[provider])

    assert answer.is_done
    assert answer.types[-1] == "finish"
    request = emulator.requests[-1]
    assert [(sent.media_type, sent.data) for sent in request.attachments] == [
        ("image/png", PNG),
        ("application/pdf", PDF),
    ]
    said = request.last_user_text
    assert "<file name='hello.py' type='text/x-python'>\nprint('hello')\n\n</file>" in said
    assert "Slide 1\nHello\nSlide 2\nWorld" in said
    assert "Sheet Numbers\na,1" in said
    await server.say({"id": str(answer.session), "message": "And now?", "model": MODELS[provider]})
    assert [sent.data for sent in emulator.requests[-1].attachments] == [PNG, PDF]


async def test_a_bucket_serves_as_well(
    bucket: str, database_url: str, api_database_url: str, emulator: Emulator
) -> None:
    settings = settings_for(api_database_url, emulator, FILES_BUCKET=bucket)
    async with running(settings, database_url, files.router) as server:
        await without_titles(server)
        file = await uploaded(server)
        answer = await say(server, file)
        assert answer.is_done
        assert emulator.requests[-1].attachments[0].data == PNG


async def test_what_a_model_does_not_read_becomes_a_note(server: ChatServer, emulator: Emulator) -> None:
    await server.rows(
        'update model_config set metadata = metadata || \'{"capabilities": ["pdf"]}\' where model_id = %(model)s',
        model=MODELS["openai"],
    )
    named = [await uploaded(server), await uploaded(server, *SAMPLES["pdf"])]

    await say(server, *named, model=MODELS["openai"])

    [sent] = emulator.requests[-1].attachments
    assert sent.media_type == "application/pdf"
    assert (
        f"<file name='dot.png' type='image/png'>\n[You cannot see this file: this model ({MODELS['openai']}) "
        "does not read images.]\n</file>"
    ) in emulator.requests[-1].last_user_text


async def test_the_kinds_of_the_agent_that_answers_count(server: ChatServer, emulator: Emulator) -> None:
    named = await uploaded(server, *SAMPLES["text"])
    await server.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{fileInputTypes,textFiles}', 'false') "
        "where config_key = 'chat_model_agent_anthropic'"
    )
    await say(server, named, model=MODELS["anthropic"])
    assert "[You cannot see this file: files of this kind are switched off here.]" in emulator.requests[-1].text


async def test_a_gif_is_not_sent_to_google_nor_a_large_image_to_anthropic(
    server: ChatServer, emulator: Emulator
) -> None:
    gif = await uploaded(server, *SAMPLES["gif"])
    large = await uploaded(server, PNG + bytes(4 * 1024 * 1024))

    answer = await say(server, gif, large, model=MODELS["google"])
    assert [sent.media_type for sent in emulator.requests[-1].attachments] == ["image/png"]
    assert "does not read image/gif" in emulator.requests[-1].text
    await server.say({"id": str(answer.session), "message": "And now?", "model": MODELS["anthropic"]})
    assert [(sent.media_type, sent.data) for sent in emulator.requests[-1].attachments] == [("image/gif", GIF)]
    assert "3932160 bytes that this model reads of an image" in emulator.requests[-1].text


async def test_the_newest_files_of_a_conversation_come_first(server: ChatServer, emulator: Emulator) -> None:
    old = await uploaded(server, PNG + b"o" * 8 * 1024 * 1024, "old.png")
    new = await uploaded(server, PNG + b"n" * 8 * 1024 * 1024, "new.png")
    model = MODELS["google"]
    first = await say(server, old, model=model)

    second = await say(server, new, id=str(first.session), model=model)

    assert second.is_done
    [sent] = emulator.requests[-1].attachments
    assert sent.data is not None
    assert sent.data.endswith(b"n")
    assert "leave no room for it" in emulator.requests[-1].text


async def test_text_is_cut_with_a_note(server: ChatServer, emulator: Emulator) -> None:
    long = await uploaded(server, b"x" * 300_000, "long.txt", "text/plain")
    await say(server, long)
    said = emulator.requests[-1].last_user_text
    assert said.count("x") < 200_100
    assert "[Cut off here: the file is longer.]" in said


async def test_a_damaged_office_file_becomes_a_note(server: ChatServer, emulator: Emulator) -> None:
    damaged = archive({"[Content_Types].xml": "<broken", "xl/workbook.xml": "<broken"})
    file = await uploaded(server, damaged, "sums.xlsx", XLSX)
    answer = await say(server, file)
    assert answer.is_done
    assert "it is damaged, or too large inside" in emulator.requests[-1].text


async def test_the_offline_model_is_told_what_it_cannot_see(
    on_disk: dict[str, str], database_url: str, api_database_url: str
) -> None:
    async with running(settings_for(api_database_url, None, **on_disk), database_url, *ROUTERS) as server:
        answer = await say(server, await uploaded(server))
        assert "this model (offline) does not read images" in answer.text


async def test_a_store_that_is_away_fails_the_answer_clearly_and_it_can_be_made_again(
    server: ChatServer, emulator: Emulator, on_disk: dict[str, str]
) -> None:
    file = await uploaded(server)
    assert await state_of(server, file) == "ready"
    [row] = await server.rows("select storage_key from files")
    stored = Path(on_disk["FILES_DIRECTORY"]) / row["storage_key"]
    message = message_with(file)
    stored.rename(stored.with_suffix(".away"))
    stored.mkdir()
    failed = await server.whole({"message": message})
    assert (failed.status_code, failed.json()["code"]) == (503, "unavailable:files")
    stored.rmdir()
    stored.with_suffix(".away").rename(stored)
    again = await server.whole({"id": failed.json()["sessionId"], "message": message})
    assert again.status_code == 200
    assert emulator.requests[-1].attachments[0].data == PNG


# Naming a file


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/api/files/{id}",
        "https://example.com/api/files/{id}",
        "//example.com/api/files/{id}",
        "/api/files/{id}/../x",
        "/api/files/{id}?x=1",
        "/api/files/../admin",
        "/api/files/",
        "/api/files/x",
        "file:///api/files/{id}",
        "attachment:0",
    ],
)
async def test_only_our_own_files_can_be_named(server: ChatServer, emulator: Emulator, url: str) -> None:
    file = await uploaded(server)
    message = message_with(file | {"url": url.format(id=file["id"])})
    answer = await server.say({"message": message})
    assert answer.status in {404, 422}
    assert await server.rows('select * from "Chat"') == []
    assert emulator.requests == []


async def test_the_whole_address_of_this_api_names_a_file_too(server: ChatServer, emulator: Emulator) -> None:
    file = await uploaded(server)
    answer = await say(server, file | {"url": f"{server.url}{file['url']}"})
    assert emulator.requests[-1].attachments[0].data == PNG
    [question, _] = await server.messages(answer.session)
    assert question["parts"][1]["url"] == file["url"]


async def test_a_file_that_was_not_uploaded_is_not_said(server: ChatServer, emulator: Emulator) -> None:
    file = await announced(server)
    answer = await say(server, file)
    assert answer.problem is not None
    assert (answer.status, answer.problem["code"]) == (409, "conflict:upload")
    assert await server.rows("select * from rate_limit_tracking") == []
    assert emulator.requests == []


async def test_the_first_message_keeps_the_file(server: ChatServer) -> None:
    file = await uploaded(server)
    answer = await say(server, file)
    question, _ = await server.messages(answer.session)
    [row] = await server.rows("select chat_id, message_id from files")
    assert (row["chat_id"], row["message_id"]) == (answer.session, question["id"])
    assert question["attachments"] == [{"file": file["id"], "mediaType": "image/png", "filename": "dot.png"}]
    for members in ({}, {"id": str(answer.session)}):
        again = await say(server, file, **members)
        assert again.problem is not None
        assert (again.status, again.problem["code"]) == (409, "conflict:file")


async def test_of_messages_at_once_with_one_file_one_is_answered(server: ChatServer, emulator: Emulator) -> None:
    file = await uploaded(server)
    answers = await asyncio.gather(*[say(server, file) for _ in range(4)])
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]
    assert len(emulator.requests) == 1
    assert len(await server.rows('select * from "Chat"')) == 1


async def test_the_same_message_again_is_the_same_message(server: ChatServer, emulator: Emulator) -> None:
    file = await uploaded(server)
    session, message = str(uuid4()), message_with(file)
    answers = await asyncio.gather(*[server.say({"id": session, "message": message}) for _ in range(3)])
    again = await server.say({"id": session, "message": message})
    assert [answer.status for answer in (*answers, again)] == [200] * 4
    assert len(emulator.requests) == 1
    await server.http.delete(file["url"], headers=server.headers("ada"))
    after = await server.say({"id": session, "message": message})
    assert after.status == 200
    assert len(emulator.requests) == 1


async def test_an_edit_takes_the_files_over_and_leaves_those_that_it_does_not_name(
    server: ChatServer, emulator: Emulator
) -> None:
    kept, dropped = await uploaded(server), await uploaded(server, *SAMPLES["pdf"])
    message = message_with(kept, dropped)
    answer = await server.say({"message": message})

    for new_id in (message["id"], "another-id"):
        edited = message_with(kept, text=f"Look again {new_id}", message_id=new_id)
        replaced = await server.say(
            {"id": str(answer.session), "message": edited, "messageId": message["id"], "trigger": "submit-message"}
        )
        message = edited
        assert replaced.status == 200
        assert [sent.data for sent in emulator.requests[-1].attachments] == [PNG]
        assert await state_of(server, kept) == "ready"
        assert await state_of(server, dropped) == 404


async def test_an_answer_made_again_sees_the_file_again(server: ChatServer, emulator: Emulator) -> None:
    file = await uploaded(server)
    answer = await say(server, file)
    await server.say({"id": str(answer.session), "trigger": "regenerate-message", "messages": []})
    assert [len(request.attachments) for request in emulator.requests] == [1, 1]
    assert await state_of(server, file) == "ready"


async def test_a_message_has_at_most_ten_files_each_once(server: ChatServer) -> None:
    file = await uploaded(server)
    assert (await say(server, file, file)).status == 422
    others = [file | {"url": f"/api/files/{uuid4()}"} for _ in range(11)]
    assert (await say(server, *others)).status == 422


# When files go


async def deletions(server: ChatServer) -> list[str]:
    rows = await server.rows("select storage_key from private.file_deletions where due_at <= now() order by 1")
    return [row["storage_key"] for row in rows]


@pytest.mark.parametrize("deleted", ["message", "session", "all sessions", "account"])
async def test_files_go_with_what_they_belong_to(server: ChatServer, deleted: str) -> None:
    file = await uploaded(server)
    answer = await say(server, file)
    [row] = await server.rows("select storage_key from files")
    question, _ = await server.messages(answer.session)
    path = {
        "message": f"/api/sessions/{answer.session}/messages/{question['id']}",
        "session": f"/api/sessions/{answer.session}",
        "all sessions": "/api/sessions",
        "account": "/api/me",
    }[deleted]

    gone = await server.http.delete(path, headers=server.headers("ada"))

    assert gone.status_code == 204
    assert await server.rows("select * from files") == []
    assert await deletions(server) == [row["storage_key"]]


async def test_a_message_after_it_does_not_take_the_file_along(server: ChatServer) -> None:
    file = await uploaded(server)
    answer = await say(server, file)
    _, reply = await server.messages(answer.session)
    path = f"/api/sessions/{answer.session}/messages/{reply['id']}"
    await server.http.delete(path, headers=server.headers("ada"))
    assert await state_of(server, file) == "ready"


async def test_a_deleted_file_stays_a_name_in_its_message(server: ChatServer, emulator: Emulator) -> None:
    file = await uploaded(server)
    answer = await say(server, file)
    assert (await server.http.delete(file["url"], headers=server.headers("ada"))).status_code == 204

    page = (await server.http.get(f"/api/sessions/{answer.session}/messages", headers=server.headers("ada"))).json()

    assert page["items"][0]["attachments"] == [
        {"filename": "dot.png", "mediaType": "image/png", "size": None, "url": None}
    ]
    await server.say({"id": str(answer.session), "message": "And now?"})
    assert emulator.requests[-1].attachments == ()
    assert "[You cannot see this file: it was deleted.]" in emulator.requests[-1].text


async def test_a_file_that_is_deleted_while_it_is_said_is_said_or_not(server: ChatServer) -> None:
    for _ in range(6):
        file = await uploaded(server)
        assert await state_of(server, file) == "ready"
        answer, deleted = await asyncio.gather(
            say(server, file), server.http.delete(file["url"], headers=server.headers("ada"))
        )
        assert deleted.status_code == 204
        assert answer.status in {200, 404}
        assert await state_of(server, file) == 404
    messages = await server.rows("""select * from "Message_v2" where status not in ('complete')""")
    assert messages == []


# Readers


async def test_readers_of_a_session_are_told_where_its_files_are(server: ChatServer) -> None:
    file = await uploaded(server)
    answer = await say(server, file, visibility="public")
    told = {"filename": "dot.png", "mediaType": "image/png", "size": len(PNG), "url": file["url"]}

    for user in ("ada", "grace", None):
        page = await server.http.get(f"/api/sessions/{answer.session}/messages", headers=server.headers(user))
        assert page.json()["items"][0]["attachments"] == [told]
        assert page.json()["items"][0]["parts"][1] == file_part(file)
    exported = await server.http.get(f"/api/sessions/{answer.session}/export", headers=server.headers("ada"))
    assert f"*File: dot.png* ({file['url']})" in exported.text
    as_json = await server.http.get(f"/api/sessions/{answer.session}/export?format=json", headers=server.headers("ada"))
    assert as_json.json()["messages"][0]["attachments"] == [told]


async def test_the_files_of_a_public_session_are_public_while_it_is(server: ChatServer) -> None:
    file, unsaid = await uploaded(server), await uploaded(server)
    assert await state_of(server, unsaid) == "ready"
    answer = await say(server, file)
    path = f"/api/sessions/{answer.session}"

    for visibility, expected in (("private", 404), ("public", "ready"), ("private", 404)):
        await server.http.patch(path, json={"visibility": visibility}, headers=server.headers("ada"))
        for user in ("grace", None):
            assert await state_of(server, file, user) == expected
            assert await state_of(server, unsaid, user) == 404
    await server.http.patch(path, json={"visibility": "public"}, headers=server.headers("ada"))
    shown = await server.http.get(file["url"], headers={"accept": "image/*"})
    assert (await server.http.get(shown.headers["location"])).content == PNG
    assert (await server.http.delete(file["url"], headers=server.headers("grace"))).status_code == 404


async def test_an_account_takes_a_guests_files_over(server: ChatServer, emulator: Emulator) -> None:
    guest = (await server.say("Hello", user=None)).headers["x-guest-token"]
    server.http.cookies.clear()
    server.tokens["guest False"] = guest
    said, unsaid = await uploaded(server, user="guest"), await uploaded(server, user="guest")
    answer = await say(server, said, user="guest")

    claimed = await server.http.post("/api/me/claim", json={"guestToken": guest}, headers=server.headers("ada"))

    assert claimed.status_code == 200
    assert await state_of(server, said) == await state_of(server, unsaid) == "ready"
    again = await say(server, unsaid, id=str(answer.session))
    assert again.is_done
    assert [sent.data for sent in emulator.requests[-1].attachments] == [PNG, PNG]


# Past the API


async def test_a_message_written_past_the_api_can_name_no_file_of_somebody_else(server: ChatServer) -> None:
    file = await uploaded(server)
    assert await state_of(server, file) == "ready"
    grace = (await server.say("Hello", user="grace")).session
    [row] = await server.rows('select user_id from "Chat" where id = %(session)s', session=grace)
    database: Database = server.app.state.runtime.database
    user = Principal(user_id=UUID(str(row["user_id"])), role="authenticated")
    insert = """
        insert into public."Message_v2" ("chatId", role, parts, attachments)
        values (%(chat)s, 'user', '[]', %(attachments)s::jsonb)
    """
    hers = json.dumps([{"file": file["id"]}])
    for attachments in (hers, '[{"file": "x"}]', '["file"]', '[{"file": null}]', '[{"file": {}}]'):
        with contextlib.suppress(Exception):
            await database.rows(user, insert, {"chat": grace, "attachments": attachments})
        answer = await server.http.get(f"/api/sessions/{grace}/messages", headers=server.headers("grace"))
        assert answer.status_code == 200
    assert await state_of(server, file, "grace") == 404
    assert await server.rows("select * from files where message_id is not null") == []
