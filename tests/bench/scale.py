"""What the queue's statements cost as finished jobs, chunks and errors grow, and as the jobs to choose from do.

For each call: elapsed time, CPU time of the server's process, and pages read, in its memory or not. The last two depend little on
what else the machine does. The yardstick is the same call at the smallest size: a ratio of 1 means that the size has no effect.
The size `full` needs 30 GB in TMPDIR.
"""

import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from random import Random
from statistics import median
from typing import LiteralString, NamedTuple, Protocol, TypeVar
from uuid import UUID

import psycopg
from psycopg.sql import SQL, Identifier
from rich import box
from rich.table import Table

from db import embedded, health, migrate, queue
from db.connections import pool
from db.connections.pool import Connection
from db.imports import backlog, completion, errors, jobs, retention, uploads
from db.imports.errors import START, Position
from db.queue import Counts
from db.settings import Settings
from tests.bench.environment import Environment, ServerCpu, Size
from tests.bench.report import Figure, at_most, number
from tests.support import history, plans, postgres

# not durable: nearly all of the data is written before anything is measured
OPTIONS = {**embedded.TCP, "fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
FLAT = at_most(1.2)
PAGE = 100
# sessions that write the finished imports, and how many of them in a transaction
WRITERS = 4
PORTION = 50
CLAIM_CHUNKS = 8
# chunks of all live imports, and at least of each: enough for all claims, which are of the same number of chunks
LIVE_CHUNKS = 2_000
CHUNKS_MIN = 16
# enough for the sixth execution of a statement, which is a prepared one
PLANNED_CALLS = 20
# the views that people read, with the condition that they are told to use
VIEWS: dict[LiteralString, LiteralString] = {
    "import_progress": "WHERE status IN ('uploading', 'pending', 'processing')",
    "running_chunks": "",
    "queue_health": "",
    "worker_sessions": "",
}

T = TypeVar("T")


class Cost(NamedTuple):
    """The samples of one call."""

    ms: list[float]
    cpu_ms: list[float]
    pages: list[float]


class Meter(Protocol):
    """Awaits a call and notes its cost under `name`."""

    async def __call__(self, name: str, call: Awaitable[T]) -> T: ...


class Clock:
    """Milliseconds of each call: elapsed, and of CPU time of the server's process."""

    def __init__(self, cpu: ServerCpu) -> None:
        self.ms: dict[str, list[float]] = {}
        self.cpu_ms: dict[str, list[float]] = {}
        self._cpu = cpu

    async def __call__(self, name: str, call: Awaitable[T]) -> T:
        began, cpu_began = time.perf_counter(), self._cpu.seconds()
        result = await call
        self.ms.setdefault(name, []).append(1000 * (time.perf_counter() - began))
        self.cpu_ms.setdefault(name, []).append(1000 * (self._cpu.seconds() - cpu_began))
        return result


class Pages:
    """Pages that the statements of each call read."""

    def __init__(self, conn: Connection) -> None:
        self.pages: dict[str, list[float]] = {}
        self._plans = plans.Plans(conn)

    async def __call__(self, name: str, call: Awaitable[T]) -> T:
        result, found = await self._plans.with_result(call)
        self.pages.setdefault(name, []).append(sum(plan.buffers for plan in found))
        return result


async def run(env: Environment) -> list[Figure]:
    with _database(env) as url:
        return [*await _finished(env, url), *await _live(env, url)]


async def _finished(env: Environment, url: str) -> list[Figure]:
    """Every call while the finished imports grow, and one import is live."""
    measured: dict[int, dict[str, Cost]] = {}
    first = 1
    for last in env.size.finished_imports:
        began = time.monotonic()
        _write_finished(url, range(first, last + 1), chunks=env.size.finished_chunks, errors=env.size.finished_errors)
        _start_again(url, imports=1, chunks=LIVE_CHUNKS)
        env.log(f"{last:,} finished imports, written in {time.monotonic() - began:.0f} s")
        first = last + 1
        measured[last] = await _measure(env.size, url, partial(_all, random=Random(last), size=env.size, last=last))
    return _report(env, "finished imports", measured)


async def _live(env: Environment, url: str) -> list[Figure]:
    """The calls of workers, and the metrics, while the imports grow that a claim chooses from."""
    measured: dict[int, dict[str, Cost]] = {}
    for imports in env.size.live_imports:
        _start_again(url, imports=imports, chunks=max(CHUNKS_MIN, LIVE_CHUNKS // imports))

        measured[imports] = await _measure(env.size, url, _of_workers)
    return _report(env, "live imports", measured)


async def _all(conn: Connection, meter: Meter, *, random: Random, size: Size, last: int) -> None:
    await _of_workers(conn, meter)
    await _maintenance(conn, meter)
    await _reads(conn, meter, UUID(f"{random.randint(1, last):032}"), last_record=size.finished_errors)


async def _of_workers(conn: Connection, meter: Meter) -> None:
    await _work(conn, meter)
    await meter("metrics of the queue", health.queue_numbers(conn, endpoints=()))
    await meter("metrics of the server", health.server_numbers(conn))
    await meter("backlog", backlog.measure(conn))


async def _work(conn: Connection, meter: Meter) -> None:
    """A worker's way through a claim, and what it does when a claim of another one was lost."""
    claim = await meter("claim", queue.claim(conn, worker="me", chunks_max=CLAIM_CHUNKS, bytes_max=1_000_000))
    assert claim is not None
    await meter("fence, finish, commit", _finish(conn, claim))
    await meter("is the job done", completion.finish(conn, claim.job_id, endpoints=()))
    await meter("reclaim, nothing lost", _reclaim(conn))
    lost = await queue.claim(conn, worker="dead")
    assert lost is not None
    found = await meter("reclaim, a chunk lost", _reclaim(conn))
    assert found is not None
    await _finish(conn, found)


async def _finish(conn: Connection, claim: queue.Claim) -> None:
    async with conn.transaction():
        await queue.fence(conn, claim)
        await queue.finish(conn, claim, Counts(created=len(claim.ids)))


def _reclaim(conn: Connection) -> Awaitable[queue.Claim | None]:
    return queue.reclaim(conn, worker="me", grace_seconds=0, attempts_max=12, crashes_max=4)


async def _maintenance(conn: Connection, meter: Meter) -> None:
    await meter("sweep of uploads", uploads.sweep(conn, grace_seconds=60))
    await meter("jobs left unfinished", completion.unfinished(conn))
    await meter("imports whose predecessor was not completed", completion.stop_dependents(conn))
    await meter("retention, nothing expired", retention.prune(conn, retention_seconds=1_000_000))
    cursor = await conn.execute(
        """
        SELECT extract(epoch FROM clock_timestamp() - max(finished_at))::float8
        FROM (SELECT finished_at FROM import_jobs WHERE finished_at IS NOT NULL ORDER BY finished_at LIMIT 1) AS oldest
        """
    )
    [age] = await cursor.fetchone() or [0.0]
    # the next one is a second younger
    async with conn.transaction(force_rollback=True):
        await meter("retention, one round of one import", retention.prune(conn, retention_seconds=age - 0.5))


async def _reads(conn: Connection, meter: Meter, id: UUID, *, last_record: int) -> None:
    """What pages and clients ask for: lists, the finished import `id` and its errors."""
    anything = jobs.ImportFilter()
    await meter("list of imports", jobs.newest(conn, anything, before=None, limit=PAGE))
    await meter("list of imports, from any on", jobs.newest(conn, anything, before=id, limit=PAGE))
    await meter("imports by status", jobs.counts(conn, anything))
    await meter("one import", jobs.get(conn, id))
    deep = Position(last_record * 9 // 10, 1)
    await meter("errors", errors.page(conn, id, after=START, code=None, field=None, limit=PAGE))
    await meter("errors, deep", errors.page(conn, id, after=deep, code=None, field=None, limit=PAGE))
    await meter("errors of one code", errors.page(conn, id, after=START, code="too_long", field=None, limit=PAGE))
    await meter("are the errors complete", errors.are_complete(conn, id))
    await meter("summary of the errors", errors.summary(conn, id))
    for view in VIEWS:
        await meter(f"view {view}", conn.execute(SQL("SELECT * FROM {} ").format(Identifier(view)) + SQL(VIEWS[view])))


# ── the database, and the figures ─────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _database(env: Environment) -> Iterator[str]:
    """A database on a server of its own, whose big tables are not logged."""
    folder = env.subfolder("scale")
    folder.chmod(0o755)
    server_url = embedded.start(folder, options=OPTIONS, bin_dir=postgres.bin_dir())
    try:
        url = postgres.database_url(server_url, postgres.create_database(server_url))
        migrate.up(url)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("ALTER TABLE import_errors SET UNLOGGED")
        yield url
    finally:
        embedded.stop(folder)
        shutil.rmtree(folder)


def _write_finished(url: str, numbers: range, *, chunks: int, errors: int) -> None:
    """Some at a time, so that an interrupted run ends soon, in several sessions."""

    def write(portion: range) -> None:
        with psycopg.connect(url, autocommit=True) as conn:
            history.add_finished(conn, first=portion[0], last=portion[-1], chunks=chunks, errors=errors)

    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(write, (numbers[at : at + PORTION] for at in range(0, len(numbers), PORTION))))


def _start_again(url: str, *, imports: int, chunks: int) -> None:
    """New live imports in place of the earlier ones, in tables that autovacuum has just processed."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DELETE FROM import_jobs WHERE finished_at IS NULL")
        history.add_live(conn, imports=imports, chunks=chunks)
        conn.execute("VACUUM ANALYZE import_jobs, chunks, import_payloads, import_errors")


async def _measure(size: Size, url: str, calls: Callable[[Connection, Meter], Awaitable[None]]) -> dict[str, Cost]:
    """The cost of each call by its name. In two sessions, because logging the plans takes time."""
    settings = Settings(database_url=url)
    async with await pool.connect(settings, name="bench") as conn:
        with closing(ServerCpu(conn.info.backend_pid)) as cpu:
            clock = Clock(cpu)
            for _ in range(size.calls):
                await calls(conn, clock)
    async with await pool.connect(settings, name="bench") as conn:
        await plans.enable_plans(conn)
        pages = Pages(conn)
        for _ in range(PLANNED_CALLS):
            await calls(conn, pages)
    return {name: Cost(clock.ms[name], clock.cpu_ms[name], pages.pages[name]) for name in clock.ms}


def _report(env: Environment, what: str, measured: dict[int, dict[str, Cost]]) -> list[Figure]:
    """Shows the medians of all sizes. The figures are those of the largest, and the smallest is their yardstick."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("ms · ms of CPU · pages", style="bold", no_wrap=True)
    for size in measured:
        shown.add_column(f"{size:,} {what}", justify="right", no_wrap=True)
    (smallest, base), *_, (largest, costs) = measured.items()
    for name in base:
        cells = [" · ".join(number(median(samples)) for samples in each[name]) for each in measured.values()]
        shown.add_row(name, *cells)
    env.console.print(shown)
    return [
        Figure(
            name=f"{name}, {largest:,} {what}",
            unit=unit,
            samples=samples,
            yardstick=f"with {smallest:,}",
            yardstick_samples=yardstick,
            target=FLAT if name == "claim" and unit != "ms" else None,
        )
        for name in base
        for unit, samples, yardstick in zip(("ms", "ms of CPU", "pages"), costs[name], base[name], strict=True)
        # what the server has in its own memory reads no pages
        if all(yardstick)
    ]
