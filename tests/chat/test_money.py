"""What a turn may cost and how far it may go: bounds, budgets, models that stand in, and the context window."""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from typing import Any
from uuid import uuid4

import pytest

from tests.chat_server import MODELS, ChatServer
from tests.emulator import Cut, Emulator, Fault, Gate, Hold, Reply, Silence, ToolCall, Usage
from threadkeep_agents.conversations import Conversations
from threadkeep_agents.providers import Providers

PROVIDERS = ("google", "openai", "anthropic")
CLOCK = ToolCall("current_time")


async def set_app(server: ChatServer, **settings: Any) -> None:
    """Members of `app_settings`; those of a group that are not given stay."""
    for name, value in settings.items():
        await server.rows(
            "update admin_config set config_data = jsonb_set(config_data, array[%(name)s], "
            "coalesce(config_data -> %(name)s, '{}') || %(value)s::jsonb) where config_key = 'app_settings'",
            name=name,
            value=json.dumps(value),
        )


async def set_metadata(server: ChatServer, model: str, **metadata: Any) -> None:
    await server.rows(
        "update model_config set metadata = metadata || %(metadata)s::jsonb where model_id = %(model)s",
        metadata=json.dumps(metadata),
        model=model,
    )


@pytest.fixture(autouse=True)
async def no_limits(server: ChatServer) -> None:
    """The limits of the chat agent are out of the way."""
    await server.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{rateLimit}', "
        '\'{"perMinute": 1000, "perHour": 1000, "perDay": 1000}\') where config_key like \'chat_model_agent%%\''
    )


def max_tokens(request: Any) -> int:
    """The longest answer that a request allows."""
    body = request.body
    limits = [
        body.get("max_output_tokens"),
        body.get("max_tokens"),
        (body.get("generationConfig") or {}).get("maxOutputTokens"),
    ]
    return int(next(limit for limit in limits if limit is not None))


def always_calling(text: str) -> Reply:
    return Reply(text=text, tool_calls=[CLOCK], usage=Usage(input=100, output=50))


# Bounds


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("bounds", "requests"),
    [
        ({"maxRequests": 3}, 3),
        ({"maxToolCalls": 2}, 3),
        ({"maxOutputTokens": 120}, 3),
    ],
    ids=["requests", "tool calls", "output tokens"],
)
async def test_each_bound_ends_a_turn_with_its_code_and_keeps_what_was_said_and_used(
    server: ChatServer, emulator: Emulator, provider: str, bounds: dict[str, int], requests: int
) -> None:
    await set_app(server, turn=bounds)
    emulator.script(always_calling("On it. "), always=True)

    answer = await server.say({"message": "What time is it?", "model": MODELS[provider]})

    assert answer.is_done
    assert answer.metadata["error"]["code"] == "too_large:turn"
    assert len(emulator.requests) == requests
    _, stored = await server.messages(answer.session)
    assert stored["status"] == "failed"
    assert "".join(part["text"] for part in stored["parts"] if part["type"] == "text") == "On it. " * requests
    [used] = await server.rows("select count(*) as n, sum(output_tokens) as output from usage_logs")
    assert (used["n"], used["output"]) == (requests, 50 * requests)


