"""Copies records of a final import into a new one: a retry has the refused and unprocessed ones, a commit has all.

Both are without the records that repairs have. A commit without repairs is made in the database, by `db.imports.actions`.

Records are copied as stored. Splitting their bytes again could merge a row with an unclosed quote with the rows behind it.
They keep the line numbers of the first file.
"""

import hashlib
from contextlib import aclosing
from typing import NamedTuple
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from api.http import tracing
from api.http.auth import key_name
from api.http.headers import AnyRequest
from api.http.problems import Problem, request_id
from api.imports.admission import Admission
from api.imports.chunk_writer import ChunkWriter
from api.imports.records import file_frame, read_chunks
from api.imports.splitting.chunk_builder import ChunkBuilder
from api.imports.uploads import ActiveUploads
from db import queue
from db.connections.pool import Pool, repeatable
from db.imports import actions, repairs
from db.imports.actions import Copy, ParentImport
from db.imports.uploads import ImportSpec
from db.settings import Settings


class CopyContext(NamedTuple):
    """What a copy needs of the process and the request."""

    pool: Pool
    settings: Settings
    admission: Admission
    active: ActiveUploads
    request_id: str
    traceparent: str | None
    created_by: str | None
    # whether the commit of a dry run can be undone
    undoable: bool = False


def context(
    request: AnyRequest,
    pool: Pool,
    settings: Settings,
    admission: Admission,
    active: ActiveUploads,
    *,
    undoable: bool = False,
) -> CopyContext:
    return CopyContext(
        pool,
        settings,
        admission,
        active,
        request_id=request_id(request.scope),
        traceparent=tracing.span(request.scope).traceparent,
        created_by=key_name(request.scope),
        undoable=undoable,
    )


async def run(parent: ParentImport, relation: Copy, context: CopyContext) -> tuple[UUID, bool]:
    """Creates the retry or commit of a final import. Returns its id, and whether an earlier request created it.

    Raises `db.imports.records.Gone` and `db.imports.uploads.Gone` if records were removed meanwhile, `actions.Repaired` if a
    repair took some on meanwhile, and `Problem` 409, 429, 503.
    """
    pool = context.pool
    earlier = await repeatable(pool, lambda conn: actions.copied_by(conn, parent, relation))
    if earlier is not None:
        return earlier, True
    without = await repeatable(pool, lambda conn: repairs.taken_on(conn, parent.id))
    if relation == "retry" and parent.remaining == without.count:
        raise Problem("nothing-to-retry", "Repairs have every refused record of the import.")
    with context.admission.upload():
        id = uuid7()
        await context.active.begin(id, context.admission, token=None)
        async with context.active.held(id):
            spec = await _store(parent, relation, id, context)
            child = await queue.submit(
                pool,
                lambda conn: actions.seal_copy(
                    conn, id, spec, parent, relation, without=without, endpoints=context.settings.webhook_endpoints
                ),
            )
            if child != id:
                # a concurrent request has created the copy
                await context.active.discard(id)
    return child, child != id


async def _store(parent: ParentImport, relation: Copy, id: UUID, context: CopyContext) -> ImportSpec:
    """Stores the records as chunks of the upload `id`. Returns size and sha-256 of a file with only these records."""
    pool, settings = context.pool, context.settings
    head, separator, tail = file_frame(parent)
    chunks = ChunkBuilder(batch_size=settings.batch_size, max_bytes=settings.chunk_max_bytes, separator=separator)
    sha256, size = hashlib.sha256(head), len(head)
    which = "remaining" if relation == "retry" else "all"
    async with (
        ChunkWriter(pool, id, context.admission.storing) as writer,
        aclosing(read_chunks(pool, parent, which)) as found,
    ):
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
    spec = actions.child_spec(
        parent,
        relation,
        undoable=context.undoable,
        digest=hashlib.sha256(relation.encode() + parent.id.bytes + sha256.digest()).digest(),
        request_id=context.request_id,
        traceparent=context.traceparent,
        created_by=context.created_by,
    )
    return msgspec.structs.replace(
        spec,
        file_bytes=size + len(tail),
        file_sha256=sha256.digest(),
        total_records=chunks.record_count,
        total_chunks=writer.chunk_count,
    )
