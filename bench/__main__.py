"""`python -m bench [--quick]`: measures Threadkeep on this machine and prints one report, in Markdown.

Within six minutes, or within one with `--quick`, whose figures are coarser. Needs Linux: CPU time and memory are what
/proc counts. Everything runs on loopback over a temporary folder, and is gone afterwards.
"""

from __future__ import annotations

import argparse

from bench.report import report
from bench.run import FULL, QUICK, measure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within a minute, with coarser figures")
    scale = QUICK if parser.parse_args().quick else FULL
    print(report(measure(scale), scale))


if __name__ == "__main__":
    main()
