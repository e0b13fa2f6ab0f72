"""Who may upload now: what is beyond a limit is told which one, and when to come back, before its body is read."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from api.http.problems import Problem
from db.imports.backlog import Load
from db.settings import Settings

# a place among the uploads is free again soon; a full queue takes a while to drain
UPLOADS_RETRY_SECONDS = 1
QUEUE_RETRY_SECONDS = 10


class Admission:
    """Counts the uploads of this process. `stopping` is set when the process has closed its listener."""

    def __init__(self, settings: Settings, stopping: asyncio.Event) -> None:
        self.settings = settings
        self.stopping = stopping
        self._uploads = 0

    @contextmanager
    def upload(self) -> Iterator[None]:
        """One more upload. Raises `Problem`: 503 when the process is stopping, 429 when it has enough of them."""
        if self.stopping.is_set():
            raise Problem("unavailable", "This process is stopping and takes no more uploads; another one will.")
        if self._uploads >= self.settings.uploads_max:
            raise _full("uploads_max", self.settings.uploads_max, "uploads at once", UPLOADS_RETRY_SECONDS)
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    def check(self, load: Load) -> None:
        """Raises `Problem` 429 when the queue, the new import counted with it, holds more than it may.

        Uploads that begin at the same moment do not see each other, so a few too many may get in.
        """
        if load.jobs > self.settings.queue_jobs_max:
            raise _full(
                "queue_jobs_max", self.settings.queue_jobs_max, "imports that are not final", QUEUE_RETRY_SECONDS
            )
        if load.bytes >= self.settings.queue_bytes_max:
            raise _full(
                "queue_bytes_max", self.settings.queue_bytes_max, "bytes of imports not final", QUEUE_RETRY_SECONDS
            )


def _full(limit: str, maximum: int, of_what: str, retry_seconds: int) -> Problem:
    return Problem(
        "too-many-requests",
        f"The limit {limit} is reached: {maximum} {of_what}. Try again in some seconds.",
        headers={"Retry-After": str(retry_seconds)},
        limit=limit,
        maximum=maximum,
    )
