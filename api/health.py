"""Health endpoints: for supervisors (`/live`), balancers (`/ready`), people (`/health`) and Prometheus (`/metrics`)."""

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
from db.errors import OUTDATED, READ_ONLY, UNAVAILABLE, UnsupportedDatabase
from db.exports import storage
from db.settings import Settings
from monitoring import metrics
from monitoring.event_loop import PauseMeter

T = TypeVar("T")

# how long a probe waits for a check
DEADLINE_SECONDS = 1.5
# how long the result of a check is reused
FRESH_SECONDS = 1.0
# between two measurements of this process for the metrics, which another process may serve
MEASURE_SECONDS = 1.0
# a check that takes longer is cancelled and started again: its connection may be half-open
ABANDON_SECONDS = 10.0

NO_STORE = {"Cache-Control": "no-store"}


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One condition. `failed` makes the service unready, `warning` does not; `unknown`: it could not be checked."""

    status: Literal["ok", "warning", "failed", "unknown"]
    detail: str | None = None


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """`workers` is never `failed`: without workers, uploads are accepted and stored, and processed when workers start."""

    database: Check
    migrations: Check
    workers: Check
    storage: Check

    @property
    def passed(self) -> bool:
        return all(check.status in ("ok", "warning") for check in msgspec.structs.astuple(self))


class Readiness(msgspec.Struct, kw_only=True):
    """Whether a balancer should send requests to this process."""

    status: Literal["ready", "unavailable", "draining"]
    checks: Checks


class Health(Readiness, kw_only=True):
    """Readiness, the version, and the uptime."""

    version: str
    uptime_seconds: float


class Liveness(msgspec.Struct):
    """The event loop is running."""

    status: Literal["live"] = "live"


class CachedCheck(Generic[T]):
    """A check that is cached for FRESH_SECONDS, runs at most once concurrently, and is awaited for at most DEADLINE_SECONDS.

    Any number of probes costs the database one query a second, and a database that hangs does not hang the probe.
    """

    def __init__(self, check: Callable[[], Awaitable[T]]) -> None:
        self.check = check
        self.task: asyncio.Task[T] | None = None
        self.started_at = 0.0
        self.finished_at = 0.0

    async def result(self) -> T:
        """Raises `TimeoutError`, or what the check raised."""
        now = time.monotonic()
        task = self.task
        if task is not None and not task.done() and now - self.started_at > ABANDON_SECONDS:
            task.cancel()
            task = None
        if task is None or (task.done() and now - self.finished_at > FRESH_SECONDS):
            self.started_at = now
            self.task = task = asyncio.ensure_future(self._run())
            # an exception after the deadline has no caller: retrieve it, or asyncio logs it
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # not wait_for, which would wait for the cancellation of the query, and so for a server that does not reply
        done, _ = await asyncio.wait({task}, timeout=DEADLINE_SECONDS)
        if not done or task.cancelled():
            raise TimeoutError
        return task.result()

    async def _run(self) -> T:
        try:
            return await self.check()
        finally:
            self.finished_at = time.monotonic()


class RequiredSchema:
    """Refuses requests while the database is older than this code, or not one with which the service works.

    A statement on the older schema could fail after another one was committed: the client would get a 503 for an upload that is
    stored, and repeat it.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._is_applied = False

    async def check(self) -> None:
        """Raises `MigrationsMissing` or `UnsupportedDatabase`. Asks the database until both are right, and not again."""
        if not self._is_applied:
            async with self._pool.connection() as conn:
                await db_health.require_supported(conn)
                await db_health.require_schema(conn)
            self._is_applied = True


