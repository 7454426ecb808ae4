"""OpenAI's client sends and reads what the SDK's own does, with less work."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, omit

from threadkeep_agents.openai_client import OpenAIClient

DELTA = {
    "type": "response.output_text.delta",
    "item_id": "msg_1",
    "output_index": 0,
    "content_index": 0,
    "delta": "Hello",
    "logprobs": [],
    "sequence_number": 1,
}
EVENTS: list[dict[str, Any]] = [
    DELTA,
    DELTA | {"obfuscation": "x7"},
    DELTA | {"delta": None, "sequence_number": "no number"},
    DELTA | {"type": "response.something.new"},
    {"type": "response.queued", "sequence_number": 2, "response": {"id": "resp_1", "output": []}},
    {
        "type": "response.output_item.added",
        "output_index": 0,
        "sequence_number": 3,
        "item": {"type": "function_call", "call_id": "call_1", "name": "clock", "arguments": ""},
    },
]
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "clock", "description": "The time.", "parameters": {"type": "object"}, "strict": None},
    {"type": "web_search", "user_location": {"type": "approximate", "city": "Utrecht"}},
]
CONVERSATION = [
    {"role": "user", "content": [{"type": "input_text", "text": "What time is it?"}]},
    {"type": "function_call", "call_id": "call_1", "name": "clock", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "Noon"},
]


async def exchange(kind: type[AsyncOpenAI], **options: Any) -> tuple[dict[str, Any], list[Any]]:
    """The body that a client of this kind sends, and the events that it reads."""
    sent: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.content)
        said = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in EVENTS)
        return httpx2.Response(200, text=said, headers={"content-type": "text/event-stream"})

    async with kind(api_key="key", http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(answer))) as client:
        stream = await client.responses.create(model="gpt", stream=True, **options)
        events = [event async for event in stream]
    return json.loads(sent[0]), events


@pytest.mark.parametrize(
    "options",
    [
        {"input": CONVERSATION, "tools": TOOLS, "max_output_tokens": 100},
        {"input": CONVERSATION, "tools": omit, "extra_body": {"seed": 7}},
        {"input": "Hello"},
    ],
)
async def test_it_sends_and_reads_what_the_sdk_does(options: dict[str, Any]) -> None:
    body, events = await exchange(OpenAIClient, **options)
    expected_body, expected_events = await exchange(AsyncOpenAI, **options)
    assert body == expected_body
    assert [type(event) for event in events] == [type(event) for event in expected_events]
    assert [event.model_dump(warnings=False) for event in events] == [
        event.model_dump(warnings=False) for event in expected_events
    ]


async def test_an_event_is_read_as_what_it_says_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK, which tries each of its kinds, is asked only for what does not read like its type."""
    asked: list[Any] = []
    of_sdk = AsyncOpenAI._process_response_data

    def process(self: Any, *, data: Any, **options: Any) -> Any:
        asked.append(data)
        return of_sdk(self, data=data, **options)

    monkeypatch.setattr(AsyncOpenAI, "_process_response_data", process)
    await exchange(OpenAIClient, input="Hello")
    assert asked == EVENTS[2:5]
