"""A turn that goes well: what streams, and which rows are there afterwards."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from tests.chat_server import MODELS, ChatServer, running, settings_for, user_message
from tests.emulator import Cut, Emulator, Fault, Garbage, Reply, ToolCall, Usage
from tests.round_trips import counted
from threadkeep_agents import keeper

pytestmark = pytest.mark.also_behind_a_pooler

PROVIDERS = ("google", "openai", "anthropic")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_streams_and_every_row_is_where_it_belongs(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    emulator.script(
        Reply(
            reasoning=["Let me ", "think."],
            text=["Hel", "lo ", "Ada."],
            usage=Usage(input=1000, output=30, cached_read=400, reasoning=10),
        )
    )

    answer = await server.say({"message": "Hello", "model": MODELS[provider], "thinking": True})

    assert answer.is_done
    assert answer.text == "Hello Ada."
    assert answer.events[0]["messageMetadata"]["sessionId"] == str(answer.session)
    assert "".join(e["delta"] for e in answer.events if e["type"] == "reasoning-delta") == "Let me think."
    question, stored = await server.messages(answer.session)
    assert (question["role"], question["status"]) == ("user", "complete")
    assert (stored["role"], stored["status"]) == ("assistant", "complete")
    assert stored["id"] == UUID(answer.events[0]["messageId"])
    assert [part for part in stored["parts"] if part["type"] != "step-start"] == [
        {"type": "reasoning", "text": "Let me think.", "state": "done"},
        {"type": "text", "text": "Hello Ada.", "state": "done"},
    ]
    [usage] = await server.rows("select * from usage_logs")
    assert (usage["provider"], usage["model_used"], usage["source"]) == (provider, MODELS[provider], "provider")
    assert (usage["input_tokens"], usage["output_tokens"], usage["cached_input_tokens"]) == (1000, 30, 400)
    assert usage["reasoning_tokens"] == 10
    assert usage["total_cost"] > 0
    [session] = await server.rows('select * from "Chat"')
    assert session["title"] == "Hello"
    assert session["message_count"] == 2
    assert (session["total_input_tokens"], session["total_output_tokens"]) == (1000, 30)
    assert session["total_cost"] == stored["cost"] == usage["total_cost"]
    [day] = await server.rows("select sum(total_cost) as cost, sum(requests) as requests from usage_daily")
    assert (day["cost"], day["requests"]) == (usage["total_cost"], 1)
    [activity] = await server.rows("select * from agent_activity_logs")
    assert (activity["agent_type"], activity["success"]) == ("chat_model_agent", True)
    assert str(activity["correlation_id"]) == answer.headers["x-correlation-id"]
    [stream] = await server.rows('select * from "Stream"')
    assert stream["status"] == "closed"
    limits = await server.rows("select limit_type, request_count from rate_limit_tracking order by limit_type")
    assert {row["limit_type"]: row["request_count"] for row in limits} == {"daily": 1, "hourly": 1, "minutely": 1}
    assert answer.metadata["usage"]["cost"] == pytest.approx(float(usage["total_cost"]))


async def test_the_plainest_call_makes_a_guest_and_fills_the_tables(server: ChatServer) -> None:
    answer = await server.say({"message": "Hello", "context": {"page": "/start"}}, user=None)

    assert answer.text == "You said: Hello"
    token = answer.headers["x-guest-token"]
    [profile] = await server.rows("select * from user_profiles")
    assert profile["is_guest"]
    [session] = await server.rows('select * from "Chat"')
    assert session["lastContext"] == {"page": "/start"}
    again = await server.say(
        {"id": str(answer.session), "message": "And again"}, user=None, headers={"authorization": f"Bearer {token}"}
    )
    assert "x-guest-token" not in again.headers
    assert len(await server.messages(answer.session)) == 4
    assert len(await server.rows("select * from user_profiles")) == 1


async def test_a_caller_that_accepts_only_json_gets_the_answer_whole(server: ChatServer, emulator: Emulator) -> None:
    emulator.script(Reply(text=["Hel", "lo"], usage=Usage(input=7, output=2)))

    response = await server.whole("Hi")

    assert response.status_code == 200
    body = response.json()
    assert body["sessionId"] == response.headers["x-session-id"]
    assert [part["text"] for part in body["message"]["parts"] if part["type"] == "text"] == ["Hello"]
    assert (body["usage"]["inputTokens"], body["usage"]["outputTokens"]) == (7, 2)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_model_reads_the_session_as_it_went(server: ChatServer, emulator: Emulator, provider: str) -> None:
    first = await server.say({"message": "My name is Ada", "model": MODELS[provider]})
    await server.say({"id": str(first.session), "message": "Who am I?", "model": MODELS[provider]})

    request = emulator.requests[-1]
    assert request.last_user_text == "Who am I?"
    assert "My name is Ada" in str(request.body)
    assert "You said: My name is Ada" in str(request.body).replace("', '", "")
    assert request.system


async def test_reasoning_of_another_provider_is_not_sent_on(server: ChatServer, emulator: Emulator) -> None:
    emulator.script(Reply(reasoning="SECRET THOUGHT", text="Yes."))
    first = await server.say({"message": "Think", "model": MODELS["anthropic"], "thinking": True})

    await server.say({"id": str(first.session), "message": "Go on", "model": MODELS["openai"]})

    assert "Yes." in str(emulator.requests[-1].body)
    assert "SECRET THOUGHT" not in str(emulator.requests[-1].body)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_own_tool_is_called_and_its_result_is_in_the_answer(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    emulator.script(
        Reply(tool_calls=[ToolCall("current_time", {})], usage=Usage(input=10, output=5)),
        Reply(text="It is late.", usage=Usage(input=20, output=3)),
    )

    answer = await server.say({"message": "What time is it?", "model": MODELS[provider]})

    assert answer.text == "It is late."
    assert "tool-output-available" in answer.types
    _, stored = await server.messages(answer.session)
    [tool] = [part for part in stored["parts"] if part["type"] == "tool-current_time"]
    assert tool["state"] == "output-available"
    assert "UTC" in tool["output"]
    usage = await server.rows("select input_tokens, output_tokens from usage_logs order by input_tokens")
    assert [(row["input_tokens"], row["output_tokens"]) for row in usage] == [(10, 5), (20, 3)]
    assert (stored["input_tokens"], stored["output_tokens"]) == (30, 8)
    await server.say({"id": str(answer.session), "message": "Thanks", "model": MODELS[provider]})
    assert "current_time" in str(emulator.requests[-1].body)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_attachments_reach_the_model_and_stay_out_of_the_parts(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    pixel = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
    message: dict[str, Any] = user_message("What is this?")
    message["parts"] += [
        {"type": "file", "mediaType": "image/png", "filename": "dot.png", "url": f"data:image/png;base64,{pixel}"},
        {"type": "file", "mediaType": "text/csv", "filename": "a.csv", "url": "data:text/csv;base64,YSxiCjEsMg=="},
    ]

    answer = await server.say({"message": message, "model": MODELS[provider]})

    assert len(emulator.requests[-1].attachments) == 1
    assert "a,b\n1,2" in emulator.requests[-1].last_user_text
    question, _ = await server.messages(answer.session)
    assert pixel not in str(question["parts"])
    assert question["parts"][1]["url"] == "attachment:0"
    await server.say({"id": str(answer.session), "message": "And now?", "model": MODELS[provider]})
    assert pixel in str(emulator.requests[-1].body)


async def test_a_first_message_gets_a_better_title_with_a_usage_row_of_its_own(
    server: ChatServer, emulator: Emulator
) -> None:
    await server.rows("update admin_config set config_data = config_data - 'titles' where config_key = 'app_settings'")
    emulator.script(Reply(text='"A Plan for Rome"', usage=Usage(input=50, output=6)), model="gpt-6-luna")

    answer = await server.say({"message": "Where shall I go in Rome?", "model": MODELS["openai"]})

    [session] = await server.rows('select * from "Chat"')
    assert session["title"] == answer.metadata["title"] == "A Plan for Rome"
    usage = await server.rows("select agent_type, model_used, total_cost from usage_logs order by agent_type")
    assert [row["agent_type"] for row in usage] == ["chat_model_agent", "title"]
    assert session["total_cost"] == sum((row["total_cost"] for row in usage), Decimal(0))
    [minute] = await server.rows("select * from rate_limit_tracking where limit_type = 'minutely'")
    assert minute["request_count"] == 1
    await server.say({"id": str(answer.session), "message": "And where to eat?"})
    assert len(await server.rows("select * from usage_logs where agent_type = 'title'")) == 1


async def test_a_title_that_a_person_gave_stays(server: ChatServer, emulator: Emulator) -> None:
    """Also when the first answer, with which the session's own title would come, is made again."""
    session = await empty_session(server, "Rome with Ada")
    await server.rows("update admin_config set config_data = config_data - 'titles' where config_key = 'app_settings'")

    answer = await server.say({"id": session, "message": "Where shall I go?", "model": MODELS["openai"]})
    await server.say({"id": session, "trigger": "regenerate-message", "model": MODELS["openai"]})

    assert "title" not in answer.metadata
    assert await title_of(server, session) == "Rome with Ada"
    assert await server.rows("select * from usage_logs where agent_type = 'title'") == []


