"""The parent of several processes: forks them, replaces those that die, and stops them."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess

import structlog

from monitoring.supervisor import Supervisor

log = structlog.get_logger()

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
# the delay before dead children are replaced; doubled each time that one exited with an error, so that a broken installation
# does not start processes in a tight loop
REPLACE_SECONDS = 0.2
REPLACE_SECONDS_MAX = 10.0


def stop_signals() -> set[signal.Signals]:
    """The signals that stop a process. SIGHUP is left out if it was ignored at the start, as under nohup."""
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    return STOP_SIGNALS - ignored


def unblock_signals() -> None:
    """For a child, as soon as its own handlers are installed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


class ProcessPool:
    """Keeps one child running for each of `numbers`, which runs `main(number)`. `name` is that of a child in the log.

    On TERM, INT or HUP `on_stop` is called, the children get SIGTERM, and end within `stop_seconds`; a second signal kills them.
    A terminal sends its signals to the children too, so that a child may get one twice.
    """

    def __init__(
        self,
        name: str,
        numbers: Iterable[int],
        main: Callable[[int], None],
        *,
        stop_seconds: float,
        supervisor: Supervisor,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.children: dict[int, ForkProcess] = {}
        self.signals = 0
        self._numbers = tuple(numbers)
        self._main = main
        self._stop_seconds = stop_seconds
        self._supervisor = supervisor
        self._on_stop = on_stop
        self._replace_seconds = REPLACE_SECONDS
        self._failed_at = float("-inf")

    def run(self) -> None:
        for signum in stop_signals():
            signal.signal(signum, self._on_signal)
        log.info("%s pool started", self.name, processes=len(self._numbers))
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
                target=self._main, args=(number,), name=f"{self.name} {number}"
            )
            child.start()
            self.children[number] = child
        unblock_signals()

    def _replace_dead(self) -> None:
        dead = {number: child for number, child in self.children.items() if child.exitcode is not None}
        for number, child in dead.items():
            del self.children[number]
            if not self.signals:
                log.error("%s died, replacing it", self.name, number=number, exit_code=child.exitcode)
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
        if self.signals == 1:
            self._on_stop()
        for child in list(self.children.values()):
            if child.is_alive():
                child.terminate() if self.signals == 1 else child.kill()

    def _stop(self) -> None:
        deadline = time.monotonic() + self._stop_seconds
        for child in self.children.values():
            child.join(max(0.0, deadline - time.monotonic()))
        for child in self.children.values():
            if child.is_alive():
                log.error("%s did not stop in time, killed", self.name, child=child.name)
                child.kill()
                child.join()
        log.info("%s pool stopped", self.name)
