"""Schemathesis tries the contract on the running application, and finds nothing.

`CONTRACT_EXAMPLES` is how many requests it makes up for each operation (5 if unset); with more of them it also takes
a new seed each time. What it found is printed with the request that shows it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import pytest

from local.openapi import OPENAPI
from tests.chat_server import ChatServer
from tests.contract.belongings import SECRET, Belongings, all_rows, hanging

EXAMPLES: Final = int(os.environ.get("CONTRACT_EXAMPLES") or 5)
FEW: Final = 5
# An id of a model may hold slashes, so what is after it may be a part of the id.
MODELS: Final = """
[[operations]]
include-path-regex = "^/api/admin/models/"
[operations.checks]
unsupported_method.enabled = false
allow_header_conformance.enabled = false
"""
pytestmark = pytest.mark.timeout(180 + 60 * EXAMPLES)


async def test_a_user_finds_nothing(server: ChatServer, ada: Belongings, tmp_path: Path) -> None:
    await tried(server, tmp_path, server.headers("ada"), "--exclude-path-regex=^/api/(admin/|hooks/)", own=ada)


async def test_an_administrator_finds_nothing(server: ChatServer, ada: Belongings, tmp_path: Path) -> None:
    headers = {"authorization": f"Bearer {server.token('root', is_admin=True)}"}
    await tried(server, tmp_path, headers, "--include-path-regex=^/api/admin/", own=ada)


async def test_nobody_finds_nothing(server: ChatServer, ada: Belongings, tmp_path: Path) -> None:
    await tried(server, tmp_path, {}, "--phases=examples,fuzzing", own=ada)

    assert ada.rows - await all_rows(server) == set()


async def test_another_user_with_the_ids_of_somebody_changes_and_sees_nothing(
    server: ChatServer, ada: Belongings, tmp_path: Path
) -> None:
    said = await tried(
        server,
        tmp_path,
        server.headers("eve"),
        "--phases=fuzzing",
        "--exclude-path-regex=^/api/admin/",
        "--report=ndjson",
        f"--report-dir={tmp_path}",
        own=ada,
        always=True,
    )

    answers = reports(tmp_path)
    assert ada.ids["session"] in answers, said
    assert SECRET not in answers
    assert ada.rows - await all_rows(server) == set()
    assert await hanging(server, ada.ids) == ada.hanging


async def tried(
    server: ChatServer,
    folder: Path,
    headers: dict[str, str],
    *options: str,
    own: Belongings,
    always: bool = False,
) -> str:
    """What schemathesis says after a run; the paths have these ids half of the time, or always."""
    configuration = folder / "schemathesis.toml"
    configuration.write_text(MODELS + ids_in_paths(own.ids, always=always))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", f"--config-file={configuration}", "--no-color"),
        *("run", str(OPENAPI), f"--url={server.url}", f"--max-examples={EXAMPLES}", "--no-shrink", "--warnings=off"),
        # Whoever deletes himself has nothing more to find, and is let in nowhere any more.
        "--exclude-operation-id=deleteAccount",
        "--exclude-checks=positive_data_acceptance",
        *(["--generation-deterministic"] if EXAMPLES <= FEW else []),
        *(f"--header={name.title()}: {value}" for name, value in headers.items()),
        *options,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


def reports(folder: Path) -> str:
    return "".join(report.read_text() for report in folder.glob("*.ndjson"))


def ids_in_paths(ids: dict[str, str], *, always: bool) -> str:
    if always:
        return "[parameters]\n" + "".join(f'"path.{name}" = "{one}"\n' for name, one in ids.items())
    known = "".join(f'[dictionaries.{name}]\nvalues = ["{one}"]\n' for name, one in ids.items())
    bound = "".join(f'"path.{name}" = {{ dictionary = "{name}", probability = 0.5 }}\n' for name in ids)
    return f"{known}[parameters]\n{bound}"
