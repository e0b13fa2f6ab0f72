"""The parent process of the workers: keeps WORKER_POOL_SIZE of them running until it is stopped, and a process for webhooks."""

import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from ctypes import c_double
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import RawValue

import structlog
import uvloop

from db.settings import Settings
from monitoring import metrics, tracing
from monitoring.supervisor import Supervisor
from workers.worker import Worker

log = structlog.get_logger()

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
# the delay before dead workers are replaced; doubled each time that one exited with an error, so that a broken installation
# does not start processes in a tight loop
REPLACE_SECONDS = 0.2
# objects allocated between two collections; a chunk allocates tens of thousands
GC_THRESHOLD = 100_000
REPLACE_SECONDS_MAX = 10.0
# the number of the process that delivers webhooks; those of the workers begin at 1
DELIVERER = 0


class Pool:
    """On TERM, INT or HUP each worker finishes its chunk or gives it back, within STOP_SECONDS; a second signal kills them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.children: dict[int, ForkProcess] = {}
        # without webhooks there is no process for them
        self._numbers = range(0 if settings.webhook_endpoints else 1, settings.worker_pool_size + 1)
        self.signals = 0
        # shared with the workers and without a lock, which a killed worker would keep
        self._maintenance_at = RawValue(c_double, 0.0)
        self._supervisor = Supervisor(settings.supervisor_pid)
        self._replace_seconds = REPLACE_SECONDS
        self._failed_at = float("-inf")

    def run(self) -> None:
        for signum in _stop_signals():
            signal.signal(signum, self._on_signal)
        log.info("worker pool started", workers=self.settings.worker_pool_size)
        while not self.signals:
            self._fill()
            wait([child.sentinel for child in self.children.values()], timeout=1.0)
            self._replace_dead()
            if self._supervisor.is_gone() and not self.signals:
                log.warning("supervisor is gone, stopping")
                self._on_signal()
        self._stop()

    def _fill(self) -> None:
        for number in self._numbers:
            if number not in self.children:
                self._start(number)

    def _start(self, number: int) -> None:
        # blocked: a signal between fork and the child's own handlers would run the parent's handler in the child
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        # a signal received before the block was not passed on to this child
        if not self.signals:
            child = multiprocessing.get_context("fork").Process(
                target=_main, args=(self.settings, number, os.getpid(), self._maintenance_at), name=f"worker-{number}"
            )
            child.start()
            self.children[number] = child
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _replace_dead(self) -> None:
        dead = {number: child for number, child in self.children.items() if child.exitcode is not None}
        for number, child in dead.items():
            del self.children[number]
            if not self.signals:
                log.error("worker died, replacing it", worker=number, exit_code=child.exitcode)
        if dead:
            self._pause(has_failed=any((child.exitcode or 0) > 0 for child in dead.values()))

    def _pause(self, *, has_failed: bool) -> None:
        now = time.monotonic()
        if has_failed:
            again = now - self._failed_at < 2 * REPLACE_SECONDS_MAX
            self._replace_seconds = min(REPLACE_SECONDS_MAX, 2 * self._replace_seconds) if again else REPLACE_SECONDS
            self._failed_at = now
        until = now + (self._replace_seconds if has_failed else REPLACE_SECONDS)
        # in steps, because a signal does not end a sleep
        while not self.signals and time.monotonic() < until:
            time.sleep(REPLACE_SECONDS / 2)

    def _on_signal(self, *_: object) -> None:
        self.signals += 1
        for child in list(self.children.values()):
            if child.is_alive():
                child.terminate() if self.signals == 1 else child.kill()

    def _stop(self) -> None:
        deadline = time.monotonic() + self.settings.stop_seconds
        for child in self.children.values():
            child.join(max(0.0, deadline - time.monotonic()))
        for child in self.children.values():
            if child.is_alive():
                log.error("worker did not stop in time, killed", worker=child.name)
                child.kill()
                child.join()
        log.info("worker pool stopped")


def _stop_signals() -> set[signal.Signals]:
    """SIGHUP is left out if it was ignored at the start, as under nohup."""
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    return STOP_SIGNALS - ignored


def _main(settings: Settings, number: int, parent: int, maintenance_at: c_double) -> None:
    with tracing.recording(settings, process="workers"):
        if number == DELIVERER:
            uvloop.run(_until_stopped(parent, partial(_deliver, settings)))
        else:
            tune_gc()
            uvloop.run(_until_stopped(parent, partial(_work, settings, number, maintenance_at)))


def tune_gc() -> None:
    """Freezes the loaded modules and raises the collector's threshold: records contain no reference cycles, so that
    collections only cost time. `Worker` collects after a failed attempt, whose traceback does contain cycles."""
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


async def _until_stopped(parent: int, run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs `run`, whose argument is set by a signal to stop, and when the pool has died."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in _stop_signals():
        loop.add_signal_handler(signum, stopping.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    orphaned = asyncio.create_task(_stop_when_orphaned(parent, stopping))
    await run(stopping)
    orphaned.cancel()


async def _work(settings: Settings, number: int, maintenance_at: c_double, stopping: asyncio.Event) -> None:
    metrics.worker_started()
    await Worker(
        settings,
        name=_name(number),
        stopping=stopping,
        takes_exports=number <= settings.export_workers,
        maintenance_at=maintenance_at,
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
