"""The loop of a worker: claims chunks and has them processed, or waits, until it is stopped."""

import asyncio
import random
import time
from ctypes import c_double

import structlog

from db import health, queue
from db.connections import pool
from db.connections.pool import Connection
from db.queue import Claim
from db.settings import Settings
from monitoring import metrics, tracing
from monitoring.outage import Outage
from workers import maintenance, processing, session
from workers.active import ActiveWorkers, import_workers_max
from workers.processing import Processor

log = structlog.get_logger(__name__)

# how often a busy worker looks for chunks of dead workers; an idle one does at each poll
RECLAIM_SECONDS = 0.5
# One worker is enough for small imports as long as each of them is claimed within SMALL_WAIT_SECONDS. A worker that has found
# nothing to claim after EMPTY_CLAIMS_MAX notifications in a row is spare: after the notification of a small import it waits for a
# random time before it claims, at most SPARE_SECONDS for each worker of the pool.
EMPTY_CLAIMS_MAX = 2
SPARE_SECONDS = 0.05
SMALL_WAIT_SECONDS = 0.025


class Worker:
    """The loop of one worker on one connection. `stopping` is set by the caller to stop it.

    `maintenance_at`: when maintenance is due next, on the clock of `time.monotonic`. The workers of a pool share it, so that one
    of them runs each round. Two that read it at the same moment both run it, which does no harm. They also share `active`, in
    which each has its `number`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        stopping: asyncio.Event,
        number: int = 1,
        takes_exports: bool = True,
        maintenance_at: c_double | None = None,
        active: ActiveWorkers | None = None,
    ) -> None:
        self.settings = settings
        # false for the workers of a pool that are reserved for imports
        self.takes_exports = takes_exports
        self.name = name
        self.stopping = stopping
        self.outage = Outage(worker=name)
        self.processor = Processor(settings, name=name, stopping=stopping)
        self._reclaim_at = 0.0
        self._maintenance_at = c_double() if maintenance_at is None else maintenance_at
        self._active = ActiveWorkers(1) if active is None else active
        self._number = number
        self._active_max = import_workers_max(settings, is_local=False)

    async def run(self) -> None:
        """Runs until stopped. While the database is unavailable, reconnects with growing delays."""
        await session.serve(
            self.settings,
            self._serve,
            name=f"bulk worker {self.name}",
            worker=self.name,
            stopping=self.stopping,
            outage=self.outage,
        )

    async def _serve(self, conn: Connection) -> None:
        await health.require_supported(conn)
        await health.require_schema(conn)
        await self.processor.resolve(conn)
        if self.settings.database_pooler == "none":
            await queue.listen(conn)
        self._active_max = import_workers_max(self.settings, is_local=pool.is_local(conn, self.settings))
        # after how many notifications in a row there was nothing to claim, because another worker had claimed it
        empty_claims = 0
        notified: set[str] | None = None
        while not self.stopping.is_set():
            await self._maintain_when_due(conn)
            takes_imports = self._active.count() < self._active_max
            if takes_imports or (self.takes_exports and notified != {queue.SMALL}):
                claim = await self.run_once(conn, takes_imports=takes_imports)
            else:
                claim = None
            if claim is None:
                empty_claims += bool(notified)
            elif empty_claims < EMPTY_CLAIMS_MAX or not claim.is_small or claim.waited_seconds > SMALL_WAIT_SECONDS:
                empty_claims = 0
            is_spare = empty_claims >= EMPTY_CLAIMS_MAX and self.settings.worker_pool_size > 1
            notified = None
            if claim is None or (claim.is_small and claim.is_only and self.settings.database_pooler == "none"):
                # further small imports are worth waiting for: the more there are, the less each of them costs
                notified = await session.unless_stopping(self.stopping, self._idle(conn, is_spare=is_spare))

    async def _idle(self, conn: Connection, *, is_spare: bool) -> set[str]:
        """Waits until there may be work. Returns the payloads of the notifications."""
        notified = await queue.wait(conn, self.settings.poll_seconds * random.uniform(0.8, 1.2))  # noqa: S311
        if is_spare and notified == {queue.SMALL}:
            await asyncio.sleep(random.uniform(0, SPARE_SECONDS * self.settings.worker_pool_size))  # noqa: S311
        return notified

    async def run_once(self, conn: Connection, *, takes_imports: bool = True) -> Claim | None:
        """Processes at most one claim, and returns it. Chunks of dead workers are claimed first.

        With `takes_imports` false, only an export or a chunk of a dead worker is claimed.
        """
        if not takes_imports:
            return await self._run_once(conn, takes_imports=False)
        with self._active.working(self._number):
            return await self._run_once(conn, takes_imports=takes_imports)

    async def _run_once(self, conn: Connection, *, takes_imports: bool) -> Claim | None:
        # stored with the claim, because the worker may die before the span is exported
        span_id = tracing.new_span_id()
        claim = await self._reclaim_when_due(conn, span_id) or await queue.claim(
            conn,
            worker=self.name,
            chunks_max=self.settings.claim_chunks_max,
            bytes_max=self.settings.chunk_max_bytes,
            workers=min(self.settings.worker_pool_size, self._active_max),
            # each import has a span of its own
            imports_max=self.processor.imports_max if span_id is None else 1,
            takes_imports=takes_imports,
            takes_exports=self.takes_exports,
            span_id=span_id,
        )
        # a claim proves that the database is usable; a connection alone does not: it may be read-only or have no tables
        self.outage.succeeded()
        if claim is None:
            return None
        await self.processor.process(conn, claim, span_id=span_id)
        return claim

    async def _reclaim_when_due(self, conn: Connection, span_id: str | None) -> Claim | None:
        now = asyncio.get_running_loop().time()
        if now < self._reclaim_at:
            return None
        claim = await queue.reclaim(
            conn,
            worker=self.name,
            grace_seconds=self.settings.claim_grace_seconds,
            attempts_max=self.settings.attempts_max,
            crashes_max=self.settings.crashes_max,
            takes_exports=self.takes_exports,
            span_id=span_id,
        )
        if claim is None:
            self._reclaim_at = now + RECLAIM_SECONDS
        else:
            cause = "worker" if claim.is_crash else "server"
            metrics.reclaimed(cause)
            log.warning(
                "chunk reclaimed",
                **processing.log_fields(claim, worker=self.name),
                cause=cause,
                crashes=claim.crashes,
                state=claim.state,
            )
        return claim

    async def _maintain_when_due(self, conn: Connection) -> None:
        now = time.monotonic()
        if now >= self._maintenance_at.value:
            self._maintenance_at.value = now + self.settings.upkeep_seconds * random.uniform(0.8, 1.2)  # noqa: S311  # spreads the pools' rounds
            await maintenance.run_once(conn, self.settings)
