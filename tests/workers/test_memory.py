"""The memory of a worker does not grow with the chunks that it has processed."""

import asyncio
import gc
import tracemalloc

import pytest
import structlog

from db.queue import failpoints
from db.settings import Settings
from tests.support.factories import queued, users
from workers.worker import Worker

RECORDS = 5000
ATTEMPTS = 3


@pytest.fixture
def collector_tuned():
    """The garbage collector as the pool sets it: it does not run by itself here."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.set_threshold(10_000_000)
    # a log that is written to a terminal formats each traceback with its local variables
    structlog.configure(processors=[_drop])
    yield
    structlog.reset_defaults()
    gc.set_threshold(*thresholds)


def _drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent


async def test_a_failed_attempt_leaves_nothing_in_memory(conn, collector_tuned):
    """The records of a failed attempt, which its traceback refers to, are freed after the attempt."""

    async def fail(point, _conn) -> None:
        if point == "mid_merge":
            raise ValueError("no reason")

    await queued(conn, users(RECORDS))
    worker = Worker(Settings(), name="me", stopping=asyncio.Event())
    failpoints.install(fail)
    tracemalloc.start()
    try:
        sizes = []
        for _ in range(ATTEMPTS):
            assert await worker.run_once(conn)
            sizes.append(tracemalloc.get_traced_memory()[0])
            await conn.execute("UPDATE chunks SET retry_at = NULL")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        failpoints.install(None)
    # an attempt holds megabytes of records; at the second and third those of the attempts before are gone
    assert sizes[-1] < peak / 4
    assert sizes[-1] - sizes[0] < 100_000
