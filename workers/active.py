"""Limits how many workers of a pool process imports at the same time.

Where PostgreSQL runs on the same machine, more than one worker for each core gain nothing: they only take turns, and each finds
its data gone from the caches. Ten workers on two cores took 20 to 40 % longer for a file than two.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_double
from multiprocessing.sharedctypes import RawArray

from db.settings import Settings

# A worker that has been at work for longer does not count: it may be dead, wait for a lock, or write an export.
COUNTED_SECONDS = 1.0


class ActiveWorkers:
    """When each worker of a pool began to work, in memory that they share, without a lock that a killed one would keep.

    Workers that look at the same moment may begin together, which does no harm: the first to finish its claim pauses.
    """

    def __init__(self, size: int, *, counted_seconds: float = COUNTED_SECONDS) -> None:
        self._counted_seconds = counted_seconds
        # on the clock of `time.monotonic`; 0: not at work
        self._since = RawArray(c_double, size)

    def count(self) -> int:
        counted_from = time.monotonic() - self._counted_seconds
        return sum(since > counted_from for since in self._since)

    @contextmanager
    def working(self, number: int) -> Iterator[None]:
        """Counts the worker with this number, from 1, while the block runs."""
        self._since[number - 1] = time.monotonic()
        try:
            yield
        finally:
            self._since[number - 1] = 0.0


def import_workers_max(settings: Settings, *, is_local: bool) -> int:
    """How many workers of a pool may process imports at the same time. `is_local`: PostgreSQL runs on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return settings.import_workers_max or (cores if is_local else settings.worker_pool_size)
