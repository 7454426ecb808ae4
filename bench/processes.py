"""What the kernel has counted for a process: CPU time, and memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")


def cpu_ms(process_id: int) -> float:
    """CPU time of a process until now, in milliseconds, user and system."""
    fields = _stat(process_id)
    return (int(fields[11]) + int(fields[12])) * 1000 / TICKS_A_SECOND


def family_cpu_ms(process_id: int) -> float:
    """CPU time of a process, of its children that live, and of those that have ended and were waited for."""
    fields = _stat(process_id)
    own_and_ended = sum(int(field) for field in fields[11:15]) * 1000 / TICKS_A_SECOND
    return own_and_ended + sum(_cpu_ms_or_zero(child) for child in _children(process_id))


def resident_mib(process_id: int) -> float:
    """Memory of a process that is in use now, in MiB."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(process_id)


def _stat(process_id: int) -> list[str]:
    # The name stands in parentheses and may hold anything.
    return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()


def _cpu_ms_or_zero(process_id: int) -> float:
    try:
        return cpu_ms(process_id)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _children(process_id: int) -> list[int]:
    folder = Path(f"/proc/{process_id}/task/{process_id}/children")
    return [int(child) for child in folder.read_text().split()]
