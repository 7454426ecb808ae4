"""What goes wrong around agents and tools: stops, time limits, rubbish in calls and results, changes of provider."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic_ai import BinaryContent, RunContext, ToolReturn
from pydantic_ai.toolsets import FunctionToolset

from functions.documents import app as documents
from tests.chat_server import MODELS, Answer, ChatServer, running, settings_for
from tests.emulator import Emulator, Fault, Gate, Hold, Reply, Silence, ToolCall, Usage
from threadkeep_agents import document_agents, roster
from threadkeep_agents.own_servers import Recorded
from threadkeep_agents.tools import TurnContext

PROVIDERS = ("google", "openai", "anthropic")


@pytest.fixture
async def server(database_url: str, api_database_url: str, emulator: Emulator) -> AsyncIterator[ChatServer]:
    """Chat beside documents, with room for many calls; titles are off, as they would be requests too."""
    settings = settings_for(api_database_url, emulator)
    async with running(settings, database_url, documents.router) as chat_server:
        await chat_server.rows(
            'update admin_config set config_data = config_data || \'{"titles": {"enabled": false}}\' '
            "where config_key = 'app_settings'"
        )
        await chat_server.rows(
            "update admin_config set config_data = jsonb_set(config_data, '{rateLimit,perMinute}', '100') "
            "where config_data ? 'rateLimit'"
        )
        yield chat_server


def create(title: str = "New", tool: str = "documentAgent", first_line: str = "Text", **more: Any) -> ToolCall:
    return ToolCall(tool, {"operation": "create", "instruction": f"{first_line}: {title}\nWrite.", **more})


def data_of(answer: Answer) -> list[dict[str, Any]]:
    return [event for event in answer.events if event["type"].startswith("data-")]


def shown_last(answer: Answer) -> str:
    """What a page shows in the end: all that came after the last `data-clear`."""
    text = ""
    for event in data_of(answer):
        if event["type"] == "data-clear":
            text = ""
        elif event["type"].endswith("Delta"):
            text += event["data"]
    return text


THREE = (
    create("A"),
    create("B", "pythonAgent", "Python"),
    create("C", "mermaidAgent", "Diagram"),
)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stop_while_three_agents_write_leaves_a_record_and_a_bill_of_each(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    gate = Gate()
    held = Reply(
        text=["# one ", "two ", "three"],
        interruptions=[Hold(gate, after_deltas=2)],
        usage=Usage(input=50, output=9),
    )
    emulator.script(Reply(tool_calls=THREE, usage=Usage(input=20, output=5)), held, held, held)
    turn = asyncio.create_task(server.say({"id": "three-at-once", "message": "Write", "model": MODELS[provider]}))
    # The first request of a process loads the provider's SDK.
    await emulator.until(lambda: len(emulator.requests) == 4, timeout=20)
    await gate.arrived(3)
    await server.until(
        "select 1 from stream_chunks having sum((length(payload) - length(replace(payload, 'two', ''))) / 3) >= 3"
    )

    assert await server.stop("three-at-once") == 202
    gate.release()
    answer = await turn

    _, stored = await server.messages(answer.session)
    assert stored["status"] == "interrupted"
    usage = await server.rows("select * from usage_logs")
    assert sorted(row["agent_type"] for row in usage) == [
        "chat_model_agent",
        "document_agent",
        "mermaid_agent",
        "python_agent",
    ]
    assert (stored["input_tokens"], stored["output_tokens"]) == (
        sum(row["input_tokens"] for row in usage),
        sum(row["output_tokens"] for row in usage),
    )
    activity = await server.rows("select * from agent_activity_logs where agent_type <> 'chat_model_agent'")
    assert len(activity) == 3
    assert not any(row["success"] for row in activity)
    assert all(row["input_tokens"] > 0 for row in activity)
    rows = await server.rows('select title, content, metadata from "Document" order by title')
    assert [row["title"] for row in rows] == ["A", "B", "C"]
    assert all("invalid" in row["metadata"] for row in rows)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_turn_whose_time_is_up_within_an_agent_keeps_what_was_written(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    await server.rows(
        'update admin_config set config_data = config_data || \'{"turn": {"maxSeconds": 5}}\' '
        "where config_key = 'app_settings'"
    )
    emulator.script(
        Reply(tool_calls=[create()]),
        Reply(text=["Half a ", "document", " and more"], interruptions=[Silence(after_deltas=2)]),
    )

    answer = await server.say({"message": "Write", "model": MODELS[provider]})

    _, stored = await server.messages(answer.session)
    assert (stored["status"], stored["metadata"]["error"]["code"]) == ("failed", "timeout:chat")
    [document] = await server.rows('select content, metadata from "Document"')
    assert document["content"] == "Half a document"
    assert "invalid" in document["metadata"]
    [used] = await server.rows("select * from usage_logs where agent_type = 'document_agent'")
    assert used["source"] == "estimated"
    assert used["output_tokens"] > 0
    [activity] = await server.rows("select * from agent_activity_logs where agent_type = 'document_agent'")
    assert activity["error_type"] == "timeout:chat"
    again = await server.say({"id": str(answer.session), "message": "Go on", "model": MODELS[provider]})
    assert again.text.endswith("Go on")


@pytest.mark.parametrize(
    ("provider", "arguments"),
    [
        ("openai", "no JSON at all"),
        ("openai", "[1, 2]"),
        ("openai", "null"),
        # Google alone sends arguments as an object and not as text in pieces.
        *((provider, '{"operation": "create", "instruc') for provider in ("openai", "anthropic")),
        *((provider, {"operation": 7, "instruction": {"a": 1}}) for provider in PROVIDERS),
        *((provider, {"operation": "create"}) for provider in PROVIDERS),
        *((provider, {"operation": "create", "instruction": "Text: A", "surprise": 1}) for provider in PROVIDERS),
    ],
)
async def test_arguments_that_are_rubbish_end_neither_the_turn_nor_the_session(
    server: ChatServer, emulator: Emulator, provider: str, arguments: str | dict[str, Any]
) -> None:
    call = ToolCall("documentAgent", arguments)
    emulator.script(*[Reply(tool_calls=[call])] * 3, Reply(text="I give it up."))

    answer = await server.say({"message": "Write", "model": MODELS[provider]})

    _, stored = await server.messages(answer.session)
    assert (stored["status"], stored["metadata"].get("error")) == ("complete", None)
    again = await server.say({"id": str(answer.session), "message": "Go on", "model": MODELS[provider]})
    assert again.metadata["finishReason"] == "stop"


@pytest.mark.parametrize("operation", ["pa\0int", "x" * 5000, ""])
async def test_an_operation_that_no_column_takes_is_a_failed_call_on_record(
    server: ChatServer, emulator: Emulator, operation: str
) -> None:
    emulator.script(
        Reply(tool_calls=[ToolCall("documentAgent", json.dumps({"operation": operation, "instruction": "Go."}))]),
        Reply(text="That did not work."),
    )

    answer = await server.say({"message": "Do it", "model": MODELS["openai"]})

    assert answer.text == "That did not work."
    assert answer.types[-1] == "finish"
    _, stored = await server.messages(answer.session)
    assert stored["status"] == "complete"
    assert len(await server.rows("select * from agent_activity_logs")) == 2


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_no_text_column_takes_is_left_out_of_what_agents_write(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    emulator.script(
        Reply(tool_calls=[create("N\0ew", documentId="\0")]),
        Reply(text=["One\0 ", "two \U0001f600", " \u202e three"]),
        Reply(text="Do\0ne."),
    )

    answer = await server.say({"message": "Write", "model": MODELS[provider]})

    assert answer.types[-1] == "finish"
    [document] = await server.rows('select title, content from "Document"')
    assert (document["title"], document["content"]) == ("New", "One two \U0001f600 \u202e three")
    assert shown_last(answer) == document["content"]
    _, stored = await server.messages(answer.session)
    assert stored["status"] == "complete"


async def test_a_page_shows_in_the_end_what_was_stored_if_the_second_try_fails(
    server: ChatServer, emulator: Emulator
) -> None:
    emulator.script(
        Reply(tool_calls=[create("A", "pythonAgent", "Python")]),
        Reply(text="def f(:"),
        Reply(text=["print(1)\n", "print(2)\n"], interruptions=[Fault(status=500, after_deltas=1)]),
        Reply(text="It is not valid."),
    )

    answer = await server.say("A script")

    [document] = await server.rows('select content from "Document"')
    assert document["content"] == "def f(:"
    assert shown_last(answer) == "def f(:"
    assert data_of(answer)[-1]["type"] == "data-finish"


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_page_is_told_the_end_of_a_document_that_broke_off(
    server: ChatServer, emulator: Emulator, *, is_new: bool
) -> None:
    made = await server.http.post(
        "/api/documents",
        json={"title": "Notes", "kind": "text", "content": "Whole."},
        headers=server.headers("ada"),
    )
    change = ToolCall(
        "documentAgent", {"operation": "update", "instruction": "Change.", "documentId": made.json()["id"]}
    )
    emulator.script(
        Reply(tool_calls=[create() if is_new else change]),
        Reply(text=["Half a ", "document"], finish="length"),
        Reply(text="It broke off."),
    )

    answer = await server.say("Write")

    assert data_of(answer)[-1]["type"] == "data-finish"
    assert shown_last(answer) == ("Half a document" if is_new else "Whole.")


async def test_a_passage_that_is_proposed_wrongly_twice_is_counted_as_not_placed(
    server: ChatServer, emulator: Emulator
) -> None:
    made = await server.http.post(
        "/api/documents",
        json={"title": "Notes", "kind": "text", "content": "A plan and a plan."},
        headers=server.headers("ada"),
    )
    wrong = {"originalText": "plan", "suggestedText": "idea", "description": "Twice there."}
    call = ToolCall("documentAgent", {"operation": "suggestion", "instruction": "Go.", "documentId": made.json()["id"]})
    emulator.script(
        Reply(tool_calls=[call]),
        Reply(tool_calls=[ToolCall("final_result", {"response": [wrong]})]),
        Reply(tool_calls=[ToolCall("final_result", {"response": [wrong]})]),
        Reply(text="None."),
    )

    answer = await server.say("Improve it")

    [output] = [event["output"] for event in answer.events if event["type"] == "tool-output-available"]
    assert (output["suggestions"], output["notPlaced"]) == ([], 1)


@dataclass
class Unknown:
    x: Any = None


@pytest.fixture
def own_tool(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Gives the chat agent one tool of the team's, `odd`, that returns or raises this."""

    def give(result: Any) -> None:
        async def odd(context: RunContext[TurnContext]) -> Any:
            """Returns something odd."""
            if isinstance(result, Exception):
                raise result
            return result

        tools: FunctionToolset[TurnContext] = FunctionToolset([odd])
        monkeypatch.setattr(roster, "registered_tools", lambda: Recorded(tools, None))

    return give


