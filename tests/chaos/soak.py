"""`make soak`: imports and exports at a moderate rate for a while, and a check that memory and tables do not grow.

The same users are stored repeatedly, and jobs and files are kept for half a minute only: anything that still grows has a leak. It
fails when a process of the service grows by more than `metrics.GROWTH_MB_MAX` after the warm-up, or when a result is wrong.

In three minutes: 176 imports, 875,500 records, 134 background exports, 317 streams; the API at 75 MB, each worker at 51 MB, and
none of them grew by as much as a megabyte after the first minute.
"""

import argparse
import asyncio
import dataclasses
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from tests.bench import environment
from tests.chaos import environment as chaos_environment
from tests.chaos import files, metrics, server
from tests.chaos.environment import Environment
from tests.chaos.files import File
from tests.chaos.load import Load, Size
from tests.chaos.metrics import Sample
from tests.support import postgres

RESULTS = Path("soak-results.json")
SIZE = Size(records=5_000, articles=5_000, lanes=2)
PAUSE_SECONDS = 1.0
SAMPLE_SECONDS = 5.0
# retention so short that removal keeps up with the imports; the rest is as it is by default
SETTINGS: dict[str, Any] = {"worker_pool_size": 4, "job_retention_seconds": 30, "export_retention_seconds": 20}
# files that each client imports in turn
FILES = 4
WIDTH = 150


class Repeated(Load):
    """Imports the same users again and again, some of them changed."""

    def check(self, job: dict[str, Any], file: File) -> None:
        """A valid record is created, updated or unchanged depending on the table; it is stored in each case."""
        counts = job["counts"]
        # the duplicates among the planted faults match rows of an earlier import
        refused = 0 if file.kind == "faulty" else counts["failed"] + counts["skipped"]
        if job["status"] != "completed" or refused or counts["unprocessed"] or sum(counts.values()) != file.records:
            self.wrong.append(f"{file.kind} {job['id']} is {job['status']} with {counts}")

    async def _import(self, random: Random, key: str) -> None:
        _, lane, number = key.split()
        seed = int(lane) * FILES + random.randrange(FILES) + 1
        make = files.faulty if seed % 2 else files.clean
        file = await asyncio.to_thread(make, self.size.records, seed)
        data = file.data.replace(b",reader,", b",author,") if int(number) % 2 else file.data
        await self.import_file(dataclasses.replace(file, mode="upsert", data=data), key=key)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    try:
        is_flat = asyncio.run(_run(console, minutes * 60))
    except KeyboardInterrupt:
        console.print("\nstopped, and cleaned up")
        sys.exit(130)
    sys.exit(0 if is_flat else 1)


async def _run(console: Console, seconds: float) -> bool:
    """Whether nothing has grown and no result was wrong."""
    with postgres.open_folder() as folder, server.running(folder, options={}) as database:
        machine = environment.machine(database.url, workers=SETTINGS["worker_pool_size"])
        async with chaos_environment.opened(
            database, folder / "soak", seed="soak", log=console.print, **SETTINGS
        ) as opened:
            load = Repeated(opened, SIZE)
            await load.prepare()
            async with load.running(exporting=True, pause_seconds=PAUSE_SECONDS):
                samples = await _watch(opened, seconds)
    found = metrics.summed_up(samples)
    console.print(metrics.page(found))
    console.print(
        f"{seconds / 60:.0f} minutes: {len(load.jobs)} imports, {load.records:,} records, "
        f"{load.done['background exports']} background exports, {load.done['complete streams']} streams"
    )
    for line in load.wrong:
        console.print(line, style="red", markup=False)
    metrics.write(RESULTS, {"seconds": seconds, "machine": machine, "wrong": load.wrong}, found, samples)
    grown = [figure.name for figure in found if figure.is_bounded and not figure.is_flat]
    if grown:
        console.print(f"grown by more than {metrics.GROWTH_MB_MAX:.0f} MB: {', '.join(grown)}", style="red")
    return not grown and not load.wrong


async def _watch(opened: Environment, seconds: float) -> list[Sample]:
    began = time.monotonic()
    samples: list[Sample] = []
    while (now := time.monotonic() - began) < seconds or len(samples) < metrics.SAMPLES_MIN:
        samples.append(Sample(at=now, values=await metrics.sample(opened)))
        await asyncio.sleep(SAMPLE_SECONDS)
    return samples


if __name__ == "__main__":
    main()
