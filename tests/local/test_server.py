"""The whole system on one machine, as a process: started, used, killed, started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from local.configuration import Keys
from local.postgres import EmbeddedPostgres, discard
from local.token import token
from tests.databases import own_folder
from tests.emulator import Emulator, Gate, Hold, Reply

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    folder = own_folder()
    yield folder
    discard(folder / "postgres")
    shutil.rmtree(folder)


@contextmanager
def started(data_dir: Path, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m local.server` on a free port, once it answers; ended with what is left of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_BASE_URL"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "local.server"],
        cwd=ROOT,
        env=clean
        | {"PYTHONPATH": f"{ROOT}:{ROOT}/layers/core:{ROOT}/layers/agents"}
        | {"DATA_DIR": str(data_dir), "PORT": str(port), "DATABASE_URL": "", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


async def alive(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(40):
        while True:
            try:
                assert (await client.get("/api/health")).status_code == 200
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return


def openai(emulator: Emulator) -> dict[str, str]:
    return {"OPENAI_API_KEY": "test-key", "OPENAI_BASE_URL": emulator.base_url("openai")}


async def test_a_killed_server_loses_nothing_and_the_next_one_ends_its_turns(
    data_dir: Path, emulator: Emulator
) -> None:
    gate = Gate()
    emulator.default = lambda _: Reply(text=["Partial ", "answer"], interruptions=[Hold(gate, after_deltas=1)])
    session = str(uuid4())
    with started(data_dir, **openai(emulator)) as (process, url):
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            await alive(client)
            headers = {"authorization": f"Bearer {token(Keys.of(data_dir), 'ada', is_admin=False)}"}
            body = {"id": session, "message": "Hello"}
            async with client.stream("POST", "/api/chat", json=body, headers=headers) as response:
                assert response.status_code == 200
                await gate.arrived()
                with EmbeddedPostgres(data_dir / "postgres", handle_signals=False) as postgres:
                    await rows(postgres.dsn(), "select 1 from stream_chunks where payload like '%Partial%'")
                    process.kill()
                    process.wait(10)
    gate.release()

    with started(data_dir) as (process, url):
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            await alive(client)
            with EmbeddedPostgres(data_dir / "postgres", handle_signals=False) as postgres:
                messages = await rows(postgres.dsn(), 'select role, status, parts from "Message_v2" order by seq')
            assert [(role, status) for role, status, _ in messages] == [
                ("user", "complete"),
                ("assistant", "interrupted"),
            ]
            assert messages[1][2] == [{"type": "text", "text": "Partial ", "state": "done"}]
            # Nothing blocks the session: the next message is answered.
            answer = await client.post(
                "/api/chat",
                json={"id": session, "message": "Go on"},
                headers=headers | {"accept": "application/json"},
            )
            assert answer.status_code == 200


async def test_an_interrupt_ends_the_running_turns_and_leaves_no_process(data_dir: Path, emulator: Emulator) -> None:
    gate = Gate()
    emulator.default = lambda _: Reply(text=["Hel", "lo"], interruptions=[Hold(gate, after_deltas=1)])
    with started(data_dir, **openai(emulator)) as (process, url):
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            await alive(client)
            async with client.stream("POST", "/api/chat", json={"message": "Hello"}) as response:
                await gate.arrived()
                with EmbeddedPostgres(data_dir / "postgres", handle_signals=False) as postgres:
                    await rows(postgres.dsn(), "select 1 from stream_chunks where payload like '%Hel%'")
                    dsn = postgres.dsn()
                process.send_signal(signal.SIGINT)
                text = (await response.aread()).decode()
        assert process.wait(20) == 0
    gate.release()

    assert '"type":"abort"' in text
    assert text.endswith("data: [DONE]\n\n")
    with pytest.raises(psycopg.OperationalError, match=r"No such file|refused"):
        psycopg.connect(dsn)


async def test_a_port_that_is_taken_is_a_clear_error(data_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with started(data_dir, PORT=str(taken.getsockname()[1])) as (process, _):
            output, _ = process.communicate(timeout=40)

    assert process.returncode != 0
    assert "address already in use" in output.lower()
    assert "Traceback" not in output


async def rows(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query, once there are any."""
    async with asyncio.timeout(10), await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while True:
            cursor = await connection.execute(sql.encode())
            if found := await cursor.fetchall():
                return found
            await asyncio.sleep(0.05)


async def test_a_file_is_uploaded_said_and_there_after_a_restart(data_dir: Path) -> None:
    image = b"\x89PNG\r\n\x1a\n" + bytes(32)
    body = {"name": "dot.png", "mediaType": "image/png", "size": len(image)}
    with started(data_dir) as (_, url):
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
            await alive(client)
            headers = {"authorization": f"Bearer {token(Keys.of(data_dir), 'ada', is_admin=False)}"}
            file = (await client.post("/api/files", json=body, headers=headers)).json()
            form = file["upload"]
            posted = await client.post(form["url"], data=form["fields"], files={"file": ("dot.png", image)})
            assert posted.status_code == 204
            part = {"type": "file", "url": file["url"], "mediaType": "image/png"}
            said = await client.post("/api/chat", json={"message": {"parts": [part]}}, headers=headers)
            assert said.status_code == 200
    with started(data_dir) as (_, url):
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
            await alive(client)
            shown = await client.get(file["url"], headers=headers | {"accept": "image/*"}, follow_redirects=True)
            assert shown.content == image
