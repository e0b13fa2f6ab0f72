"""One worker process: claims a chunk, processes it, finishes it or gives it back, and repeats this until it is stopped."""

import asyncio
import gc
import random
import time
from ctypes import c_double

import structlog

from db import health, queue
from db.connections import pool
from db.connections.pool import Connection
from db.errors import REFUSED_ROW, RETRYABLE, sqlstate
from db.queue import Claim, Counts, State, failpoints
from db.settings import Settings
from monitoring import metrics, tracing
from monitoring.outage import Outage, first_line
from monitoring.tracing import Span
from workers import completion, exports, imports, maintenance, session, small_imports
from workers.active import ActiveWorkers, import_workers_max

log = structlog.get_logger()

RETRIES_MAX = 3
RETRY_SECONDS_MAX = 0.05
# how often a busy worker looks for chunks of dead workers; an idle one does at each poll
RECLAIM_SECONDS = 0.5
# One worker is enough for small imports as long as each of them is claimed within SMALL_WAIT_SECONDS. A worker that has found
# nothing to claim after EMPTY_CLAIMS_MAX notifications in a row is spare: after the notification of a small import it waits for a
# random time before it claims, at most SPARE_SECONDS for each worker of the pool.
EMPTY_CLAIMS_MAX = 2
SPARE_SECONDS = 0.05
SMALL_WAIT_SECONDS = 0.025
# the longest delay before a chunk that was given back is claimed again
RETRY_DELAY_SECONDS_MAX = 60.0


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
        self.memory = imports.ConflictMemory()
        # how many small imports are claimed together; 0 after that has failed, until one has created a record
        self._together_max = settings.claim_imports_max
        # the current claim; still set after a lost connection, when it is unknown whether its work was committed
        self.current: Claim | None = None
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
        await self._resolve(conn)
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
            imports_max=max(1, self._together_max) if span_id is None else 1,
            takes_imports=takes_imports,
            takes_exports=self.takes_exports,
            span_id=span_id,
        )
        # a claim proves that the database is usable; a connection alone does not: it may be read-only or have no tables
        self.outage.succeeded()
        if claim is None:
            return None
        self.current = claim
        await failpoints.reach("after_claim", conn)
        done = None
        with _span(claim, span_id) as span:
            if claim.state == "running":
                done = await self._work(conn, claim, span)
                if done is None and claim.kind != "export":
                    # an exception and the frames of its traceback refer to each other, and to the records of the attempt
                    gc.collect()
            else:
                _fail(span, "failed")
        if done is None or not done.is_ended:
            await completion.end_job(
                conn,
                claim,
                has_budget=None if done is None else done.has_budget,
                is_followed=done is not None and done.is_followed,
                endpoints=self.settings.webhook_endpoints,
            )
        if done is None:
            await self._end_companions(conn, claim)
        self.current = None
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
                **self._log_fields(claim),
                cause=cause,
                crashes=claim.crashes,
                state=claim.state,
            )
        return claim

    async def _work(self, conn: Connection, claim: Claim, span: Span) -> imports.Done | None:
        """Processes the claim; gives it back if that fails. Returns the result of an import's claim."""
        task = asyncio.create_task(self._perform(conn, claim, span))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            # stopping: the work may still be finished, within a time limit
            await asyncio.wait({task}, timeout=self.settings.stop_seconds / 2)
            if not task.done():
                task.cancel()
            return await task
        except asyncio.CancelledError:
            span.set({"bulk.outcome": "interrupted"})
            await self._give_back(conn, claim, error=None)
        except queue.ClaimLost:
            _fail(span, "claim_lost")
            metrics.claim_lost()
            log.warning("claim lost", **self._log_fields(claim))
        except Exception as error:
            if conn.broken or conn.closed:
                _fail(span, "connection_lost", error)
                # the next statement on this connection raises an error that `run` handles
                log.warning("connection lost", **self._log_fields(claim), error=first_line(error))
                return None
            log.exception("chunk given back", **self._log_fields(claim), sqlstate=sqlstate(error))
            state = await self._give_back(conn, claim, error=first_line(error))
            _fail(span, "failed" if state == "failed" else "given_back", error)
        finally:
            stopping.cancel()
        return None

    async def _perform(self, conn: Connection, claim: Claim, span: Span) -> imports.Done | None:
        """Performs the work, repeated in place after a deadlock or the like, which does not count as an attempt."""
        if (
            claim.is_small
            and self._together_max
            and (ended := await self._perform_together(conn, claim, span)) is not None
        ):
            return ended
        for retries_remaining in reversed(range(RETRIES_MAX)):
            try:
                if claim.kind == "export":
                    done = await exports.perform(conn, claim, settings=self.settings)
                else:
                    done = await imports.perform(conn, claim, settings=self.settings, memory=self.memory)
            except RETRYABLE as error:
                if not retries_remaining:
                    raise
                metrics.retried(type(error).__name__)
                # gives the other transaction time to finish
                await asyncio.sleep(random.uniform(0, RETRY_SECONDS_MAX))  # noqa: S311
            else:
                if isinstance(done, exports.Done):
                    metrics.exported(done.resource, done.format, done.records, done.bytes)
                    span.set({"bulk.outcome": "done", "bulk.records": done.records})
                elif done is not None:
                    self._report(claim, done, span)
                    if claim.is_small and done.counts.created:
                        self._together_max = max(1, self._together_max)
                    return done
                else:
                    span.set({"bulk.outcome": "cancelled"})
                break
        return None

    async def _perform_together(self, conn: Connection, claim: Claim, span: Span) -> imports.Done | None:
        """Stores a small import with its companions. None: it is to be performed alone, and no companion is left."""
        started_ns = time.time_ns()
        try:
            done = await small_imports.perform(conn, claim, settings=self.settings)
        except Exception as error:
            if conn.broken or conn.closed:
                raise
            log.debug("small imports separated", **self._log_fields(claim), error=first_line(error))
            self._together_max = 0
            if isinstance(error, REFUSED_ROW):
                # of the first one, if it is alone; otherwise a guess that costs a look-up
                self.memory.note(claim.job_id, "some")
            if claim.companions:
                await queue.separate(conn, claim.companions)
                ends = await small_imports.after_separation(conn, claim.companions, settings=self.settings)
                completion.report(ends, started_ns=started_ns)
            return None
        self._together_max = min(2 * self._together_max, self.settings.claim_imports_max)
        completion.report(done.ends, started_ns=started_ns)
        ended = None
        for small in done.stored:
            result = imports.Done(
                resource=small.job.resource,
                counts=Counts(created=small.chunk.records),
                seconds=done.seconds / len(done.stored),
                is_ended=True,
            )
            self._report(small.claim, result, span)
            ended = result if small.claim.id == claim.id else ended
        return ended

    def _report(self, claim: Claim, done: imports.Done, span: Span) -> None:
        counts = done.counts
        results = {r: getattr(counts, r) for r in ("created", "updated", "unchanged", "skipped", "failed")}
        metrics.chunk_done(done.resource, results, counts.codes, done.seconds)
        records = sum(results.values()) + counts.deferred if claim.kind == "records" else None
        span.set({"bulk.outcome": "done", "bulk.records": records, "bulk.refused": counts.failed})
        log.debug("chunk done", **self._log_fields(claim), seconds=round(done.seconds, 4), **results)

    async def _resolve(self, conn: Connection) -> None:
        """After a lost connection: gives the claim back, which does nothing if its work was committed."""
        if self.current is not None:
            await self._give_back(conn, self.current, error="the connection to the database was lost")
            await completion.end_job(
                conn, self.current, has_budget=True, is_followed=False, endpoints=self.settings.webhook_endpoints
            )
            await self._end_companions(conn, self.current)
            self.current = None

    async def _end_companions(self, conn: Connection, claim: Claim) -> None:
        """Those of a claim that was given back: their imports may have been cancelled meanwhile."""
        for companion in claim.companions:
            await completion.end_import(conn, companion.job_id, self.settings.webhook_endpoints)

    async def _give_back(self, conn: Connection, claim: Claim, *, error: str | None) -> State | None:
        """`error`: why the attempt failed; None when the worker stops, which does not count as an attempt."""
        if error is not None:
            metrics.retried("error")
        state = await queue.give_back(
            conn,
            claim,
            error=error,
            delay_seconds=0.0 if error is None else min(RETRY_DELAY_SECONDS_MAX, 0.5 * 2**claim.attempt),
            attempts_max=self.settings.attempts_max,
        )
        if state == "failed":
            log.error("chunk failed", **self._log_fields(claim), attempt=claim.attempt, error=error)
        return state

    def _log_fields(self, claim: Claim) -> dict[str, object]:
        """The fields of each log line about a claim; the request id is that of the upload."""
        return {
            "job_id": str(claim.job_id),
            "request_id": claim.request_id,
            "chunk": claim.seq,
            "chunks": len(claim.ids),
            "lease": claim.lease,
            "worker": self.name,
            **tracing.log_fields(claim.traceparent),
        }

    async def _maintain_when_due(self, conn: Connection) -> None:
        now = time.monotonic()
        if now >= self._maintenance_at.value:
            self._maintenance_at.value = now + self.settings.upkeep_seconds * random.uniform(0.8, 1.2)  # noqa: S311  # spreads the pools' rounds
            await maintenance.run_once(conn, self.settings)


def _span(claim: Claim, span_id: str | None) -> Span:
    """The span of the work on a claim, with a link to the span of the first attempt at the chunk if this is a later one."""
    kind = "export" if claim.kind == "export" else "import"
    return tracing.span(
        f"{kind} settle" if claim.kind == "settle" else f"{kind} chunk",
        claim.traceparent,
        {
            "bulk.job.id": str(claim.job_id),
            "bulk.job.kind": kind,
            "bulk.resource": claim.resource,
            "bulk.chunk.number": claim.seq,
            "bulk.chunk.count": len(claim.ids),
            "bulk.attempt": claim.attempt,
            "bulk.crashes": claim.crashes,
        },
        kind="consumer",
        id=span_id,
        linked_id=None if claim.first_span_id == span_id else claim.first_span_id,
    )


def _fail(span: Span, outcome: str, error: Exception | None = None) -> None:
    span.set({"bulk.outcome": outcome})
    span.fail(outcome if error is None else type(error).__name__)