ODD: dict[str, Any] = {
    "nul": "a\0b",
    "surrogate": "a\ud800b",
    "nested nul": {"a\0": ["\0", {"b": "\ud800"}]},
    "nan": float("nan"),
    "infinity": {"x": [float("inf")]},
    "bytes": b"\xff\xfe",
    "object": object(),
    "class": Unknown,
    "dataclass of an object": Unknown(object()),
    "set": {1, 2},
    "function": len,
    "image": BinaryContent(b"\x89PNG\r\n\x1a\n", media_type="image/png"),
    "image beside": ToolReturn("See.", content=["Look:", BinaryContent(b"\x89PNG\r\n\x1a\n", media_type="image/png")]),
    "error with nul": ValueError("a\0b"),
    "exception group": ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
    "nothing": None,
    "huge": "x" * 3_000_000,
    "huge list": ["x" * 1000] * 3000,
    "huge number": 10**400,
}


@pytest.mark.parametrize(
    ("provider", "what"),
    [("openai", what) for what in ODD] + [(provider, "image beside") for provider in ("google", "anthropic")],
)
async def test_whatever_an_own_tool_returns_the_turn_ends_and_the_session_goes_on(
    server: ChatServer, emulator: Emulator, own_tool: Callable[[Any], None], provider: str, what: str
) -> None:
    own_tool(ODD[what])
    emulator.script(Reply(tool_calls=[ToolCall("odd")]), Reply(text="Odd."))

    answer = await server.say({"message": "Try", "model": MODELS[provider]})

    _, stored = await server.messages(answer.session)
    assert (answer.text, stored["status"]) == ("Odd.", "complete")
    assert len(json.dumps(stored["parts"])) < 500_000
    again = await server.say({"id": str(answer.session), "message": "Go on", "model": MODELS[provider]})
    assert again.text == "You said: Go on"


