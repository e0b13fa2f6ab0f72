"""What a benchmark works with: how much there is to do, a PostgreSQL server, psql, and the facts about the machine."""

import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from rich.console import Console

from db import embedded
from db.embedded import binaries
from tests.support import postgres

# as many as the smallest machine that is worth measuring has cores
WORKERS = 2


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How much is done. `records` is what a file of users has, `rounds` how often each contender has its turn."""

    name: str
    records: int
    # of the file of articles and of the one of comments
    related_records: int
    # of the files that many settings and tables are tried with
    tried_records: int
    # of the file that a small import stands beside; pgloader's, which takes minutes where others take seconds
    large_records: int
    pgloader_records: int
    rounds: int
    # of what takes long
    rounds_of_long: int
    upload_bytes: int
    # imports of one record, of 1,000 records, and looks at a job
    singles: int
    smalls: int
    polls: int
    # over these the cost of a record and the memory are told
    file_records: tuple[int, ...]
    table_rows: tuple[int, ...]
    # how long the slow client is watched
    slow_seconds: float


SIZES = {
    size.name: size
    for size in (
        # only to see whether the benchmarks still run
        Size(
            name="smoke",
            records=5_000,
            related_records=2_000,
            tried_records=2_000,
            large_records=20_000,
            pgloader_records=500,
            rounds=2,
            rounds_of_long=1,
            upload_bytes=8 * 1024**2,
            singles=20,
            smalls=5,
            polls=100,
            file_records=(1_000, 5_000),
            table_rows=(0, 5_000),
            slow_seconds=1,
        ),
        # about two minutes
        Size(
            name="quick",
            records=100_000,
            related_records=40_000,
            tried_records=40_000,
            large_records=200_000,
            pgloader_records=5_000,
            rounds=3,
            rounds_of_long=2,
            upload_bytes=128 * 1024**2,
            singles=100,
            smalls=20,
            polls=1_000,
            file_records=(10_000, 100_000),
            table_rows=(0, 200_000),
            slow_seconds=5,
        ),
        # some forty minutes
        Size(
            name="full",
            records=1_000_000,
            related_records=500_000,
            tried_records=200_000,
            large_records=1_000_000,
            pgloader_records=50_000,
            rounds=4,
            rounds_of_long=2,
            upload_bytes=1024**3,
            singles=500,
            smalls=100,
            polls=10_000,
            file_records=(10_000, 100_000, 1_000_000, 5_000_000),
            table_rows=(0, 1_000_000, 10_000_000),
            slow_seconds=20,
        ),
    )
}


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """`folder` is a scratch folder that psql may read; `server_url` is that of a server with nothing on it yet."""

    size: Size
    folder: Path
    server_url: str
    console: Console

    def subfolder(self, name: str) -> Path:
        """A new folder, whatever was asked for before."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def tell(self, line: str) -> None:
        self.console.print(f"  {line}", style="dim")


@contextmanager
def opened(size: Size, console: Console) -> Iterator[Environment]:
    """A server of the benchmark's own with the settings of the embedded one, which are durable; DATABASE_URL is not touched."""
    with postgres.open_folder() as folder:
        try:
            yield Environment(
                size=size,
                folder=folder,
                server_url=embedded.start(folder / "server", options=embedded.TCP),
                console=console,
            )
        finally:
            with suppress(embedded.NotRunning):
                embedded.stop(folder / "server")


def psql(database_url: str, command: str, *, stdout: int = subprocess.DEVNULL) -> bytes:
    """Runs one command in the psql that came with the server; returns what it prints if `stdout` is a pipe."""
    done = subprocess.run(
        [binaries.find() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database_url, "-c", command],
        stdout=stdout,
        env={**os.environ, "PGOPTIONS": "-c TimeZone=UTC", "PGCLIENTENCODING": "UTF8"},
        check=True,
    )
    return done.stdout or b""


def machine(server_url: str) -> dict[str, Any]:
    """What a reader of the figures must know of where they come from."""
    with psycopg.connect(server_url) as conn:
        settings = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        shown = {name: conn.execute(f"SHOW {name}").fetchone() for name in settings}
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": {name: row[0] for name, row in shown.items() if row},
        "workers": WORKERS,
        # what else goes on takes its share, seldom the same from both sides
        "load": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    with suppress(FileNotFoundError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
