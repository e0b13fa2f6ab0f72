"""What an import has left, taken in as an import of its own: record by record, in chunks of the usual size.

The records are not cut anew from their bytes. A row with a quote that is not closed could then swallow others, which in the
first file it did not, and become a record that nobody has sent. They keep the lines of the first file, the only one that
the client has.
"""

import hashlib
from contextlib import aclosing
from uuid import UUID

from api.imports.chunk_writer import Store
from api.imports.records import frame, pieces
from api.imports.splitting.chunk_builder import ChunkBuilder
from api.imports.uploads import Uploads
from db.imports import actions
from db.imports.actions import Source
from db.imports.uploads import Upload


async def run(uploads: Uploads, parent: Source, request_id: str) -> tuple[UUID, bool]:
    """The retry of a final import; its id, and whether it was there already.

    Raises `leftovers.Gone` and `uploading.Gone` when something was removed meanwhile, and `Problem` 429, 503.
    """
    async with uploads.pool.connection() as conn:
        earlier = await actions.retried_by(conn, parent)
    if earlier is not None:
        return earlier, True
    try:
        with uploads.admission.upload():
            async with uploads.upload(None) as id:
                upload = await _take(uploads, parent, id, request_id)
                async with uploads.pool.connection() as conn, conn.transaction():
                    child = await actions.seal_retry(conn, id, upload, parent)
                if child != id:
                    raise _ComeTooLate(child)
                return id, False
    except _ComeTooLate as late:
        return late.earlier, True


class _ComeTooLate(Exception):
    """Another request has made the retry meanwhile; the upload is given up by leaving it with an error."""

    def __init__(self, earlier: UUID) -> None:
        super().__init__(earlier)
        self.earlier = earlier


async def _take(uploads: Uploads, parent: Source, id: UUID, request_id: str) -> Upload:
    """Stores the records as chunks of the upload `id`. Bytes and sha-256 are those of the file that they would make."""
    head, separator, tail = frame(parent)
    settings = uploads.settings
    chunks = ChunkBuilder(batch_size=settings.batch_size, max_bytes=settings.chunk_max_bytes, separator=separator)
    sha256, size = hashlib.sha256(head), len(head)
    async with Store(uploads.pool, id) as store, aclosing(pieces(uploads.pool, parent, "all")) as found:
        async for piece in found:
            for _, line, raw in piece.records(parent.format):
                data = separator + raw if chunks.record_count else raw
                sha256.update(data)
                size += len(data)
                chunks.add(raw, line)
            await store.add(chunks.take())
        chunks.close()
        await store.add(chunks.take())
    sha256.update(tail)
    return actions.child_upload(
        parent,
        dry_run=parent.dry_run,
        file_bytes=size + len(tail),
        file_sha256=sha256.digest(),
        total_records=chunks.record_count,
        total_chunks=store.chunks,
        digest=hashlib.sha256(b"retry" + parent.id.bytes + sha256.digest()).digest(),
        request_id=request_id,
    )