@pytest.mark.parametrize("end", ["stopped", "out of time"])
async def test_the_next_turn_goes_on_with_a_new_document_that_was_broken_off(
    server: ChatServer, emulator: Emulator, end: str
) -> None:
    if end == "out of time":
        await server.rows(
            'update admin_config set config_data = config_data || \'{"turn": {"maxSeconds": 5}}\' '
            "where config_key = 'app_settings'"
        )
    emulator.script(
        Reply(tool_calls=[create("Rome")]),
        Reply(text=["Half a ", "document", " and more"], interruptions=[Silence(after_deltas=2)]),
        Reply(text="Yes."),
    )
    turn = asyncio.create_task(server.say({"id": "broken-off", "message": "Write"}))
    await server.until("select * from stream_chunks where payload like '%%document\"%%'")
    if end == "stopped":
        assert await server.stop("broken-off") == 202
    answer = await turn

    [document] = await server.rows('select id from "Document"')
    result = {
        "id": str(document["id"]),
        "title": "Rome",
        "kind": "text",
        "version": 1,
        "invalid": "It was not written to its end.",
    }
    _, stored = await server.messages(answer.session)
    [part] = [part for part in stored["parts"] if part["type"] == "tool-documentAgent"]
    assert (part["state"], part["output"]) == ("output-available", result)
    assert "errorText" not in part
    assert [event["output"] for event in answer.events if event["type"] == "tool-output-available"] == [result]
    await server.say({"id": "broken-off", "message": "Go on with it"})
    assert str(document["id"]) in str(emulator.requests[-1].body)


