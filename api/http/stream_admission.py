"""The limits on streams from the database: their number, beyond which a request is answered 429, and their duration."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from litestar.di import NamedDependency
from litestar.params import SkipValidation

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


StreamAdmissionHere = NamedDependency[SkipValidation[StreamAdmission]]


class Deadline:
    """When a stream has to end. While it holds its snapshot, vacuum cannot remove dead rows."""

    def __init__(self, settings: Settings) -> None:
        self._at = time.monotonic() + settings.stream_seconds_max

    def check(self) -> None:
        """Raises `TimeoutError` after STREAM_SECONDS_MAX."""
        if time.monotonic() > self._at:
            raise TimeoutError("the stream took longer than STREAM_SECONDS_MAX")
