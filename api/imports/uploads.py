"""Takes imports in: parameters and file as they arrive, stored in short transactions, sealed at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import structlog
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from api.http import parameters
from api.http.headers import AnyRequest, idempotency_key
from api.http.problems import Problem, invalid, request_id
from api.imports.admission import Admission
from api.imports.body import Body, File, Parameter
from api.imports.chunk_writer import Store
from api.imports.parameters import ImportParameters
from api.imports.splitting import Unreadable
from api.imports.splitting.intake import Intake
from db.connections.pool import Pool
from db.errors import UNAVAILABLE
from db.imports import backlog, jobs
from db.imports import uploads as uploading
from db.imports.jobs import Import
from db.imports.uploads import Upload
from db.resources import RESOURCES
from db.settings import Settings
from monitoring import metrics, throttle

log = structlog.get_logger(__name__)

# between two tries to remove an upload that broke off when the database was away
DISCARD_SECONDS = 1.0


class Uploads:
    """The uploads under way in this process."""

    def __init__(self, pool: Pool, settings: Settings, admission: Admission) -> None:
        self.pool = pool
        self.settings = settings
        self.admission = admission
        self._open: set[UUID] = set()
        # the loop holds its tasks weakly
        self._discarding: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def upload(self, token: str | None) -> AsyncIterator[UUID]:
        """A new upload; whatever ends it before it is sealed takes its chunks with it.

        Raises `uploading.TokenTaken`, and `Problem` 429 when the queue is full; the former goes first, because a repeated
        request adds nothing to the queue and has a right to its job.
        """
        async with self.pool.connection() as conn, conn.transaction():
            id = await uploading.begin(conn, token=token)
            self.admission.check(await backlog.load(conn))
        self._open.add(id)
        try:
            yield id
        except BaseException:
            await asyncio.shield(self._discard(id))
            raise
        finally:
            self._open.discard(id)

    @asynccontextmanager
    async def unless_stopped(self) -> AsyncIterator[None]:
        """Ends what is within by TimeoutError when the process was told to stop and it goes on for too long.

        So it ends while it can still take its chunks with it and answer its client.
        """
        async with asyncio.timeout(None) as limit:
            stopping = asyncio.create_task(self._limit(limit))
            try:
                yield
            finally:
                stopping.cancel()

    async def _limit(self, limit: asyncio.Timeout) -> None:
        await self.admission.stopping.wait()
        limit.reschedule(asyncio.get_running_loop().time() + self.settings.stop_seconds / 2)

    async def keep_alive(self) -> None:
        """Shows the database, as long as it runs, that the uploads live: a slow client may send nothing for minutes."""
        while True:
            await asyncio.sleep(self.settings.upload_grace_seconds / 4)
            if self._open:
                try:
                    async with self.pool.connection() as conn:
                        await uploading.touch(conn, list(self._open))
                except Exception as error:
                    throttle.warning(log, "upload heartbeat failed", error=type(error).__name__)

    async def _discard(self, id: UUID) -> None:
        try:
            async with self.pool.connection() as conn:
                await uploading.discard(conn, id)
        except Exception as error:
            log.warning("upload not discarded", job_id=str(id), error=type(error).__name__)
            self._discard_later(id)

    def _discard_later(self, id: UUID) -> None:
        """When the database is reachable again, so that the upload's key is free; maintenance does it if this process cannot."""
        task = asyncio.create_task(self._keep_discarding(id))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    async def _keep_discarding(self, id: UUID) -> None:
        deadline = asyncio.get_running_loop().time() + self.settings.upload_grace_seconds
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(DISCARD_SECONDS)
            with suppress(*UNAVAILABLE):
                async with self.pool.connection() as conn:
                    await uploading.discard(conn, id)
                return


UploadsHere = NamedDependency[SkipValidation[Uploads]]


async def receive(request: AnyRequest, uploads: Uploads) -> tuple[Import, bool]:
    """Reads the request to its end; the job, and whether an earlier request with the same key and content made it.

    Raises `Problem`: 400, 409, 413, 415, 422, 429, 503.
    """
    receiver = _Receiver(request, uploads)
    try:
        with uploads.admission.upload():
            async with uploads.unless_stopped():
                id, is_replay = await receiver.run()
    except Unreadable as error:
        raise Problem("invalid-request", f"The file cannot be read: {error}") from None
    except uploading.AfterUnknown:
        raise invalid("after", "is not the id of an import") from None
    except TimeoutError:
        raise Problem("unavailable", "This process is stopping and could not wait for the end of the upload.") from None
    except uploading.Gone:
        raise Problem("unavailable", "The upload showed no sign of life for too long and was given up.") from None
    if receiver.token is not None:
        metrics.idempotency("replayed" if is_replay else "created")
    async with uploads.pool.connection() as conn:
        job = await jobs.get(conn, id)
    if job is None:
        raise Problem("not-found", "The import was removed meanwhile.")
    return job, is_replay


