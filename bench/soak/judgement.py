"""What a soak has shown, in Markdown, and whether all of it is as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.figures import p50, p95, table
from bench.soak.client import SHOWN_PROBLEMS
from bench.soak.watch import Sample, slope

if TYPE_CHECKING:
    from bench.soak.run import Findings

# Of the samples; what a process takes at first, it keeps for what comes later.
WARM_UP: Final = 0.4
MIB_A_MINUTE: Final = 1.0
# A process takes memory for what it meets for the first time, such as the source lines of tracebacks that it logs.
MEMORY_WARM_UP_SECONDS: Final = 180
MEMORY_JUDGED_SECONDS: Final = 300
POOL: Final = 8
# Connections that are kept to the database and to the model, threads that wait, a task of a timer that has just begun.
MORE_WHEN_QUIET: Final = {"tasks": 1, "files": 20, "sockets": 20, "threads": 12}
# From the warm-up to the end of the traffic, of their middle: chance has people do other things at the end.
GROWTH_UNDER_LOAD: Final = 0.2
SAMPLES_JUDGED: Final = 20
SHOWN_SAMPLES: Final = 8

Check = tuple[str, str, bool]


def report(found: Findings) -> tuple[str, bool]:
    """The whole report, and whether nothing was off."""
    checks = _checks(found)
    is_good = all(holds for _, _, holds in checks)
    rows = [[name, figure, "yes" if holds else "**NO**"] for name, figure, holds in checks]
    verdict = "Everything is as it should be." if is_good else "**Something is off.**"
    parts = [
        _head(found),
        f"## Judgement\n\n{table(['promise', 'found', 'kept'], rows)}\n\n{verdict}",
        *_problems(found),
        _process(found),
        _rows(found),
        _answers(found),
        f"## What people did\n\n{table(['deed', 'times'], [[*each] for each in found.record.deeds.most_common()])}",
    ]
    return "\n\n".join(parts), is_good


def after_warm_up(samples: list[Sample]) -> list[Sample]:
    """Those that count for what must not grow."""
    return samples[int(len(samples) * WARM_UP) :]


def _checks(found: Findings) -> list[Check]:
    server_errors = sum(number for (_, status), number in found.record.statuses.items() if status >= 500)
    unexpected = sum(found.record.unexpected.values())
    memory = 60 * slope(
        [
            (sample.second, sample.memory)
            for sample in after_warm_up(found.samples)
            if MEMORY_WARM_UP_SECONDS < sample.second < found.traffic_ended or found.seconds < MEMORY_JUDGED_SECONDS
        ]
    )
    is_judged = found.seconds >= MEMORY_JUDGED_SECONDS
    connections = max(sample.connections for sample in found.samples)
    checks = [
        ("no answer with 5xx", str(server_errors), server_errors == 0),
        ("no unexpected answer", str(unexpected), unexpected == 0),
        (
            f"memory grows by less than {MIB_A_MINUTE} MiB a minute",
            f"{memory:+.2f}" if is_judged else f"{memory:+.2f}, too early to tell",
            memory < MIB_A_MINUTE or not is_judged,
        ),
        (f"at most {POOL} connections to the database", str(connections), connections <= POOL),
    ]
    for name, more in MORE_WHEN_QUIET.items():
        before, after = getattr(found.before, name), getattr(found.after, name)
        checks.append((f"no more {name} than before, when it is quiet", f"{before}, {after}", after <= before + more))
        grown = _growth_under_load(found, name)
        checks.append((f"as many {name} as it goes on", f"{grown:+.0%}", grown <= GROWTH_UNDER_LOAD))
    left = ", ".join(f"{number} {name}" for name, number in found.left.items())
    checks.append(("nothing is left that should go", left or "nothing", not found.left))
    failed = [kind["kind"] for kind in found.purge["kinds"] if kind["error"] or kind["remaining"]]
    checks.append(("the schedule's work is done", ", ".join(failed) or "all", not failed))
    checks.append(("stored files have rows", f"{len(found.orphans)} without", not found.orphans))
    checks.append(("the database is consistent", f"{len(found.broken)} promises broken", not found.broken))
    # An answer that the deletion of its person cuts short goes with him: two requests, for the answer and the title.
    gone = 2 * found.record.deleted_while_answered
    unsettled = found.asked_of_the_model - found.settled
    checks.append(
        (
            "every model request is settled once, but those of people who were deleted meanwhile",
            f"{unsettled} of {found.asked_of_the_model:,} are not, at most {gone} may",
            0 <= unsettled <= gone,
        )
    )
    checks.append(("no error in the server's log", str(len(found.logged)), not found.logged))
    return checks


def _growth_under_load(found: Findings, name: str) -> float:
    """From the end of the warm-up to that of the traffic, as a part of the middle."""
    busy = after_warm_up([sample for sample in found.samples if sample.second < found.traffic_ended])
    if len(busy) < SAMPLES_JUDGED:
        return 0.0
    points = [(sample.second, float(getattr(sample, name))) for sample in busy]
    return slope(points) * (points[-1][0] - points[0][0]) / p50([each for _, each in points])


def _head(found: Findings) -> str:
    around = found.surroundings
    requests = sum(found.record.statuses.values())
    return (
        "# Threadkeep, soaked\n\n"
        f"{around.cores} cores ({around.processor}), Python {around.python}. {found.people} people and an "
        f"administrator at once for {found.seconds:.0f} s (seed {found.seed}): {requests:,} requests, "
        f"{requests / found.seconds:.0f} a second, and {found.asked_of_the_model:,} requests to the model. "
        f"Other programs took {around.others:.0%} of the machine meanwhile."
    )


def _problems(found: Findings) -> list[str]:
    parts = []
    if found.record.unexpected:
        lines = [
            f"- {number} times {what}\n  `{found.record.examples[what]}`"
            for what, number in found.record.unexpected.most_common(SHOWN_PROBLEMS)
        ]
        parts.append("## Unexpected\n\n" + "\n".join(lines))
    if found.broken:
        lines = [f"- {promise}: {rows}" for promise, rows in found.broken.items()]
        parts.append("## Broken promises\n\n" + "\n".join(lines))
    if found.logged:
        parts.append(
            "## Errors in the log\n\n"
            + "\n".join(f"- `{line[:250]} … {line[-900:]}`" for line in found.logged[:SHOWN_PROBLEMS])
        )
    if found.orphans:
        parts.append(f"## Files without a row\n\n{found.orphans[:SHOWN_PROBLEMS]}")
    return parts


def _process(found: Findings) -> str:
    rows: list[list[object]] = [
        [name, f"{sample.second:.0f}", sample.memory, *(getattr(sample, each) for each in _COUNTS)]
        for name, sample in [
            ("before", found.before),
            *(("", one) for one in _some(found.samples)),
            ("after", found.after),
        ]
    ]
    return f"## The server's process\n\n{table(['', 's', 'MiB', *_COUNTS], rows)}"


_COUNTS: Final = ("tasks", "files", "sockets", "threads", "connections")


def _rows(found: Findings) -> str:
    samples = [*_some(found.samples), found.after]
    headings = ["rows", *(f"{sample.second:.0f} s" for sample in samples)]
    rows: list[list[object]] = [[name, *(sample.passing[name] for sample in samples)] for name in samples[0].passing]
    rows += [[name, *(sample.kept[name] for sample in samples)] for name in samples[0].kept]
    return f"## Rows\n\n{table(headings, rows)}"


def _answers(found: Findings) -> str:
    statuses = sorted({status for _, status in found.record.statuses})
    rows: list[list[object]] = [
        [
            route,
            *(found.record.statuses[route, status] or None for status in statuses),
            p50(milliseconds),
            p95(milliseconds),
        ]
        for route, milliseconds in sorted(found.record.milliseconds.items(), key=lambda item: item[0].split(" ")[::-1])
    ]
    return (
        "## Answers by route and status\n\nMilliseconds until the end of the answer, for streams until its head.\n\n"
        f"{table(['route', *map(str, statuses), 'p50 ms', 'p95 ms'], rows)}"
    )


def _some(samples: list[Sample]) -> list[Sample]:
    """As many as a table has room for, the last one among them."""
    step = max(1, len(samples) // SHOWN_SAMPLES)
    return samples[::-step][::-1]