async def test_a_turn_that_takes_too_long_ends_with_what_was_said(server: ChatServer, emulator: Emulator) -> None:
    await set_app(server, turn={"maxSeconds": 3})
    emulator.script(Reply(text=["Well ", "then"], interruptions=[Silence(after_deltas=1)]))

    answer = await server.say("Hello")

    assert answer.metadata["error"]["code"] == "timeout:chat"
    _, stored = await server.messages(answer.session)
    assert (stored["status"], stored["parts"][-1]["text"]) == ("failed", "Well ")
    [used] = await server.rows("select * from usage_logs")
    assert used["source"] == "estimated"
    assert used["output_tokens"] > 0


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_a_turn_may_cost_shortens_its_answers_and_then_ends_it(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    [model] = await server.rows("select * from model_config where model_id = %(m)s", m=MODELS[provider])
    price = float(model["output_pricing_per_million_tokens"])
    # A thousand output tokens, besides the input.
    await set_app(server, turn={"maxCostUsd": round(1_500 * price / 1e6, 6)})
    emulator.script(
        Reply(text="Part one. ", tool_calls=[CLOCK], usage=Usage(input=10, output=600)),
        Reply(text="Part two. ", tool_calls=[CLOCK], usage=Usage(input=10, output=600)),
    )

    answer = await server.say({"message": "Hello", "model": MODELS[provider]})

    first, second = (max_tokens(request) for request in emulator.requests)
    assert 1_000 < first <= 1_500
    assert 300 < second <= 900
    assert answer.metadata["error"]["code"] == "too_large:cost"
    _, stored = await server.messages(answer.session)
    assert "".join(part["text"] for part in stored["parts"] if part["type"] == "text") == "Part one. Part two. "
    [used] = await server.rows("select count(*) as n, sum(total_cost) as cost from usage_logs")
    assert used["n"] == 2
    assert float(used["cost"]) == pytest.approx(answer.metadata["usage"]["cost"])
    assert float(used["cost"]) <= 1_500 * price / 1e6


async def test_what_the_budget_has_left_bounds_the_turn(server: ChatServer, emulator: Emulator) -> None:
    [model] = await server.rows("select * from model_config where model_id = %(m)s", m=MODELS["openai"])
    price = float(model["output_pricing_per_million_tokens"])
    await set_app(server, budgets={"perUserMonthlyUsd": 3_000 * price / 1e6})
    emulator.script(
        Reply(text="Part one. ", tool_calls=[CLOCK], usage=Usage(input=10, output=2_900)),
    )

    answer = await server.say({"message": "Hello", "model": MODELS["openai"]})
    refused = await server.say({"message": "Hello again", "model": MODELS["openai"]})

    assert answer.text == "Part one. "
    assert answer.metadata["error"]["code"] == "rate_limit:budget"
    assert refused.problem is not None
    assert (refused.status, refused.problem["code"]) == (429, "rate_limit:budget")
    assert refused.problem["capUsd"] == pytest.approx(3_000 * price / 1e6)
    assert 1 <= int(refused.headers["retry-after"]) <= 31 * 86_400
    assert len(await server.rows('select * from "Chat"')) == 1


async def test_f8_of_forty_turns_at_once_as_many_run_as_the_budget_has_room_for(
    server: ChatServer, emulator: Emulator
) -> None:
    await set_app(server, budgets={"perUserMonthlyUsd": 100})
    gate = Gate()
    emulator.default = lambda _: Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)])
    probe = asyncio.create_task(server.say("Hello", user="probe"))
    await gate.arrived()
    [row] = await server.rows("select amount from budget_reservations")
    await set_app(server, budgets={"perUserMonthlyUsd": float(row["amount"]) * 10})

    answering = [asyncio.create_task(server.say(f"Message {n}")) for n in range(40)]
    await gate.arrived(11)
    refused = [await answer for answer in islice(asyncio.as_completed(answering), 30)]
    running = [task for task in answering if not task.done()]
    gate.release()

    assert {answer.status for answer in refused} == {429}
    assert len(running) == 10
    assert {(await task).text for task in running} == {"Hello"}
    await probe
    assert await server.rows("select * from budget_reservations") == []


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_f6_a_stopped_answer_counts_as_far_as_it_came_and_its_cache_once(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    used = Usage(input=1_000, output=300, cached_read=600, reasoning=200)
    emulator.script(Reply(text=[f"word{n} " for n in range(400)], delay_between=0.02, usage=used))
    session = str(uuid4())
    answering = asyncio.create_task(server.say({"id": session, "message": "Hello", "model": MODELS[provider]}))
    await server.until("select * from stream_chunks where payload like '%%word3 %%'")
    await server.stop(session)
    answer = await answering

    [row] = await server.rows("select * from usage_logs")
    assert row["source"] == "estimated"
    assert row["input_tokens"] > 0
    assert row["output_tokens"] >= len(answer.text) // 4
    assert row["cached_input_tokens"] + row["cache_write_tokens"] <= row["input_tokens"]
    assert row["total_cost"] > 0
    assert min(row["input_cost"], row["output_cost"]) >= 0


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_f6_an_answer_that_is_stopped_before_its_first_word_ends_at_once_and_counts_its_input(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    await set_app(server, fallback={"enabled": True, "models": list(MODELS.values())})
    gate = Gate()
    emulator.script(Reply(text="Never said", interruptions=[Hold(gate, after_deltas=0)]))
    session = str(uuid4())
    answering = asyncio.create_task(server.say({"id": session, "message": "Hello", "model": MODELS[provider]}))
    await gate.arrived()

    await server.stop(session)
    answer = await answering
    gate.release()

    assert (answer.text, answer.metadata["finishReason"]) == ("", "stopped")
    assert len(emulator.requests) == 1
    [row] = await server.rows("select * from usage_logs")
    # Anthropic counts its first token before it is said.
    assert (row["source"], row["output_tokens"] <= 1) == ("estimated", True)
    assert row["input_tokens"] > 0


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_f7_reasoning_is_part_of_the_output_and_paid_once(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    emulator.script(Reply(text="Ok", reasoning="Hm", usage=Usage(input=100, output=300, reasoning=250)))

    await server.say({"message": "Hello", "model": MODELS[provider], "thinking": True})

    [row] = await server.rows("select * from usage_logs")
    assert row["output_tokens"] == 300
    assert row["reasoning_tokens"] in {250, 0}
    [model] = await server.rows("select * from model_config where model_id = %(m)s", m=MODELS[provider])
    assert float(row["output_cost"]) == pytest.approx(300 * float(model["output_pricing_per_million_tokens"]) / 1e6)


async def test_f20_a_model_without_a_price_is_flagged_and_its_usage_counted(
    server: ChatServer, emulator: Emulator
) -> None:
    await server.rows(
        "update model_config set input_pricing_per_million_tokens = 0, output_pricing_per_million_tokens = 0, "
        "metadata = '{}' where model_id = %(m)s",
        m=MODELS["openai"],
    )
    await set_app(server, turn={"maxCostUsd": 0.01})
    emulator.script(Reply(text="Ok", usage=Usage(input=100_000, output=30_000)))

    answer = await server.say({"message": "Hello", "model": MODELS["openai"]})

    assert answer.text == "Ok"
    [row] = await server.rows("select * from usage_logs")
    assert (row["is_priced"], row["total_cost"], row["input_tokens"]) == (False, 0, 100_000)


# Models that stand in


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429),
        Fault(kind="quota"),
        Fault(status=500),
        Fault(status=503),
        Cut(),
        Fault(kind="overloaded", after_deltas=0),
    ],
    ids=["429", "quota", "500", "503", "cut", "overloaded in the stream"],
)
async def test_another_model_answers_when_the_chosen_one_cannot(
    server: ChatServer, emulator: Emulator, provider: str, fault: Any
) -> None:
    other = "anthropic" if provider != "anthropic" else "openai"
    await set_app(server, fallback={"enabled": True, "models": [MODELS[provider], MODELS[other]]})
    emulator.script(fault, provider=provider, always=True)  # type: ignore[arg-type]
    emulator.script(Reply(text="Here I am.", usage=Usage(input=10, output=5)), provider=other)  # type: ignore[arg-type]

    answer = await server.say({"message": "Hello", "model": MODELS[provider]})

    assert answer.text == "Here I am."
    assert answer.metadata["model"] == MODELS[other]
    assert answer.metadata["provider"] == other
    assert answer.metadata["insteadOf"] == MODELS[provider]
    _, stored = await server.messages(answer.session)
    assert (stored["status"], stored["model_used"]) == ("complete", MODELS[other])
    rows = await server.rows("select * from usage_logs order by source desc")
    answered = rows[0]
    assert (answered["model_used"], answered["input_tokens"], answered["source"]) == (MODELS[other], 10, "provider")
    assert len(rows) == (2 if isinstance(fault, Cut) else 1)


