"""The machine under the run, and how much of it other programs took meanwhile."""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from bench.processes import TICKS_A_SECOND


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the figures depend on; `others` is the share of all cores that was not this run's, 0 to 1."""

    cores: int
    processor: str
    python: str
    seconds: float
    others: float


class Watch:
    """Begins with the run; `read` at its end, with the CPU seconds of what this process has not started itself."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy = _busy_seconds()
        self._own = _own_seconds()

    def read(self, besides: float) -> Surroundings:
        seconds = time.perf_counter() - self._started
        cores = os.cpu_count() or 1
        own = _own_seconds() - self._own + besides
        others = (_busy_seconds() - self._busy - own) / (seconds * cores)
        return Surroundings(
            cores=cores,
            processor=_processor(),
            python=platform.python_version(),
            seconds=seconds,
            others=max(others, 0.0),
        )


def _own_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _busy_seconds() -> float:
    """CPU time of all programs since the machine started; waiting for a disk and stolen time are none."""
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:8]
    )
    return (user + nice + system + interrupts + soft_interrupts) / TICKS_A_SECOND


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
