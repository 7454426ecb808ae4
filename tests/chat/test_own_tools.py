"""A team's own tools: functions and tool servers, with limits, records and a switch like the built-in ones."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Tool
from pydantic_ai.toolsets import FunctionToolset

from tests.chat_server import MODELS, ChatServer, running, settings_for
from tests.emulator import Emulator, Reply, ToolCall
from tests.tool_server import TOKEN, ToolServer, tool_server
from threadkeep_agents import own_servers, roster
from threadkeep_agents.tools import TurnContext

PROVIDERS = ("google", "openai", "anthropic")
READ = ToolCall("code_get_file_contents", {"owner": "ada", "repo": "engine", "path": "README.md"})


@pytest.fixture
async def tools() -> AsyncIterator[ToolServer]:
    async with tool_server() as server:
        yield server


@pytest.fixture
async def server(database_url: str, api_database_url: str, emulator: Emulator) -> AsyncIterator[ChatServer]:
    settings = settings_for(api_database_url, emulator, TOOL_SECRETS=json.dumps({"code-host": TOKEN, "old": "wrong"}))
    async with running(settings, database_url) as chat_server:
        await chat_server.rows(
            'update admin_config set config_data = config_data || \'{"titles": {"enabled": false}}\' '
            "where config_key = 'app_settings'"
        )
        yield chat_server


async def configure(chat: ChatServer, name: str, **changes: Any) -> None:
    row = {"enabled": True, "rateLimit": {"perMinute": 10, "perHour": 10, "perDay": 10}} | changes
    await chat.rows(
        "insert into admin_config (config_key, config_data) values (%(key)s, %(row)s::jsonb) "
        "on conflict (config_key) do update set config_data = excluded.config_data",
        key=f"tool_{name}",
        row=json.dumps(row),
    )


def code_host(tools: ToolServer, **changes: Any) -> dict[str, Any]:
    return {"url": tools.url, "secret": "code-host", "allowedTools": ["get_file_contents", "create_issue"]} | changes


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_tool_server_is_one_row_and_its_tools_are_the_chat_agents(
    server: ChatServer, emulator: Emulator, tools: ToolServer, provider: str
) -> None:
    await configure(server, "code", server=code_host(tools))
    emulator.script(Reply(tool_calls=[READ]), Reply(text="It says hello."))

    answer = await server.say({"message": "Read it", "model": MODELS[provider]})

    assert answer.text == "It says hello."
    offered = emulator.requests[0].tools
    assert {"code_get_file_contents", "code_create_issue", "current_time"} <= set(offered)
    assert "code_list_branches" not in offered
    assert tools.calls == [("get_file_contents", {"owner": "ada", "repo": "engine", "path": "README.md"})]
    [activity] = await server.rows("select * from agent_activity_logs where agent_type = 'tool_code'")
    assert (activity["operation_type"], activity["success"]) == ("code_get_file_contents", True)
    assert str(activity["correlation_id"]) == answer.headers["x-correlation-id"]
    [used] = await server.rows(
        "select * from rate_limit_tracking where agent_type = 'tool_code' and limit_type = 'daily'"
    )
    assert used["request_count"] == 1
    assert TOKEN not in str(await server.rows('select * from "Message_v2"'))


async def test_what_a_server_offers_is_not_asked_for_in_every_turn(
    server: ChatServer, emulator: Emulator, tools: ToolServer
) -> None:
    await configure(server, "code", server=code_host(tools))
    await server.say("Hello")
    asked = len(tools.headers)
    await server.say("Hello again")

    assert asked > 0
    assert len(tools.headers) == asked
    assert "code_get_file_contents" in emulator.requests[-1].tools


async def test_a_server_that_is_away_stops_no_chat_and_is_left_alone_for_a_while(
    server: ChatServer, emulator: Emulator, tools: ToolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await configure(server, "code", server=code_host(tools))
    await configure(server, "gone", server=code_host(tools, url="http://127.0.0.1:9/mcp"))
    await configure(server, "refused", server=code_host(tools, secret="old"))
    tools.fault = "status 500"

    first = await server.say("Hello")
    asked = len(tools.headers)
    tools.fault = "none"
    second = await server.say("Hello again")

    assert (first.text, second.text) == ("You said: Hello", "You said: Hello again")
    assert len(tools.headers) == asked
    assert not [name for name in emulator.requests[-1].tools if name.startswith(("code", "gone", "refused"))]
    monkeypatch.setattr(own_servers, "LEFT_ALONE_SECONDS", 0.0)
    await server.say("Hello once more")
    assert "code_get_file_contents" in emulator.requests[-1].tools
    assert "gone_get_file_contents" not in emulator.requests[-1].tools


async def test_a_server_that_lets_in_and_then_fails_stops_no_chat(
    server: ChatServer, emulator: Emulator, tools: ToolServer
) -> None:
    await configure(server, "code", server=code_host(tools))
    tools.fault = "lists nothing"

    answer = await server.say("Hello")

    assert answer.text == "You said: Hello"
    assert "code_get_file_contents" not in emulator.requests[-1].tools


async def test_turns_that_begin_together_ask_a_server_once(
    server: ChatServer, emulator: Emulator, tools: ToolServer
) -> None:
    await configure(server, "once", server=code_host(tools))
    await server.say("Hello")
    asked_by_one = len(tools.headers)
    await configure(server, "once", enabled=False)
    await configure(server, "code", server=code_host(tools))

    await asyncio.gather(*(server.say("Hello") for _ in range(4)))

    assert len(tools.headers) == 2 * asked_by_one
    assert all("code_get_file_contents" in request.tools for request in emulator.requests[1:])


async def test_a_tool_whose_name_is_taken_or_unfit_is_left_out_and_stops_no_chat(
    server: ChatServer, emulator: Emulator, tools: ToolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def code_get_file_contents() -> str:
        """A function of the same name as a server's tool."""
        return "mine"

    functions: FunctionToolset[TurnContext] = FunctionToolset([code_get_file_contents])
    monkeypatch.setattr(roster, "registered_tools", lambda: own_servers.Recorded(functions, None))
    monkeypatch.setattr(own_servers, "own_tools", lambda: (Tool(code_get_file_contents),))
    long = "x" * 40
    await configure(server, "code", server=code_host(tools))
    await configure(server, long, server=code_host(tools, allowedTools=["get_file_contents", "list_branches"]))
    monkeypatch.setattr(own_servers, "_FIT_NAME", re.compile(r"[a-z_]{1,55}"))
    emulator.script(Reply(tool_calls=[ToolCall("code_get_file_contents")]), Reply(text="Mine."))

    answer = await server.say("Read it")

    assert answer.text == "Mine."
    offered = emulator.requests[0].tools
    assert {"code_get_file_contents", "code_create_issue", f"{long}_list_branches"} <= set(offered)
    assert f"{long}_get_file_contents" not in offered