async def test_a_call_that_a_stop_left_without_a_result_has_failed(server: ChatServer, emulator: Emulator) -> None:
    emulator.script(
        Reply(tool_calls=[ToolCall("pythonAgent", {"operation": "generate", "instruction": "Count."})]),
        Reply(text=["print(", "1)"], interruptions=[Silence(after_deltas=1)]),
    )
    turn = asyncio.create_task(server.say({"id": "stopped", "message": "Count"}))
    await emulator.until(lambda: len(emulator.requests) == 2, timeout=20)
    assert await server.stop("stopped") == 202
    answer = await turn

    _, stored = await server.messages(answer.session)
    [part] = [part for part in stored["parts"] if part["type"] == "tool-pythonAgent"]
    assert (part["state"], part["errorText"]) == ("output-error", "The turn ended before the tool did.")
    assert "output" not in part
    assert "tool-output-available" not in answer.types


@pytest.mark.parametrize("first", PROVIDERS)
@pytest.mark.parametrize("then", PROVIDERS)
async def test_another_provider_goes_on_after_tool_calls_and_reasoning(
    server: ChatServer, emulator: Emulator, first: str, then: str
) -> None:
    emulator.script(
        Reply(reasoning=["Let me ", "see."], tool_calls=THREE[:2]),
        Reply(text="# one"),
        Reply(text="# one"),
        Reply(reasoning="Once more.", tool_calls=[ToolCall("current_time")]),
        Reply(text="Done."),
    )
    answer = await server.say({"message": "Write", "model": MODELS[first], "thinking": True})
    assert answer.text == "Done."
    emulator.script(Reply(reasoning="Hm.", tool_calls=[ToolCall("current_time")]), Reply(text="Late."))

    again = await server.say(
        {"id": str(answer.session), "message": "What time is it?", "model": MODELS[then], "thinking": True}
    )

    assert (again.text, again.metadata["provider"]) == ("Late.", then)
    assert first == then or "Let me see." not in json.dumps(emulator.requests[-1].body)


async def test_who_follows_sees_the_same_events_of_a_document(server: ChatServer, emulator: Emulator) -> None:
    gate = Gate()
    emulator.script(
        Reply(tool_calls=[create()]),
        Reply(text=["Half a ", "document", " and more"], interruptions=[Hold(gate, after_deltas=2)]),
        Reply(text="Done."),
    )
    turn = asyncio.create_task(server.say({"id": "followed", "message": "Write"}))
    await gate.arrived()
    following = asyncio.create_task(server.follow("followed"))
    await server.until("select 1 from stream_chunks where payload like '%%document%%'")
    gate.release()

    assert (await following).events == (await turn).events
    assert shown_last(await following) == "Half a document and more"


