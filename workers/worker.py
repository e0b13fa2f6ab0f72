"""One worker process: claims a chunk, works on it, ends it, looks for the next; for ever, whatever the database does."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from db import health, queue
from db.connections import pool
from db.connections.pool import Connection
from db.errors import OUTDATED, RETRYABLE, UNAVAILABLE, sqlstate
from db.queue import Claim, failpoints
from db.settings import Settings
from monitoring import metrics
from monitoring.outage import Outage, first_line
from workers import completion, exports, imports, maintenance

log = structlog.get_logger()

T = TypeVar("T")

RETRIES_MAX = 3
RETRY_SECONDS_MAX = 0.05
# a busy worker looks so often for dead workers' chunks, an idle one each time it looks for work
RECLAIM_SECONDS = 0.5
BACKOFF_SECONDS_MAX = 5.0
REST_SECONDS_MAX = 60.0


class Worker:
    """What one worker keeps between two chunks. `stopping` is set from outside, once."""

    def __init__(self, settings: Settings, *, name: str, stopping: asyncio.Event, takes_exports: bool = True) -> None:
        self.settings = settings
        # false for the workers of a pool that are reserved for imports
        self.takes_exports = takes_exports
        self.name = name
        self.stopping = stopping
        self.outage = Outage(worker=name)
        self.memory = imports.Memory()
        # the claim in hand; still here after the connection was lost, its end is unknown
        self.held: Claim | None = None
        self._reclaim_at = 0.0
        self._upkeep_at = 0.0

    async def run(self) -> None:
        """Works until told to stop. Without a database that can be used it tries again for ever, less and less often."""
        while not self.stopping.is_set():
            try:
                conn = await self._unless_stopping(pool.connect(self.settings, name=f"bulk worker {self.name}"))
                if conn is None:
                    return
                async with conn:
                    await self._serve(conn)
            except (*UNAVAILABLE, *OUTDATED) as error:
                self.outage.failed(error)
                await self._unless_stopping(asyncio.sleep(_backoff(self.outage.failures)))

    async def _serve(self, conn: Connection) -> None:
        health.require_utf8(conn)
        await health.require_schema(conn)
        await self._resolve(conn)
        if self.settings.database_pooler == "none":
            await queue.listen(conn)
        while not self.stopping.is_set():
            await self._upkeep_when_due(conn)
            if not await self.run_once(conn):
                await self._unless_stopping(queue.wait(conn, self.settings.poll_seconds * random.uniform(0.8, 1.2)))  # noqa: S311

    async def run_once(self, conn: Connection) -> bool:
        """Works on one chunk at most; whether there was one. Dead workers' chunks come first, lest recovery starve."""
        claim = await self._reclaim_when_due(conn) or await queue.claim(
            conn,
            worker=self.name,
            chunks_max=self.settings.claim_chunks_max,
            bytes_max=self.settings.chunk_max_bytes,
            workers=self.settings.worker_pool_size,
            takes_exports=self.takes_exports,
        )
        # only now: a server that takes no writes, or has no tables yet, lets us in too
        self.outage.succeeded()
        if claim is None:
            return False
        self.held = claim
        await failpoints.reach("after_claim", conn)
        done = await self._work(conn, claim) if claim.state == "running" else None
        await completion.end_job(
            conn,
            claim,
            has_budget=done is not None and done.has_budget,
            is_followed=done is not None and done.is_followed,
        )
        self.held = None
        return True

    async def _reclaim_when_due(self, conn: Connection) -> Claim | None:
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
        )
        if claim is None:
            self._reclaim_at = now + RECLAIM_SECONDS
        else:
            metrics.reclaimed()
            log.warning("chunk reclaimed", **self._names(claim), crashes=claim.crashes, state=claim.state)
        return claim

    async def _work(self, conn: Connection, claim: Claim) -> imports.Done | None:
        """Works on the claim, and gives it back if that fails; what was done if it was an import's."""
        task = asyncio.create_task(self._perform(conn, claim))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            # told to stop: what was begun may be ended, but not for long
            await asyncio.wait({task}, timeout=self.settings.stop_seconds / 2)
            if not task.done():
                task.cancel()
            return await task
        except asyncio.CancelledError:
            await self._give_back(conn, claim, accident=None)
        except queue.ClaimLost:
            metrics.claim_lost()
            log.warning("claim lost", **self._names(claim))
        except Exception as error:
            if conn.broken or conn.closed:
                # what comes next on this connection tells `run`, whatever the server called the end of the session
                log.warning("connection lost", **self._names(claim), error=first_line(error))
                return None
            log.exception("chunk given back", **self._names(claim), sqlstate=sqlstate(error))
            await self._give_back(conn, claim, accident=first_line(error))
        finally:
            stopping.cancel()
        return None

    async def _perform(self, conn: Connection, claim: Claim) -> imports.Done | None:
        """Performs the chunk's work, several times if it got in the way of another's: that spends no attempt."""
        for tries_left in reversed(range(RETRIES_MAX)):
            try:
                if claim.kind == "export":
                    done = await exports.perform(conn, claim, settings=self.settings)
                else:
                    done = await imports.perform(conn, claim, settings=self.settings, memory=self.memory)
            except RETRYABLE as error:
                if not tries_left:
                    raise
                metrics.retried(type(error).__name__)
                # lets the other one finish, lest both meet again
                await asyncio.sleep(random.uniform(0, RETRY_SECONDS_MAX))  # noqa: S311
            else:
                if isinstance(done, exports.Done):
                    metrics.exported(done.resource, done.format, done.records, done.bytes)
                elif done is not None:
                    self._tell(claim, done)
                    return done
                break
        return None

    def _tell(self, claim: Claim, done: imports.Done) -> None:
        counts = done.counts
        results = {r: getattr(counts, r) for r in ("created", "updated", "unchanged", "skipped", "failed")}
        metrics.chunk_done(done.resource, results, counts.codes, done.seconds)
        log.debug("chunk done", **self._names(claim), seconds=round(done.seconds, 4), **results)

    async def _resolve(self, conn: Connection) -> None:
        """After a lost connection: the row knows whether the last commit took place; if it did, giving back does nothing."""
        if self.held is not None:
            await self._give_back(conn, self.held, accident="the connection to the database was lost")
            await completion.end_job(conn, self.held, has_budget=True, is_followed=False)
            self.held = None

    async def _give_back(self, conn: Connection, claim: Claim, *, accident: str | None) -> None:
        if accident is not None:
            metrics.retried("accident")
        state = await queue.give_back(
            conn,
            claim,
            error=accident,
            delay_seconds=0.0 if accident is None else min(REST_SECONDS_MAX, 0.5 * 2**claim.attempt),
            attempts_max=self.settings.attempts_max,
        )
        if state == "failed":
            log.error("chunk failed", **self._names(claim), attempt=claim.attempt, accident=accident)

    def _names(self, claim: Claim) -> dict[str, object]:
        """What each line about a chunk tells; the request's id is that of the upload."""
        return {
            "job_id": str(claim.job_id),
            "request_id": claim.request_id,
            "chunk": claim.seq,
            "chunks": len(claim.ids),
            "lease": claim.lease,
            "worker": self.name,
        }

    async def _upkeep_when_due(self, conn: Connection) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._upkeep_at:
            self._upkeep_at = now + self.settings.upkeep_seconds * random.uniform(0.8, 1.2)  # noqa: S311  # spreads the workers
            await maintenance.run_once(conn, self.settings)

    async def _unless_stopping(self, wait: Coroutine[Any, Any, T]) -> T | None:
        task, stopping = asyncio.create_task(wait), asyncio.create_task(self.stopping.wait())
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            return None
        return task.result()


def _backoff(failures: int) -> float:
    return min(BACKOFF_SECONDS_MAX, 0.1 * 2**failures) * random.uniform(0.5, 1.0)  # noqa: S311
