"""Admission control: limits on concurrent uploads, on the queue, and on buffered bytes. Checked before a body is read."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from api.http.problems import Problem, limit_reached
from api.imports.upload_buffers import UploadBuffers
from db.imports.backlog import Backlog
from db.settings import Settings

# seconds of Retry-After: an upload ends soon, a full queue takes longer to drain
UPLOADS_RETRY_SECONDS = 1
DOWNLOADS_RETRY_SECONDS = 5
QUEUE_RETRY_SECONDS = 10


class Admission:
    """Counts the uploads of this process and the bytes that they buffer. `stopping` is set when the listener is closed."""

    def __init__(self, settings: Settings, stopping: asyncio.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        # held by an upload while it splits a costly block: see api.imports.fair_splitting
        self.splitting_turn = asyncio.Lock()
        self.buffers = UploadBuffers(settings)
        # half of the pool: other requests have connections while uploads store their chunks
        self.storing = asyncio.Semaphore(max(1, settings.api_pool_size // 2))
        # held by an upload while a process reads its XLSX file
        self.reading_sheet = asyncio.Semaphore(settings.xlsx_processes_max)
        self._uploads = 0
        self._downloads = 0
        self._buffered = 0

    @property
    def uploads(self) -> int:
        """The uploads that are being received."""
        return self._uploads

    @contextmanager
    def upload(self) -> Iterator[None]:
        """Admits one more upload. Raises `Problem`: 503 when the process is stopping, 429 when there are too many."""
        if self._stopping.is_set():
            raise Problem("unavailable", "The process is stopping and accepts no more uploads. Repeat the request.")
        if self._uploads >= self._settings.uploads_max:
            raise limit_reached(
                "uploads_max", self._settings.uploads_max, "uploads at once", retry_seconds=UPLOADS_RETRY_SECONDS
            )
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    @contextmanager
    def download(self) -> Iterator[None]:
        """Admits one more download of records, which holds a chunk while its client reads. Raises `Problem` 429."""
        maximum = self._settings.streams_max
        if self._downloads >= maximum:
            raise limit_reached("streams_max", maximum, "downloads at once", retry_seconds=DOWNLOADS_RETRY_SECONDS)
        self._downloads += 1
        try:
            yield
        finally:
            self._downloads -= 1

    @asynccontextmanager
    async def until_stopping(self) -> AsyncIterator[None]:
        """Raises `TimeoutError` in the block if it runs longer than half of STOP_SECONDS after `stopping` was set.

        The other half remains for removing the upload's chunks and for the response.
        """

        async def limit() -> None:
            await self._stopping.wait()
            timeout.reschedule(asyncio.get_running_loop().time() + self._settings.stop_seconds / 2)

        async with asyncio.timeout(None) as timeout:
            waiting = asyncio.create_task(limit())
            try:
                yield
            finally:
                waiting.cancel()

    @contextmanager
    def buffer(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that adds to the buffered bytes, which are subtracted again at the end of the block.

        It raises `Problem` 429 if all uploads together exceed JSON_BUFFERS_MAX_BYTES.
        """
        held = 0

        def add(size: int) -> None:
            nonlocal held
            maximum = self._settings.json_buffers_max_bytes
            if self._buffered + size > maximum:
                raise limit_reached(
                    "json_buffers_max_bytes",
                    maximum,
                    "bytes of JSON objects at once",
                    retry_seconds=UPLOADS_RETRY_SECONDS,
                )
            self._buffered += size
            held += size

        try:
            yield add
        finally:
            self._buffered -= held

    def check(self, backlog: Backlog) -> None:
        """Raises `Problem` 429 if the queue, including the new import, exceeds its limits.

        Concurrent uploads do not see each other, so the limits may be exceeded by a few.
        """
        jobs_max, bytes_max = self._settings.queue_jobs_max, self._settings.queue_bytes_max
        if backlog.jobs > jobs_max:
            raise limit_reached(
                "queue_jobs_max", jobs_max, "imports that are not final", retry_seconds=QUEUE_RETRY_SECONDS
            )
        if backlog.bytes >= bytes_max:
            raise limit_reached(
                "queue_bytes_max", bytes_max, "bytes of imports that are not final", retry_seconds=QUEUE_RETRY_SECONDS
            )


AdmissionHere = NamedDependency[SkipValidation[Admission]]