class _Receiver:
    """One request on its way in."""

    def __init__(self, request: AnyRequest, uploads: Uploads) -> None:
        self.uploads = uploads
        self.request_id = request_id(request.scope)
        self.given: list[tuple[str, Any]] = list(request.query_params.multi_items())
        self.key = idempotency_key(request)
        self.events = Body(request, uploads.settings).events()
        self.file = File(None, None)
        self.upload: Upload | None = None

    async def run(self) -> tuple[UUID, bool]:
        """Receives everything; the job's id, and whether it is an earlier request's."""
        await self._up_to_file()
        early = self._parameters()
        try:
            async with self.uploads.upload(self.token) as id:
                self.upload = await self._take(early, id)
                async with self.uploads.pool.connection() as conn, conn.transaction():
                    await uploading.seal(conn, id, self.upload)
                return id, False
        except uploading.TokenTaken:
            return await self._earlier(early), True

    @property
    def token(self) -> str | None:
        """The idempotency key, from wherever it is known so far."""
        given = next((value for name, value in self.given if name == "idempotency_token"), None)
        return parameters.check_token(self.key, given)

    def _parameters(self) -> ImportParameters:
        """All parameters known so far. Raises `Problem` 400 that names each that is wrong."""
        return parameters.parse(self.given, ImportParameters)

    async def _up_to_file(self) -> None:
        async for event in self.events:
            if isinstance(event, File):
                self.file = event
                return
            if isinstance(event, Parameter):
                self.given.append(event)
        raise invalid("file", "is required: the part that holds the records", "missing")

    async def _take(self, early: ImportParameters, id: UUID | None) -> Upload:
        """Reads the file, and what parameters come behind it. Without `id` nothing is stored."""
        intake = Intake(self.uploads.settings, format=early.format or self.file.format, delimiter=early.delimiter)
        async with Store(self.uploads.pool, id) as store:
            async for event in self.events:
                if isinstance(event, Parameter):
                    self.given.append(event)
                elif isinstance(event, bytes):
                    await store.add(intake.feed(event))
            await store.add(intake.finish())
        return self._describe(early, intake, store.chunks)

    def _describe(self, early: ImportParameters, intake: Intake, chunks: int) -> Upload:
        final = self._parameters()
        if final.resource is None:
            raise invalid("resource", f"is required: {', '.join(RESOURCES)}", "missing")
        for name in ("format", "csv_delimiter"):
            if getattr(final, name) != getattr(early, name):
                raise invalid(name, "must come before the file, which is read as it arrives", "too_late")
        intake.check_columns(RESOURCES[final.resource], ignore_unknown=final.unknown_fields == "ignore")
        settled: dict[str, Any] = {
            "resource": final.resource,
            "mode": final.mode,
            "on_error": final.on_error,
            "max_errors": final.max_errors,
            "max_error_rate": final.max_error_rate,
            "dry_run": final.dry_run,
            "after_id": final.after,
            "unknown_fields": final.unknown_fields,
            "format": intake.format or "csv",
            "csv_delimiter": final.delimiter,
            "csv_safe": final.csv_safe,
        }
        return Upload(
            **settled,
            parent_id=None,
            csv_header=intake.header,
            csv_columns=intake.columns,
            file_name=self.file.name,
            file_bytes=intake.bytes,
            file_sha256=intake.sha256,
            total_records=intake.records,
            total_chunks=chunks,
            idempotency_token=self.token,
            digest=intake.digest(settled),
            request_id=self.request_id,
        )

    async def _earlier(self, early: ImportParameters) -> UUID:
        """The job that has the key already, if this request is its twin."""
        async with self.uploads.pool.connection() as conn:
            holder = await uploading.by_token(conn, self.token or "")
        if holder is None or holder[1] == "uploading":
            metrics.idempotency("in_progress")
            raise Problem("idempotency-in-progress", "The first request with this idempotency key is still arriving.")
        id, _ = holder
        upload = self.upload or await self._take(early, None)
        async with self.uploads.pool.connection() as conn:
            job = await jobs.get(conn, id)
        if job is None or job.request_digest != upload.digest:
            metrics.idempotency("reused")
            raise Problem(
                "idempotency-key-reused",
                "This idempotency key belongs to an import with other parameters or another file.",
            )
        return id