async def test_another_model_answers_for_one_that_says_nothing(server: ChatServer, emulator: Emulator) -> None:
    state = server.app.state
    state.conversations = Conversations(
        state.runtime.settings,
        state.runtime.database,
        providers=Providers(state.runtime.settings, silence_seconds=0.3),
    )
    await set_app(server, fallback={"enabled": True, "models": [MODELS["anthropic"]]})
    emulator.script(Silence(), provider="openai")

    answer = await server.say({"message": "Hello", "model": MODELS["openai"]})

    assert answer.text == "You said: Hello"
    assert answer.metadata["insteadOf"] == MODELS["openai"]
    # It may have worked on it, so its input is counted, as an estimate.
    silent, answered = await server.rows("select * from usage_logs order by request_timestamp")
    assert (silent["source"], silent["output_tokens"], answered["source"]) == ("estimated", 0, "provider")


@pytest.mark.parametrize(
    "fault",
    [Fault(status=401), Fault(status=404), Fault(status=400), Fault(status=500, after_deltas=1)],
    ids=["bad key", "unknown model", "refused request", "after output began"],
)
async def test_no_other_model_answers_for_what_another_one_cannot_mend(
    server: ChatServer, emulator: Emulator, fault: Fault
) -> None:
    await set_app(server, fallback={"enabled": True, "models": [MODELS["anthropic"]]})
    answers = Reply(text=["Hel", "lo"], interruptions=[fault]) if fault.after_deltas else fault
    emulator.script(answers, provider="openai")

    answer = await server.say({"message": "Hello", "model": MODELS["openai"]})

    assert "error" in answer.types
    assert [request.provider for request in emulator.requests] == ["openai"]
    assert "insteadOf" not in answer.metadata


