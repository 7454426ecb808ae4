"""Cold imports: what each function loads before its first event, in time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.figures import middle
from bench.system import PROVIDERS

FUNCTIONS: Final = Path(__file__).parents[1] / "functions"
BAREST: Final = """
from fastapi import FastAPI
app = FastAPI()
@app.get("/")
async def hello(): return {}
"""
MODEL: Final = """
from threadkeep.settings import settings
from threadkeep_agents.providers import Providers
Providers(settings()).model({provider!r}, "a-model")
"""
STOPWATCH: Final = """
import time
started = time.perf_counter()
{code}
milliseconds = (time.perf_counter() - started) * 1000
import json
line = next(line for line in open("/proc/self/status") if line.startswith("VmRSS:"))
print(json.dumps([milliseconds, int(line.split()[1]) / 1024]))
"""
# Set, the functions build their applications at import, as in Lambda's init phase.
INIT_PHASE: Final = {
    "AWS_LAMBDA_FUNCTION_NAME": "bench",
    "DATABASE_URL": "postgresql://nobody@127.0.0.1/nothing",
    "GUEST_TOKEN_KEYS": json.dumps({"k1": "g" * 48}),
    "ENVIRONMENT": "local",
}


@dataclass(frozen=True, kw_only=True)
class Import:
    """Milliseconds in a fresh interpreter whose own start does not count, and its memory afterwards in MiB."""

    milliseconds: float
    resident: float


def measure(rounds: int) -> dict[str, Import]:
    """Medians of rounds over all subjects, the files being in the kernel's cache after the first."""
    subjects = _subjects()
    taken: dict[str, list[Import]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, code in subjects.items():
            taken[name].append(_once(code))
    return {name: middle(each) for name, each in taken.items()}


def _subjects() -> Mapping[str, str]:
    functions = sorted(folder.name for folder in FUNCTIONS.iterdir() if (folder / "app.py").exists())
    chat = "import functions.chat.app"
    return {
        "nothing (Python itself)": "",
        "the barest FastAPI application": BAREST,
        **{f"functions/{name}": f"import functions.{name}.app" for name in functions},
        **{f"functions/chat with a model of {name}": chat + MODEL.format(provider=name) for name in PROVIDERS},
    }


def _once(code: str) -> Import:
    keys = {f"{name}_API_KEY": "bench-key" for name in PROVIDERS.values()}
    finished = subprocess.run(
        [sys.executable, "-c", STOPWATCH.format(code=code)],
        env={**os.environ, **keys, **INIT_PHASE},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    milliseconds, resident = json.loads(finished.stdout.splitlines()[-1])
    return Import(milliseconds=milliseconds, resident=resident)
