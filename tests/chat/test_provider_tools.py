"""The agent that searches, reads pages and calculates: the providers' own tools, and ours where one has none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.chat_server import MODELS, Answer, ChatServer, running, settings_for
from tests.emulator import Citation, CodeExecution, Emulator, Reply, Source, ToolCall, UrlContext, Usage, WebSearch
from threadkeep_agents.provider_tools_agent import web_fetch

PROVIDERS = ("google", "openai", "anthropic")
ASKED = ToolCall("providerToolsAgent", {"input": "What is the weather in Bern?"})
PAGE = "https://weather.example/bern"


def result_of(answer: Answer) -> dict[str, Any]:
    [output] = [event["output"] for event in answer.events if event["type"] == "tool-output-available"]
    assert isinstance(output, dict)
    return output


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_search_comes_back_with_its_sources(server: ChatServer, emulator: Emulator, provider: str) -> None:
    emulator.script(
        Reply(tool_calls=[ASKED]),
        Reply(
            native=[WebSearch("weather Bern", [Source(PAGE, "Weather in Bern")])],
            text=["It is ", "warm", "."],
            citations=[Citation(PAGE, "Weather in Bern", delta=1)],
            usage=Usage(input=500, output=20),
        ),
        Reply(text="It is warm."),
    )

    answer = await server.say({"message": "Weather?", "model": MODELS[provider]})

    assert answer.text == "It is warm."
    assert result_of(answer)["sources"] == [{"url": PAGE, "title": "Weather in Bern"}]
    assert result_of(answer)["answer"].replace("\n\n", "") == "It is warm."
    [source] = [event for event in answer.events if event["type"] == "source-url"]
    assert source["url"] == PAGE
    _, stored = await server.messages(answer.session)
    assert [part["url"] for part in stored["parts"] if part["type"] == "source-url"] == [PAGE]
    asked = emulator.requests[-2]
    assert "web_search" in asked.native_tools
    assert "research" in str(asked.system)
    [usage] = await server.rows("select * from usage_logs where agent_type = 'provider_tools_agent'")
    assert (usage["input_tokens"], usage["output_tokens"]) == (500, 20)
    [activity] = await server.rows("select * from agent_activity_logs where agent_type = 'provider_tools_agent'")
    assert activity["operation_category"] == "tool_invocation"
    assert activity["operation_metadata"]["used"] == ["web_search"]
    assert emulator.refusals == []


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_code_is_run_by_the_provider_and_said_to_have_been(
    server: ChatServer, emulator: Emulator, provider: str
) -> None:
    emulator.script(
        Reply(tool_calls=[ToolCall("providerToolsAgent", {"input": "6 * 7"})]),
        Reply(native=[CodeExecution("print(6 * 7)", "42\n")], text="It is 42."),
        Reply(text="42."),
    )

    answer = await server.say({"message": "6 * 7", "model": MODELS[provider]})

    assert result_of(answer) == {"answer": "It is 42.", "sources": []}
    assert "code_execution" in emulator.requests[-2].native_tools
    [activity] = await server.rows("select * from agent_activity_logs where agent_type = 'provider_tools_agent'")
    assert activity["operation_category"] == "code_execution"
    assert emulator.refusals == []


@pytest.mark.parametrize("provider", ["google", "anthropic"])
async def test_a_page_is_read_by_the_provider(server: ChatServer, emulator: Emulator, provider: str) -> None:
    emulator.script(
        Reply(tool_calls=[ToolCall("providerToolsAgent", {"input": f"Read {PAGE}"})]),
        Reply(
            native=[UrlContext(PAGE, "Bern", "It is warm.")], text=["It is warm."], citations=[Citation(PAGE, "Bern")]
        ),
        Reply(text="Warm."),
    )

    answer = await server.say({"message": f"Read {PAGE}", "model": MODELS[provider]})

    assert result_of(answer)["sources"] == [{"url": PAGE, "title": "Bern"}]
    assert "url_context" in emulator.requests[-2].native_tools


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]:{port}/secret",
        "http://2130706433:{port}/secret",
        "file:///etc/passwd",
    ],
)
async def test_openai_reads_pages_with_our_reader_which_reaches_nothing_internal(
    server: ChatServer, emulator: Emulator, address: str
) -> None:
    async with a_site() as (port, asked_for):
        url = address.format(port=port)
        emulator.script(
            Reply(tool_calls=[ToolCall("providerToolsAgent", {"input": f"Read {url}"})]),
            Reply(tool_calls=[ToolCall("web_fetch", {"url": url})]),
            Reply(text="It could not be read."),
            Reply(text="It could not be read."),
        )

        answer = await server.say({"message": f"Read {url}", "model": MODELS["openai"]})

        assert result_of(answer)["answer"] == "It could not be read."
        assert asked_for == []
        assert "internal words" not in str(emulator.requests[-2].body)


async def test_pages_that_cannot_be_read_end_no_search(server: ChatServer, emulator: Emulator) -> None:
    async with a_site() as (port, _):
        reads = [ToolCall("web_fetch", {"url": f"http://127.0.0.1:{port}/{page}"}) for page in "abc"]
        emulator.script(
            Reply(tool_calls=[ASKED]),
            Reply(tool_calls=[reads[0], ToolCall("web_fetch", "{no json")]),
            Reply(tool_calls=[reads[1]]),
            Reply(tool_calls=[reads[2]]),
            Reply(text="Three pages could not be read."),
            Reply(text="Nothing is known."),
        )

        answer = await server.say({"message": "Weather?", "model": MODELS["openai"]})

        assert result_of(answer)["answer"] == "Three pages could not be read."


async def test_our_reader_gives_a_page_as_markdown_and_follows_no_redirect_inside() -> None:
    async with a_site() as (port, asked_for):
        read: Any = web_fetch(allow_internal_addresses=True).function

        page = await read(f"http://127.0.0.1:{port}/page")

        assert page["title"] == "A page"
        assert "# Internal" not in page["content"]
        assert "internal words" in page["content"]
        assert asked_for == ["/page"]


async def test_where_no_tool_works_the_agent_is_not_offered(
    database_url: str, api_database_url: str, emulator: Emulator
) -> None:
    async with with_chat_completions(database_url, api_database_url, emulator) as server:
        await server.say({"message": "Hello", "model": MODELS["openai"]})
        with_reader = emulator.requests[-1].tools
        await server.rows(
            "update admin_config set config_data = jsonb_set(config_data, '{tools,urlContext,enabled}', 'false') "
            "where config_key = 'provider_tools_agent_openai'"
        )
        await server.say({"message": "Hello", "model": MODELS["openai"]})

        assert "providerToolsAgent" in with_reader
        assert "providerToolsAgent" not in emulator.requests[-1].tools
        assert "documentAgent" in emulator.requests[-1].tools


async def test_with_chat_completions_the_agent_reads_pages_and_says_what_it_does_not_have(
    database_url: str, api_database_url: str, emulator: Emulator
) -> None:
    async with with_chat_completions(database_url, api_database_url, emulator) as server:
        emulator.script(Reply(tool_calls=[ASKED]), Reply(text="I cannot search."), Reply(text="No search here."))

        answer = await server.say({"message": "Weather?", "model": MODELS["openai"]})

        assert result_of(answer)["answer"] == "I cannot search."
        system = str(emulator.requests[1].body)
        assert "You do not have: web search, code execution." in system


@asynccontextmanager
async def with_chat_completions(
    database_url: str, api_database_url: str, emulator: Emulator
) -> AsyncIterator[ChatServer]:
    """Titles are off, as they would be requests too."""
    settings = settings_for(api_database_url, emulator, OPENAI_API="chat")
    async with running(settings, database_url) as server:
        await server.rows(
            'update admin_config set config_data = config_data || \'{"titles": {"enabled": false}}\' '
            "where config_key = 'app_settings'"
        )
        yield server


@asynccontextmanager
async def a_site() -> AsyncIterator[tuple[int, list[str]]]:
    """A page on this machine, and the paths that were asked for."""
    asked_for: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked_for.append(head.split(b" ")[1].decode())
        body = b"<html><head><title>A page</title></head><body><p>internal words</p></body></html>"
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        await writer.drain()
        writer.close()

    site = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with site:
        yield site.sockets[0].getsockname()[1], asked_for