async def test_if_no_model_answers_the_first_ones_error_is_told(server: ChatServer, emulator: Emulator) -> None:
    await set_app(server, fallback={"enabled": True, "models": [MODELS["anthropic"]]})
    emulator.script(Fault(status=429), provider="openai")
    emulator.script(Fault(status=500), provider="anthropic")

    answer = await server.say({"message": "Hello", "model": MODELS["openai"]})

    assert answer.metadata["error"]["code"] == "unavailable:model"
    assert answer.metadata["model"] == MODELS["openai"]
    assert await server.rows("select * from usage_logs") == []


async def test_a_model_that_failed_a_moment_ago_is_asked_last(server: ChatServer, emulator: Emulator) -> None:
    await set_app(server, fallback={"enabled": True, "models": [MODELS["anthropic"]]})
    emulator.script(Fault(status=503), provider="openai", always=True)
    emulator.script(always_calling("On it. "), Reply(text="Done."), provider="anthropic")

    await server.say({"message": "Hello", "model": MODELS["openai"]})
    await server.say({"message": "Hello again", "model": MODELS["openai"]})

    assert [request.provider for request in emulator.requests] == ["openai", "anthropic", "anthropic", "anthropic"]


async def test_reasoning_goes_to_its_own_provider_only(server: ChatServer, emulator: Emulator) -> None:
    await set_app(server, fallback={"enabled": True, "models": [MODELS["anthropic"]]})
    emulator.script(
        Reply(text="First. ", reasoning="SECRET-THOUGHT", tool_calls=[CLOCK]), Fault(status=503), provider="openai"
    )
    emulator.script(Reply(text="Second.", reasoning="OWN-THOUGHT"), provider="anthropic")
    emulator.script(Reply(text="Third."), provider="anthropic")
    session = str(uuid4())

    answer = await server.say({"id": session, "message": "Hello", "model": MODELS["openai"], "thinking": True})
    await server.say({"id": session, "message": "And?", "model": MODELS["anthropic"], "thinking": True})

    assert answer.text == "First. Second."
    assert answer.metadata["model"] == MODELS["anthropic"]
    to_anthropic = [json.dumps(request.body) for request in emulator.requests if request.provider == "anthropic"]
    assert len(to_anthropic) == 2
    assert "SECRET-THOUGHT" not in "".join(to_anthropic)
    assert "OWN-THOUGHT" in to_anthropic[1]
    rows = await server.rows("select provider from usage_logs order by request_timestamp")
    assert [row["provider"] for row in rows] == ["openai", "anthropic", "anthropic"]


async def test_a_model_that_stands_in_is_asked_for_no_longer_answer_than_it_can_give(
    server: ChatServer, emulator: Emulator
) -> None:
    await set_app(server, fallback={"enabled": True, "models": [MODELS["anthropic"]]})
    await set_metadata(server, MODELS["anthropic"], maxOutputTokens=4_000)
    emulator.script(Fault(status=503), provider="openai")

    await server.say({"message": "Hello", "model": MODELS["openai"]})

    first, second = (max_tokens(request) for request in emulator.requests)
    assert (first > 4_000, second) == (True, 4_000)


async def test_a_title_is_written_by_a_model_that_stands_in(server: ChatServer, emulator: Emulator) -> None:
    await set_app(server, titles={"enabled": True}, fallback={"enabled": True, "models": [MODELS["anthropic"]]})
    emulator.script(Fault(status=503), provider="openai", always=True)
    emulator.script(
        Reply(text="A friendly greeting"), provider="anthropic", match=lambda request: "title" in request.system
    )

    answer = await server.say({"message": "Hello", "model": MODELS["openai"]})

    assert answer.metadata["title"] == "A friendly greeting"


