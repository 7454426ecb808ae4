"""The AI SDK as npm has it, and a chat server for it to talk to."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from functions.files import app as files
from functions.sessions import app as sessions
from local import uploads
from tests.chat_server import ChatServer, running, settings_for
from tests.clients.front_end import FrontEnd, running_front_end
from tests.emulator import Emulator

HERE = Path(__file__).parent
OLDEST_NODE = 20
UNREACHABLE = re.compile(r"ENOTFOUND|ECONNREFUSED|ECONNRESET|EAI_AGAIN|ETIMEDOUT|ENETUNREACH|ENOTCACHED")


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What `package-lock.json` names, installed beside it; by one process of a run, and only when it changed."""
    if not shutil.which("npm") or _node_version() < OLDEST_NODE:
        pytest.skip(f"the AI SDK's clients need Node {OLDEST_NODE} or newer, and npm")
    modules = HERE / "node_modules"
    installed = modules / ".installed"
    with (HERE / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = lock.read()
        if not installed.exists() or installed.read_text() != wanted:
            _install()
            installed.write_text(wanted)
    return modules


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["5.0", "5", "6", "7"])
async def front_end(request: pytest.FixtureRequest, node_modules: Path) -> AsyncIterator[FrontEnd]:
    """A front end of each release in turn."""
    async with running_front_end(request.param) as running_one:
        yield running_one


@pytest_asyncio.fixture(loop_scope="module")
async def server(
    on_disk: dict[str, str], database_url: str, api_database_url: str, emulator: Emulator
) -> AsyncIterator[ChatServer]:
    """With a key for one provider; titles are off, so that a turn is one model request."""
    keys = {"ANTHROPIC_API_KEY": "", "GEMINI_API_KEY": ""}
    settings = settings_for(api_database_url, emulator, **keys, **on_disk)
    async with running(settings, database_url, sessions.router, uploads.router, files.router) as chat_server:
        await chat_server.rows(
            'update admin_config set config_data = config_data || \'{"titles": {"enabled": false}}\' '
            "where config_key = 'app_settings'"
        )
        yield chat_server


def _node_version() -> int:
    if not shutil.which("node"):
        return 0
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(told.removeprefix("v").split(".")[0])


def _install() -> None:
    """Runs no package's scripts; without the registry the tests are skipped, any other failure is one."""
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip("the AI SDK's clients cannot be installed: the npm registry is out of reach")
    assert done.returncode == 0, done.stderr
