"""Receives an import request: reads parameters and file, stores chunks in short transactions, and seals the import.

A small file is stored and sealed in one transaction.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from api.http.headers import AnyRequest
from api.http.problems import Problem, invalid
from api.imports import repair, request_digest, source
from api.imports.body import Body, File, Parameter
from api.imports.chunk_writer import ChunkWriter
from api.imports.fair_splitting import FairSplitter
from api.imports.importing import Importing
from api.imports.parameters import ImportParameters
from api.imports.requested import RequestedImport
from api.imports.sheets.conversion import SheetConversion
from api.imports.source import ObjectReader
from api.imports.splitting import FileSplitter, Unreadable
from db import queue
from db.connections.pool import Connection, repeatable
from db.imports import jobs, repairs, uploads
from db.imports.jobs import Import
from db.imports.payload import Chunk
from db.imports.records import Gone
from db.imports.uploads import ImportSpec
from db.queue import SMALL_BYTES
from monitoring import metrics


class Received(NamedTuple):
    """The job of a request."""

    job: Import
    # an earlier request with the same key and content created the job
    is_replay: bool = False
    # this request has created the job, as one chunk
    is_small: bool = False


async def receive(request: AnyRequest, importing: Importing) -> Received:
    """Reads the request to its end. Raises `Problem`: 400, 409, 413, 415, 422, 429, 503."""
    receiver = UploadReceiver(request, importing)
    try:
        with importing.admission.upload():
            async with importing.admission.until_stopping():
                received = await receiver.run()
    except Unreadable as error:
        raise Problem("invalid-request", f"The file cannot be read: {error}") from None
    except uploads.AfterUnknown:
        raise invalid("after", "is not the id of an import") from None
    except Gone:
        raise repair.unknown_parent() from None
    except repairs.NotRefused as reason:
        raise repair.not_refused(reason.lines) from None
    except repairs.AlreadyRepaired as reason:
        raise repair.already_repaired(reason.lines) from None
    except TimeoutError:
        raise Problem("unavailable", "The process is stopping and could not wait for the end of the upload.") from None
    except uploads.Gone:
        raise Problem("unavailable", "The upload was inactive for too long and was removed.") from None
    if receiver.requested.token is not None:
        metrics.idempotency("replayed" if received.is_replay else "created")
    return received


class UploadReceiver:
    """Receives one import request."""

    def __init__(self, request: AnyRequest, importing: Importing) -> None:
        self._pool = importing.pool
        self._settings = importing.settings
        self._admission = importing.admission
        self._active = importing.active_uploads
        self.requested = RequestedImport(request)
        self._body = Body(request, importing.settings, importing.admission)
        self._file = File(None, None)
        self._source: ObjectReader | None = None
        # of an XLSX file
        self._sheet: SheetConversion | None = None

    async def run(self) -> Received:
        async with aclosing(self._body.events()) as events:
            has_file = await self._read_to_file(events)
            early = await self.requested.begin(self._pool)
            if early.source is None:
                async with aclosing(self._content(early, events)) as content:
                    return await self._receive_file(early, content)
            if has_file:
                raise source.excludes_file()
            return await self._read_source(early, early.source)

    async def _receive_file(self, early: ImportParameters, events: AsyncIterator[Parameter | File | bytes]) -> Received:
        splitter = self._splitter(early)
        chunks: list[Chunk] = []
        async with aclosing(self._split(events, splitter)) as parts:
            if self._body.is_small:
                async for part in parts:
                    chunks += part
                    if splitter.held_bytes + sum(len(chunk.data) for chunk in chunks) > SMALL_BYTES:
                        break
                else:
                    return await self._store_whole(self._specify(early, splitter, len(chunks)), chunks)
            return await self._receive_large(early, splitter, chunks, parts)

    async def _store_whole(self, spec: ImportSpec, chunks: list[Chunk]) -> Received:
        """Stores a file that was received completely, in one transaction."""
        id = uuid7()
        async with self._admission.storing:
            is_small = len(chunks) == 1 and self.requested.parent is None
            if is_small:
                job = await self._active.store_small(id, spec, chunks[0], self._admission)
            else:
                job = await self._active.store_whole(id, spec, chunks, self._admission, seal=self._seal_by)
        return Received(job, is_small=is_small) if job is not None else await self._earlier(spec.digest)

    async def _receive_large(
        self, early: ImportParameters, splitter: FileSplitter, chunks: list[Chunk], parts: AsyncIterator[list[Chunk]]
    ) -> Received:
        """Stores the file in several transactions while it is received. `chunks` are its first ones, `parts` all others."""
        id = uuid7()
        if not await self._active.begin(id, self._admission, token=self.requested.token):
            count = len(chunks)
            async for part in parts:
                count += len(part)
            return await self._earlier(self._specify(early, splitter, count).digest)
        async with self._active.held(id):
            spec = await self._store(id, early, splitter, chunks, parts)
            try:
                await self._seal(id, spec)
            except uploads.TokenTaken:
                # the parameter followed the file, and another job has this key
                await self._active.discard(id)
            else:
                return await self._sealed(id)
        return await self._earlier(spec.digest)

    async def _read_source(self, early: ImportParameters, url: str) -> Received:
        """Reads the object to its end, also if the client disconnects: a request with the same key returns the job then."""
        source.check(url, self._settings)
        id = uuid7()
        if not await self._active.begin(id, self._admission, token=self.requested.token):
            return await self._earlier(request_digest.of_source(early))
        async with self._active.held(id):
            self._source = await source.opened(url, self._settings, sha256=early.source_sha256)
            self._file = self._source.file
            async with (
                aclosing(self._source.blocks()) as blocks,
                aclosing(self._content(early, blocks)) as content,
            ):
                splitter = self._splitter(early)
                spec = await self._store(id, early, splitter, [], self._split(content, splitter))
            await self._seal(id, spec)
        return await self._sealed(id)

    def _content(
        self, early: ImportParameters, events: AsyncGenerator[Parameter | File | bytes, None]
    ) -> AsyncGenerator[Parameter | File | bytes, None]:
        """The content of the file, and the parameters that follow it. The content of an XLSX file are the rows of its sheet."""
        if (early.format or self._file.format) != "xlsx":
            return events
        self._sheet = SheetConversion(self._settings, self._admission.reading_sheet, self.requested.so_far)
        return self._sheet.rows(events)

    def _splitter(self, early: ImportParameters) -> FileSplitter:
        return FileSplitter(
            format=early.format or self._file.format,
            delimiter=early.delimiter,
            batch_size=self._settings.batch_size,
            chunk_max_bytes=self._settings.chunk_max_bytes,
            record_max_bytes=self._settings.record_max_bytes,
            annotated=self.requested.parent is not None,
        )

    async def _store(
        self,
        id: UUID,
        early: ImportParameters,
        splitter: FileSplitter,
        chunks: list[Chunk],
        parts: AsyncIterator[list[Chunk]],
    ) -> ImportSpec:
        """Stores the chunks of the file, `chunks` first. Returns the import as it was received."""
        async with (
            ChunkWriter(self._pool, id, self._admission.storing) as writer,
            self._admission.buffers.upload(splitter, writer) as upload,
        ):
            await upload.add(chunks)
            async for part in parts:
                await upload.add(part)
        return self._specify(early, splitter, writer.chunk_count)

    async def _seal(self, id: UUID, spec: ImportSpec) -> None:
        await queue.submit(self._pool, lambda conn: self._seal_by(conn, id, spec))

    async def _sealed(self, id: UUID) -> Received:
        job = await repeatable(self._pool, lambda conn: jobs.get(conn, id))
        if job is None:
            raise Problem("not-found", "The import was removed meanwhile.")
        return Received(job)

    async def _seal_by(self, conn: Connection, id: UUID, spec: ImportSpec) -> None:
        seal = uploads.seal if self.requested.parent is None else repairs.seal
        await seal(conn, id, spec, endpoints=self._settings.webhook_endpoints)

    async def _read_to_file(self, events: AsyncIterator[Parameter | File | bytes]) -> bool:
        """Whether there is a file in the request. Raises `Problem` 400 if there is none, and no `source` either."""
        async for event in events:
            if isinstance(event, File):
                self._file = event
                return True
            if isinstance(event, Parameter):
                self.requested.add(event)
        if self.requested.has("source"):
            return False
        raise invalid("file", "is required: the part with the records", "missing")

    async def _split(
        self, events: AsyncIterator[Parameter | File | bytes], splitter: FileSplitter
    ) -> AsyncGenerator[list[Chunk], None]:
        """Yields the chunks of the file when they are complete. Keeps parameters that follow the file."""
        fair = FairSplitter(splitter, self._admission.splitting_turn)
        async for event in events:
            if isinstance(event, Parameter):
                self.requested.add(event)
            elif isinstance(event, bytes):
                yield await fair.feed(event)
        yield splitter.finish()

    def _specify(self, early: ImportParameters, splitter: FileSplitter, chunk_count: int) -> ImportSpec:
        """The import as it was received. Raises `Problem` 400."""
        return self.requested.specify(
            early, splitter, chunk_count, file_name=self._file.name, sheet=self._sheet, source=self._source
        )

    async def _earlier(self, digest: bytes) -> Received:
        """The job that already has the key, if its request was the same as this one. Raises `Problem` 409, 422."""
        holder = await repeatable(self._pool, lambda conn: uploads.by_token(conn, self.requested.token or ""))
        if holder is None or holder[1] == "uploading":
            metrics.idempotency("in_progress")
            raise Problem(
                "idempotency-in-progress", "The first request with this idempotency key is still being received."
            )
        id = holder[0]
        job = await repeatable(self._pool, lambda conn: jobs.get(conn, id))
        if job is None or job.request_digest != digest:
            metrics.idempotency("reused")
            raise Problem(
                "idempotency-key-reused",
                "This idempotency key belongs to an import with other parameters or another file.",
            )
        return Received(job, is_replay=True)