async def test_a_server_that_fails_in_a_call_is_a_failed_call(
    server: ChatServer, emulator: Emulator, tools: ToolServer
) -> None:
    await configure(server, "code", server=code_host(tools))
    await server.say("Hello")
    tools.fault = "status 500"
    emulator.script(Reply(tool_calls=[READ]), Reply(text="It is away."))

    answer = await server.say("Read it")

    assert answer.text == "It is away."
    [failed] = [event for event in answer.events if event["type"] == "tool-output-error"]
    assert "unavailable:tool" in failed["errorText"]
    [activity] = await server.rows("select * from agent_activity_logs where agent_type = 'tool_code'")
    assert (activity["success"], activity["error_type"]) == (False, "unavailable:tool")


async def test_a_tool_that_is_off_or_used_up_is_not_there(
    server: ChatServer, emulator: Emulator, tools: ToolServer
) -> None:
    await configure(server, "current_time", enabled=False)
    await configure(server, "code", enabled=False, server=code_host(tools))
    await server.say("Hello")
    assert not {"current_time", "code_get_file_contents"} & set(emulator.requests[-1].tools)
    assert tools.headers == []

    await configure(server, "current_time", rateLimit={"perMinute": 1, "perHour": 10, "perDay": 10})
    twice = [ToolCall("current_time", {}), ToolCall("current_time", {})]
    emulator.script(Reply(tool_calls=twice), Reply(text="Once."))
    answer = await server.say("What time is it?")

    assert answer.text == "Once."
    assert sorted(kind for kind in answer.types if kind.startswith("tool-output")) == [
        "tool-output-available",
        "tool-output-error",
    ]
    rows = await server.rows(
        "select success from agent_activity_logs where agent_type = 'tool_current_time' order by 1"
    )
    assert [row["success"] for row in rows] == [False, True]

    await configure(server, "code", rateLimit={"perMinute": 0, "perHour": 10, "perDay": 10}, server=code_host(tools))
    await server.rows("update rate_limit_tracking set request_count = 10 where limit_type = 'daily'")
    await server.say("And now?")
    asked = emulator.requests[-1]
    assert not {"current_time", "code_get_file_contents"} & set(asked.tools)
    assert "documentAgent" in asked.tools
    assert "current_time (again in " in str(asked.system)


async def test_a_function_without_a_row_is_recorded_and_has_no_limit_of_its_own(
    server: ChatServer, emulator: Emulator
) -> None:
    emulator.script(Reply(tool_calls=[ToolCall("current_time", {})]), Reply(text="Late."))

    await server.say("What time is it?")

    assert len(await server.rows("select * from agent_activity_logs where agent_type = 'tool_current_time'")) == 1
    assert await server.rows("select * from rate_limit_tracking where agent_type like 'tool%%'") == []


@pytest.mark.parametrize(
    "row",
    [
        {"server": {"url": "ftp://tools.example.com", "allowedTools": []}},
        {"server": {"url": "https://user:secret@tools.example.com", "allowedTools": []}},
        {"server": {"url": "https://tools.example.com"}},
        {"server": {"url": "https://tools.example.com", "allowedTools": ["a", "a"]}},
        {"enabled": "yes"},
        {"unknown": 1},
    ],
)
async def test_a_wrong_row_is_refused_by_the_database(server: ChatServer, row: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="tool_code: "):
        await configure(server, "code", **row)
