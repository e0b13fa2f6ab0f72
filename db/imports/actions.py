"""Actions on imports: retry, commit of a dry run, delete. Cancel is in `db.jobs`."""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from psycopg.rows import class_row, scalar_row

from db.connections import liveness
from db.connections.pool import Connection
from db.imports import completion, repairs, undo, uploads
from db.imports.jobs import FINAL, Status
from db.imports.records import Gone
from db.imports.repairs import TakenOn
from db.imports.uploads import FileSpec, ImportSpec
from db.webhooks.endpoints import Endpoint

Copy = Literal["retry", "commit"]

# a commit copies a whole file, which may take longer than statement_timeout
COPY_SECONDS_MAX = 3600


class NotCommittable(Exception):
    """The import is not a completed dry run; the message gives the reason."""


class Repaired(Exception):
    """Repairs have records of the import, which a copy must leave out."""


class Undoing(Exception):
    """The undo of the import is not finished."""


class ParentImport(FileSpec, frozen=True, kw_only=True):
    """An import whose records are downloaded, or imported again by a child: a retry or a commit.

    `remaining` counts the failed and the unprocessed records. `failed` and `remaining` do not change once the import is final.
    """

    id: UUID
    status: Status
    dry_run: bool
    failed: int
    remaining: int

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


_SELECT = """
    SELECT id, status, resource, mode, dry_run, on_error, max_errors, max_error_rate, unknown_fields, format,
        csv_delimiter, csv_safe, csv_header, csv_columns, columns, file_name, file_bytes, file_sha256, total_records,
        total_chunks, undoable, failed, total_records - created - updated - unchanged - skipped AS remaining
    FROM import_jobs
    WHERE id = %(id)s AND status <> 'uploading'
"""


async def parent(conn: Connection, id: UUID) -> ParentImport | None:
    """The import; None if it does not exist or is still being uploaded."""
    cursor = conn.cursor(row_factory=class_row(ParentImport))
    await cursor.execute(_SELECT, {"id": id})
    return await cursor.fetchone()


async def copied_by(conn: Connection, parent: ParentImport, relation: Copy) -> UUID | None:
    """The id of the retry or the commit of `parent`; None if it has none."""
    return await _child(conn, parent.id, dry_run=parent.dry_run and relation == "retry")


async def seal_copy(
    conn: Connection,
    id: UUID,
    spec: ImportSpec,
    parent: ParentImport,
    relation: Copy,
    *,
    without: TakenOn,
    endpoints: Sequence[Endpoint],
) -> UUID:
    """Seals the upload `id` as the one retry or commit of `parent` and returns its id. If there is one already, returns its id.

    Concurrent requests are serialised by the lock on the parent's row. `without` are the records that repairs had before the
    upload was filled, which it does not have. Raises `Repaired` if they are not the same now, and `Gone`.
    """
    if await _lock(conn, parent.id) is None:
        raise Gone
    earlier = await copied_by(conn, parent, relation)
    if earlier is not None:
        return earlier
    if await repairs.taken_on(conn, parent.id) != without:
        raise Repaired
    await uploads.seal(conn, id, spec, endpoints=endpoints)
    return id


async def commit(
    conn: Connection,
    id: UUID,
    *,
    undoable: bool,
    digest: bytes,
    request_id: str | None,
    traceparent: str | None,
    created_by: str | None,
    endpoints: Sequence[Endpoint],
) -> tuple[UUID, bool]:
    """Creates the real import of a completed dry run. Returns its id, and whether an earlier request created it.

    Needs a transaction. Raises `NotCommittable`, `Gone`, and `Repaired`, because this copies the whole file.
    """
    parent = await _lock(conn, id)
    if parent is None:
        raise Gone
    if not parent.dry_run:
        raise NotCommittable("The import is not a dry run.")
    if parent.status != "completed":
        raise NotCommittable(f"The dry run is {parent.status}; only a completed one can be committed.")
    earlier = await _child(conn, id, dry_run=False)
    if earlier is not None:
        return earlier, True
    if (await repairs.taken_on(conn, id)).count:
        raise Repaired
    child = await uploads.begin(conn)
    await _copy_file(conn, child, parent)
    spec = child_spec(
        parent,
        "commit",
        undoable=undoable,
        digest=digest,
        request_id=request_id,
        traceparent=traceparent,
        created_by=created_by,
    )
    await uploads.seal(conn, child, spec, endpoints=endpoints)
    return child, False


