"""One soak: traffic for so many seconds, then quiet, then the judgement."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.machine import Surroundings
from bench.machine import Watch as MachineWatch
from bench.processes import cpu_ms
from bench.soak import invariants
from bench.soak.administrators import Administrator
from bench.soak.client import Client, Record
from bench.soak.judgement import report
from bench.soak.lives import World, live
from bench.soak.people import Person
from bench.soak.watch import PASSING, Sample, Watch
from bench.system import Server, System, running_system
from local.token import token

SECONDS: Final = 600
PEOPLE: Final = 10
SEED: Final = 20260101
PROVIDER: Final = "openai"
MODEL: Final = ("bench.soak.model",)
SERVER: Final = "bench.soak.server"
ADMINISTRATORS_PAUSE_SECONDS: Final = 0.2
# The server is ready; and what the driver warns of when a unit of work is refused, of which the caller is told.
NO_ERRORS: Final = ("Threadkeep on ", "error ignored terminating <")
# For connections that are kept for a while, and for what ends a turn that nobody waits for.
QUIET_SECONDS: Final = 8.0
DRAINED_SECONDS: Final = 45.0


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a soak has found; `left` is what should have gone and is still there."""

    seconds: float
    people: int
    seed: int
    record: Record
    samples: list[Sample]
    traffic_ended: float
    before: Sample
    after: Sample
    left: dict[str, int]
    purge: dict[str, Any]
    broken: dict[str, list[tuple[Any, ...]]]
    orphans: list[str]
    asked_of_the_model: int
    settled: int
    logged: list[str]
    surroundings: Surroundings


def soak(seconds: float, *, people: int = PEOPLE, seed: int = SEED) -> bool:
    """Runs a soak and prints its report; whether everything was as it should be."""
    machine = MachineWatch()
    with running_system(MODEL) as system, system.server(PROVIDER, module=SERVER) as server:
        findings = asyncio.run(_soak(system, server, seconds, people, seed, machine))
    text, is_good = report(findings)
    print(text)
    return is_good


async def _soak(
    system: System, server: Server, seconds: float, people: int, seed: int, machine: MachineWatch
) -> Findings:
    record = Record()
    watch = Watch(system, server)
    ends = asyncio.Event()
    async with Client(server.port, record) as client:
        administrator = _administrator(system, client, seed)
        await administrator.prepare(PROVIDER)
        await client.say(system.token("victim"), {"message": "Hello"})
    await asyncio.sleep(QUIET_SECONDS)
    before = await asyncio.to_thread(watch.look)
    _say(f"{people} people for {seconds:.0f} s")
    watching = asyncio.create_task(watch.run())
    async with Client(server.port, record) as client:
        world = World(client, system.token, seed, ends)
        administrator = _administrator(system, client, seed)
        async with asyncio.TaskGroup() as group:
            for number in range(people):
                group.create_task(live(world, number))
            group.create_task(administrator.work(PROVIDER, ends, ADMINISTRATORS_PAUSE_SECONDS))
            group.create_task(_ring(ends, seconds))
        traffic_ended = watch.second
        _say("what is left when it is quiet")
        await _drained(watch)
    await asyncio.sleep(QUIET_SECONDS)
    if watching.done():
        await watching
    watching.cancel()
    after = await asyncio.to_thread(watch.look)
    async with Client(server.port, record) as client:
        administrator = _administrator(system, client, seed)
        # What the first run deletes, the second one finds in the list of stored files that are to go.
        for _ in range(2):
            await asyncio.to_thread(watch.age, 0)
            purge = await administrator.purge_completely()
    last = await asyncio.to_thread(watch.look)
    [[settled]] = system.execute("select coalesce(sum(requests), 0)::bigint from public.usage_daily")
    return Findings(
        seconds=seconds,
        people=people,
        seed=seed,
        record=record,
        samples=watch.samples,
        traffic_ended=traffic_ended,
        before=before,
        after=after,
        left={name: last.passing[name] for name in PASSING if last.passing[name]},
        purge=purge,
        broken=invariants.broken(system.postgres.dsn()),
        orphans=_orphans(system),
        asked_of_the_model=_served(system),
        settled=int(settled),
        logged=_logged(system.data_dir / f"server-{server.port}.log"),
        surroundings=machine.read(besides=system.cpu_seconds() + cpu_ms(server.process_id) / 1000),
    )


def _administrator(system: System, client: Client, seed: int) -> Administrator:
    victim = Person(system.token("victim"), client, random.Random(f"victim {seed}"))
    return Administrator(client, token(system.keys, "admin", is_admin=True), victim, seed)


async def _ring(ends: asyncio.Event, seconds: float) -> None:
    await asyncio.sleep(seconds)
    ends.set()


async def _drained(watch: Watch) -> None:
    """Waits until no turn runs; one that nobody ends is on record."""
    deadline = asyncio.get_running_loop().time() + DRAINED_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        if not (await asyncio.to_thread(watch.look)).passing["running streams"]:
            return
        await asyncio.sleep(0.5)


def _orphans(system: System) -> list[str]:
    """Stored files that no row knows."""
    folder = system.data_dir / "files"
    known = {
        key
        for [key] in system.execute(
            "select storage_key from public.files union all select storage_key from private.file_deletions"
        )
    }
    stored = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [name for name in stored if name not in known]


def _served(system: System) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{system.emulator_port}/", timeout=10) as response:
        served: int = json.load(response)["served"]
        return served


def _logged(path: Path) -> list[str]:
    """The lines of the server's log that are errors; what is no JSON was said by somebody who does not know the log."""
    lines = path.read_text(errors="replace").splitlines()
    return [line for line in lines if _is_error(line)]


def _is_error(line: str) -> bool:
    if line.startswith("{"):
        return json.loads(line)["level"] in ("ERROR", "CRITICAL")
    return bool(line.strip()) and not line.startswith(NO_ERRORS)


def _say(what: str) -> None:
    print(f"soak: {what} ...", file=sys.stderr, flush=True)
