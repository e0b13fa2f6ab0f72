"""Retries an import: creates an import of the refused and unprocessed records of a final one.

Records are copied as stored. Splitting their bytes again could merge a row with an unclosed quote with the rows behind it.
They keep the line numbers of the first file.
"""

import hashlib
from contextlib import aclosing
from uuid import UUID

from api.imports.admission import Admission
from api.imports.chunk_writer import ChunkWriter
from api.imports.records import file_frame, read_chunks
from api.imports.splitting.chunk_builder import ChunkBuilder
from api.imports.uploads import ActiveUploads
from db.connections.pool import Pool
from db.imports import actions, backlog, uploads
from db.imports.actions import ParentImport
from db.imports.uploads import ImportSpec
from db.settings import Settings


async def run(
    parent: ParentImport,
    *,
    pool: Pool,
    settings: Settings,
    admission: Admission,
    active: ActiveUploads,
    request_id: str,
    created_by: str | None,
) -> tuple[UUID, bool]:
    """Creates the retry of a final import. Returns its id, and whether an earlier request created it.

    Raises `db.imports.records.Gone` and `db.imports.uploads.Gone` if records were removed meanwhile, and `Problem` 429, 503.
    """
    async with pool.connection() as conn:
        earlier = await actions.retried_by(conn, parent)
    if earlier is not None:
        return earlier, True
    with admission.upload():
        async with pool.connection() as conn, conn.transaction():
            id = await uploads.begin(conn)
            admission.check(await backlog.measure(conn))
        async with active.held(id):
            spec = await _store(parent, id, pool=pool, settings=settings, request_id=request_id, created_by=created_by)
            async with pool.connection() as conn, conn.transaction():
                child = await actions.seal_retry(conn, id, spec, parent)
            if child != id:
                # a concurrent request has created the retry
                await active.discard(id)
    return child, child != id


async def _store(
    parent: ParentImport, id: UUID, *, pool: Pool, settings: Settings, request_id: str, created_by: str | None
) -> ImportSpec:
    """Stores the records as chunks of the upload `id`. Returns size and sha-256 of a file with only these records."""
    head, separator, tail = file_frame(parent)
    chunks = ChunkBuilder(batch_size=settings.batch_size, max_bytes=settings.chunk_max_bytes, separator=separator)
    sha256, size = hashlib.sha256(head), len(head)
    async with ChunkWriter(pool, id) as writer, aclosing(read_chunks(pool, parent, "all")) as found:
        async for chunk in found:
            for _, line, raw in chunk.records(parent.format):
                data = separator + raw if chunks.record_count else raw
                sha256.update(data)
                size += len(data)
                chunks.add(raw, line)
            await writer.add(chunks.take())
        chunks.close()
        await writer.add(chunks.take())
    sha256.update(tail)
    return actions.child_spec(
        parent,
        dry_run=parent.dry_run,
        file_bytes=size + len(tail),
        file_sha256=sha256.digest(),
        total_records=chunks.record_count,
        total_chunks=writer.chunk_count,
        digest=hashlib.sha256(b"retry" + parent.id.bytes + sha256.digest()).digest(),
        request_id=request_id,
        created_by=created_by,
    )
