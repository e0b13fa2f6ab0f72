"""The uploads of this process: stores small ones at once, marks the others as alive, and removes those that are not sealed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import msgspec
import structlog
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from api.imports.admission import Admission
from db import queue
from db.connections.pool import Connection, Pool, repeatable
from db.errors import UNAVAILABLE, ConnectionLost
from db.imports import backlog, jobs, small_uploads, uploads
from db.imports.jobs import Import
from db.imports.payload import Chunk
from db.imports.uploads import ImportSpec
from db.settings import Settings
from monitoring import throttle

log = structlog.get_logger(__name__)

# between two attempts to remove an interrupted upload while the database is unavailable
DISCARD_SECONDS = 1.0
# between two notifications of small imports: if one is received at a time, and if several are
NOTIFY_SECONDS = 0.01
BUSY_NOTIFY_SECONDS = 0.03


class ActiveUploads:
    """The unsealed uploads of this process."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._ids: set[UUID] = set()
        # the event loop has only weak references to tasks
        self._discarding: set[asyncio.Task[None]] = set()
        # when the last notification of a small import was sent, and the task that sends the next one
        self._notified_at = float("-inf")
        self._notifying: asyncio.Task[None] | None = None

    async def begin(self, id: UUID, admission: Admission, *, token: str | None) -> bool:
        """Creates an upload. Returns False if another job has its idempotency key. Raises `Problem` 429.

        The queue's limits do not apply to a repeated request, which adds nothing to it.
        """
        try:
            return await self._try_begin(id, admission, token)
        except ConnectionLost:
            # the first try may have been committed, and is removed if the second one fails
            async with self.held(id):
                return await self._try_begin(id, admission, token)

    async def _try_begin(self, id: UUID, admission: Admission, token: str | None) -> bool:
        async with self._pool.connection() as conn, conn.transaction():
            is_begun = await uploads.begin_once(conn, id, token=token)
            if is_begun:
                admission.check(await backlog.measure(conn))
        return is_begun

    async def store_whole(
        self,
        id: UUID,
        spec: ImportSpec,
        chunks: Sequence[Chunk],
        admission: Admission,
        *,
        seal: Callable[[Connection, UUID, ImportSpec], Awaitable[None]],
    ) -> Import | None:
        """Creates, stores and seals an import in one transaction. Returns None if another job has its idempotency key.

        Raises `Problem` 429, and what `seal` raises.
        """
        is_repeat = False

        async def store(conn: Connection) -> Import | None:
            nonlocal is_repeat
            if not await uploads.begin_once(conn, id, token=spec.idempotency_token):
                return None
            if not is_repeat or not await uploads.is_sealed(conn, id, spec.digest):
                is_repeat = True
                admission.check(await backlog.measure(conn))
                await uploads.store(conn, id, chunks)
                await seal(conn, id, spec)
            return await jobs.get(conn, id)

        return await queue.submit(self._pool, store)

    async def store_small(self, id: UUID, spec: ImportSpec, chunk: Chunk, admission: Admission) -> Import | None:
        """Creates an import of one chunk by one statement. Returns None if another job has its idempotency key.

        Raises `Problem` 429, `AfterUnknown`.
        """
        is_repeat = False

        async def create(conn: Connection) -> Import | None:
            nonlocal is_repeat
            if is_repeat and await uploads.is_sealed(conn, id, spec.digest):
                job = await jobs.get(conn, id)
            else:
                is_repeat = True
                job, backlog = await small_uploads.create(
                    conn,
                    id,
                    spec,
                    chunk,
                    jobs_max=self._settings.queue_jobs_max,
                    bytes_max=self._settings.queue_bytes_max,
                )
                token = spec.idempotency_token
                # a repeated request adds nothing to the queue
                if job is None and (token is None or await uploads.by_token(conn, token) is None):
                    admission.check(msgspec.structs.replace(backlog, jobs=backlog.jobs + 1))
            if job is not None:
                await self._notify(conn, admission)
            return job

        return await repeatable(self._pool, create)

    async def _notify(self, conn: Connection, admission: Admission) -> None:
        """Wakes the workers for a small import.

        Not more often than every NOTIFY_SECONDS, because each notification costs PostgreSQL a signal to each worker. Not more
        often than every BUSY_NOTIFY_SECONDS if other imports are being received: those that are created until then share a claim.
        """
        now = asyncio.get_running_loop().time()
        notify_at = self._notified_at + (NOTIFY_SECONDS if admission.uploads == 1 else BUSY_NOTIFY_SECONDS)
        if now >= notify_at:
            self._notified_at = now
            await queue.notify(conn, queue.SMALL)
        elif self._notifying is None:
            self._notifying = asyncio.create_task(self._notify_after(notify_at - now))

    async def _notify_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        # an import that is created from now on needs another notification
        self._notified_at, self._notifying = asyncio.get_running_loop().time(), None
        with suppress(*UNAVAILABLE):
            async with self._pool.connection() as conn:
                await queue.notify(conn, queue.SMALL)

    @asynccontextmanager
    async def held(self, id: UUID) -> AsyncIterator[None]:
        """Keeps an upload alive while the block runs. An exception removes it with its chunks."""
        self._ids.add(id)
        try:
            yield
        except BaseException:
            await asyncio.shield(self.discard(id))
            raise
        finally:
            self._ids.discard(id)

    async def keep_alive(self) -> None:
        """Marks the uploads as alive periodically: a slow client may send nothing for minutes."""
        while True:
            await asyncio.sleep(self._settings.upload_grace_seconds / 4)
            if self._ids:
                try:
                    async with self._pool.connection() as conn:
                        await uploads.touch(conn, list(self._ids))
                except Exception as error:
                    throttle.warning(log, "upload heartbeat failed", error=type(error).__name__)

    async def discard(self, id: UUID) -> None:
        """Removes an upload that will not be sealed. Its idempotency key can be used again."""
        try:
            async with self._pool.connection() as conn:
                await uploads.discard(conn, id)
        except Exception as error:
            log.warning("upload not discarded", job_id=str(id), error=type(error).__name__)
            task = asyncio.create_task(self._keep_discarding(id))
            self._discarding.add(task)
            task.add_done_callback(self._discarding.discard)

    async def _keep_discarding(self, id: UUID) -> None:
        """Removes the upload when the database is available again. After UPLOAD_GRACE_SECONDS a worker's sweep removes it."""
        deadline = asyncio.get_running_loop().time() + self._settings.upload_grace_seconds
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(DISCARD_SECONDS)
            with suppress(*UNAVAILABLE):
                async with self._pool.connection() as conn:
                    await uploads.discard(conn, id)
                return


ActiveUploadsHere = NamedDependency[SkipValidation[ActiveUploads]]