async def test_an_answer_that_is_made_again_leaves_its_documents(server: ChatServer, emulator: Emulator) -> None:
    emulator.script(
        *(Reply(tool_calls=[create("A")]), Reply(text="One."), Reply(text="Done.")),
        *(Reply(tool_calls=[create("B")]), Reply(text="Two."), Reply(text="Done again.")),
    )
    first = await server.say({"id": "made-again", "message": "Write"})

    again = await server.say(
        {"id": "made-again", "trigger": "regenerate-message", "messageId": first.events[0]["messageId"], "messages": []}
    )

    assert again.text == "Done again."
    assert [row["title"] for row in await server.rows('select title from "Document" order by title')] == ["A", "B"]
    assert len(await server.messages(first.session)) == 2
    assert len(await server.rows("select 1 from usage_logs")) == 6
    listed = await server.http.get(f"/api/documents?sessionId={first.session}", headers=server.headers("ada"))
    assert len(listed.json()["items"]) == 2


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_three_agents_at_once_are_counted_once_each(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    writing = Reply(text=["%% ", "one"], usage=Usage(input=100, output=10))
    emulator.script(
        Reply(tool_calls=[create("A"), create("B"), create("C")], usage=Usage(input=10, output=1)),
        *(writing, writing, writing),
        Reply(text="Done.", usage=Usage(input=30, output=3)),
    )

    answer = await server.say({"message": "Write", "model": MODELS[provider]})

    assert answer.text == "Done."
    assert (answer.metadata["usage"]["inputTokens"], answer.metadata["usage"]["outputTokens"]) == (340, 34)
    assert len(await server.rows("select 1 from usage_logs")) == 5


async def test_a_session_that_is_deleted_while_an_agent_writes_ends_quietly(
    server: ChatServer, emulator: Emulator
) -> None:
    gate = Gate()
    emulator.script(
        Reply(tool_calls=[create()]),
        Reply(text=["Half a ", "document"], interruptions=[Hold(gate, after_deltas=1)], usage=Usage(input=9, output=9)),
        Reply(text="Done."),
    )
    turn = asyncio.create_task(server.say({"id": "deleted", "message": "Write"}))
    await gate.arrived()
    await server.rows('delete from "Chat"')
    gate.release()

    answer = await turn

    assert answer.is_done
    usage = await server.rows("select agent_type from usage_logs")
    assert {row["agent_type"] for row in usage} >= {"chat_model_agent", "document_agent"}


@pytest.mark.parametrize("operation", ["create", "update"])
async def test_what_was_written_waits_for_a_database_that_is_away(
    server: ChatServer, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    monkeypatch.setattr("threadkeep.database.WAIT_FOR_CONNECTION_SECONDS", 0.3)
    monkeypatch.setattr("threadkeep.database.CHECK_AFTER_IDLE_SECONDS", 0.0)
    made = await server.http.post(
        "/api/documents", json={"title": "Old", "kind": "text", "content": "Old."}, headers=server.headers("ada")
    )
    gate = Gate()
    emulator.script(
        Reply(tool_calls=[create(operation=operation, documentId=made.json()["id"])]),
        Reply(text=["Writ", "ten."], interruptions=[Hold(gate, after_deltas=1)]),
        Reply(text="Done."),
    )
    turn = asyncio.create_task(server.say("Write"))
    await gate.arrived()
    [database] = await server.rows("select current_database() as name")
    await server.rows(f'alter database "{database["name"]}" connection limit 0')
    await server.rows(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and usename = 'threadkeep_api'"
    )
    gate.release()
    await asyncio.sleep(1.5)
    await server.rows(f'alter database "{database["name"]}" connection limit -1')

    answer = await turn

    assert answer.text == "Done."
    assert "tool-output-error" not in answer.types
    contents = [row["content"] for row in await server.rows('select content from "Document" order by "createdAt"')]
    assert contents == ["Old.", "Written."]


async def test_what_could_not_be_stored_is_not_said_to_be(
    server: ChatServer, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_agents, "STORE_SECONDS", 0.5)
    monkeypatch.setattr("threadkeep.database.WAIT_FOR_CONNECTION_SECONDS", 0.3)
    monkeypatch.setattr("threadkeep.database.CHECK_AFTER_IDLE_SECONDS", 0.0)
    gate = Gate()
    emulator.script(
        Reply(tool_calls=[create()]),
        Reply(text=["Half a ", "document"], finish="length", interruptions=[Hold(gate, after_deltas=1)]),
        Reply(text="It broke off."),
    )
    turn = asyncio.create_task(server.say("Write"))
    await gate.arrived()
    [database] = await server.rows("select current_database() as name")
    await server.rows(f'alter database "{database["name"]}" connection limit 0')
    await server.rows(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and usename = 'threadkeep_api'"
    )
    gate.release()
    # The chat agent is told, and asks its model what to say of it.
    await emulator.until(lambda: len(emulator.requests) == 3)
    await server.rows(f'alter database "{database["name"]}" connection limit -1')

    answer = await turn

    [failed] = [event for event in answer.events if event["type"] == "tool-output-error"]
    assert "was stored" not in failed["errorText"]
    assert "provider:chat" in failed["errorText"]


async def test_after_an_answer_that_broke_off_its_documents_can_be_changed(
    server: ChatServer, emulator: Emulator
) -> None:
    emulator.script(
        Reply(tool_calls=[create("Plan")]),
        Reply(text="Go to Rome."),
        Reply(text="", interruptions=[Fault(status=500)]),
        Reply(text="Yes."),
    )
    broken = await server.say({"id": "broken-off", "message": "Write"})
    [document] = await server.rows('select id from "Document"')

    await server.say({"id": "broken-off", "message": "Make it shorter"})

    assert broken.metadata["finishReason"] == "error"
    assert str(document["id"]) in str(emulator.requests[-1].body)
