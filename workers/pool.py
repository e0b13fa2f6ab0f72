"""The processes of a worker pool: WORKER_POOL_SIZE workers, and one that delivers webhooks."""

import asyncio
import gc
import os
import socket
from collections.abc import Awaitable, Callable
from ctypes import c_double
from functools import partial
from multiprocessing.sharedctypes import RawValue

import uvloop

from db.settings import Settings
from monitoring import metrics, process_pool, tracing
from monitoring.process_pool import ProcessPool
from monitoring.supervisor import Supervisor
from workers.active import ActiveWorkers
from workers.worker import Worker

# objects allocated between two collections; a chunk allocates tens of thousands
GC_THRESHOLD = 100_000
# the number of the process that delivers webhooks; those of the workers begin at 1
DELIVERER = 0


def create(settings: Settings) -> ProcessPool:
    """On a signal to stop each worker finishes its chunk or gives it back, within STOP_SECONDS."""
    # shared by the workers and without a lock, which a killed worker would keep
    maintenance_at = RawValue(c_double, 0.0)
    active = ActiveWorkers(settings.worker_pool_size)
    return ProcessPool(
        "worker",
        # without webhooks there is no process for them
        range(DELIVERER if settings.webhook_endpoints else 1, settings.worker_pool_size + 1),
        partial(_main, settings, os.getpid(), maintenance_at, active),
        stop_seconds=settings.stop_seconds,
        supervisor=Supervisor(settings.supervisor_pid),
    )


def _main(settings: Settings, parent: int, maintenance_at: c_double, active: ActiveWorkers, number: int) -> None:
    with tracing.recording(settings, process="workers"):
        if number == DELIVERER:
            uvloop.run(_until_stopped(parent, partial(_deliver, settings)))
        else:
            tune_gc()
            uvloop.run(_until_stopped(parent, partial(_work, settings, number, maintenance_at, active)))


def tune_gc() -> None:
    """Freezes the loaded modules and raises the collector's threshold: records contain no reference cycles, so that
    collections only cost time. `Worker` collects after a failed attempt, whose traceback does contain cycles."""
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


async def _until_stopped(parent: int, run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs `run`, whose argument is set by a signal to stop, and when the pool has died."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in process_pool.stop_signals():
        loop.add_signal_handler(signum, stopping.set)
    process_pool.unblock_signals()
    orphaned = asyncio.create_task(_stop_when_orphaned(parent, stopping))
    await run(stopping)
    orphaned.cancel()


async def _work(
    settings: Settings, number: int, maintenance_at: c_double, active: ActiveWorkers, stopping: asyncio.Event
) -> None:
    metrics.worker_started()
    await Worker(
        settings,
        name=_name(number),
        stopping=stopping,
        number=number,
        takes_exports=number <= settings.export_workers,
        maintenance_at=maintenance_at,
        active=active,
    ).run()


async def _deliver(settings: Settings, stopping: asyncio.Event) -> None:
    # not before: workers do not need an HTTP client
    from workers.webhooks.deliverer import Deliverer

    metrics.deliverer_started(endpoint.name for endpoint in settings.webhook_endpoints)
    await Deliverer(settings, name=_name(DELIVERER), stopping=stopping).run()


def _name(number: int) -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{number}"


async def _stop_when_orphaned(parent: int, stopping: asyncio.Event) -> None:
    """Stops a worker whose pool has died."""
    while os.getppid() == parent:  # noqa: ASYNC110  # there is no event to await
        await asyncio.sleep(1.0)
    stopping.set()
