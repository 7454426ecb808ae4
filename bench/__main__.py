"""`python -m bench [--quick] [--documents | --administration | --soak]`: measures Threadkeep on this machine.

Within seven minutes, or within two with `--quick`, whose figures are coarser. Needs Linux: CPU time and memory are what
/proc counts. `--documents` measures documents alone, and `--administration` the pages of administrators instead, over
ten million usage rows: that takes some minutes more, and 5 GB of disk. `--soak` is mixed traffic for ten minutes, or
for `--soak SECONDS`, and a judgement of what it left behind, which fails if anything is off. Each prints one report in
Markdown. Everything runs on loopback over a temporary folder, and is gone afterwards.
"""

from __future__ import annotations

import argparse
import sys

from bench import admin_pages, document_calls
from bench.report import report
from bench.run import FULL, QUICK, measure, measure_documents
from bench.soak.run import SECONDS, soak


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within two minutes, with coarser figures")
    parser.add_argument("--documents", action="store_true", help="only what is about documents")
    parser.add_argument("--administration", action="store_true", help="the pages of administrators, with their plans")
    parser.add_argument("--rows", type=int, default=admin_pages.ROWS, help="the usage rows that these are read from")
    parser.add_argument("--soak", type=int, nargs="?", const=SECONDS, help="mixed traffic for so many seconds (600)")
    given = parser.parse_args()
    if given.administration:
        admin_pages.measure(given.rows, with_plans=True)
        return
    if given.soak is not None:
        sys.exit(0 if soak(given.soak) else 1)
    scale = QUICK if given.quick else FULL
    if given.documents:
        print(document_calls.section(measure_documents(scale)))
        return
    print(report(measure(scale), scale))


if __name__ == "__main__":
    main()
