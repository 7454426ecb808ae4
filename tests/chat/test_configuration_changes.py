"""What an administrator changes, every process says and does with its next turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from functions.admin import app as admin
from tests.chat_server import Answer, ChatServer, running, settings_for
from tests.emulator import Emulator, Fault

CHAT = "/api/admin/config/chat_model_agent_google"
SETTINGS = "/api/admin/config/app_settings"


@pytest.fixture
async def two(database_url: str, api_database_url: str, emulator: Emulator) -> AsyncIterator[list[ChatServer]]:
    """Two processes' applications over one database, which both have answered before; titles are off."""
    settings = settings_for(api_database_url, emulator)
    async with (
        running(settings, database_url, *admin.ROUTERS) as first,
        running(settings, database_url, *admin.ROUTERS) as second,
    ):
        await configured(first, SETTINGS, {"titles": {"enabled": False}})
        for server in (first, second):
            assert (await server.say("Hello")).status == 200
        yield [first, second]


async def configured(server: ChatServer, path: str, change: dict[str, Any], method: str = "PATCH") -> dict[str, Any]:
    headers = {"authorization": f"Bearer {server.token('root', is_admin=True)}"}
    answer = await server.http.request(method, path, headers=headers, json=change)
    assert answer.status_code == 200, answer.text
    changed: dict[str, Any] = answer.json()
    return changed


async def said_on(servers: list[ChatServer], user: str) -> list[Answer]:
    return [await server.say("Hello", user=user) for server in servers]


async def test_a_new_prompt_is_in_force_everywhere_with_the_next_turn(
    two: list[ChatServer], emulator: Emulator
) -> None:
    for prompt, by in (("You are a pirate.", two[0]), ("You are a poet.", two[1])):
        await configured(by, CHAT, {"systemPrompt": prompt})
        before = len(emulator.requests)
        assert [answer.status for answer in await said_on(two, "ada")] == [200, 200]
        assert [request.system for request in emulator.requests[before:]] == [prompt, prompt]


async def test_an_agent_that_is_switched_off_answers_nowhere_until_it_is_on_again(two: list[ChatServer]) -> None:
    await configured(two[0], CHAT, {"enabled": False})
    for answer in await said_on(two, "ada"):
        assert answer.problem is not None
        assert (answer.status, answer.problem["code"]) == (403, "forbidden:agent")
    await configured(two[1], CHAT, {"enabled": True})
    assert [answer.status for answer in await said_on(two, "ada")] == [200, 200]


async def test_a_new_limit_counts_for_all_processes_together(two: list[ChatServer]) -> None:
    await configured(two[0], CHAT, {"rateLimit": {"perDay": 3}})
    answers = [*await said_on(two, "grace"), *await said_on(two, "grace")]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    await configured(two[1], CHAT, {"rateLimit": {"perDay": 4}})
    assert [answer.status for answer in await said_on(two, "grace")] == [200, 429]


async def test_another_active_provider_and_another_default_model_answer_the_next_turn(
    two: list[ChatServer], emulator: Emulator
) -> None:
    await configured(two[0], SETTINGS, {"activeProvider": "anthropic"})
    await said_on(two, "ada")
    assert [request.model for request in emulator.requests[-2:]] == ["claude-sonnet-5-5"] * 2
    await configured(two[1], "/api/admin/models/claude-haiku-5-5/default", {}, method="POST")
    await said_on(two, "grace")
    assert [request.model for request in emulator.requests[-2:]] == ["claude-haiku-5-5"] * 2


async def test_a_provider_that_is_switched_off_answers_nobody_and_stands_in_for_none(
    two: list[ChatServer], emulator: Emulator
) -> None:
    asked = {"id": "going-on", "message": "Hello", "model": "gpt-6.1-terra"}
    assert (await two[0].say(asked)).status == 200
    fallback = {"enabled": True, "models": ["gpt-6.1-terra", "claude-haiku-5-5"]}
    await configured(two[0], SETTINGS, {"availableProviders": ["google", "anthropic"], "fallback": fallback})

    refused = await two[1].say(asked | {"message": "And now?"})
    assert refused.problem is not None
    assert (refused.status, refused.problem["code"]) == (404, "not_found:model")
    assert "switched off" in refused.problem["detail"]
    emulator.script(Fault(status=503), provider="google")
    assert (await two[1].say({"id": "going-on", "message": "And now?"})).text.endswith("And now?")
    assert emulator.requests[-1].model == "claude-haiku-5-5"

    await configured(two[0], SETTINGS, {"availableProviders": ["google", "openai"], "fallback": None})
    assert (await two[1].say(asked | {"message": "And again?"})).status == 200


async def test_going_back_is_in_force_everywhere_too(two: list[ChatServer], emulator: Emulator) -> None:
    prompt = (await configured(two[0], CHAT, {}))["data"]["systemPrompt"]
    await configured(two[0], CHAT, {"systemPrompt": "You are a pirate."})
    await said_on(two, "ada")
    assert [request.system for request in emulator.requests[-2:]] == ["You are a pirate."] * 2
    await configured(two[1], CHAT, {}, method="DELETE")
    await said_on(two, "ada")
    assert [request.system for request in emulator.requests[-2:]] == [prompt] * 2


@pytest.mark.parametrize("by_hand", ["config_data = '{\"enabled\": 1}'", None], ids=["broken", "missing"])
async def test_a_row_broken_or_deleted_by_hand_leaves_the_last_good_one_in_force_in_new_processes_too(
    two: list[ChatServer],
    emulator: Emulator,
    database_url: str,
    api_database_url: str,
    by_hand: str | None,
) -> None:
    """The others have never seen the last good one either."""
    await configured(two[0], CHAT, {"systemPrompt": "You are a pirate."})
    if by_hand is None:
        await two[0].rows("delete from admin_config where config_key = 'chat_model_agent_google'")
    else:
        await two[0].rows("alter table admin_config disable trigger trigger_validate_admin_config")
        await two[0].rows(f"update admin_config set {by_hand} where config_key = 'chat_model_agent_google'")
    async with running(settings_for(api_database_url, emulator), database_url) as new:
        answers = await said_on([*two, new], "ada")
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [request.system for request in emulator.requests[-3:]] == ["You are a pirate."] * 3
