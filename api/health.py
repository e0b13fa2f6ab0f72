"""How the service is: for supervisors (`/live`), balancers (`/ready`), people (`/health`) and Prometheus (`/metrics`)."""

import asyncio
import time
import tomllib
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import SkipValidation

from db import health as db_health
from db.connections.pool import Pool
from db.errors import OUTDATED, READ_ONLY, UNAVAILABLE
from db.exports import storage
from db.settings import Settings
from monitoring import metrics

T = TypeVar("T")

# a probe has its answer within so long, and no question is asked again sooner than FRESH_SECONDS after the last answer
DEADLINE_SECONDS = 1.5
FRESH_SECONDS = 1.0
# a question that has not been answered for so long is given up and asked anew: its connection may have died without a word
ABANDON_SECONDS = 10.0

NO_STORE = {"Cache-Control": "no-store"}


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One condition. `failed` makes the service unready, `warning` does not; `unknown`: it could not be looked at."""

    status: Literal["ok", "warning", "failed", "unknown"]
    detail: str | None = None


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """`workers` fails never: an upload is taken and kept without any, and is worked through when they come."""

    database: Check
    migrations: Check
    workers: Check
    storage: Check

    @property
    def passed(self) -> bool:
        return all(check.status in ("ok", "warning") for check in msgspec.structs.astuple(self))


class Readiness(msgspec.Struct, kw_only=True):
    """Whether requests should be sent here."""

    status: Literal["ready", "unavailable", "draining"]
    checks: Checks


class Health(Readiness, kw_only=True):
    """Readiness, and what is running here for how long."""

    version: str
    uptime_seconds: float


class Liveness(msgspec.Struct):
    """Said while the event loop turns."""

    status: Literal["live"] = "live"


class Asked(Generic[T]):
    """A question whose answer is kept for a moment, never asked twice at once, and not waited for beyond the deadline.

    So probes, however many, cannot load the database; and a database that hangs does not hang the probe.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self.ask = ask
        self.task: asyncio.Task[T] | None = None
        self.asked_at = 0.0
        self.answered_at = 0.0

    async def answer(self) -> T:
        """Raises `TimeoutError`, or what the question raised."""
        now = time.monotonic()
        task = self.task
        if task is not None and not task.done() and now - self.asked_at > ABANDON_SECONDS:
            task.cancel()
            task = None
        if task is None or (task.done() and now - self.answered_at > FRESH_SECONDS):
            self.asked_at = now
            self.task = task = asyncio.ensure_future(self._run())
            # an error that comes after the deadline is nobody's
            task.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        # not wait_for: cancelling a query takes as long as the server that does not answer
        done, _ = await asyncio.wait({task}, timeout=DEADLINE_SECONDS)
        if not done or task.cancelled():
            raise TimeoutError
        return task.result()

    async def _run(self) -> T:
        try:
            return await self.ask()
        finally:
            self.answered_at = time.monotonic()


