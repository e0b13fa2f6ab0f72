"""A service on a database of its own, whose processes can be killed and restarted."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, LiteralString

import httpx
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from tests.chaos.client import Client
from tests.chaos.recovery import Recoveries
from tests.chaos.server import Server
from tests.support import api_client
from tests.support.eventually import eventually
from tests.support.service import Process, Service

# longer than any outage of PostgreSQL here
PATIENCE_SECONDS = 60
REQUEST_SECONDS = 30
LOG_LINES_MAX = 20
LOG_LINE_CHARACTERS_MAX = 1000


class Environment:
    """What the faults and the load share. `fault_counts` counts the faults by name.

    `server` is None if the faults of PostgreSQL are not those of `faults`.
    """

    def __init__(
        self, server: Server | None, service: Service, client: Client, *, seed: str, log: Callable[[str], None]
    ) -> None:
        self._server = server
        self.service = service
        self.client = client
        self.seed = seed
        self.log = log
        self.random = Random(f"{seed} faults")
        self.database_url = service.environment["DATABASE_URL"]
        self.exports = service.folder / "exports"
        self.fault_counts: Counter[str] = Counter()
        self.recoveries = Recoveries()
        self._processes = {"api": service.api, "workers": service.workers}
        self._frozen: set[int] = set()
        self._kept: AsyncConnection[DictRow] | None = None

    @property
    def server(self) -> Server:
        assert self._server is not None, "the server is not one that faults can stop"
        return self._server

    @property
    def api(self) -> Process:
        return self._process("api")

    @property
    def workers(self) -> Process:
        return self._process("workers")

    def _process(self, module: str) -> Process:
        process = self._processes[module]
        assert process is not None, f"{module} was not started"
        return process

    # ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def awake(self) -> list[int]:
        """The pids of the workers that are not frozen."""
        return [pid for pid in self.workers.children() if pid not in self._frozen]

    def start(self, module: str) -> None:
        """Starts the API or the worker pool, replacing one that has ended."""
        self._processes[module] = Process(module, self.service.environment, self.service.folder / f"{module}.log")

    def kill(self, module: str) -> None:
        """SIGKILL to the process and to all of its children at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process(module).pid, signal.SIGKILL)
        self._process(module).popen.wait(PATIENCE_SECONDS)

    def freeze(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        self._frozen.add(pid)

    def thaw(self, pid: int) -> None:
        self._frozen.discard(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def warnings(self) -> list[str]:
        """The last log lines of the processes above the level info."""
        lines = [line for module in ("api", "workers") for line in self._last_lines(module)]
        return [line[:LOG_LINE_CHARACTERS_MAX] for line in lines if '"level": "info"' not in line]

    def _last_lines(self, module: str) -> list[str]:
        log = self.service.folder / f"{module}.log"
        return log.read_text(errors="replace").splitlines()[-LOG_LINES_MAX:] if log.exists() else []

    async def stop(self) -> None:
        """Stops the processes started here. Their children are stopped by the service itself."""
        for pid in list(self._frozen):
            self.thaw(pid)
        for process in self._processes.values():
            if process is not None and process not in (self.service.api, self.service.workers):
                await process.stop()

    # ── database ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def rows(self, query: LiteralString, **parameters: Any) -> list[DictRow]:
        """Runs a query on a connection of its own; waits while the server is unreachable."""
        if self._kept:
            return await (await self._kept.execute(query, parameters)).fetchall()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                async with await self.connect() as conn:
                    return await (await conn.execute(query, parameters)).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def value(self, query: LiteralString, **parameters: Any) -> Any:
        """The first column of the only row of the result."""
        (row,) = await self.rows(query, **parameters)
        return next(iter(row.values()))

    async def connect(self) -> AsyncConnection[DictRow]:
        """A connection that no fault mistakes for one of the service."""
        return await AsyncConnection.connect(
            self.database_url, autocommit=True, application_name="chaos", row_factory=dict_row, connect_timeout=5
        )

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Uses one connection for all queries from now on, because all others are about to be occupied."""
        async with await self.connect() as self._kept:
            try:
                yield
            finally:
                self._kept = None

    async def has_pending(self) -> bool:
        """Whether there are pending chunks: without them a fault has no effect."""
        return await self.value("SELECT EXISTS (SELECT 1 FROM chunks WHERE state = 'pending' AND kind = 'records')")

    async def is_idle(self) -> bool:
        """Whether all jobs are final, and nothing remains of uploads that were never completed."""
        return not await self.value(
            """
            SELECT EXISTS (SELECT 1 FROM import_jobs WHERE finished_at IS NULL)
                OR EXISTS (SELECT 1 FROM export_jobs WHERE finished_at IS NULL)
            """
        )


@asynccontextmanager
async def opened(
    server: Server, folder: Path, *, seed: str, log: Callable[[str], None], **settings: Any
) -> AsyncIterator[Environment]:
    """Creates `folder`. `settings` are those of the service, and `run`, which names the processes to start."""
    await asyncio.to_thread(folder.mkdir)
    async with (
        api_client.service(server.url, folder, **settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=REQUEST_SECONDS) as http,
    ):
        env = Environment(server, service, Client(http), seed=seed, log=log)
        try:
            if service.workers:
                await eventually(lambda: env.workers.children())
            yield env
        finally:
            await env.stop()