async def test_a_session_that_was_made_without_a_title_gets_one_with_its_first_message(
    server: ChatServer, emulator: Emulator
) -> None:
    session = await empty_session(server, "New chat")
    emulator.script(Fault(status=500), always=True)

    answer = await server.say({"id": session, "message": "Where  shall\nI go?"})

    assert answer.metadata["title"] == "Where shall I go?"
    assert await title_of(server, session) == "Where shall I go?"


async def empty_session(server: ChatServer, title: str) -> str:
    """The id of a session that was made before its first message; titles by a model are off, unless said otherwise."""
    await server.say("Hello")
    [made] = await server.rows(
        """
        insert into "Chat" (user_id, title)
        select user_id, %(title)s from "Chat"
        returning id
        """,
        title=title,
    )
    return str(made["id"])


async def title_of(server: ChatServer, session: str) -> Any:
    [row] = await server.rows('select title from "Chat" where id = %(session)s', session=session)
    return row["title"]


@pytest.mark.parametrize("provider", ["google", "openai", "anthropic"])
@pytest.mark.parametrize(
    "failure",
    [
        Fault(status=500),
        Cut(),
        Cut(after_deltas=0),
        Reply(text="A title", interruptions=[Garbage()]),
        Reply(text=""),
        Reply(tool_calls=[ToolCall("title", {})]),
    ],
    ids=lambda failure: repr(failure)[:60],
)
async def test_an_answer_is_stored_whatever_becomes_of_its_title(
    server: ChatServer, emulator: Emulator, provider: str, failure: Any
) -> None:
    await server.rows("update admin_config set config_data = config_data - 'titles' where config_key = 'app_settings'")
    emulator.script(failure, match=lambda request: "Write a title" in (request.system or ""), always=True)

    answer = await server.say({"message": "Where shall I go in Rome?", "model": MODELS[provider]})

    assert (answer.is_done, answer.metadata["finishReason"]) == (True, "stop")
    _, stored = await server.messages(answer.session)
    assert stored["status"] == "complete"


