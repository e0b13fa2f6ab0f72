"""A service on a database of its own, whose processes can be killed and started anew."""

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

# longer than PostgreSQL is ever away
PATIENCE_SECONDS = 60
REQUEST_SECONDS = 30
COMPLAINTS_MAX = 20
COMPLAINT_CHARACTERS_MAX = 1000


class Environment:
    """What the disturbances and the load share. `disturbances` counts what was done, by its name."""

    def __init__(
        self, server: Server, service: Service, client: Client, *, seed: str, tell: Callable[[str], None]
    ) -> None:
        self.server = server
        self.service = service
        self.client = client
        self.seed = seed
        self.tell = tell
        self.random = Random(f"{seed} disturbances")
        self.database_url = service.environment["DATABASE_URL"]
        self.exports = service.folder / "exports"
        self.disturbances: Counter[str] = Counter()
        self.recoveries = Recoveries()
        self._processes = {"api": service.api, "workers": service.workers}
        self._frozen: set[int] = set()
        self._kept: AsyncConnection[DictRow] | None = None

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
        """Starts the API or the worker pool, in the place of one that is dead."""
        self._processes[module] = Process(module, self.service.environment, self.service.folder / f"{module}.log")

    def kill(self, module: str) -> None:
        """SIGKILL to the process and to all of its children at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process(module).pid, signal.SIGKILL)
        self._process(module).popen.wait()

    def freeze(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        self._frozen.add(pid)

    def thaw(self, pid: int) -> None:
        self._frozen.discard(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def complaints(self) -> list[str]:
        """What the processes said last that is more than a remark."""
        lines = [line for module in ("api", "workers") for line in self._said(module)]
        return [line[:COMPLAINT_CHARACTERS_MAX] for line in lines if '"level": "info"' not in line]

    def _said(self, module: str) -> list[str]:
        log = self.service.folder / f"{module}.log"
        return log.read_text(errors="replace").splitlines()[-COMPLAINTS_MAX:] if log.exists() else []

    async def stop(self) -> None:
        """Ends what was started here. What the service has started it ends itself."""
        for pid in list(self._frozen):
            self.thaw(pid)
        for process in self._processes.values():
            if process is not None and process not in (self.service.api, self.service.workers):
                await process.stop()

    # ── database ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def rows(self, query: LiteralString, **parameters: Any) -> list[DictRow]:
        """The answer, on a connection of its own; while the server is away it is waited for."""
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
        """The first column of the one row of the answer."""
        (row,) = await self.rows(query, **parameters)
        return next(iter(row.values()))

    async def connect(self) -> AsyncConnection[DictRow]:
        """A connection that no disturbance takes for one of the service."""
        return await AsyncConnection.connect(
            self.database_url, autocommit=True, application_name="chaos", row_factory=dict_row, connect_timeout=5
        )

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Keeps one connection for all looking: soon there may be none to be had."""
        async with await self.connect() as self._kept:
            try:
                yield
            finally:
                self._kept = None

    async def has_pending(self) -> bool:
        """Whether there is work that nobody has begun: only then a disturbance disturbs."""
        return await self.value("SELECT EXISTS (SELECT FROM chunks WHERE state = 'pending' AND kind = 'records')")

    async def is_idle(self) -> bool:
        """Whether all jobs are final, and nothing is left of uploads that never came to their end."""
        return not await self.value(
            """
            SELECT EXISTS (SELECT FROM import_jobs WHERE finished_at IS NULL)
                OR EXISTS (SELECT FROM export_jobs WHERE finished_at IS NULL)
            """
        )


@asynccontextmanager
async def opened(
    server: Server, folder: Path, *, seed: str, tell: Callable[[str], None], **settings: Any
) -> AsyncIterator[Environment]:
    """`folder` is made for it. `settings` are those of the service, and `run`, which says what of it is started."""
    await asyncio.to_thread(folder.mkdir)
    async with (
        api_client.service(server.url, folder, **settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=REQUEST_SECONDS) as http,
    ):
        env = Environment(server, service, Client(http), seed=seed, tell=tell)
        try:
            if service.workers:
                await eventually(lambda: env.workers.children())
            yield env
        finally:
            await env.stop()
