"""What a benchmark works with: how much there is to do, a PostgreSQL server, psql, and the facts about the machine."""

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from rich.console import Console

from db import embedded
from db.embedded import binaries
from tests import servers

# as many as the smallest machine that is worth measuring has cores
WORKERS = 2


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How much is done: records of a file, rounds, bytes of the large upload, and imports of one record."""

    name: str
    records: int
    rounds: int
    upload_bytes: int
    singles: int


SIZES = {
    size.name: size
    for size in (
        # only to see whether the benchmarks still run
        Size(name="smoke", records=5_000, rounds=2, upload_bytes=16 * 1024**2, singles=20),
        Size(name="quick", records=200_000, rounds=5, upload_bytes=256 * 1024**2, singles=100),
        Size(name="full", records=500_000, rounds=7, upload_bytes=1024**3, singles=500),
    )
}


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """`folder` is a scratch folder that psql may read; `server_url` is that of a server with nothing on it yet."""

    size: Size
    folder: Path
    server_url: str
    console: Console

    def subfolder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir()
        return path

    def tell(self, line: str) -> None:
        self.console.print(f"  {line}", style="dim")


@contextmanager
def opened(size: Size, console: Console) -> Iterator[Scene]:
    """A server of the benchmark's own with the settings of the embedded one, which are durable; DATABASE_URL is not touched."""
    with servers.open_folder() as folder:
        try:
            yield Scene(size=size, folder=folder, server_url=embedded.start(folder / "server"), console=console)
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


def empty(database_url: str) -> None:
    """No record and no job, and nothing left to write: each contender starts from the same."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("TRUNCATE users, import_jobs CASCADE")
        conn.execute("CHECKPOINT")


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
    }


def _processor() -> str:
    with suppress(FileNotFoundError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
