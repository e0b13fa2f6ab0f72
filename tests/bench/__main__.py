"""`make bench`: the throughput of the service compared with that of PostgreSQL's own tools in the same run.

No time makes it fail; but the counters of each import must balance.
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

from tests.bench import (
    environment,
    exports,
    fairness,
    file_kinds,
    file_size,
    foreign_keys,
    imports,
    neighbours,
    pgloader,
    rate,
    report,
    scale,
    single_record,
    status_polling,
    streams,
    table_size,
    tuning,
    uploads,
    worst_files,
)
from tests.bench.environment import SIZES, Environment
from tests.bench.report import Figure

BENCHMARKS: dict[str, Callable[[Environment], Awaitable[list[Figure]]]] = {
    "imports": imports.run,
    "kinds": file_kinds.run,
    "related": foreign_keys.run,
    "related-kinds": file_kinds.run_related,
    "pgloader": pgloader.run,
    "uploads": uploads.run,
    "singles": single_record.run,
    "rate": rate.run,
    "small": fairness.run,
    "neighbours": neighbours.run,
    "polls": status_polling.run,
    "streams": streams.run,
    "exports": exports.run,
    "sizes": file_size.run,
    "tuning": tuning.run,
    "tables": table_size.run,
    "scale": scale.run,
    "memory": worst_files.run,
}
RESULTS = Path("bench-results.json")
# the width for a pipe or a file; a terminal has its own
WIDTH = 160


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("size", nargs="?", choices=SIZES, default="quick")
    parser.add_argument(
        "--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--records", type=int, help="records of a file of users, instead of the size's own")
    parser.add_argument("--rounds", type=int, help="rounds, instead of the size's own")
    parser.add_argument("--workers", type=int, help="worker processes, instead of two")
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in ("records", "rounds", "workers") if getattr(arguments, name)}
    size = msgspec.structs.replace(SIZES[arguments.size], **given)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    try:
        asyncio.run(_run(size, arguments.only, console))
    except KeyboardInterrupt:
        sys.exit(130)


async def _run(size: environment.Size, names: list[str], console: Console) -> None:
    began = time.monotonic()
    started_at = datetime.now(UTC)
    figures: list[Figure] = []
    with environment.opened(size, console) as opened:
        head = {
            "size": size,
            "started_at": started_at,
            "machine": environment.machine(opened.server_url, workers=size.workers),
        }
        try:
            for name in names:
                console.print(f"{name} ({time.monotonic() - began:.0f} s)", style="bold")
                figures += await BENCHMARKS[name](opened)
        finally:
            # also after a run that was interrupted or whose counters did not balance
            head = msgspec.to_builtins(head) | {"seconds": round(time.monotonic() - began, 1)}
            report.show(console, head, figures)
            report.write(RESULTS, head, figures)
            console.print(f"{head['seconds']:.0f} s; all samples are in {RESULTS}")


if __name__ == "__main__":
    main()
