"""The streaming chat as Lambda Web Adapter starts it: `run.sh` of the artefact, over HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.artefacts.environments import Built, ended, free_port, until_it_listens
from tests.chat_server import events_of
from tests.emulator import Emulator, Gate, Hold, Reply
from tests.providers import bearer

MODEL = "gpt-6.1-terra"


@pytest.fixture
def chat(
    built: Built, variables: dict[str, str], emulator: Emulator, database_url: str, tmp_path: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of the running function, and its process."""
    port = free_port()
    provider = {"OPENAI_API_KEY": "test-key", "OPENAI_BASE_URL": emulator.base_url("openai")}
    with psycopg.connect(database_url) as owner:
        owner.execute(
            """
            update admin_config set config_data = config_data || '{"titles": {"enabled": false}}'
            where config_key = 'app_settings'
            """
        )
    environment = built.environment("ChatStreamFunction", variables | provider | {"AWS_LWA_PORT": str(port)})
    # The script puts the layers onto the path; here they are not in /opt.
    with ExitStack() as stack:
        output = stack.enter_context((tmp_path / "log").open("wb"))
        program = [str(built.folder / "ChatStreamFunction/run.sh")]
        process = stack.enter_context(
            ended(
                subprocess.Popen(
                    program, env=environment, cwd="/", stdout=output, stderr=output, start_new_session=True
                )
            )
        )
        until_it_listens(port, process)
        yield f"http://127.0.0.1:{port}", process


async def test_an_answer_streams_while_the_model_is_still_speaking(
    chat: tuple[str, subprocess.Popen[bytes]], emulator: Emulator, database_url: str
) -> None:
    url, process = chat
    gate = Gate()
    emulator.script(Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)]))
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        assert (await http.get("/api/health")).json() == {"status": "ok"}
        said = {"message": "Hello", "model": MODEL}
        async with http.stream("POST", "/api/chat", json=said, headers=bearer("ada")) as response:
            assert response.status_code == 200
            assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
            deltas: list[str] = []
            # The model says the second half only after the first has come through.
            async for event in events_of(response):
                if event["type"] == "text-delta":
                    deltas.append(event["delta"])
                    if "".join(deltas) == "Hel":
                        gate.release()
        assert deltas[0] == "Hel"
        assert "".join(deltas) == "Hello"
    with psycopg.connect(database_url) as owner:
        stored = owner.execute('select role, status from "Message_v2" order by seq').fetchall()
    assert stored == [("user", "complete"), ("assistant", "complete")]

    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(20) in {0, -signal.SIGTERM}


def test_the_script_is_one_process_that_takes_the_signals_itself(
    chat: tuple[str, subprocess.Popen[bytes]],
) -> None:
    _, process = chat
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    assert b"uvicorn" in command
    assert b"functions.chat.app:create" in command