# The context window


async def conversation(server: ChatServer, session: str, count: int, length: int, model: str) -> None:
    """A session of so many turns with messages of this length."""
    for n in range(count):
        said = f"Q{n} " + "word " * (length // 5)
        await server.say({"id": session, "message": said, "model": model})


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_older_turns_that_do_not_fit_are_left_out_whole(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    model, session = MODELS[provider], str(uuid4())
    await set_metadata(server, model, contextWindow=16_000, maxOutputTokens=1_000)
    emulator.default = lambda request: Reply(text=f"A to {request.last_user_text[:3]}")
    await conversation(server, session, 4, 12_000, model)
    emulator.requests.clear()

    answer = await server.say({"id": session, "message": "Q9 short", "model": model})

    [request] = emulator.requests
    texts = [turn.text for turn in request.turns]
    assert texts[-1] == "Q9 short"
    assert request.turns[0].role == "user"
    assert request.system
    kept = [text.strip()[:2] for text in texts if text.startswith("Q")]
    omitted = 8 - 2 * (len(kept) - 1)
    assert kept == ["Q0", "Q1", "Q2", "Q3", "Q9"][-len(kept) :]
    assert 0 < omitted < 8
    assert answer.events[0]["messageMetadata"]["context"] == {"omittedMessages": omitted}
    assert answer.metadata["context"] == {"omittedMessages": omitted}


async def test_what_fits_is_sent_whole_and_says_nothing(server: ChatServer, emulator: Emulator) -> None:
    session = str(uuid4())
    await conversation(server, session, 2, 100, MODELS["openai"])

    answer = await server.say({"id": session, "message": "And?", "model": MODELS["openai"]})

    assert len(emulator.requests[-1].turns) == 5
    assert "context" not in answer.metadata
    assert "context" not in answer.events[0]["messageMetadata"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_a_provider_refuses_as_too_long_is_sent_once_more_at_half_its_length(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    model, session = MODELS[provider], str(uuid4())
    await conversation(server, session, 4, 3_000, model)
    emulator.requests.clear()
    emulator.script(Fault(kind="context_window"), Reply(text="Got it."))

    answer = await server.say({"id": session, "message": "Q9 short", "model": model})

    assert answer.text == "Got it."
    first, second = emulator.requests
    assert len(first.turns) == 9
    assert 1 < len(second.turns) <= 5
    assert second.turns[0].role == "user"
    assert answer.metadata["context"]["omittedMessages"] == 9 - len(second.turns)
    assert len(await server.rows("select * from usage_logs where message_id is not null")) == 5


async def test_one_that_is_still_too_long_is_told(server: ChatServer, emulator: Emulator) -> None:
    session = str(uuid4())
    await conversation(server, session, 4, 3_000, MODELS["openai"])
    emulator.requests.clear()
    emulator.script(Fault(kind="context_window"), always=True)

    answer = await server.say({"id": session, "message": "Short", "model": MODELS["openai"]})

    assert len(emulator.requests) == 2
    assert answer.metadata["error"]["code"] == "too_large:context"


async def test_a_message_that_is_too_long_alone_is_refused_before_any_request(
    server: ChatServer, emulator: Emulator
) -> None:
    await set_metadata(server, MODELS["openai"], contextWindow=8_000, maxOutputTokens=1_000)

    response = await server.whole({"message": "word " * 20_000, "model": MODELS["openai"]})

    assert (response.status_code, response.json()["code"]) == (413, "too_large:context")
    assert emulator.requests == []
    assert await server.rows("select * from usage_logs") == []


async def test_calls_of_tools_stay_with_their_results(server: ChatServer, emulator: Emulator) -> None:
    model, session = MODELS["openai"], str(uuid4())
    await set_metadata(server, model, contextWindow=16_000, maxOutputTokens=1_000)
    emulator.default = lambda request: (
        Reply(text="Done.") if request.returns_tools else Reply(text="Wait.", tool_calls=[CLOCK])
    )
    await conversation(server, session, 4, 12_000, model)
    emulator.requests.clear()

    answer = await server.say({"id": session, "message": "Q9 short", "model": model})

    assert answer.metadata["context"]["omittedMessages"] > 0
    # The emulator refuses, as the providers do, a result without its call.
    assert emulator.refusals == []
    assert answer.metadata["finishReason"] == "stop"
    assert emulator.requests[-1].turns[0].role == "user"
