"""The parent of the workers: keeps WORKER_POOL_SIZE of them alive until it is told to stop."""

import asyncio
import multiprocessing
import os
import signal
import socket
import time
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess

import structlog

from db.settings import Settings
from monitoring import metrics
from workers.loop import Worker

log = structlog.get_logger()

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
# between two replacements of dead workers, lest a broken installation spin
REPLACE_SECONDS = 0.2


class Pool:
    """TERM or INT: each worker ends its chunk or gives it back, within STOP_SECONDS; a second signal ends all at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.children: dict[int, ForkProcess] = {}
        self.signals = 0

    def run(self) -> None:
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._on_signal)
        log.info("worker pool started", workers=self.settings.worker_pool_size)
        while not self.signals:
            self._fill()
            wait([child.sentinel for child in self.children.values()], timeout=1.0)
            self._replace_dead()
        self._stop()

    def _fill(self) -> None:
        for number in range(1, self.settings.worker_pool_size + 1):
            if number not in self.children:
                self._start(number)

    def _start(self, number: int) -> None:
        # a signal between fork and the child's own handlers would run ours in the child
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        # one that came before has reached only the children of then
        if not self.signals:
            child = multiprocessing.get_context("fork").Process(
                target=_main, args=(self.settings, number, os.getpid()), name=f"worker-{number}"
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
        if dead and not self.signals:
            time.sleep(REPLACE_SECONDS)

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


def _main(settings: Settings, number: int, parent: int) -> None:
    asyncio.run(_work(settings, number, parent))


async def _work(settings: Settings, number: int, parent: int) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in STOP_SIGNALS:
        loop.add_signal_handler(signum, stopping.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    metrics.worker_started()
    orphaned = asyncio.create_task(_stop_when_orphaned(parent, stopping))
    await Worker(settings, name=f"{socket.gethostname()}:{os.getpid()}:{number}", stopping=stopping).run()
    orphaned.cancel()


async def _stop_when_orphaned(parent: int, stopping: asyncio.Event) -> None:
    """A worker does not outlive its pool: nobody could stop it."""
    while os.getppid() == parent:  # noqa: ASYNC110  # nothing can be awaited that tells of it
        await asyncio.sleep(1.0)
    stopping.set()
