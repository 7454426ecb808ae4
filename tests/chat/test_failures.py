"""What goes wrong in systems like this, and must not here: each test keeps one promise, with real faults."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.chat_server import MODELS, ChatServer, read_answer, running, settings_for, user_message
from tests.emulator import Cut, Emulator, Fault, Garbage, Gate, Hold, Reply, Silence, ToolCall, Usage
from threadkeep.database import Database
from threadkeep.identity import Principal
from threadkeep.log import logger
from threadkeep_agents import keeper
from threadkeep_agents.conversations import Conversations
from threadkeep_agents.providers import Providers

pytestmark = pytest.mark.also_behind_a_pooler

PROVIDERS = ("google", "openai", "anthropic")


async def set_limits(server: ChatServer, **limits: int) -> None:
    """Limits of the chat agent with every provider."""
    await server.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{rateLimit}', "
        "config_data -> 'rateLimit' || %(limits)s::jsonb) where config_key like 'chat_model_agent%%'",
        limits=json.dumps(limits),
    )


# F1


async def test_f1_a_message_cannot_be_without_its_session(server: ChatServer) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await server.rows(
            """insert into "Message_v2" ("chatId", role, parts) values (gen_random_uuid(), 'user', '[]')"""
        )


# F2 and F3


async def test_f2_a_second_message_meanwhile_is_refused_and_loses_nothing(
    server: ChatServer, emulator: Emulator
) -> None:
    gate = Gate()
    emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]))
    session = str(uuid4())
    first = asyncio.create_task(server.say({"id": session, "message": "One"}))
    await gate.arrived()

    second = await server.say({"id": session, "message": "Two"})

    gate.release()
    assert second.problem is not None
    assert (second.status, second.problem["code"]) == (409, "conflict:chat")
    assert (await first).text == "Hello"
    assert [row["role"] for row in await server.messages((await first).session)] == ["user", "assistant"]


async def test_f3_a_late_finish_does_not_take_back_a_newer_answer(server: ChatServer, emulator: Emulator) -> None:
    gate = Gate()
    emulator.script(Reply(text=["Old ", "answer"], interruptions=[Hold(gate, after_deltas=1)]))
    session = str(uuid4())
    question = user_message("Say it")
    late = asyncio.create_task(server.say({"id": session, "messages": [question]}))
    await gate.arrived()
    emulator.script(Reply(text="New answer"))

    newer = await server.say({"id": session, "messages": [question], "trigger": "regenerate-message"})
    gate.release()
    await late

    assert newer.text == "New answer"
    messages = await server.messages(newer.session)
    assert [m["parts"][-1]["text"] for m in messages] == ["Say it", "New answer"]
    assert messages[1]["status"] == "complete"
    assert len(await server.rows("select * from usage_logs")) == 2


# F4


async def test_f4_twenty_copies_of_one_request_are_one_generation_and_one_bill(
    server: ChatServer, emulator: Emulator
) -> None:
    gate = Gate()
    emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]))
    body = {"id": str(uuid4()), "messages": [user_message("Hello")]}
    copies = [asyncio.create_task(server.say(body)) for _ in range(20)]
    await gate.arrived()
    gate.release()

    answers = await asyncio.gather(*copies)

    assert {answer.text for answer in answers} == {"Hello"}
    assert all(answer.is_done for answer in answers)
    assert len(emulator.requests) == 1
    assert len(await server.rows("select * from usage_logs")) == 1
    assert len(await server.messages(answers[0].session)) == 2
    [minute] = await server.rows("select * from rate_limit_tracking where limit_type = 'minutely'")
    assert minute["request_count"] == 1


async def test_f4_a_retry_after_a_complete_answer_replays_it(server: ChatServer, emulator: Emulator) -> None:
    body = {"id": str(uuid4()), "messages": [user_message("Hello")]}
    first = await server.say(body)

    again = await server.say(body)
    whole = (await server.whole(body)).json()

    assert again.text == first.text
    assert again.events[0]["messageId"] == first.events[0]["messageId"] == whole["message"]["id"]
    assert again.metadata == first.metadata
    assert len(emulator.requests) == 1


async def test_f4_forty_retries_consume_nothing(server: ChatServer) -> None:
    await set_limits(server, perDay=1)
    body = {"id": str(uuid4()), "messages": [user_message("Hello")]}

    answers = await asyncio.gather(*(server.say(body) for _ in range(40)))

    assert {answer.status for answer in answers} == {200}


async def test_f4_the_same_id_with_other_content_is_a_conflict_unless_it_is_an_edit(
    server: ChatServer, emulator: Emulator
) -> None:
    session = str(uuid4())
    await server.say({"id": session, "messages": [user_message("Hello", "m1")]})
    await server.say({"id": session, "messages": [user_message("More", "m2")]})

    refused = await server.say({"id": session, "messages": [user_message("Goodbye", "m1")]})
    edited = await server.say({"id": session, "messages": [user_message("Goodbye", "m1")], "messageId": "m1"})

    assert refused.problem is not None
    assert refused.problem["code"] == "conflict:message"
    assert edited.text == "You said: Goodbye"
    texts = [m["parts"][-1]["text"] for m in await server.messages(edited.session)]
    assert texts == ["Goodbye", "You said: Goodbye"]
    assert "Hello" not in [turn.text for turn in emulator.requests[-1].turns]
    [row] = await server.rows('select message_count from "Chat"')
    assert row["message_count"] == 2


async def test_f4_after_a_failure_the_same_message_runs_again(server: ChatServer, emulator: Emulator) -> None:
    emulator.script(Fault(status=500), Reply(text="Better."))
    body = {"id": str(uuid4()), "messages": [user_message("Hello")]}

    failed = await server.say(body)
    again = await server.say(body)

    assert "error" in failed.types
    assert again.text == "Better."
    messages = await server.messages(again.session)
    assert [m["status"] for m in messages] == ["complete", "complete"]


async def test_f4_an_answer_can_be_made_again(server: ChatServer, emulator: Emulator) -> None:
    session = str(uuid4())
    first = await server.say({"id": session, "messages": [user_message("One")]})
    await server.say({"id": session, "messages": [user_message("Two")]})
    emulator.script(Reply(text="Another one"))

    again = await server.say(
        {"id": session, "trigger": "regenerate-message", "messageId": first.events[0]["messageId"], "messages": []}
    )

    texts = [m["parts"][-1]["text"] for m in await server.messages(again.session)]
    assert texts == ["One", "Another one"]


# F5


async def test_f5_a_client_that_leaves_does_not_stop_its_answer(server: ChatServer, emulator: Emulator) -> None:
    gate = Gate()
    emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]))
    async with server.stream("Hello") as response:
        session = response.headers["x-session-id"]
        await gate.arrived()
    gate.release()

    [stored] = await server.until(
        """select * from "Message_v2" where "chatId" = %(s)s and role = 'assistant' and status = 'complete'""",
        s=session,
    )

    assert stored["parts"][-1]["text"] == "Hello"


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same process", "another process"])
async def test_f5_a_running_answer_is_followed_from_its_start(
    server: ChatServer, emulator: Emulator, database_url: str, api_database_url: str, elsewhere: bool
) -> None:
    gate = Gate()
    emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]))
    session = str(uuid4())
    first = asyncio.create_task(server.say({"id": session, "message": "Hello"}))
    await gate.arrived()
    async with running(settings_for(api_database_url, emulator), database_url) as other:
        process = other if elsewhere else server
        async with process.http.stream(
            "GET", f"/api/chat/{session}/stream", headers=process.headers("ada")
        ) as response:
            gate.release()
            followed = await read_answer(response)
        answer = await first

    assert followed.is_done
    assert followed.events == answer.events


async def test_f5_there_is_nothing_to_follow_when_nothing_runs(server: ChatServer) -> None:
    answer = await server.say("Hello")

    assert (await server.follow(answer.session)).status == 204
    assert (await server.follow(uuid4())).status == 204
    assert (await server.follow(uuid4(), user=None)).status == 204


async def test_f5_nobody_follows_the_answer_of_somebody_else(server: ChatServer, emulator: Emulator) -> None:
    gate = Gate()
    emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]))
    session = str(uuid4())
    answering = asyncio.create_task(server.say({"id": session, "message": "Hello"}))
    await gate.arrived()

    follower, stranger, stop = await asyncio.gather(
        server.follow(session, user="eve"), server.follow(session, user=None), server.stop(session, user="eve")
    )
    gate.release()

    assert (follower.status, stranger.status, stop) == (204, 204, 404)
    assert (await answering).text == "Hello"


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same process", "another process"])
async def test_f5_the_next_message_right_after_a_stop_is_answered(
    server: ChatServer, emulator: Emulator, database_url: str, api_database_url: str, elsewhere: bool
) -> None:
    emulator.script(Reply(text=[f"word{n} " for n in range(400)], delay_between=0.02), Reply(text="Yes?"))
    session = str(uuid4())
    answering = asyncio.create_task(server.say({"id": session, "message": "Hello"}))
    await server.until("select * from stream_chunks where payload like '%%word3 %%'")
    async with running(settings_for(api_database_url, emulator), database_url) as other:
        process = other if elsewhere else server
        await process.stop(session)

        following = await process.say({"id": session, "message": "Wait"})
        stopped = await answering

    assert following.text == "Yes?"
    messages = await server.messages(stopped.session)
    assert [m["status"] for m in messages] == ["complete", "interrupted", "complete", "complete"]
    assert messages[1]["parts"][-1]["text"] == stopped.text


async def test_f5_a_turn_whose_process_died_is_recovered_by_the_next_reader(
    server: ChatServer, emulator: Emulator
) -> None:
    gate = Gate()
    emulator.script(
        Reply(text=["Partial ", "answer"], usage=Usage(input=9, output=9), interruptions=[Hold(gate, after_deltas=1)])
    )
    session = str(uuid4())
    late = asyncio.create_task(server.say({"id": session, "message": "Hello"}))
    await server.until("select * from stream_chunks where payload like '%%Partial%%'")
    await server.rows("""update "Stream" set lease_until = now() - interval '1 second'""")

    assert (await server.follow(session)).status == 204

    _, recovered = await server.messages(uuid_of(session))
    assert recovered["status"] == "interrupted"
    assert recovered["parts"] == [{"type": "text", "text": "Partial ", "state": "done"}]
    [estimate] = await server.rows("select * from usage_logs")
    assert estimate["source"] == "estimated"
    assert estimate["output_tokens"] == 2
    assert estimate["input_tokens"] > 0
    assert estimate["total_cost"] > 0

    # It lives after all: its own last word counts, and the provider's figures replace the estimate.
    gate.release()
    assert (await late).text == "Partial answer"
    _, finished = await server.messages(uuid_of(session))
    assert (finished["status"], finished["parts"][-1]["text"]) == ("complete", "Partial answer")
    [usage] = await server.rows("select * from usage_logs")
    assert (usage["source"], usage["input_tokens"], usage["output_tokens"]) == ("provider", 9, 9)
    [session_row] = await server.rows('select * from "Chat"')
    assert (session_row["total_input_tokens"], session_row["total_output_tokens"]) == (9, 9)
    [day] = await server.rows("select sum(requests) as requests, sum(input_tokens) as input from usage_daily")
    assert (day["requests"], day["input"]) == (1, 9)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same process", "another process"])
async def test_f5_stopping_keeps_what_was_said(
    server: ChatServer, emulator: Emulator, database_url: str, api_database_url: str, elsewhere: bool
) -> None:
    emulator.script(Reply(text=[f"word{n} " for n in range(400)], delay_between=0.02))
    session = str(uuid4())
    answering = asyncio.create_task(server.say({"id": session, "message": "Hello"}))
    await server.until("select * from stream_chunks where payload like '%%word3 %%'")
    async with running(settings_for(api_database_url, emulator), database_url) as other:
        assert await (other if elsewhere else server).stop(session) == 202

        answer = await answering

    assert answer.is_done
    assert "abort" in answer.types
    assert answer.metadata["finishReason"] == "stopped"
    _, stored = await server.messages(answer.session)
    assert stored["status"] == "interrupted"
    assert stored["parts"][-1]["text"] == answer.text
    assert 3 < len(answer.text.split()) < 400
    assert await server.stop(session) == 204
    await emulator.until(lambda: emulator.requests[0].outcome == "left")


# F6 and F7


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "interruption",
    [Cut(after_deltas=2), Cut(after_deltas=2, how="end"), Fault(status=500, after_deltas=2), Silence(after_deltas=2)],
    ids=["cut", "ended early", "error", "silence"],
)
async def test_f6_an_answer_that_breaks_off_is_kept_and_billed_as_far_as_it_came(
    server: ChatServer, emulator: Emulator, provider: str, interruption: Any
) -> None:
    state = server.app.state
    state.conversations = Conversations(
        state.runtime.settings,
        state.runtime.database,
        providers=Providers(state.runtime.settings, silence_seconds=0.3),
    )
    emulator.script(Reply(text=["Half ", "of ", "it."], interruptions=[interruption]))

    answer = await server.say({"message": "Hello", "model": MODELS[provider]})

    assert answer.is_done
    assert "error" in answer.types
    assert answer.metadata["error"]["code"] in {"provider:chat", "timeout:chat"}
    _, stored = await server.messages(answer.session)
    assert stored["status"] == "failed"
    assert stored["parts"][-1]["text"] == "Half of "
    [usage] = await server.rows("select * from usage_logs")
    assert usage["source"] == "estimated"
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] >= 2
    assert usage["total_cost"] > 0
    [error] = await server.rows("select * from error_logs")
    assert error["error_category"] == answer.metadata["error"]["code"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=429, retry_after=7), "unavailable:model"),
        (Fault(status=500), "provider:chat"),
        (Fault(status=503), "unavailable:model"),
        (Fault(status=401, message="key sk-live-SECRET is wrong"), "provider:configuration"),
        (Fault(kind="context_window"), "too_large:context"),
        (Garbage(), "provider:chat"),
        (Cut(), "provider:chat"),
    ],
    ids=["429", "500", "503", "401", "context", "garbage", "cut"],
)
async def test_f6_a_refusing_provider_is_told_in_our_words_and_bills_nothing(
    server: ChatServer, emulator: Emulator, provider: str, fault: Any, code: str
) -> None:
    emulator.script(fault, provider=provider, always=True)  # type: ignore[arg-type]

    answer = await server.say({"message": "Hello", "model": MODELS[provider]})
    whole = await server.whole({"message": "Hello", "model": MODELS[provider]})

    assert answer.metadata["error"]["code"] == code
    [error] = [event for event in answer.events if event["type"] == "error"]
    assert error["errorText"] == whole.json()["detail"]
    assert whole.json()["code"] == code
    assert whole.status_code >= 400
    assert "SECRET" not in json.dumps(answer.events) + whole.text
    assert "SECRET" not in str(await server.rows("select * from error_logs"))
    if isinstance(fault, Fault):
        assert await server.rows("select * from usage_logs") == []


async def test_f7_cached_tokens_are_counted_once_with_every_provider(server: ChatServer, emulator: Emulator) -> None:
    costs = {}
    for provider in PROVIDERS:
        written = 0 if provider == "google" else 100
        emulator.script(Reply(text="Ok", usage=Usage(input=1000, output=10, cached_read=600, cached_write=written)))
        await server.say({"message": "Hello", "model": MODELS[provider]})
        [row] = await server.rows("select * from usage_logs where provider = %(p)s", p=provider)
        assert (row["input_tokens"], row["cached_input_tokens"]) == (1000, 600)
        assert row["cache_write_tokens"] in {written, 0}
        [model] = await server.rows("select * from model_config where model_id = %(m)s", m=MODELS[provider])
        metadata = model["metadata"]
        price = float(model["input_pricing_per_million_tokens"])
        expected = (
            (400 - row["cache_write_tokens"]) * price
            + 600 * metadata["cachedInputPrice"]
            + row["cache_write_tokens"] * metadata.get("cacheWritePrice", price)
        ) / 1e6
        costs[provider] = (float(row["input_cost"]), expected)
    for actual, expected in costs.values():
        assert actual == pytest.approx(expected)


# F8 and F9


async def test_f8_of_four_times_the_limit_at_once_exactly_the_limit_passes(server: ChatServer) -> None:
    await set_limits(server, perMinute=100, perDay=5)

    answers = await asyncio.gather(*(server.say(f"Message {n}") for n in range(20)))

    assert sorted(answer.status for answer in answers) == [200] * 5 + [429] * 15
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.problem is not None
    assert refused.problem["window"] == "daily"
    assert 1 <= int(refused.headers["retry-after"]) <= 86_400
    assert len(await server.rows('select * from "Chat"')) == 5


async def test_f8_a_guest_that_drops_its_token_gets_no_fresh_quota(server: ChatServer) -> None:
    await set_limits(server, perMinute=100, perDay=3)

    answers = await asyncio.gather(*(server.say("Hello", user=None) for _ in range(12)))

    assert sorted(answer.status for answer in answers) == [200] * 3 + [429] * 9
    assert len(await server.rows("select * from user_profiles")) == 3
    assert all("x-guest-token" not in answer.headers for answer in answers if answer.status == 429)


async def test_f9_a_denied_call_consumes_nothing(server: ChatServer) -> None:
    await set_limits(server, perMinute=100, perDay=2)

    for n in range(6):
        await server.say(f"Message {n}")

    # Summed, because the minute or the hour may change meanwhile.
    limits = await server.rows(
        "select limit_type, sum(request_count) as consumed from rate_limit_tracking group by limit_type"
    )
    assert {row["limit_type"]: row["consumed"] for row in limits} == {"minutely": 2, "hourly": 2, "daily": 2}
    assert await server.rows("select * from error_logs") == []


async def test_f9_a_limit_of_zero_lets_nothing_pass(server: ChatServer) -> None:
    await set_limits(server, perDay=0)

    refused = await server.say("Hello")

    assert (refused.status, refused.problem and refused.problem["window"]) == (429, "daily")


# F10


async def test_f10_thirty_first_requests_of_a_new_user_give_one_profile(server: ChatServer) -> None:
    await set_limits(server, perMinute=100)

    answers = await asyncio.gather(*(server.say(f"Hello {n}", user="newcomer") for n in range(30)))

    assert {answer.status for answer in answers} == {200}
    assert len(await server.rows("select * from user_profiles")) == 1
    assert len(await server.rows('select * from "Chat"')) == 30


async def test_f10_a_disabled_user_is_refused(server: ChatServer) -> None:
    await server.say("Hello")
    await server.rows("update user_profiles set disabled_at = now()")

    refused = await server.say("Hello")

    assert (refused.status, refused.problem and refused.problem["code"]) == (403, "forbidden:account")


# F11


@pytest.mark.parametrize("gone", ['"Chat"', "user_profiles", '"Message_v2"'], ids=["session", "account", "messages"])
async def test_f11_what_is_deleted_while_it_answers_ends_the_turn_quietly(
    server: ChatServer, emulator: Emulator, gone: str
) -> None:
    emulator.script(Reply(text=[f"word{n} " for n in range(400)], delay_between=0.02))
    answering = asyncio.create_task(server.say("Hello"))
    await server.until("select * from stream_chunks where payload like '%%word3 %%'")

    await server.rows(f"delete from {gone}")
    answer = await answering

    assert answer.is_done
    assert "SQL" not in json.dumps(answer.events)
    assert await server.rows('select * from "Message_v2"') == []
    usage = await server.rows("select * from usage_logs")
    assert len(usage) == (0 if gone == "user_profiles" else 1)
    if usage:
        assert usage[0]["message_id"] is None
        assert usage[0]["output_tokens"] > 0
    await emulator.until(lambda: emulator.requests[0].outcome == "left")


# F12


async def test_f12_nobody_is_told_that_an_answer_is_finished_which_could_not_be_stored(
    server: ChatServer, emulator: Emulator
) -> None:
    gate = Gate()
    emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]))
    answering = asyncio.create_task(server.say("Hello"))
    await gate.arrived()
    await server.rows("""alter table "Message_v2" add constraint broken check (status <> 'complete') not valid""")
    gate.release()

    answer = await answering

    assert "finish" not in answer.types
    assert answer.types[-1] == "error"


async def test_f12_what_fails_before_the_model_is_an_error_with_a_row_and_without_sql(
    server: ChatServer, emulator: Emulator
) -> None:
    await server.rows("""alter table "Stream" add constraint broken check (status <> 'running') not valid""")

    refused = await server.say("Hello")

    assert refused.status == 500
    assert refused.problem is not None
    assert refused.problem["code"] == "internal:api"
    assert "constraint" not in json.dumps(refused.problem)
    assert await server.rows('select * from "Chat"') == []
    [error] = await server.rows("select * from error_logs")
    assert str(error["correlation_id"]) == refused.problem["correlationId"]
    assert error["error_details"]["sqlstate"] == "23514"
    assert emulator.requests == []


# F15


async def test_f15_no_connection_is_held_while_the_model_speaks(
    database_url: str, api_database_url: str, emulator: Emulator
) -> None:
    gate = Gate()
    settings = settings_for(api_database_url, emulator, DATABASE_POOL_SIZE="1")
    async with running(settings, database_url) as server:
        emulator.default = lambda _: Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)])
        answering = [asyncio.create_task(server.say(f"Hello {n}")) for n in range(8)]
        await gate.arrived(8)

        connections = await server.rows(
            "select * from pg_stat_activity where datname = current_database() and usename = 'threadkeep_api'"
        )
        gate.release()

        assert len(connections) == 1
        assert {answer.text for answer in await asyncio.gather(*answering)} == {"Hello"}


async def test_f15_a_database_that_takes_no_connection_is_503_with_retry_after(
    database_url: str, api_database_url: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadkeep.database.WAIT_FOR_CONNECTION_SECONDS", 0.5)
    async with running(settings_for(api_database_url, emulator), database_url) as server:
        [database] = await server.rows("select current_database() as name")
        await server.rows(f'alter database "{database["name"]}" connection limit 0')

        answer = await server.say("Hello")

        assert (answer.status, answer.problem and answer.problem["code"]) == (503, "unavailable:database")
        assert int(answer.headers["retry-after"]) > 0
        await server.rows(f'alter database "{database["name"]}" connection limit -1')
        async with asyncio.timeout(15):
            while (await server.say("Hello")).status != 200:
                pass


async def test_f15_a_connection_that_was_cut_is_replaced(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    await server.say("Hello")
    monkeypatch.setattr("threadkeep.database.CHECK_AFTER_IDLE_SECONDS", 0.0)
    await server.rows(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and usename = 'threadkeep_api'"
    )

    assert (await server.say("Hello again")).status == 200


async def test_f15_a_mix_of_turns_deletions_and_stops_deadlocks_nowhere(server: ChatServer) -> None:
    await set_limits(server, perMinute=1000)
    sessions = [str(uuid4()) for _ in range(4)]

    async def one(n: int) -> int:
        session = sessions[n % 4]
        if n % 7 == 3:
            await server.rows('delete from "Chat" where id = %(s)s', s=session)
            return 200
        if n % 7 == 5:
            return await server.stop(session)
        return (await server.say({"id": session, "message": f"Message {n}"})).status

    statuses = await asyncio.gather(*(one(n) for n in range(60)))

    assert set(statuses) <= {200, 202, 204, 404, 409}
    for row in await server.rows(
        """
        select c.message_count, count(m.id) as messages
        from "Chat" as c left join "Message_v2" as m on m."chatId" = c.id
        group by c.id
        """
    ):
        assert row["message_count"] == row["messages"]
    assert await server.rows("select * from error_logs") == []


# F16


async def test_f16_a_change_reaches_the_next_turn_of_every_process(
    server: ChatServer, emulator: Emulator, database_url: str, api_database_url: str
) -> None:
    async with running(settings_for(api_database_url, emulator), database_url) as other:
        for process in (server, other):
            await process.say("Hello")
        await server.rows(
            'update admin_config set config_data = config_data || \'{"systemPrompt": "Be brief."}\' '
            "where config_key = 'chat_model_agent_google'"
        )
        for process in (server, other):
            await process.say("Hello again")

    assert [request.system == "Be brief." for request in emulator.requests] == [False, False, True, True]


async def test_f16_a_row_that_was_broken_by_hand_leaves_the_last_good_one_in_force(
    server: ChatServer, emulator: Emulator
) -> None:
    await server.say("Hello")
    await server.rows("alter table admin_config disable trigger trigger_validate_admin_config")
    await server.rows(
        "update admin_config set config_data = '{\"enabled\": 1}' where config_key = 'chat_model_agent_google'"
    )

    answer = await server.say("Hello again")

    assert answer.status == 200
    assert emulator.requests[0].system == emulator.requests[1].system


# F17


async def test_f17_nothing_secret_is_logged(server: ChatServer, emulator: Emulator) -> None:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logger.registered_formatter)
    logging.getLogger().addHandler(handler)
    ours = logging.getLogger("threadkeep")
    ours.addHandler(handler)
    emulator.script(Fault(status=401, message="Incorrect API key provided: test-key-SECRET"))

    await server.say("my password is hunter2")
    await server.whole({"message": "x", "model": '\'; drop table "Chat"; --'})

    ours.removeHandler(handler)
    logging.getLogger().removeHandler(handler)
    logged = log.getvalue()
    assert '"path":"/api/chat"' in logged
    for secret in ("SECRET", "hunter2", server.token(), "test-key"):
        assert secret not in logged
        assert secret not in str(await server.rows("select * from error_logs"))
    assert await server.rows('select * from "Chat"')


# F19


async def test_f19_a_long_answer_is_kept_in_few_writes(server: ChatServer, emulator: Emulator) -> None:
    emulator.script(Reply(text=[f"word{n} " for n in range(1000)]), Reply(text=["x" * 100] * 200, delay_between=0.005))

    started = time.monotonic()
    burst = await server.say("At once")
    passed = time.monotonic() - started
    [chunks] = await server.rows("select count(*) as n, sum(length(payload)) as bytes from stream_chunks")
    assert chunks["n"] <= 2 + passed / keeper.COALESCE_SECONDS + chunks["bytes"] / keeper.COALESCE_BYTES
    await server.rows("delete from stream_chunks")
    slow = await server.say("Slowly")

    [chunks] = await server.rows("select count(*) as n from stream_chunks")
    assert len(burst.text.split()) == 1000
    assert len(slow.text) == 20_000
    assert chunks["n"] < 60


async def test_a_shut_down_ends_its_turns_with_their_partial_text(
    database_url: str, api_database_url: str, emulator: Emulator
) -> None:
    gate = Gate()
    emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]), model=MODELS["google"])
    async with running(settings_for(api_database_url, emulator), database_url) as server:
        answering = asyncio.create_task(server.say("Hello"))
        await server.until("select * from stream_chunks where payload like '%%Hel%%'")
        await server.app.state.conversations.close()

        answer = await answering

        assert answer.is_done
        _, stored = await server.messages(answer.session)
        assert (stored["status"], stored["parts"][-1]["text"]) == ("interrupted", "Hel")


async def test_a_turn_costs_two_transactions_around_the_model(
    server: ChatServer, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A turn that lasts longer keeps its events as well, and on a busy machine this one may.
    monkeypatch.setattr(keeper, "COALESCE_SECONDS", 60.0)
    await server.say("Warm up")
    units: list[str] = []
    run = Database.run

    async def counted(self: Database, actor: Any, *statements: Any, **options: Any) -> Any:
        units.append(actor.role if isinstance(actor, Principal) else "service")
        return await run(self, actor, *statements, **options)

    monkeypatch.setattr(Database, "run", counted)

    await server.say("Hello")

    assert units == ["authenticated", "service"]


def uuid_of(session: str) -> Any:
    from threadkeep import ids

    return ids.session_id(session)


async def test_f6_what_each_agent_had_said_when_the_process_died_is_on_its_own_bill(
    server: ChatServer, emulator: Emulator
) -> None:
    gate = Gate()
    call = ToolCall("documentAgent", {"operation": "create", "instruction": "Text: Tides\nWrite."})
    emulator.script(
        Reply(text=["I have it written. " * 20], tool_calls=[call], usage=Usage(input=20, output=30)),
        Reply(text=["word " * 200, "and more"], interruptions=[Hold(gate, after_deltas=1)]),
    )
    session = str(uuid4())
    late = asyncio.create_task(server.say({"id": session, "message": "Hello"}))
    await server.until("select * from stream_chunks where payload like '%%word word%%'")
    await server.rows("""update "Stream" set lease_until = now() - interval '1 second'""")

    assert (await server.follow(session)).status == 204

    rows = await server.rows("select * from usage_logs order by request_timestamp")
    said = {row["agent_type"]: (row["source"], row["output_tokens"]) for row in rows}
    assert said == {"chat_model_agent": ("provider", 30), "document_agent": ("estimated", 250)}
    gate.release()
    await late


@pytest.mark.parametrize("provider", ["google", "openai", "anthropic"])
async def test_f6_a_provider_that_cannot_be_reached_bills_nothing(
    database_url: str, api_database_url: str, provider: str
) -> None:
    nobody = {f"{name}_BASE_URL": "http://127.0.0.1:9" for name in ("GEMINI", "OPENAI", "ANTHROPIC")}
    keys = {f"{name}_API_KEY": "test-key" for name in ("GEMINI", "OPENAI", "ANTHROPIC")}
    async with running(settings_for(api_database_url, None, **nobody, **keys), database_url) as server:
        answer = await server.say({"message": "Hello " * 1000, "model": MODELS[provider]})

        assert answer.metadata["finishReason"] == "error"
        assert answer.metadata["usage"]["cost"] == 0
        assert await server.rows("select * from usage_logs") == []
