"""`make bench`: what the service does in a second, beside what PostgreSQL's own tools do in the same one.

Nothing here passes or fails by a time; the books of each import are checked, though.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from tests.bench import exports, imports, memory, report, scene, singles, streams
from tests.bench.report import Figure
from tests.bench.scene import SIZES, Scene

BENCHMARKS: dict[str, Callable[[Scene], Awaitable[list[Figure]]]] = {
    "imports": imports.run,
    "streams": streams.run,
    "exports": exports.run,
    "memory": memory.run,
    "singles": singles.run,
}
RESULTS = Path("bench-results.json")
# what a pipe or a file gets; a terminal has a width of its own
WIDTH = 150


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("size", nargs="?", choices=SIZES, default="quick")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    try:
        asyncio.run(_run(SIZES[arguments.size], arguments.only, console))
    except KeyboardInterrupt:
        sys.exit(130)


async def _run(size: scene.Size, names: list[str], console: Console) -> None:
    began = time.monotonic()
    started_at = datetime.now(UTC)
    figures: list[Figure] = []
    with scene.opened(size, console) as opened:
        head = {"size": size, "started_at": started_at, "machine": scene.machine(opened.server_url)}
        for name in names:
            console.print(name, style="bold")
            figures += await BENCHMARKS[name](opened)
    head = msgspec.to_builtins(head) | {"seconds": round(time.monotonic() - began, 1)}
    report.show(console, head, figures)
    report.write(RESULTS, head, figures)
    console.print(f"{head['seconds']:.0f} s; all samples are in {RESULTS}")


if __name__ == "__main__":
    main()