class Probe:
    """The checks of this process."""

    def __init__(self, pool: Pool, settings: Settings, draining: asyncio.Event) -> None:
        self.pool = pool
        self.settings = settings
        self.draining = draining
        self.started = time.monotonic()
        self.pauses = PauseMeter()
        self.process = metrics.ApiProcess()
        self.database = CachedCheck(self._database)
        self.storage = CachedCheck(self._storage)
        self.queue = CachedCheck(self._queue)

    async def run(self) -> None:
        """Measures this process. `run` it as a task for as long as the loop runs."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pauses.run())
            while True:
                self.measure()
                await asyncio.sleep(MEASURE_SECONDS)

    def measure(self) -> None:
        """Stores the numbers of this process for the next scrape."""
        stats = self.pool.get_stats()
        self.process.measured(
            size=stats.get("pool_size", 0),
            idle=stats.get("pool_available", 0),
            waiting=stats.get("requests_waiting", 0),
            wait_seconds=stats.get("requests_wait_ms", 0) / 1000,
            longest_pause_seconds=self.pauses.longest_seconds(),
        )

    async def readiness(self) -> Readiness:
        (database, migrations, workers), files = await asyncio.gather(self._database_checks(), self._storage_check())
        checks = Checks(database=database, migrations=migrations, workers=workers, storage=files)
        if self.draining.is_set():
            return Readiness(status="draining", checks=checks)
        return Readiness(status="ready" if checks.passed else "unavailable", checks=checks)

    async def numbers(self) -> tuple[db_health.QueueNumbers | None, db_health.ServerNumbers | None]:
        """For /metrics: (None, None) when the database is unavailable or has no tables yet."""
        try:
            return await self.queue.result()
        except (TimeoutError, *UNAVAILABLE, *OUTDATED):
            return None, None

    async def _database_checks(self) -> tuple[Check, Check, Check]:
        try:
            missing, workers = await self.database.result()
        except TimeoutError:
            return (Check("failed", "does not reply in time"), Check("unknown"), Check("unknown"))
        except UnsupportedDatabase as error:
            return (Check("failed", str(error)), Check("unknown"), Check("unknown"))
        except READ_ONLY:
            return (Check("failed", "does not accept writes"), Check("unknown"), Check("unknown"))
        except UNAVAILABLE:
            return (Check("failed", "cannot be reached"), Check("unknown"), Check("unknown"))
        return (
            Check("ok"),
            Check("failed", f"not applied: {', '.join(missing)}") if missing else Check("ok"),
            self._workers_check(workers),
        )

    def _workers_check(self, sessions: int) -> Check:
        if self.settings.database_pooler != "none":
            return Check("ok", "not checked: behind a pooler, sessions do not show which workers are connected")
        return Check("ok") if sessions else Check("warning", "no worker is connected: imports and exports wait")

    async def _storage_check(self) -> Check:
        try:
            await self.storage.result()
        except TimeoutError:
            return Check("failed", "does not reply in time")
        except storage.ERRORS as error:
            return Check("failed", f"cannot be written: {getattr(error, 'strerror', None) or type(error).__name__}")
        return Check("ok")

    async def _database(self) -> tuple[list[str], int]:
        async with self.pool.connection(timeout=DEADLINE_SECONDS) as conn:
            await db_health.require_supported(conn)
            await db_health.require_writable(conn)
            return await db_health.missing_migrations(conn), await db_health.worker_sessions(conn)

    async def _queue(self) -> tuple[db_health.QueueNumbers, db_health.ServerNumbers | None]:
        async with self.pool.connection(timeout=DEADLINE_SECONDS) as conn:
            queue = await db_health.queue_numbers(conn, endpoints=self.settings.webhook_endpoints)
            return queue, await db_health.server_numbers(conn)

    async def _storage(self) -> None:
        await storage.of(self.settings).check()


@cache
def version() -> str:
    """The version of this checkout."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    return project["project"]["version"]


ProbeHere = NamedDependency[SkipValidation[Probe]]
UNREADY = ResponseSpec(Readiness, description="Not ready or draining; see `checks`", generate_examples=False)
UNHEALTHY = ResponseSpec(Health, description="Not ready or draining; see `checks`", generate_examples=False)


@get("/live", summary="Liveness: the process runs", tags=["operations"])
async def live() -> Response[Liveness]:
    """The process answers: 200 as long as its event loop runs."""
    return Response(Liveness(), headers=NO_STORE)


@get("/ready", summary="Readiness: a balancer should send requests here", tags=["operations"], responses={503: UNREADY})
async def ready(probe: ProbeHere) -> Response[Readiness]:
    """503 while a check fails and while the process is draining; `checks` has the reasons."""
    readiness = await probe.readiness()
    return Response(readiness, status_code=200 if readiness.status == "ready" else 503, headers=NO_STORE)


@get("/health", summary="Health: readiness, version and uptime", tags=["operations"], responses={503: UNHEALTHY})
async def health(probe: ProbeHere) -> Response[Health]:
    """The readiness with the version and the uptime; for people."""
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
    """Without the database, only what the processes of this machine have counted."""
    queue, server = await probe.numbers()
    probe.measure()
    text = await asyncio.to_thread(metrics.exposition, queue, server)
    # a header, because the framework adds a second charset to a media type of text
    return Response(text, headers={**NO_STORE, "Content-Type": metrics.CONTENT_TYPE})


HANDLERS = [live, ready, health, metrics_text]
