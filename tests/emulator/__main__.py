"""The emulator as a process of its own: `python -m tests.emulator --port N [--fixed-tokens 50 [--pace 0.02]]`.

Prints its port when it is ready. Without `--fixed-tokens` it echoes. `GET /` tells how many requests it has had.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress

from tests.emulator.fixed import Fixed
from tests.emulator.server import Emulator


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="a free one if 0")
    parser.add_argument("--fixed-tokens", type=int, default=0, help="answer everything with this many deltas")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between those deltas; all at once if 0")
    options = parser.parse_args()
    fixed = Fixed(options.fixed_tokens, options.pace) if options.fixed_tokens else None
    with suppress(KeyboardInterrupt):
        asyncio.run(Emulator(fixed=fixed).serve(options.port, lambda port: print(port, flush=True)))


if __name__ == "__main__":
    main()
