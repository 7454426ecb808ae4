"""The local server as `python -m local.server` starts it, which also says each second how many tasks its loop has."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Final

from local import server
from local.configuration import data_dir, environment

INTERVAL_SECONDS: Final = 1.0
TASKS_FILE: Final = "tasks"


class WatchedServer(server.Server):
    """Writes the number of the loop's tasks, its own among them, to the data folder."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watching = asyncio.create_task(_watch(data_dir(environment()) / TASKS_FILE))


async def _watch(path: Path) -> None:
    while True:
        tasks = str(len(asyncio.all_tasks()))
        await asyncio.to_thread(path.write_text, tasks)
        await asyncio.sleep(INTERVAL_SECONDS)


if __name__ == "__main__":
    vars(server)["Server"] = WatchedServer
    sys.exit(server.main())
