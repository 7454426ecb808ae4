"""The documentation's examples in Chromium, as pages of another origin: cookies, forms, images, reloads."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chat_server import ChatServer
from tests.clients.browser import CHROMIUM, Browser, running_browser
from tests.emulator import Emulator, Gate, Hold, Reply, ToolCall

# One pixel that a browser really shows.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


@pytest_asyncio.fixture(loop_scope="module")
async def browser(server: ChatServer, node_modules: Path, tmp_path: Path) -> AsyncIterator[Browser]:
    async with running_browser(f"{server.url}/api", tmp_path) as running_one:
        yield running_one


async def test_the_example_streams_resumes_after_a_reload_and_says_what_is_wrong(
    server: ChatServer, emulator: Emulator, browser: Browser
) -> None:
    gate = Gate()
    emulator.script(Reply(text=["Hel", "lo Ada."], interruptions=[Hold(gate, after_deltas=1)]))
    await browser.open("example")

    await browser.send("Who am I?")
    await browser.until("assistant: Hel")
    await browser.reload()
    await browser.until("assistant: Hel")
    gate.release()
    answered = await browser.until("Hello Ada.")
    await browser.idle()
    await server.rows("update user_profiles set disabled_at = now()")
    await browser.send("And now?")
    refused = await browser.until("This account is disabled")

    assert answered.text.count("Who am I?") == answered.text.count("Hello Ada.") == 1
    assert len(refused.alert) == 1
    assert len(await server.rows("select * from user_profiles where is_guest")) == 1


async def test_a_visitors_first_deed_may_be_an_attachment_which_is_seen_also_after_a_reload(
    server: ChatServer, emulator: Emulator, browser: Browser
) -> None:
    await browser.open("page")

    await browser.attach(("a.png", "image/png", PNG), ("nötiz.csv", "", b"city,fare\n"))
    await browser.until("assistant:")
    sent = await browser.idle()
    loaded = await browser.reload()
    await browser.idle()
    await browser.attach(("b.png", "image/png", b"<svg/>"))
    refused = await browser.until("not what its type")

    assert [sent.images, loaded.images] == [[1], [1]]
    assert "city,fare" in emulator.requests[-1].last_user_text
    assert [sent.data for sent in emulator.requests[-1].attachments] == [PNG]
    assert refused.alert
    assert len(await server.rows("select * from user_profiles")) == 1


async def test_a_document_is_seen_while_it_is_written_also_by_a_page_that_is_loaded_again(
    emulator: Emulator, browser: Browser
) -> None:
    gate = Gate()
    create = {"operation": "create", "instruction": "Text: Rome\nWrite it."}
    emulator.script(
        Reply(tool_calls=[ToolCall("documentAgent", create)]),
        Reply(text=["Go ", "there."], interruptions=[Hold(gate, after_deltas=1)]),
        Reply(text="Written."),
    )
    await browser.open("page")

    await browser.send("Write about Rome")
    await browser.until("text Rome unfinished: Go")
    await browser.reload()
    await browser.until("text Rome unfinished: Go")
    gate.release()
    await browser.until("text Rome whole: Go there.")
    written = await browser.until("assistant: Written.")

    assert written.text.count("Go there.") == 1
