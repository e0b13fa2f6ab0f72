"""What the tests run against: a PostgreSQL server, databases on it, and the service's own processes."""

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
from psycopg.sql import SQL, Identifier

from db import embedded

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 20
STOP_SECONDS = 10

# a test's data may be lost with the machine, though not with a process
FAST = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}


async def eventually(condition: Callable[[], Any], timeout: float = 10) -> Any:  # noqa: ASYNC109  it fails, not cancels
    """What `condition` returns, as soon as that is true; `condition` may be async. Fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s; at last it was {value!r}")
        await asyncio.sleep(0.02)


# ── PostgreSQL ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a server whose user may create databases.

    TEST_DATABASE_URL; else what TEST_POSTGRES says, `container` or `container:TAG`; else a server of our own, of the
    binaries in TEST_POSTGRES_BIN if that is set.
    """
    kind, _, tag = os.environ.get("TEST_POSTGRES", "").partition(":")
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
    elif kind == "container":
        # only here: nobody else needs an engine
        from docker.errors import DockerException
        from testcontainers.community.postgres import PostgresContainer

        try:
            container = PostgresContainer(f"postgres:{tag or '18'}", driver=None).start()
        except DockerException as error:
            raise embedded.EmbeddedError(f"TEST_POSTGRES={kind}: {error}") from error
        yield container.get_connection_url()
        container.stop()
    else:
        with open_folder() as folder:
            yield embedded.start(folder, options=FAST, bin_dir=postgres_bin())
            embedded.stop(folder)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A scratch folder that others may enter, as the user has to that root's PostgreSQL may run as."""
    with tempfile.TemporaryDirectory(prefix="bulk-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def postgres_bin() -> Path | None:
    given = os.environ.get("TEST_POSTGRES_BIN")
    return Path(given) if given else None


def create_database(server_url: str, *, template: str = "template1") -> str:
    """Makes a database that is a copy of `template`, and returns its name."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
    return name


def drop_database(server_url: str, name: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


def database_url(server_url: str, name: str) -> str:
    """`server_url` with the database `name`, still a URL."""
    base, question, parameters = server_url.partition("?")
    prefix, host = base.split("://", 1)
    return f"{prefix}://{host.split('/', 1)[0]}/{name}{question}{parameters}"


# ── our own processes ─────────────────────────────────────────────────────────────────────────────────────────────────


class Process:
    """One process of ours; what it says goes to a file."""

    def __init__(self, module: str, environment: dict[str, str], log: Path) -> None:
        self.module = module
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=embedded.die_with_parent(signal.SIGTERM),
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def exit_code(self) -> int | None:
        """None while it runs, negative if a signal ended it."""
        return self.popen.poll()

    def children(self) -> list[int]:
        """The pids of its children: the pool's workers."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def send(self, signum: signal.Signals) -> None:
        self.popen.send_signal(signum)

    async def stop(self) -> int:
        """Terminates it, in the end by force and with all of its children, and returns its exit code."""
        self.send(signal.SIGTERM)
        try:
            await eventually(lambda: self.exit_code is not None, STOP_SECONDS)
        finally:
            # the process was the leader of its group, so this ends what it may have left
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.popen.wait()
        return self.popen.returncode


@dataclass(frozen=True)
class Service:
    """An API process and a worker pool on one database; either may be None."""

    url: str
    folder: Path
    environment: dict[str, str]
    api: Process | None
    workers: Process | None


@asynccontextmanager
async def service(
    folder: Path, database: str, *, run: Sequence[str] = ("api", "workers"), **settings: object
) -> AsyncIterator[Service]:
    """Starts what `run` names, waits until the API is live, and stops it all at the end.

    `settings` are fields of `Settings`: `service(folder, url, worker_pool_size=4, batch_size=100)`. What the test machine
    has set does not count.
    """
    port = settings.setdefault("http_port", _free_port())
    given = {
        "database_url": database,
        "data_dir": folder / "data",
        "export_dir": folder / "exports",
        "log_format": "json",
    }
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment |= {name.upper(): str(value) for name, value in (given | settings).items()}
    processes = {module: Process(module, environment, folder / f"{module}.log") for module in run}
    try:
        api, workers = processes.get("api"), processes.get("workers")
        if api:
            await eventually(lambda: _live(port, api), START_SECONDS)
        yield Service(f"http://127.0.0.1:{port}", folder, environment, api, workers)
    finally:
        for process in processes.values():
            await process.stop()


async def _live(port: object, api: Process) -> bool:
    assert api.exit_code is None, f"the API ended with {api.exit_code}:\n{api.output}"
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://127.0.0.1:{port}/live")).status_code == 200
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
