"""How many workers of a pool process imports at the same time."""

import asyncio
import os

from db.connections import pool
from db.exports import jobs
from db.settings import Settings
from tests.support.eventually import eventually
from tests.support.exports import create
from tests.support.factories import chunk, queued, user, users
from tests.support.workers import HELD, ended, started, stuck
from workers.active import ActiveWorkers, import_workers_max
from workers.worker import Worker

# longer than any test lasts
LONG_SECONDS = 600


def test_workers_count_while_they_are_at_work():
    """Each counts until its block ends, also by an exception, and not for longer than the limit."""
    active = ActiveWorkers(3)
    with active.working(1), active.working(3):
        assert active.count() == 2
        with active.working(2):
            assert active.count() == 3
    assert active.count() == 0
    impatient = ActiveWorkers(1, counted_seconds=0)
    with impatient.working(1):
        assert impatient.count() == 0


def test_the_limit_is_that_of_the_machine_only_if_postgresql_runs_on_it():
    """The setting comes first; without it the number of cores, or all workers if PostgreSQL has a machine of its own."""
    assert import_workers_max(Settings(worker_pool_size=1000, import_workers_max=3), is_local=True) == 3
    assert import_workers_max(Settings(worker_pool_size=1000), is_local=False) == 1000
    assert import_workers_max(Settings(worker_pool_size=1000), is_local=True) <= (os.cpu_count() or 1)


async def test_a_loopback_address_is_this_machine(conn):
    """It is unknown where the server behind a pooler is."""
    address = conn.info.hostaddr
    assert pool.is_local(conn, Settings()) == (not address or address.startswith("127.") or address == "::1")
    assert not pool.is_local(conn, Settings(database_pooler="transaction"))


async def test_beyond_the_limit_a_worker_takes_exports_but_no_imports(conn, database_url, tmp_path):
    """As long as enough others are at work; then it takes the import at its next poll."""
    active = ActiveWorkers(2, counted_seconds=LONG_SECONDS)
    settings = Settings(
        database_url=database_url,
        worker_pool_size=2,
        import_workers_max=1,
        poll_seconds=0.1,
        export_dir=str(tmp_path),
    )
    stopping = asyncio.Event()
    id = await queued(conn, users(2))
    with active.working(2):
        running = asyncio.create_task(Worker(settings, name="h:1:1", stopping=stopping, active=active).run())
        # between the first and the second export it looks for work at least once
        for _ in range(2):
            export_id = await create(conn, "users")
            await eventually(lambda export_id=export_id: is_completed(conn, export_id))
        assert (await chunk(conn, id))["attempt"] == 0
    assert (await ended(conn, id)).created == 2
    stopping.set()
    await running


async def is_completed(conn, export_id) -> bool:
    job = await jobs.get(conn, export_id)
    return job is not None and job.status == "completed"


async def test_a_worker_that_waits_for_a_lock_keeps_no_other_from_work(service, conn, hold):
    """With a limit of one, another worker takes the next import although the first is still at work."""
    first = await queued(conn, [user(1, name=HELD)])
    async with hold(HELD):
        await started(service, workers=2, import_workers_max=1)
        await stuck(conn, first, 1)
        assert (await ended(conn, await queued(conn, users(2, first=2)))).created == 2
    assert (await ended(conn, first)).created == 1