async def test_a_key_that_cannot_be_read_ends_the_turn(
    database_url: str, api_database_url: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody listens there.
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "eu-central-1")
    arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:unread"
    environ = {"OPENAI_API_KEY": "", "OPENAI_API_KEY_SECRET_ARN": arn}
    async with running(settings_for(api_database_url, emulator, **environ), database_url) as server:
        answer = await server.say({"message": "Hello", "model": MODELS["openai"]})

        assert answer.metadata["finishReason"] == "error"
        _, stored = await server.messages(answer.session)
        assert stored["status"] == "failed"
        assert await server.rows("""select from "Stream" where status = 'running'""") == []


async def test_without_a_key_the_offline_model_answers_and_says_what_it_is(
    database_url: str, api_database_url: str
) -> None:
    async with running(settings_for(api_database_url, None), database_url) as server:
        answer = await server.say("Hello")

        assert "offline model" in answer.text
        [usage] = await server.rows("select * from usage_logs")
        assert (usage["provider"], usage["total_cost"], usage["is_priced"]) == ("offline", 0, True)


async def test_the_configuration_of_the_next_turn_is_the_newest(server: ChatServer, emulator: Emulator) -> None:
    await server.say("Hello")
    await server.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{systemPrompt}', '\"Speak like a pirate.\"') "
        "where config_key = 'chat_model_agent_google'"
    )
    await server.say("Hello again")

    assert "pirate" not in emulator.requests[0].system
    assert "pirate" in emulator.requests[-1].system


async def test_an_inactive_or_unknown_model_is_refused_and_nothing_is_stored(server: ChatServer) -> None:
    for model in ("gpt-4-turbo", "nonsense"):
        refused = await server.say({"message": "Hello", "model": model})
        assert refused.problem is not None
        assert (refused.status, refused.problem["code"]) == (404, "not_found:model")
    assert await server.rows('select * from "Chat"') == []
    assert await server.rows("select * from rate_limit_tracking") == []


async def test_a_turn_takes_two_round_trips_around_the_model(
    database_url: str, api_database_url: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A turn that lasts longer keeps its events as well, and on a busy machine this one may.
    monkeypatch.setattr(keeper, "COALESCE_SECONDS", 60.0)
    async with counted(api_database_url) as proxy:
        settings = settings_for(proxy.url, emulator, DATABASE_POOL_SIZE="1")
        async with running(settings, database_url) as server:
            first = await server.say("Warm up")
            proxy.reset()

            await server.say({"id": str(first.session), "message": "Hello"})

            assert proxy.round_trips == 2


async def test_a_server_that_only_knows_chat_completions_answers_too(
    database_url: str, api_database_url: str, emulator: Emulator
) -> None:
    settings = settings_for(api_database_url, emulator, OPENAI_API="chat")
    async with running(settings, database_url) as server:
        answer = await server.say({"message": "Hello", "model": MODELS["openai"]})

        assert answer.text == "You said: Hello"
        assert {request.api for request in emulator.requests if request.provider == "openai"} == {"chat"}
        [usage] = await server.rows("select * from usage_logs where agent_type = 'chat_model_agent'")
        assert usage["source"] == "provider"


async def test_an_agent_that_is_switched_off_answers_nobody(server: ChatServer, emulator: Emulator) -> None:
    await server.rows(
        "update admin_config set config_data = config_data || '{\"enabled\": false}' "
        "where config_key = 'chat_model_agent_google'"
    )

    refused = await server.say("Hello")

    assert (refused.status, refused.problem and refused.problem["code"]) == (403, "forbidden:agent")
    assert await server.rows('select * from "Chat"') == []
    assert emulator.requests == []
