"""Without any key: the offline model shows the whole system through the same agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from functions.documents import app as documents
from tests.chat_server import Answer, ChatServer, running, settings_for


@pytest.fixture
async def server(database_url: str, api_database_url: str) -> AsyncIterator[ChatServer]:
    async with running(settings_for(api_database_url, None), database_url, documents.router) as chat_server:
        await chat_server.rows(
            "update admin_config set config_data = jsonb_set(config_data, '{rateLimit,perMinute}', '100') "
            "where config_data ? 'rateLimit'"
        )
        yield chat_server


class Talk:
    """One session, said in turn."""

    def __init__(self, server: ChatServer) -> None:
        self._server = server
        self._session: str | None = None

    async def say(self, text: str) -> Answer:
        body: dict[str, Any] = {"message": text} | ({"id": self._session} if self._session else {})
        answer = await self._server.say(body)
        assert answer.problem is None
        self._session = str(answer.session)
        return answer


async def newest(server: ChatServer) -> dict[str, Any]:
    return (await server.rows('select * from "Document" order by "createdAt" desc limit 1'))[0]


@pytest.mark.parametrize(
    ("said", "kind", "title"),
    [
        ("Write a document about lighthouses", "text", "Lighthouses"),
        ("Please make a table of planets", "sheet", "Planets"),
        ("I need a script that counts words", "python code", "Counts words"),
        ("A diagram of a login with two factors", "mermaid code", "A login with two factors"),
    ],
)
async def test_each_kind_is_written_shown_and_stored(server: ChatServer, said: str, kind: str, title: str) -> None:
    talk = Talk(server)

    answer = await talk.say(said)

    document = await newest(server)
    assert (document["kind"], document["title"], document["version_number"]) == (kind, title, 1)
    assert "invalid" not in document["metadata"]
    deltas = [event["data"] for event in answer.events if event["type"].endswith("Delta") and "data-" in event["type"]]
    assert "".join(deltas) == document["content"]
    assert len(deltas) > 3
    assert "version 1" in answer.text
    usage = await server.rows("select distinct provider, total_cost from usage_logs")
    assert [(row["provider"], row["total_cost"]) for row in usage] == [("offline", 0)]


@pytest.mark.parametrize(
    "said",
    [
        "Write a document about lighthouses",
        "A table of planets and of their many, many moons",
        "A script that counts words",
        "Draw a diagram of a login with two factors and a reset",
    ],
)
async def test_it_can_be_made_shorter_changed_and_taken_back(server: ChatServer, said: str) -> None:
    talk = Talk(server)
    await talk.say(said)
    first = await newest(server)

    await talk.say("Make it shorter")
    shorter = await newest(server)
    await talk.say("Add a remark on the weather")
    longer = await newest(server)
    await talk.say("Undo that")
    back = await newest(server)

    assert [row["version_number"] for row in (shorter, longer, back)] == [2, 3, 4]
    assert {row["id"] for row in (first, shorter, longer, back)} == {first["id"]}
    assert len(shorter["content"]) < len(first["content"])
    assert "weather" in longer["content"]
    assert back["content"] == shorter["content"]
    assert not any("invalid" in row["metadata"] for row in (first, shorter, longer, back))


async def test_a_text_gets_suggestions_and_a_script_an_explanation(server: ChatServer) -> None:
    talk = Talk(server)
    await talk.say("Write a report about rain")
    suggested = await talk.say("Suggest improvements")
    await talk.say("Write a script that counts drops")
    explained = await talk.say("Explain it")

    assert len(await server.rows('select * from "Suggestion"')) == 2
    assert "data-suggestion" in suggested.types
    assert "defines main" in explained.text


async def test_going_back_to_a_version_goes_back_to_that_one(server: ChatServer) -> None:
    talk = Talk(server)
    await talk.say("Write a document about lighthouses")
    first = await newest(server)
    await talk.say("Make it shorter")
    second = await newest(server)
    await talk.say("Add a remark on the weather")

    await talk.say("Go back to the first version")
    assert (await newest(server))["content"] == first["content"]
    await talk.say("Go back to version 2")
    assert (await newest(server))["content"] == second["content"]
    there_is_none = await talk.say("Go back to version 99")

    assert (await newest(server))["version_number"] == 5
    assert "documentAgent said: " in there_is_none.text


@pytest.mark.parametrize(
    "said",
    ["A script that can add numbers", "Give me a small script to replace words", "Show me a diagram of an error"],
)
async def test_something_new_changes_nothing_that_is_there(server: ChatServer, said: str) -> None:
    talk = Talk(server)
    await talk.say("Write a document about lighthouses")
    await talk.say("A script that counts words")

    await talk.say(said)

    rows = await server.rows('select version_number from "Document"')
    assert [row["version_number"] for row in rows] == [1, 1, 1]


async def test_a_change_is_made_to_the_last_one_of_the_kind_that_is_named(server: ChatServer) -> None:
    talk = Talk(server)
    await talk.say("Write a document about lighthouses")
    await talk.say("A script that counts words")
    await talk.say("A diagram of a login")

    await talk.say("Make the document shorter")
    await talk.say("Fix the script")

    rows = await server.rows('select kind from "Document" where version_number = 2 order by "createdAt"')
    assert [row["kind"] for row in rows] == ["text", "python code"]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("Write a document about lighthouses", "Explain it"),
        ("A script that counts words", "Suggest improvements"),
        ("A diagram of a login", "Explain it"),
    ],
)
async def test_what_a_kind_does_not_know_is_said_and_changes_nothing(server: ChatServer, made: str, said: str) -> None:
    talk = Talk(server)
    await talk.say(made)

    answer = await talk.say(said)

    assert "stays as it is" in answer.text
    assert (await newest(server))["version_number"] == 1


async def test_what_is_switched_off_is_said(server: ChatServer) -> None:
    await server.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{enabled}', 'false') "
        "where config_key = 'document_agent_google'"
    )

    answer = await Talk(server).say("Write a document about lighthouses")

    assert "switched off" in answer.text
    assert await server.rows('select * from "Document"') == []
