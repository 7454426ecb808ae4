"""The AI SDK's own clients, of each release, against a running server: with its address and a token alone."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic_ai.ui.vercel_ai import response_types as chunks

from tests.chat_server import ChatServer
from tests.clients.front_end import Chat, FrontEnd, Page
from tests.emulator import Citation, Emulator, Fault, Gate, Hold, Reply, Source, ToolCall, WebSearch
from tests.stores import PNG, file_part, uploaded
from threadkeep import ids
from threadkeep.turns import Replay
from threadkeep_agents.conversations import replay
from threadkeep_agents.ui_stream import Parts, event_of, finish_events, start_event

# A front end is started once for all tests, and lives in their one event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

SDK_ID = re.compile(r"[A-Za-z0-9]{16}")
ORIGIN = "http://localhost:5173"


async def stored_texts(server: ChatServer, page: Page) -> list[str]:
    rows = await server.messages(ids.session_id(page.id))
    return ["".join(part.get("text", "") for part in row["parts"] if part["type"] == "text") for row in rows]


async def loaded(server: ChatServer, page: Page) -> list[dict[str, Any]]:
    """The chat's messages as a front end loads them."""
    response = await server.http.get(f"/api/sessions/{page.id}/messages", headers=server.headers("ada"))
    items: list[dict[str, Any]] = response.json()["items"]
    return items


async def held_answer(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> tuple[Gate, Chat, asyncio.Task[Page], Page]:
    """A chat whose first answer, `Hello`, is held after `Hel`, which the page shows already."""
    gate = Gate()
    emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]))
    chat = await front_end.open(server.url, server.token())
    sending = asyncio.create_task(chat.send("Hi"))
    return gate, chat, sending, await chat.until("Hel")


