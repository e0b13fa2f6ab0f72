"""Processes the claims of one worker: performs the work, gives it back if that fails, and makes jobs final."""

import asyncio
import gc
import random
import time

import structlog

from db import queue
from db.connections.pool import Connection
from db.errors import REFUSED_ROW, RETRYABLE, sqlstate
from db.queue import Claim, Counts, State, failpoints
from db.settings import Settings
from monitoring import metrics, tracing
from monitoring.outage import first_line
from monitoring.tracing import Span
from workers import completion, exports, imports, small_imports

log = structlog.get_logger(__name__)

RETRIES_MAX = 3
RETRY_SECONDS_MAX = 0.05
# the longest delay before a chunk that was given back is claimed again
RETRY_DELAY_SECONDS_MAX = 60.0


class Processor:
    """Processes one claim after the other. `name` is the worker's; `stopping` is set to stop it."""

    def __init__(self, settings: Settings, *, name: str, stopping: asyncio.Event) -> None:
        self._settings = settings
        self._name = name
        self._stopping = stopping
        self._memory = imports.ConflictMemory()
        # how many small imports are claimed together; 0 after that has failed, until one has created a record
        self._together_max = settings.claim_imports_max
        # the current claim; still set after a lost connection, when it is unknown whether its work was committed
        self._current: Claim | None = None

    @property
    def imports_max(self) -> int:
        """How many small imports the next claim may have."""
        return max(1, self._together_max)

    async def process(self, conn: Connection, claim: Claim, *, span_id: str | None) -> None:
        """Performs the work or gives it back, and makes the job final if it was the last. Raises if the connection is lost."""
        self._current = claim
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
                endpoints=self._settings.webhook_endpoints,
            )
        if done is None:
            await self._end_companions(conn, claim)
        self._current = None

    async def resolve(self, conn: Connection) -> None:
        """After a lost connection: gives the claim back, which does nothing if its work was committed."""
        if self._current is not None:
            await self._give_back(conn, self._current, error="the connection to the database was lost")
            await completion.end_job(
                conn, self._current, has_budget=True, is_followed=False, endpoints=self._settings.webhook_endpoints
            )
            await self._end_companions(conn, self._current)
            self._current = None

    async def _work(self, conn: Connection, claim: Claim, span: Span) -> imports.Done | None:
        """Processes the claim; gives it back if that fails. Returns the result of an import's claim."""
        task = asyncio.create_task(self._perform(conn, claim, span))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            # stopping: the work may still be finished, within a time limit
            await asyncio.wait({task}, timeout=self._settings.stop_seconds / 2)
            if not task.done():
                task.cancel()
            return await task
        except asyncio.CancelledError:
            span.set({"bulk.outcome": "interrupted"})
            await self._give_back(conn, claim, error=None)
        except queue.ClaimLost:
            _fail(span, "claim_lost")
            metrics.claim_lost()
            log.warning("claim lost", **log_fields(claim, worker=self._name))
        except Exception as error:
            if conn.broken or conn.closed:
                _fail(span, "connection_lost", error)
                # the next statement on this connection raises an error that `session.serve` handles
                log.warning("connection lost", **log_fields(claim, worker=self._name), error=first_line(error))
                return None
            log.exception("chunk given back", **log_fields(claim, worker=self._name), sqlstate=sqlstate(error))
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
                    done = await exports.perform(conn, claim, settings=self._settings)
                else:
                    done = await imports.perform(conn, claim, settings=self._settings, memory=self._memory)
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
            done = await small_imports.perform(conn, claim, settings=self._settings)
        except Exception as error:
            if conn.broken or conn.closed:
                raise
            log.debug("small imports separated", **log_fields(claim, worker=self._name), error=first_line(error))
            self._together_max = 0
            if isinstance(error, REFUSED_ROW):
                # of the first one, if it is alone; otherwise a guess that costs a look-up
                self._memory.note(claim.job_id, "some")
            if claim.companions:
                await queue.separate(conn, claim.companions)
                ends = await small_imports.after_separation(conn, claim.companions, settings=self._settings)
                completion.report(ends, started_ns=started_ns)
            return None
        self._together_max = min(2 * self._together_max, self._settings.claim_imports_max)
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
        log.debug("chunk done", **log_fields(claim, worker=self._name), seconds=round(done.seconds, 4), **results)

    async def _end_companions(self, conn: Connection, claim: Claim) -> None:
        """Those of a claim that was given back: their imports may have been cancelled meanwhile."""
        for companion in claim.companions:
            await completion.end_import(conn, companion.job_id, self._settings.webhook_endpoints)

    async def _give_back(self, conn: Connection, claim: Claim, *, error: str | None) -> State | None:
        """`error`: why the attempt failed; None when the worker stops, which does not count as an attempt."""
        if error is not None:
            metrics.retried("error")
        state = await queue.give_back(
            conn,
            claim,
            error=error,
            delay_seconds=0.0 if error is None else min(RETRY_DELAY_SECONDS_MAX, 0.5 * 2**claim.attempt),
            attempts_max=self._settings.attempts_max,
        )
        if state == "failed":
            log.error("chunk failed", **log_fields(claim, worker=self._name), attempt=claim.attempt, error=error)
        return state


def log_fields(claim: Claim, *, worker: str) -> dict[str, object]:
    """The fields of each log line about a claim; the request id is that of the upload."""
    return {
        "job_id": str(claim.job_id),
        "request_id": claim.request_id,
        "chunk": claim.seq,
        "chunks": len(claim.ids),
        "lease": claim.lease,
        "worker": worker,
        **tracing.log_fields(claim.traceparent),
    }


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