class Probe:
    """What this process knows of its own condition."""

    def __init__(self, pool: Pool, settings: Settings, draining: asyncio.Event) -> None:
        self.pool = pool
        self.settings = settings
        self.draining = draining
        self.started = time.monotonic()
        self.database = Asked(self._database)
        self.storage = Asked(self._storage)
        self.queue = Asked(self._queue)

    async def readiness(self) -> Readiness:
        (database, migrations, workers), files = await asyncio.gather(self._database_checks(), self._storage_check())
        checks = Checks(database=database, migrations=migrations, workers=workers, storage=files)
        if self.draining.is_set():
            return Readiness(status="draining", checks=checks)
        return Readiness(status="ready" if checks.passed else "unavailable", checks=checks)

    async def numbers(self) -> tuple[db_health.QueueNumbers | None, db_health.ServerNumbers | None]:
        """Neither when the database is away, or has no tables yet."""
        try:
            return await self.queue.answer()
        except (TimeoutError, *UNAVAILABLE, *OUTDATED):
            return None, None

    async def _database_checks(self) -> tuple[Check, Check, Check]:
        try:
            missing, workers = await self.database.answer()
        except TimeoutError:
            return (Check("failed", "does not answer in time"), Check("unknown"), Check("unknown"))
        except READ_ONLY:
            return (Check("failed", "takes no writes"), Check("unknown"), Check("unknown"))
        except UNAVAILABLE:
            return (Check("failed", "cannot be reached"), Check("unknown"), Check("unknown"))
        return (
            Check("ok"),
            Check("failed", f"not applied: {', '.join(missing)}") if missing else Check("ok"),
            self._workers_check(workers),
        )

    def _workers_check(self, sessions: int) -> Check:
        if self.settings.database_pooler != "none":
            return Check("ok", "not looked for behind a pooler, whose sessions are nobody's")
        return Check("ok") if sessions else Check("warning", "none is connected: imports and exports wait")

    async def _storage_check(self) -> Check:
        try:
            await self.storage.answer()
        except TimeoutError:
            return Check("failed", "does not answer in time")
        except storage.ERRORS as error:
            return Check("failed", f"cannot be written: {getattr(error, 'strerror', None) or type(error).__name__}")
        return Check("ok")

    async def _database(self) -> tuple[list[str], int]:
        async with self.pool.connection(timeout=DEADLINE_SECONDS) as conn:
            await db_health.demand_writes(conn)
            return await db_health.missing_migrations(conn), await db_health.worker_sessions(conn)

    async def _queue(self) -> tuple[db_health.QueueNumbers, db_health.ServerNumbers | None]:
        async with self.pool.connection(timeout=DEADLINE_SECONDS) as conn:
            return await db_health.queue_numbers(conn), await db_health.server_numbers(conn)

    async def _storage(self) -> None:
        await storage.of(self.settings).check()


@cache
def version() -> str:
    """The version of this checkout."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    return project["project"]["version"]


ProbeHere = NamedDependency[SkipValidation[Probe]]
UNREADY = ResponseSpec(Readiness, description="Not ready, or draining; `checks` says why", generate_examples=False)
UNHEALTHY = ResponseSpec(Health, description="Not ready, or draining; `checks` says why", generate_examples=False)


@get("/live", summary="Is the process alive", tags=["operations"])
async def live() -> Response[Liveness]:
    return Response(Liveness(), headers=NO_STORE)


@get("/ready", summary="Should requests be sent here", tags=["operations"], responses={503: UNREADY})
async def ready(probe: ProbeHere) -> Response[Readiness]:
    readiness = await probe.readiness()
    return Response(readiness, status_code=200 if readiness.status == "ready" else 503, headers=NO_STORE)


@get("/health", summary="Everything about its condition", tags=["operations"], responses={503: UNHEALTHY})
async def health(probe: ProbeHere) -> Response[Health]:
    readiness = await probe.readiness()
    answer = Health(
        status=readiness.status,
        checks=readiness.checks,
        version=version(),
        uptime_seconds=round(time.monotonic() - probe.started, 1),
    )
    return Response(answer, status_code=200 if answer.status == "ready" else 503, headers=NO_STORE)


@get("/metrics", name="metrics", summary="Metrics for Prometheus", tags=["operations"], media_type="text/plain")
async def metrics_text(probe: ProbeHere) -> Response[bytes]:
    """Answers without the database too, with what the processes counted."""
    queue, server = await probe.numbers()
    stats = probe.pool.get_stats()
    pool = metrics.PoolNumbers(
        size=stats.get("pool_size", 0),
        idle=stats.get("pool_available", 0),
        waiting=stats.get("requests_waiting", 0),
        wait_seconds=stats.get("requests_wait_ms", 0) / 1000,
    )
    text = await asyncio.to_thread(metrics.exposition, pool, queue, server)
    return Response(text, media_type=metrics.CONTENT_TYPE, headers=NO_STORE)


HANDLERS = [live, ready, health, metrics_text]
