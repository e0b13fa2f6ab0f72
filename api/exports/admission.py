"""Limits on streams and export jobs: beyond them a request is answered 429 at once, and neither waits nor starts work."""

from collections.abc import Iterator
from contextlib import contextmanager

from api.http.problems import limit_reached
from db.settings import Settings

RETRY_SECONDS = 5


class StreamAdmission:
    """Counts the streams of this process. Each holds one database connection for as long as its client reads."""

    def __init__(self, settings: Settings) -> None:
        self.streams_max = settings.streams_max
        self._streams = 0

    @contextmanager
    def stream(self) -> Iterator[None]:
        """One more stream. Raises `Problem` 429 if the limit is reached."""
        if self._streams >= self.streams_max:
            raise limit_reached("streams_max", self.streams_max, "streams at once", retry_seconds=RETRY_SECONDS)
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1


def check_jobs(settings: Settings, live: int) -> None:
    """Raises `Problem` 429 if `live`, the number of jobs that are not final with the new one, is above the limit.

    Concurrent requests do not see each other's jobs, so the limit may be exceeded by a few.
    """
    if live > settings.export_jobs_max:
        raise limit_reached(
            "export_jobs_max", settings.export_jobs_max, "exports that are not final", retry_seconds=RETRY_SECONDS
        )