async def test_two_messages_with_the_ids_of_the_sdk_make_one_session_of_four(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    emulator.script(Reply(text=["Hello ", "Ada."]), Reply(text="You are Ada."))
    chat = await front_end.open(server.url, server.token())

    await chat.send("I am Ada")
    page = await chat.send("Who am I?")

    assert (page.status, page.error, page.errors) == ("ready", None, [])
    assert page.texts == ["I am Ada", "Hello Ada.", "Who am I?", "You are Ada."]
    assert SDK_ID.fullmatch(page.id)
    assert all(SDK_ID.fullmatch(message["id"]) for message in page.messages[::2])
    session = ids.session_id(page.id)
    stored = await server.messages(session)
    assert [row["role"] for row in stored] == ["user", "assistant"] * 2
    assert [row["id"] for row in stored[1::2]] == [UUID(message["id"]) for message in page.messages[1::2]]
    assert page.messages[1]["metadata"]["sessionId"] == str(session)
    assert page.messages[1]["metadata"]["usage"]["outputTokens"] > 0
    assert "Hello Ada." in str(emulator.requests[-1].body)


async def test_reasoning_tool_calls_and_results_arrive_as_parts(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    emulator.script(
        Reply(
            reasoning=["Let me ", "look."], tool_calls=[ToolCall("current_time"), ToolCall("no_such_tool", {"a": 1})]
        ),
        Reply(text="It is late."),
    )
    chat = await front_end.open(server.url, server.token())

    page = await chat.send("What time is it?", body={"thinking": True})

    assert page.errors == []
    parts = page.messages[-1]["parts"]
    assert [part["type"] for part in parts] == [
        *("step-start", "reasoning", "tool-current_time", "tool-no_such_tool"),
        *("step-start", "text"),
    ]
    by_type = {part["type"]: part for part in parts}
    assert by_type["reasoning"]["text"] == "Let me look."
    assert by_type["tool-current_time"]["state"] == "output-available"
    assert "UTC" in by_type["tool-current_time"]["output"]
    assert by_type["tool-no_such_tool"]["state"] == "output-error"


async def test_a_page_that_is_loaded_again_shows_the_same_and_goes_on(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    thought = Reply(reasoning="Hm.", tool_calls=[ToolCall("current_time")])
    emulator.script(thought, Reply(text="One"), Reply(text="Two"))
    chat = await front_end.open(server.url, server.token())
    before = await chat.send("First", body={"thinking": True})

    again = await front_end.open(server.url, server.token(), id=before.id, messages=await loaded(server, before))

    shown = await again.look()
    assert shown.messages[1]["id"] == before.messages[1]["id"]
    assert shown.messages[1]["metadata"] == before.messages[1]["metadata"]
    assert [bare(part) for part in shown.messages[1]["parts"]] == [bare(part) for part in before.messages[1]["parts"]]
    page = await again.send("Second")
    assert (page.texts, page.errors) == (["First", "One", "Second", "Two"], [])
    assert await stored_texts(server, page) == page.texts


async def test_a_second_front_end_resumes_a_running_answer_from_its_start(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    gate, _, sending, running = await held_answer(server, emulator, front_end)
    second = await front_end.open(server.url, server.token(), id=running.id, messages=await loaded(server, running))

    resuming = asyncio.create_task(second.resume())
    await second.until("Hel")
    gate.release()
    page = await resuming

    assert (page.texts, page.errors) == (["Hi", "Hello"], [])
    live = (await sending).messages[-1]
    # The first release keeps what the loaded message had besides.
    assert page.messages[-1] | live == page.messages[-1]
    nothing_runs = await second.resume()
    assert (nothing_runs.texts, nothing_runs.errors) == (["Hi", "Hello"], [])
    # The first release takes the lack of an answer for one that is still to come.
    assert nothing_runs.status == ("submitted" if front_end.release == "5.0" else "ready")


# Version 5 adds what is replayed to what it has.
@pytest.mark.parametrize("front_end", ["6", "7"], indirect=True)
async def test_a_page_whose_connection_broke_resumes_without_saying_things_twice(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    gate = Gate()
    emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]))
    chat = await front_end.open(server.url, server.token(), network={"kind": "breakable"})
    sending = asyncio.create_task(chat.send("Hi"))
    await chat.until("Hel")
    await chat.break_off()
    broken = await sending
    assert (broken.texts, broken.status) == (["Hi", "Hel"], "error")

    resuming = asyncio.create_task(chat.resume())
    await chat.until("Hel", status="streaming")
    gate.release()
    page = await resuming

    assert (page.texts, page.status) == (["Hi", "Hello"], "ready")


async def test_the_last_answer_and_an_earlier_one_are_made_again(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    emulator.script(*(Reply(text=text) for text in ("One", "Two", "Two again", "One again")))
    chat = await front_end.open(server.url, server.token())
    first = await chat.send("First")
    await chat.send("Second")

    last_again = await chat.regenerate()

    assert last_again.texts == ["First", "One", "Second", "Two again"]
    assert await stored_texts(server, last_again) == last_again.texts
    first_again = await chat.regenerate(first.messages[1]["id"])
    assert first_again.texts == ["First", "One again"]
    assert await stored_texts(server, first_again) == first_again.texts
    assert first_again.errors == []


async def test_an_edited_message_replaces_what_came_after(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    emulator.script(*(Reply(text=text) for text in ("One", "Two", "New", "Newer")))
    chat = await front_end.open(server.url, server.token())
    first = await chat.send("First")
    await chat.send("Second")
    edited_id = first.messages[0]["id"]

    page = await chat.send("First, better", messageId=edited_id)

    assert page.texts == ["First, better", "New"]
    assert page.messages[0]["id"] == edited_id
    assert await stored_texts(server, page) == page.texts
    assert "Second" not in str(emulator.requests[-1].body)
    items = await loaded(server, page)
    again = await front_end.open(server.url, server.token(), id=page.id, messages=items)
    page = await again.send("First, best", messageId=items[0]["id"])
    assert (page.texts, page.errors) == (["First, best", "Newer"], [])
    assert await stored_texts(server, page) == page.texts


async def test_the_stop_of_the_sdk_leaves_and_the_answer_is_stored_whole(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    gate, chat, sending, _ = await held_answer(server, emulator, front_end)

    await chat.stop()
    left = await sending
    gate.release()

    assert (left.texts, left.status, left.errors) == (["Hi", "Hel"], "ready", [])
    session = ids.session_id(left.id)
    await server.until(
        """select 1 from "Message_v2" where "chatId" = %(session)s and role = 'assistant' and status = 'complete'""",
        session=session,
    )
    assert await stored_texts(server, left) == ["Hi", "Hello"]


async def test_stopping_for_good_keeps_the_partial_text_and_the_next_message_is_taken(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    _, chat, sending, running = await held_answer(server, emulator, front_end)
    session = ids.session_id(running.id)

    assert await server.stop(running.id) == 202
    stopped = await sending

    assert (stopped.texts, stopped.status, stopped.errors) == (["Hi", "Hel"], "ready", [])
    assert stopped.messages[-1]["metadata"]["finishReason"] == "stopped"
    assert [row["status"] for row in await server.messages(session)] == ["complete", "interrupted"]
    assert await stored_texts(server, stopped) == stopped.texts
    emulator.script(Reply(text="On we go."))
    page = await chat.send("Go on")
    assert (page.texts, page.errors) == (["Hi", "Hel", "Go on", "On we go."], [])


async def test_a_refusal_is_an_error_that_says_what_to_do(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    _, _, sending, running = await held_answer(server, emulator, front_end)
    second = await front_end.open(server.url, server.token(), id=running.id)
    busy = await second.send("Me too")
    await server.stop(running.id)
    await sending
    stranger = await front_end.open(server.url, "not.a.token")
    unknown = await stranger.send("Hi")
    await server.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{rateLimit,perMinute}', '0') "
        "where config_key like 'chat_model_agent%%'"
    )
    limited = await second.send("And now?")

    refusals = [page.problem for page in (busy, unknown, limited)]
    assert [(refusal["status"], refusal["code"]) for refusal in refusals] == [
        (409, "conflict:chat"),
        (401, "unauthorized:auth"),
        (429, "rate_limit:chat"),
    ]
    assert all(refusal["detail"].endswith(".") for refusal in refusals)
    assert {page.status for page in (busy, unknown, limited)} == {"error"}
    assert len(limited.errors) == 2


async def test_an_error_within_the_stream_is_told_and_the_answer_can_be_made_again(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    emulator.script(
        Reply(text=["Half ", "of it"], interruptions=[Fault(status=500, message="secret", after_deltas=1)]),
        Reply(text="All of it"),
    )
    chat = await front_end.open(server.url, server.token())

    failed = await chat.send("Tell me")

    assert failed.status == "error"
    assert failed.errors == ["The model's provider did not answer. Try again."]
    assert failed.texts == ["Tell me", "Half "]
    page = await chat.regenerate()
    assert (page.status, page.texts) == ("ready", ["Tell me", "All of it"])
    assert await stored_texts(server, page) == page.texts


async def test_a_message_that_was_refused_can_be_sent_again(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    limit = (
        "update admin_config set config_data = jsonb_set(config_data, '{rateLimit,perMinute}', %(limit)s::jsonb) "
        "where config_key like 'chat_model_agent%%'"
    )
    await server.rows(limit, limit="0")
    chat = await front_end.open(server.url, server.token())
    refused = await chat.send("Hi")
    assert refused.problem["code"] == "rate_limit:chat"
    await server.rows(limit, limit="5")

    page = await chat.regenerate()

    assert (page.status, page.texts) == ("ready", ["Hi", "You said: Hi"])
    assert await stored_texts(server, page) == page.texts


async def test_a_guest_goes_on_with_the_token_of_the_first_answer(server: ChatServer, front_end: FrontEnd) -> None:
    chat = await front_end.open(server.url, network={"kind": "guest"})

    first = await chat.send("Hello")
    page = await chat.send("Still me")

    assert first.token
    assert page.token == first.token
    assert page.errors == []
    [guest] = await server.rows("select * from user_profiles")
    assert guest["is_guest"]
    assert len(await server.messages(ids.session_id(page.id))) == 4


async def test_a_file_goes_with_the_message(server: ChatServer, emulator: Emulator, front_end: FrontEnd) -> None:
    chat = await front_end.open(server.url, server.token())
    file = {"type": "file", "mediaType": "text/plain", "filename": "note.txt", "url": "data:text/plain,Buy%20milk"}

    await chat.send("Read this", files=[file])
    page = await chat.regenerate()

    assert page.errors == []
    assert [part["type"] for part in page.messages[0]["parts"]] == ["file", "text"]
    assert all("Buy milk" in str(request.body) for request in emulator.requests)
    assert len(emulator.requests) == 2


async def test_an_uploaded_file_goes_with_the_message_and_with_what_is_sent_again(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    chat = await front_end.open(server.url, server.token())
    file = await uploaded(server)

    await chat.send("Look at this", files=[file_part(file)])
    page = await chat.regenerate()

    assert page.errors == []
    assert page.messages[0]["parts"][0]["url"] == file["url"]
    assert [[sent.data for sent in request.attachments] for request in emulator.requests] == [[PNG], [PNG]]


async def test_a_document_shows_while_it_is_written_and_leaves_its_tool_beside_sources_and_a_failed_one(
    server: ChatServer, emulator: Emulator, front_end: FrontEnd
) -> None:
    create = {"operation": "create", "instruction": "Text: Rome\nWrite it."}
    page_about_it = "https://example.com/rome"
    emulator.script(
        Reply(tool_calls=[ToolCall("documentAgent", create), ToolCall("documentAgent", create | {"operation": "fix"})]),
        Reply(text=["# Rome\n", "Go ", "there."]),
        Reply(tool_calls=[ToolCall("providerToolsAgent", {"input": "Rome?"})]),
        Reply(
            native=[WebSearch("Rome", [Source(page_about_it, "Rome")])],
            text="Old.",
            citations=[Citation(page_about_it, "Rome")],
        ),
        Reply(text="Written."),
    )
    chat = await front_end.open(server.url, server.token())

    page = await chat.send("Write about Rome")

    assert (page.status, page.errors) == ("ready", [])
    kinds = [part["type"] for part in page.data]
    assert kinds[:4] == ["data-kind", "data-id", "data-title", "data-clear"]
    assert set(kinds[4:-1]) == {"data-textDelta"}
    assert kinds[-1] == "data-finish"
    assert "".join(part["data"] for part in page.data[4:-1]) == "# Rome\nGo there."
    parts = page.messages[-1]["parts"]
    assert not [part for part in parts if part["type"].startswith("data-")]
    written, failed = [part for part in parts if part["type"] == "tool-documentAgent"]
    assert (written["state"], written["output"]["title"]) == ("output-available", "Rome")
    assert written["output"]["id"] == page.data[1]["data"]
    assert failed["state"] == "output-error"
    assert failed["errorText"]
    [source] = [part for part in parts if part["type"] == "source-url"]
    assert (source["url"], source["title"]) == (page_about_it, "Rome")
    [_, answer] = await loaded(server, page)
    assert [bare(part) for part in answer["parts"]] == [bare(part) for part in parts]


def every_kind_of_event() -> list[dict[str, Any]]:
    call: dict[str, Any] = {"tool_call_id": "1", "tool_name": "search"}
    search: dict[str, Any] = {"tool_call_id": "2", "tool_name": "web_search"}
    metadata = {"provider": {"signature": "s"}}
    said = [
        start_event(str(uuid4()), {"sessionId": str(uuid4()), "model": "m"}),
        chunks.StartStepChunk(),
        chunks.ReasoningStartChunk(id="a"),
        chunks.ReasoningDeltaChunk(id="a", delta="Hm.", provider_metadata=metadata),
        chunks.ReasoningEndChunk(id="a", provider_metadata=metadata),
        chunks.ToolInputStartChunk(**call, provider_metadata=metadata),
        chunks.ToolInputDeltaChunk(tool_call_id="1", input_text_delta='{"q": null}'),
        chunks.ToolInputAvailableChunk(**call, input={"q": None}, provider_metadata=metadata),
        chunks.ToolOutputAvailableChunk(tool_call_id="1", output=None),
        chunks.ToolInputStartChunk(**search, provider_executed=True),
        chunks.ToolInputAvailableChunk(**search, input={}, provider_executed=True),
        chunks.ToolOutputErrorChunk(tool_call_id="2", error_text="No network.", provider_executed=True),
        chunks.SourceUrlChunk(source_id="s", url="https://example.com"),
        chunks.SourceDocumentChunk(source_id="d", media_type="text/plain", title="Notes"),
        chunks.FileChunk(url="data:image/png;base64,iVBORw0KGgo=", media_type="image/png"),
        chunks.FinishStepChunk(),
        chunks.StartStepChunk(),
        chunks.DataChunk(type="data-clear", data=None, transient=True),
        chunks.DataChunk(type="data-textDelta", data="Once ", transient=True),
        chunks.DataChunk(type="data-suggestion", id="1", data={"to": None}),
        chunks.TextStartChunk(id="b"),
        chunks.TextDeltaChunk(id="b", delta="Done."),
        chunks.TextEndChunk(id="b", provider_metadata=metadata),
        chunks.FinishStepChunk(),
    ]
    events = [event for chunk in said if (event := event_of(chunk)) is not None]
    return [*events, *finish_events({"finishReason": "stopped"}, error_text=None, is_aborted=True)]


async def test_every_kind_of_chunk_passes_and_makes_the_parts_that_the_server_stores(front_end: FrontEnd) -> None:
    events = every_kind_of_event()
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    chat = await front_end.open("", network={"kind": "saying", "events": f"{lines}data: [DONE]\n\n"})

    page = await chat.send("Everything, please")

    assert page.errors == []
    stored = Parts()
    for event in events:
        stored.add(event)
    assert [bare(part) for part in page.messages[-1]["parts"]] == [bare(part) for part in stored.finished()]
    assert [part["type"] for part in page.data] == ["data-clear", "data-textDelta", "data-suggestion"]


def bare(part: dict[str, Any]) -> dict[str, Any]:
    """A part without what some releases of the SDK add: nulls, and the ids of what is streamed."""
    is_streamed = part["type"] in {"text", "reasoning"}
    return {name: value for name, value in part.items() if value is not None and not (is_streamed and name == "id")}


async def test_an_answer_that_is_replayed_looks_as_it_did_live(front_end: FrontEnd) -> None:
    live = Parts()
    for event in every_kind_of_event():
        live.add(event)
    answer = Replay(uuid4(), "complete", live.finished(), {"sessionId": str(uuid4()), "finishReason": "stop"})
    chat = await front_end.open("", network={"kind": "saying", "events": replay(answer).decode()})

    page = await chat.send("Once more")

    assert page.errors == []
    assert page.messages[-1]["id"] == str(answer.answer)
    assert page.messages[-1]["metadata"] == answer.metadata
    assert [bare(part) for part in page.messages[-1]["parts"]] == [bare(part) for part in answer.parts]


async def test_a_page_of_another_origin_may_call_and_read_the_headers_it_needs(server: ChatServer) -> None:
    preflight = await server.http.options(
        "/api/chat",
        headers={
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        },
    )
    answer = await server.say("Hello", user=None, headers={"origin": ORIGIN})

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    allowed = preflight.headers["access-control-allow-headers"].lower()
    assert {"authorization", "content-type"} <= {name.strip() for name in allowed.split(",")}
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    exposed = answer.headers["access-control-expose-headers"].lower()
    assert {"x-session-id", "x-guest-token", "x-correlation-id"} <= {name.strip() for name in exposed.split(",")}
    stranger = await server.http.options(
        "/api/chat", headers={"origin": "https://evil.example", "access-control-request-method": "POST"}
    )
    assert "access-control-allow-origin" not in stranger.headers
