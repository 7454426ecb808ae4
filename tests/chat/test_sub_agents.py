"""Work that the chat agent hands to the agents that write: what streams, what is stored, and what is on record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from functions.account import app as account
from functions.documents import app as documents
from tests.chat_server import MODELS, Answer, ChatServer, running, settings_for
from tests.emulator import Emulator, Gate, Hold, Reply, ToolCall, Usage

PROVIDERS = ("google", "openai", "anthropic")


@pytest.fixture
async def server(database_url: str, api_database_url: str, emulator: Emulator) -> AsyncIterator[ChatServer]:
    """Chat beside documents and accounts, with room for many calls; titles are off, as they would be requests too."""
    settings = settings_for(api_database_url, emulator)
    async with running(settings, database_url, documents.router, account.router) as chat_server:
        await chat_server.rows(
            'update admin_config set config_data = config_data || \'{"titles": {"enabled": false}}\' '
            "where config_key = 'app_settings'"
        )
        await chat_server.rows(
            "update admin_config set config_data = jsonb_set(config_data, '{rateLimit,perMinute}', '100') "
            "where config_data ? 'rateLimit'"
        )
        yield chat_server


def shown(answer: Answer, kind: str) -> list[Any]:
    return [event["data"] for event in answer.events if event["type"] == f"data-{kind}"]


def result_of(answer: Answer) -> dict[str, Any]:
    [output] = [event["output"] for event in answer.events if event["type"] == "tool-output-available"]
    assert isinstance(output, dict)
    return output


def call(tool: str, operation: str, instruction: str, **arguments: Any) -> ToolCall:
    return ToolCall(tool, {"operation": operation, "instruction": instruction, **arguments})


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_document_streams_while_it_is_written_and_is_a_version(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    emulator.script(
        Reply(tool_calls=[call("documentAgent", "create", "Text: Plans\nWrite it.")], usage=Usage(input=10, output=5)),
        Reply(text=["# Rome\n", "Go ", "there."], usage=Usage(input=100, output=7)),
        Reply(text="It is written.", usage=Usage(input=30, output=4)),
    )

    answer = await server.say({"message": "Write a plan", "model": MODELS[provider]})

    assert answer.text == "It is written."
    [document] = await server.rows('select * from "Document"')
    assert (document["title"], document["kind"], document["content"]) == ("Plans", "text", "# Rome\nGo there.")
    assert result_of(answer) == {"id": str(document["id"]), "title": "Plans", "kind": "text", "version": 1}
    assert shown(answer, "kind") == ["text"]
    assert shown(answer, "id") == [str(document["id"])]
    assert shown(answer, "title") == ["Plans"]
    assert "".join(shown(answer, "textDelta")) == "# Rome\nGo there."
    data = [event for event in answer.events if event["type"].startswith("data-")]
    assert data[-1]["type"] == "data-finish"
    assert all(event["transient"] for event in data)
    _, stored = await server.messages(answer.session)
    assert not [part for part in stored["parts"] if part["type"].startswith("data-")]
    assert document["metadata"] == {
        "origin": "agent",
        "agent": "document_agent",
        "operation": "create",
        "sessionId": str(answer.session),
        "messageId": str(stored["id"]),
    }
    usage = await server.rows("select agent_type, input_tokens, output_tokens from usage_logs order by input_tokens")
    assert [tuple(row.values()) for row in usage] == [
        ("chat_model_agent", 10, 5),
        ("chat_model_agent", 30, 4),
        ("document_agent", 100, 7),
    ]
    assert (stored["input_tokens"], stored["output_tokens"]) == (140, 16)
    activity = await server.rows("select * from agent_activity_logs order by agent_type")
    assert [row["agent_type"] for row in activity] == ["chat_model_agent", "document_agent"]
    assert (activity[1]["operation_type"], activity[1]["input_tokens"], activity[1]["success"]) == ("create", 100, True)
    assert (activity[1]["resource_type"], activity[1]["resource_id"]) == ("document", document["id"])
    assert len({row["correlation_id"] for row in activity}) == 1
    [limit] = await server.rows(
        "select * from rate_limit_tracking where agent_type = 'document_agent' and limit_type = 'daily'"
    )
    assert limit["request_count"] == 1


async def the_document(
    server: ChatServer, *, kind: str = "text", content: str = "One.\nTwo.\n", title: str = "Notes", user: str = "ada"
) -> str:
    """A document that a person made."""
    response = await server.http.post(
        "/api/documents", json={"title": title, "kind": kind, "content": content}, headers=server.headers(user)
    )
    assert response.status_code == 201
    document_id: str = response.json()["id"]
    return document_id


async def contents(server: ChatServer) -> list[str]:
    rows = await server.rows('select content from "Document" order by version_number')
    return [row["content"] for row in rows]


WRITERS = {
    "text": ("documentAgent", "documentId", "text", "One.\n", "One.\nTwo."),
    "sheet": ("documentAgent", "documentId", "sheet", "a,b\n1,2\n", "a,b\n1,2\n3,4"),
    "python": ("pythonAgent", "codeId", "python code", "print(1)\n", "print(1)\nprint(2)"),
    "mermaid": ("mermaidAgent", "diagramId", "mermaid code", "graph TD\n  A-->B\n", "graph TD\n  A-->B\n  B-->C"),
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("writer", WRITERS)
async def test_an_update_reads_the_newest_version_and_makes_the_next_one(
    server: ChatServer, emulator: Emulator, provider: str, writer: str
) -> None:
    tool, parameter, kind, before, after = WRITERS[writer]
    document = await the_document(server, kind=kind, content=before)
    emulator.script(
        Reply(tool_calls=[call(tool, "update", "Add one more.", **{parameter: document})]),
        Reply(text=after),
        Reply(text="Done."),
    )

    answer = await server.say({"message": "Add one more", "model": MODELS[provider]})

    assert result_of(answer) == {"id": document, "title": "Notes", "kind": kind, "version": 2}
    assert await contents(server) == [before, after]
    asked = emulator.requests[-2]
    assert before.strip() in asked.last_user_text
    assert "Add one more." in asked.last_user_text
    delta = {"text": "textDelta", "sheet": "sheetDelta"}.get(kind, "codeDelta")
    assert "".join(shown(answer, delta)) == after


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("writer", WRITERS)
async def test_a_revert_makes_a_new_version_without_asking_a_model(
    server: ChatServer, emulator: Emulator, provider: str, writer: str
) -> None:
    tool, parameter, kind, before, after = WRITERS[writer]
    document = await the_document(server, kind=kind, content=before)
    await server.http.put(f"/api/documents/{document}", json={"content": after}, headers=server.headers("ada"))
    emulator.script(
        Reply(tool_calls=[call(tool, "revert", "Back.", targetVersion=1, **{parameter: document})]),
        Reply(text="Done."),
    )

    answer = await server.say({"message": "Undo that", "model": MODELS[provider]})

    assert result_of(answer)["version"] == 3
    assert result_of(answer)["revertedTo"] == 1
    assert await contents(server) == [before, after, before]
    assert len(emulator.requests) == 2
    [newest] = await server.rows('select metadata from "Document" where version_number = 3')
    assert (newest["metadata"]["origin"], newest["metadata"]["version"]) == ("revert", 1)
    assert newest["metadata"]["agent"].endswith("_agent")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("tool", "kind", "name", "code"),
    [
        ("pythonAgent", "python code", "Python", "print(1)"),
        ("mermaidAgent", "mermaid code", "Diagram", "graph TD\n  A-->B"),
    ],
)
async def test_code_is_stored_by_create_and_only_answered_by_generate(
    server: ChatServer, emulator: Emulator, provider: str, tool: str, kind: str, name: str, code: str
) -> None:
    emulator.script(
        Reply(tool_calls=[call(tool, "generate", "Show me.")]),
        Reply(text=f"```\n{code}\n```"),
        Reply(text="There."),
        Reply(tool_calls=[call(tool, "create", f"{name}: Small\nStore it.")]),
        Reply(text=f"```\n{code}\n```\n"),
        Reply(text="There."),
    )

    generated = await server.say({"message": "Show me", "model": MODELS[provider]})
    assert result_of(generated) == {"kind": kind, "code": code}
    assert await contents(server) == []
    assert not [event for event in generated.events if event["type"].startswith("data-")]

    created = await server.say({"message": "Store it", "model": MODELS[provider]})
    assert result_of(created)["title"] == "Small"
    assert await contents(server) == [code]
    assert "".join(shown(created, "codeDelta")) == code


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_python_is_explained_from_what_is_stored(server: ChatServer, emulator: Emulator, provider: str) -> None:
    program = await the_document(server, kind="python code", content="print(41 + 1)\n")
    emulator.script(
        Reply(tool_calls=[call("pythonAgent", "explain", "What does it do?", codeId=program)]),
        Reply(text="It prints 42."),
        Reply(text="It prints 42, I am told."),
    )

    answer = await server.say({"message": "Explain", "model": MODELS[provider]})

    assert result_of(answer)["explanation"] == "It prints 42."
    assert "print(41 + 1)" in emulator.requests[-2].last_user_text
    assert len(await contents(server)) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("tool", "parameter", "kind", "broken", "mended", "complaint"),
    [
        ("pythonAgent", "codeId", "python code", "print(1", "print(1)", "'(' was never closed"),
        ("mermaidAgent", "diagramId", "mermaid code", "graph TD\n  A--", "graph TD\n  A-->B", "A--"),
    ],
)
async def test_a_fix_is_told_what_the_parser_says(
    server: ChatServer,
    emulator: Emulator,
    provider: str,
    tool: str,
    parameter: str,
    kind: str,
    broken: str,
    mended: str,
    complaint: str,
) -> None:
    code = await the_document(server, kind=kind, content=broken)
    emulator.script(
        Reply(tool_calls=[call(tool, "fix", "It fails.", **{parameter: code})]),
        Reply(text=mended),
        Reply(text="Mended."),
    )

    answer = await server.say({"message": "Mend it", "model": MODELS[provider]})

    assert complaint in emulator.requests[-2].last_user_text
    assert "invalid" not in result_of(answer)
    assert await contents(server) == [broken, mended]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_what_does_not_parse_goes_back_to_the_agent_once(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    emulator.script(
        Reply(tool_calls=[call("pythonAgent", "create", "Python: Sum\nAdd.")]),
        Reply(text="def f(:"),
        Reply(text="def f(): ..."),
        Reply(text="Done."),
    )

    answer = await server.say({"message": "A script", "model": MODELS[provider]})

    assert "invalid syntax" in emulator.requests[-2].last_user_text
    assert "def f(:" in str(emulator.requests[-2].body)
    assert await contents(server) == ["def f(): ..."]
    assert "invalid" not in result_of(answer)
    assert len(shown(answer, "clear")) == 2
    assert len(await server.rows("select * from usage_logs where agent_type = 'python_agent'")) == 2


@pytest.mark.parametrize(
    ("tool", "first_line", "text"),
    [
        ("pythonAgent", "Python: A", "def f(:"),
        ("mermaidAgent", "Diagram: A", "graph TD\n  A--"),
        ("documentAgent", "Sheet: A", 'a,b\n1,"2\n'),
    ],
)
async def test_what_still_does_not_parse_is_stored_and_says_so(
    server: ChatServer, emulator: Emulator, tool: str, first_line: str, text: str
) -> None:
    emulator.script(
        Reply(tool_calls=[call(tool, "create", f"{first_line}\nGo.")]),
        Reply(text=text),
        Reply(text=text),
        Reply(text="It is not valid."),
    )

    answer = await server.say("Write it")

    [document] = await server.rows('select content, metadata from "Document"')
    assert document["content"].strip() == text.strip()
    assert document["metadata"]["invalid"] == result_of(answer)["invalid"]
    listed = await server.http.get("/api/documents", headers=server.headers("ada"))
    assert listed.json()["items"][0]["metadata"]["invalid"] == result_of(answer)["invalid"]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_suggestions_are_stored_and_streamed(server: ChatServer, emulator: Emulator, provider: str) -> None:
    document = await the_document(server, content="A good plan. A bad plan.")
    good = {"originalText": "A good plan.", "suggestedText": "A great plan.", "description": "Stronger."}
    misplaced = {"originalText": "plan", "suggestedText": "idea", "description": "Twice there."}
    again = {"originalText": "A bad plan.", "suggestedText": "A poor plan.", "description": "Milder."}
    emulator.script(
        Reply(tool_calls=[call("documentAgent", "suggestion", "Improve it.", documentId=document)]),
        Reply(tool_calls=[ToolCall("final_result", {"response": [good, misplaced]})]),
        Reply(tool_calls=[ToolCall("final_result", {"response": [again]})]),
        Reply(text="Two ideas."),
    )

    answer = await server.say({"message": "Improve it", "model": MODELS[provider]})

    events = shown(answer, "suggestion")
    assert [event["originalText"] for event in events] == ["A good plan.", "A bad plan."]
    assert {event["documentId"] for event in events} == {document}
    rows = await server.rows('select * from "Suggestion" order by "createdAt"')
    assert [row["suggestedText"] for row in rows] == ["A great plan.", "A poor plan."]
    assert {row["made_by"] for row in rows} == {"document_agent"}
    assert [str(row["id"]) for row in rows] == [event["id"] for event in events]
    assert len(result_of(answer)["suggestions"]) == 2
    assert "plan" in emulator.requests[-2].last_user_text
    assert await contents(server) == ["A good plan. A bad plan."]
    accepted = await server.http.post(
        f"/api/documents/{document}/suggestions/{events[0]['id']}/accept", headers=server.headers("ada")
    )
    assert accepted.status_code == 200


async def test_a_disabled_operation_tool_or_agent_is_gone_in_the_very_next_turn(
    server: ChatServer, emulator: Emulator
) -> None:
    async def offered() -> dict[str, Any]:
        await server.say({"message": "Hello", "model": MODELS["openai"]})
        return {tool["name"]: tool for tool in emulator.requests[-1].body["tools"] if tool["type"] == "function"}

    async def change(key: str, path: str, value: str) -> None:
        await server.rows(
            "update admin_config set config_data = jsonb_set(config_data, %(path)s::text[], %(value)s::jsonb) "
            "where config_key = %(key)s",
            key=key,
            path=path,
            value=value,
        )

    before = await offered()
    assert {"documentAgent", "pythonAgent", "mermaidAgent"} <= set(before)
    assert before["pythonAgent"]["parameters"]["properties"]["operation"]["enum"] == [
        "generate",
        "create",
        "update",
        "fix",
        "explain",
        "revert",
    ]

    await change("python_agent_openai", "{tools,explain,enabled}", "false")
    assert "explain" not in (await offered())["pythonAgent"]["parameters"]["properties"]["operation"]["enum"]
    await change("python_agent_openai", "{enabled}", "false")
    assert "pythonAgent" not in await offered()
    await change("chat_model_agent_openai", "{tools,mermaidAgent,enabled}", "false")
    assert "mermaidAgent" not in await offered()


async def test_a_limit_that_is_used_up_is_a_failed_call_and_the_turn_goes_on(
    server: ChatServer, emulator: Emulator
) -> None:
    await server.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{rateLimit,perMinute}', '1') "
        "where config_key = 'document_agent_google'"
    )
    create = call("documentAgent", "create", "Text: A\nWrite.")
    emulator.script(
        Reply(tool_calls=[create, create]),
        Reply(text="Written."),
        Reply(text="One of two."),
    )

    answer = await server.say("Write two")

    assert answer.text == "One of two."
    [refused] = [event for event in answer.events if event["type"] == "tool-output-error"]
    assert "rate_limit:chat" in refused["errorText"]
    assert len(await contents(server)) == 1
    outcomes = await server.rows(
        "select success, error_type from agent_activity_logs where agent_type = 'document_agent' order by success"
    )
    assert [(row["success"], row["error_type"]) for row in outcomes] == [(False, "rate_limit:chat"), (True, None)]


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("update", {}),
        ("update", {"documentId": "00000000-0000-4000-8000-000000000000"}),
        ("update", {"documentId": "no such id at all!"}),
        ("paint", {}),
        ("revert", {"documentId": "own"}),
        ("revert", {"documentId": "own", "targetVersion": 7}),
        ("update", {"documentId": "of another user"}),
        ("update", {"documentId": "own program"}),
    ],
)
async def test_a_call_that_makes_no_sense_is_a_failed_call_and_counts_as_little_as_it_can(
    server: ChatServer, emulator: Emulator, operation: str, arguments: dict[str, Any]
) -> None:
    known = {
        "own": await the_document(server),
        "of another user": await the_document(server, user="eve", content="SECRET"),
        "own program": await the_document(server, kind="python code", content="print(1)"),
    }
    arguments = {name: known.get(value, value) for name, value in arguments.items()}
    emulator.script(
        Reply(tool_calls=[call("documentAgent", operation, "Go.", **arguments)]),
        Reply(text="That did not work."),
    )

    answer = await server.say("Do it")

    assert answer.text == "That did not work."
    assert "tool-output-error" in answer.types
    assert "SECRET" not in str(emulator.requests[-1].body)
    assert len(emulator.requests) == 2
    assert len(await server.rows('select * from "Document"')) == 3


async def test_a_provider_that_breaks_off_leaves_what_there_is_of_a_new_document_and_no_broken_version(
    server: ChatServer, emulator: Emulator
) -> None:
    document = await the_document(server, content="Whole.")
    emulator.script(
        Reply(
            tool_calls=[
                call("documentAgent", "create", "Text: New\nWrite."),
                call("documentAgent", "update", "Change.", documentId=document),
            ]
        ),
        Reply(text=["Half a ", "document"], finish="length"),
        Reply(text=["Half a ", "document"], finish="length"),
        Reply(text="It broke off."),
    )

    answer = await server.say("Write")

    assert answer.text == "It broke off."
    assert answer.types.count("tool-output-error") == 2
    rows = await server.rows('select title, content, metadata from "Document" order by title')
    assert [(row["title"], row["content"]) for row in rows] == [("New", "Half a document"), ("Notes", "Whole.")]
    assert "invalid" in rows[0]["metadata"]


async def test_a_stopped_turn_keeps_what_was_written_of_a_new_document(server: ChatServer, emulator: Emulator) -> None:
    gate = Gate()
    emulator.script(
        Reply(tool_calls=[call("documentAgent", "create", "Text: New\nWrite.")]),
        Reply(text=["Half a ", "document", " and more"], interruptions=[Hold(gate, after_deltas=2)]),
    )
    turn = asyncio.create_task(server.say({"id": "stopped-session", "message": "Write"}))
    await gate.arrived()
    await server.until("select * from stream_chunks where payload like '%%document%%'")

    assert await server.stop("stopped-session") == 202
    gate.release()
    answer = await turn

    assert answer.types[-1] == "finish"
    [document] = await server.until('select content, metadata from "Document"')
    assert document["content"] == "Half a document"
    assert "invalid" in document["metadata"]
    rows = await server.rows("select source from usage_logs where agent_type = 'document_agent'")
    assert [row["source"] for row in rows] == ["estimated"]


async def test_a_person_who_saves_while_an_agent_writes_loses_nothing(server: ChatServer, emulator: Emulator) -> None:
    document = await the_document(server, content="One.")
    gate = Gate()
    emulator.script(
        Reply(tool_calls=[call("documentAgent", "update", "Add two.", documentId=document)]),
        Reply(text=["One. ", "Two."], interruptions=[Hold(gate, after_deltas=1)]),
        Reply(text="Done."),
    )
    turn = asyncio.create_task(server.say("Add two"))
    await gate.arrived()
    saved = await server.http.put(
        f"/api/documents/{document}", json={"content": "One, mine."}, headers=server.headers("ada")
    )
    assert saved.status_code == 200
    gate.release()

    answer = await turn

    assert await contents(server) == ["One.", "One, mine.", "One. Two."]
    assert (result_of(answer)["version"], result_of(answer)["savedMeanwhile"]) == (3, [2])


async def test_a_guest_who_signs_in_while_an_agent_writes_finds_the_document_in_the_account(
    server: ChatServer, emulator: Emulator
) -> None:
    gate = Gate()
    emulator.script(
        Reply(text="Hello."),
        Reply(tool_calls=[call("documentAgent", "create", "Text: Mine\nWrite.")]),
        Reply(text=["All ", "mine."], interruptions=[Hold(gate, after_deltas=1)]),
        Reply(text="Done."),
    )
    guest = (await server.say("Hello", user=None)).headers["x-guest-token"]
    turn = asyncio.create_task(server.say("Write", user=None, headers={"authorization": f"Bearer {guest}"}))
    await gate.arrived()
    claimed = await server.http.post("/api/me/claim", json={"guestToken": guest}, headers=server.headers("ada"))
    assert claimed.status_code == 200
    gate.release()

    answer = await turn

    assert result_of(answer)["version"] == 1
    mine = await server.http.get("/api/documents", headers=server.headers("ada"))
    assert [item["title"] for item in mine.json()["items"]] == ["Mine"]


async def test_agents_that_write_at_the_same_time_do_not_mix(server: ChatServer, emulator: Emulator) -> None:
    emulator.script(
        Reply(
            tool_calls=[
                call("documentAgent", "create", "Text: A\nWrite."),
                call("pythonAgent", "create", "Python: B\nWrite."),
            ]
        ),
        Reply(text=["# same ", "for ", "both"], delay_between=0.01),
        Reply(text=["# same ", "for ", "both"], delay_between=0.01),
        Reply(text="Done."),
    )

    answer = await server.say("Write both")

    rows = await server.rows('select id, content from "Document"')
    assert [row["content"] for row in rows] == ["# same for both"] * 2
    for row in rows:
        mine = [event for event in answer.events if event.get("id") == str(row["id"])]
        assert "".join(event["data"] for event in mine if event["type"].endswith("Delta")) == "# same for both"


async def test_what_is_off_is_not_promised_for_later(server: ChatServer, emulator: Emulator) -> None:
    await server.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{rateLimit,perMinute}', '0') "
        "where config_key in ('python_agent_google', 'mermaid_agent_google', 'git_mcp_agent_google')"
    )
    await server.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{tools,mermaidAgent,enabled}', 'false') "
        "where config_key = 'chat_model_agent_google'"
    )

    await server.say("Hello")

    asked = emulator.requests[-1]
    assert "pythonAgent (again in " in str(asked.system)
    assert "mermaidAgent (again in " not in str(asked.system)
    assert "gitMcpAgent (again in " not in str(asked.system)