def child_spec(
    parent: ParentImport,
    relation: Copy,
    *,
    undoable: bool,
    digest: bytes,
    request_id: str | None,
    traceparent: str | None,
    created_by: str | None,
) -> ImportSpec:
    """The specification of a child with the whole file: its parent's parameters, except `after`, which the parent waited for.

    A retry is undoable if its parent is. A dry run is not, so `undoable` decides it for a commit.
    """
    return ImportSpec(
        **{name: getattr(parent, name) for name in FileSpec.__struct_fields__ if name != "undoable"},
        undoable=parent.undoable if relation == "retry" else undoable,
        source=None,
        dry_run=parent.dry_run and relation == "retry",
        after_id=None,
        parent_id=parent.id,
        relation=relation,
        idempotency_token=None,
        digest=digest,
        request_id=request_id,
        traceparent=traceparent,
        created_by=created_by,
    )


async def delete(conn: Connection, id: UUID) -> bool:
    """Deletes a final import with its chunks, errors and payloads; stored records are kept. Returns False if it is not final.

    Raises `Undoing`.
    """
    job = await _lock(conn, id)
    if job is None or not job.is_final:
        return False
    # a statement of its own: `undo.start` locks the job, too
    undoing = await undo.get(conn, id)
    if undoing is not None and undoing.finished_at is None:
        raise Undoing
    # imports that wait for one which did not complete must be stopped while its row still shows its status
    await completion.stop_dependents(conn)
    await repairs.release(conn, id)
    await conn.execute("DELETE FROM import_jobs WHERE id = %(id)s", {"id": id})
    return True


async def _lock(conn: Connection, id: UUID) -> ParentImport | None:
    """The import, with its row locked against other actions for the rest of the transaction."""
    cursor = conn.cursor(row_factory=class_row(ParentImport))
    await cursor.execute(_SELECT + "FOR NO KEY UPDATE", {"id": id})
    return await cursor.fetchone()


async def _child(conn: Connection, parent_id: UUID, *, dry_run: bool) -> UUID | None:
    """The id of the child of this kind: the dry child of a dry run is its retry, the real one its commit."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT id
        FROM import_jobs
        WHERE parent_id = %(parent_id)s
            AND dry_run = %(dry_run)s
            AND relation IS DISTINCT FROM 'repair'
            AND status <> 'uploading'
        ORDER BY id
        LIMIT 1
        """,
        {"parent_id": parent_id, "dry_run": dry_run},
    )
    return await cursor.fetchone()


async def _copy_file(conn: Connection, child: UUID, parent: ParentImport) -> None:
    """Copies the parent's chunks, as pending ones, and their payloads. Raises `Gone` if some of them were removed."""
    await liveness.allow_long_statements(conn, COPY_SECONDS_MAX)
    copied = await conn.execute(
        """
        INSERT INTO chunks (import_id, seq, first_record, records)
        SELECT %(child)s, seq, first_record, records
        FROM chunks
        WHERE job_id = %(parent)s AND kind = 'records'
        """,
        {"child": child, "parent": parent.id},
    )
    chunks = copied.rowcount
    copied = await conn.execute(
        """
        INSERT INTO import_payloads (import_id, first_record, first_line, data, starts, lines)
        SELECT %(child)s, first_record, first_line, data, starts, lines
        FROM import_payloads
        WHERE import_id = %(parent)s
        """,
        {"child": child, "parent": parent.id},
    )
    if chunks != parent.total_chunks or copied.rowcount != chunks:
        raise Gone
