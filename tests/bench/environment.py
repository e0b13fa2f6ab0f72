"""The environment of a benchmark: its sizes, a PostgreSQL server, psql, and the facts about the machine."""

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


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of a run. `records`: of a file of users; `rounds`: how often each contender runs."""

    name: str
    # the number of cores of the smallest machine that is worth measuring
    workers: int = 2
    records: int
    # of the files of articles and of comments
    related_records: int
    # of the files for comparing many settings and tables
    tried_records: int
    # of the file that runs beside a small import; of pgloader's, which takes minutes where others take seconds
    large_records: int
    pgloader_records: int
    rounds: int
    # of slow benchmarks
    rounds_of_long: int
    upload_bytes: int
    # imports of one record, of 1,000 records, and requests for a job's status
    singles: int
    smalls: int
    polls: int
    # the cost of a record and the memory are reported for each of these
    file_records: tuple[int, ...]
    table_rows: tuple[int, ...]
    # the cost of the queue's statements is reported for each of these; chunks and errors of each finished import; calls of each
    finished_imports: tuple[int, ...]
    live_imports: tuple[int, ...]
    finished_chunks: int
    finished_errors: int
    calls: int
    # how long the slow client is observed, and how long imports are posted without a pause
    slow_seconds: float
    rate_seconds: int


SIZES = {
    size.name: size
    for size in (
        # only to test that the benchmarks run
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
            finished_imports=(5, 50),
            live_imports=(1, 10),
            finished_chunks=20,
            finished_errors=200,
            calls=20,
            slow_seconds=1,
            rate_seconds=1,
        ),
        # about ten minutes
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
            finished_imports=(100, 1_000),
            live_imports=(1, 100, 1_000, 10_000),
            finished_chunks=100,
            finished_errors=1_000,
            calls=50,
            slow_seconds=5,
            rate_seconds=5,
        ),
        # about ninety minutes; needs 30 GB of disk
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
            finished_imports=(100, 1_000, 3_000, 10_000),
            live_imports=(1, 100, 1_000, 10_000),
            finished_chunks=1_000,
            finished_errors=10_000,
            calls=100,
            slow_seconds=20,
            rate_seconds=15,
        ),
    )
}


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """`folder` is a scratch folder that psql may read; `server_url` is that of an empty server."""

    size: Size
    folder: Path
    server_url: str
    console: Console

    def subfolder(self, name: str) -> Path:
        """A new folder at each call."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def log(self, line: str) -> None:
        self.console.print(f"  {line}", style="dim")


@contextmanager
def opened(size: Size, console: Console) -> Iterator[Environment]:
    """A server of the benchmark's own with the durable settings of the embedded one; DATABASE_URL is not used.

    Its binaries are those of TEST_POSTGRES_BIN, if that is set.
    """
    with postgres.open_folder() as folder:
        try:
            yield Environment(
                size=size,
                folder=folder,
                server_url=embedded.start(folder / "server", options=embedded.TCP, bin_dir=postgres.bin_dir()),
                console=console,
            )
        finally:
            with suppress(embedded.NotRunning):
                embedded.stop(folder / "server")


def psql(database_url: str, command: str, *, stdout: int = subprocess.DEVNULL) -> bytes:
    """Runs one command in the server's psql; returns its output if `stdout` is a pipe."""
    done = subprocess.run(
        [binaries.find() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database_url, "-c", command],
        stdout=stdout,
        env={**os.environ, "PGOPTIONS": "-c TimeZone=UTC", "PGCLIENTENCODING": "UTF8"},
        check=True,
    )
    return done.stdout or b""


class ServerCpu:
    """The CPU time of the server's process of a session, which is on this machine. Only Linux reports it; elsewhere it is 0."""

    def __init__(self, backend_pid: int) -> None:
        self._schedstat: int | None = None
        with suppress(OSError):
            self._schedstat = os.open(f"/proc/{backend_pid}/schedstat", os.O_RDONLY)

    def seconds(self) -> float:
        return 0.0 if self._schedstat is None else int(os.pread(self._schedstat, 64, 0).split()[0]) / 1e9

    def close(self) -> None:
        if self._schedstat is not None:
            os.close(self._schedstat)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children, also of those that have ended. Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK") + sum(cpu_seconds(int(child)) for child in children)


def machine(server_url: str, *, workers: int) -> dict[str, Any]:
    """The facts about the machine that a reader of the figures needs."""
    with psycopg.connect(server_url) as conn:
        settings = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        shown = {name: conn.execute(f"SHOW {name}").fetchone() for name in settings}
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": {name: row[0] for name, row in shown.items() if row},
        "workers": workers,
        # other processes slow the two contenders down, rarely by the same amount
        "load": round(os.getloadavg()[0], 1),
    }


def _processor() -> str:
    with suppress(FileNotFoundError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
