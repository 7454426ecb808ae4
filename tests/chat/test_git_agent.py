"""The agent that works on GitHub, against a tool server of the official SDK: tokens, filters, outages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from tests.chat_server import MODELS, Answer, ChatServer, running, settings_for
from tests.emulator import Emulator, Reply, ToolCall, Usage
from tests.tool_server import TOKEN, ToolServer, tool_server
from threadkeep.settings import Settings
from threadkeep_agents import tool_servers

PROVIDERS = ("google", "openai", "anthropic")
ASKED = ToolCall("gitMcpAgent", {"input": "What is in README.md of ada/engine?"})
READ = ToolCall("get_file_contents", {"owner": "ada", "repo": "engine", "path": "README.md"})
WITH_TOKEN = {"x-github-token": TOKEN}


@pytest.fixture
async def github() -> AsyncIterator[ToolServer]:
    async with tool_server() as server:
        yield server


@pytest.fixture
async def server(
    database_url: str, api_database_url: str, emulator: Emulator, github: ToolServer
) -> AsyncIterator[ChatServer]:
    async with without_titles(
        database_url, settings_for(api_database_url, emulator, GITHUB_MCP_URL=github.url)
    ) as made:
        yield made


@asynccontextmanager
async def without_titles(database_url: str, settings: Settings) -> AsyncIterator[ChatServer]:
    """A title would be a request to the model as well."""
    async with running(settings, database_url) as chat_server:
        await chat_server.rows(
            'update admin_config set config_data = config_data || \'{"titles": {"enabled": false}}\' '
            "where config_key = 'app_settings'"
        )
        yield chat_server


def result_of(answer: Answer) -> dict[str, Any]:
    [output] = [event["output"] for event in answer.events if event["type"] == "tool-output-available"]
    assert isinstance(output, dict)
    return output


def failure_of(answer: Answer) -> str:
    [text] = [event["errorText"] for event in answer.events if event["type"] == "tool-output-error"]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_github_is_read_with_the_persons_own_token(
    server: ChatServer, emulator: Emulator, github: ToolServer, provider: str
) -> None:
    emulator.script(
        Reply(tool_calls=[ASKED]),
        Reply(tool_calls=[READ], usage=Usage(input=70, output=5)),
        Reply(text="It says hello.", usage=Usage(input=80, output=6)),
        Reply(text="Hello, it says."),
    )

    answer = await server.say({"message": "Read it", "model": MODELS[provider]}, headers=WITH_TOKEN)

    assert answer.text == "Hello, it says."
    assert result_of(answer) == {"answer": "It says hello."}
    assert github.calls == [("get_file_contents", {"owner": "ada", "repo": "engine", "path": "README.md"})]
    assert {headers.get("authorization") for headers in github.headers} == {f"Bearer {TOKEN}"}
    assert {headers.get("x-mcp-readonly") for headers in github.headers} == {"true"}
    assert github.headers[0]["x-mcp-toolsets"] == "repos,issues,pull_requests,users"
    assert github.open_sessions == 0
    usage = await server.rows("select input_tokens from usage_logs where agent_type = 'git_mcp_agent' order by 1")
    assert [row["input_tokens"] for row in usage] == [70, 80]
    everything = str([await server.rows(f"select * from {table}") for table in ("agent_activity_logs", '"Message_v2"')])
    assert TOKEN not in everything
    assert TOKEN not in str([request.body for request in emulator.requests])


async def test_only_what_reads_and_is_on_is_offered(server: ChatServer, emulator: Emulator) -> None:
    await server.rows(
        "update admin_config set config_data = jsonb_set(config_data, '{tools,code_search,enabled}', 'false') "
        "where config_key = 'git_mcp_agent_google'"
    )
    emulator.script(Reply(tool_calls=[ASKED]), Reply(text="Nothing."), Reply(text="Nothing."))

    await server.say("Look", headers=WITH_TOKEN)

    assert set(emulator.requests[1].tools) == {"get_file_contents", "list_branches"}


async def test_where_writing_is_allowed_its_tools_are_offered(
    database_url: str, api_database_url: str, emulator: Emulator, github: ToolServer
) -> None:
    settings = settings_for(api_database_url, emulator, GITHUB_MCP_URL=github.url, GITHUB_WRITES_ALLOWED="true")
    async with without_titles(database_url, settings) as server:
        emulator.script(Reply(tool_calls=[ASKED]), Reply(text="Nothing."), Reply(text="Nothing."))

        await server.say({"message": "Look", "model": MODELS["openai"]}, headers=WITH_TOKEN)

        offered = next(request.tools for request in emulator.requests if "create_issue" in request.tools)
        assert "create_branch" in offered
        assert "x-mcp-readonly" not in github.headers[0]


async def test_the_persons_repositories_are_known_to_the_agent(server: ChatServer, emulator: Emulator) -> None:
    await server.say("Hello")
    await server.rows(
        "insert into github_repositories (user_id, repo_owner, repo_name, repo_url) "
        "select id, 'ada', 'engine', 'https://github.com/ada/engine' from user_profiles"
    )
    await server.rows("insert into user_profiles (id) values (%(other)s)", other=uuid4())
    await server.rows(
        "insert into github_repositories (user_id, repo_owner, repo_name, repo_url) "
        "select id, 'eve', 'secret', 'https://github.com/eve/secret' from user_profiles where email is null"
    )
    emulator.script(Reply(tool_calls=[ASKED]), Reply(text="Nothing."), Reply(text="Nothing."))

    await server.say("Look", headers=WITH_TOKEN)

    asked = str(emulator.requests[-2].body)
    assert "ada/engine" in asked
    assert "eve/secret" not in asked


async def test_without_a_token_the_agent_is_not_offered(server: ChatServer, emulator: Emulator) -> None:
    await server.say("Look")

    assert "gitMcpAgent" not in emulator.requests[-1].tools
    assert "documentAgent" in emulator.requests[-1].tools


async def test_a_wrong_token_is_a_failed_call_that_says_what_to_do(
    server: ChatServer, emulator: Emulator, github: ToolServer
) -> None:
    emulator.script(Reply(tool_calls=[ASKED]), Reply(text="Connect GitHub again."))

    answer = await server.say("Look", headers={"x-github-token": "ghp_wrong"})

    assert answer.text == "Connect GitHub again."
    assert "unauthorized:tool" in failure_of(answer)
    assert len(github.headers) == 1
    [activity] = await server.rows("select * from agent_activity_logs where agent_type = 'git_mcp_agent'")
    assert (activity["success"], activity["error_type"]) == (False, "unauthorized:tool")


@pytest.mark.parametrize("token", ["two words", "né", "x" * 4001])
async def test_a_header_that_is_no_token_is_refused(server: ChatServer, token: str) -> None:
    response = await server.http.post(
        "/api/chat",
        json={"message": "Hello"},
        headers=[(b"x-github-token", token.encode("latin-1"))],
    )

    assert response.status_code == 400
    assert token not in response.text


async def test_a_server_that_is_gone_is_a_failed_call(
    database_url: str, api_database_url: str, emulator: Emulator
) -> None:
    settings = settings_for(api_database_url, emulator, GITHUB_MCP_URL="http://127.0.0.1:9/mcp")
    async with without_titles(database_url, settings) as server:
        emulator.script(Reply(tool_calls=[ASKED]), Reply(text="GitHub is away."))

        answer = await server.say({"message": "Look", "model": MODELS["openai"]}, headers=WITH_TOKEN)

        assert "unavailable:tool" in failure_of(answer)
        assert answer.metadata["finishReason"] == "stop"


async def test_a_server_that_fails_is_a_failed_call_and_the_next_turn_tries_again(
    server: ChatServer, emulator: Emulator, github: ToolServer
) -> None:
    github.fault = "status 500"
    emulator.script(Reply(tool_calls=[ASKED]), Reply(text="GitHub is away."))
    first = await server.say("Look", headers=WITH_TOKEN)
    github.fault = "none"
    emulator.script(Reply(tool_calls=[ASKED]), Reply(tool_calls=[READ]), Reply(text="Hello."), Reply(text="Hello."))
    second = await server.say("Look again", headers=WITH_TOKEN)

    assert "unavailable:tool" in failure_of(first)
    assert "broken inside" not in str(first.events)
    assert result_of(second) == {"answer": "Hello."}


async def test_a_tool_that_fails_is_told_to_the_agent(
    server: ChatServer, emulator: Emulator, github: ToolServer
) -> None:
    github.fault = "breaks"
    emulator.script(
        Reply(tool_calls=[ASKED]), Reply(tool_calls=[READ]), Reply(text="Not found."), Reply(text="Not found.")
    )

    answer = await server.say("Look", headers=WITH_TOKEN)

    assert result_of(answer) == {"answer": "Not found."}
    assert "Error executing tool" in str(emulator.requests[-2].body)


async def test_calls_that_make_no_sense_end_no_work_on_github(
    server: ChatServer, emulator: Emulator, github: ToolServer
) -> None:
    senseless = [ToolCall("get_file_contents", "{no json"), ToolCall("no_such_tool", {})]
    emulator.script(
        Reply(tool_calls=[ASKED]),
        Reply(tool_calls=senseless),
        Reply(tool_calls=senseless),
        Reply(tool_calls=[READ]),
        Reply(text="It says hello."),
        Reply(text="Hello, it says."),
    )

    answer = await server.say({"message": "Read it", "model": MODELS["openai"]}, headers=WITH_TOKEN)

    assert result_of(answer) == {"answer": "It says hello."}


async def test_a_tool_that_is_slow_is_given_up_and_the_turn_goes_on(
    server: ChatServer, emulator: Emulator, github: ToolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_servers, "CALL_SECONDS", 0.3)
    github.fault = "slow"
    emulator.script(
        Reply(tool_calls=[ASKED]), Reply(tool_calls=[READ]), Reply(text="It is slow."), Reply(text="It is slow.")
    )

    answer = await server.say("Look", headers=WITH_TOKEN)

    assert result_of(answer) == {"answer": "It is slow."}
    assert "timeout:tool" in str(emulator.requests[-2].body)
