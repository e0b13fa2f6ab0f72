"""Undo of an import: removes the rows that it created, except those that were written or referred to since.

The undo processes the batches that the import has remembered, each in a transaction of its own, which also counts, and takes the
removed rows off the batch. So it may be interrupted at any time, and any process may continue it: the request for the undo does
what takes a moment, maintenance the rest. Concurrent calls are serialised by the lock on the row of `import_undos`.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from time import monotonic
from typing import Any, Literal
from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.rows import class_row, scalar_row

from db.connections.pool import Connection
from db.errors import DATABASE_ERROR, RETRYABLE, UNAVAILABLE
from db.imports.records import Gone
from db.resources import RESOURCES
from db.resources.definition import Resource
from db.resources.references import is_referred_to

Reason = Literal["changed", "referred_to"]

# how long one call of `run` works, and how long a batch waits for a row that another transaction has locked
SECONDS = 2.0
LOCK_MILLISECONDS = 2000

# the rows of one FETCH
ROWS = 1000


class Undo(msgspec.Struct, frozen=True, kw_only=True):
    """`removed`: rows that the undo has deleted. `missing`: rows that others had deleted before.

    `changed` and `referred_to` are the rows that are kept, as far as the undo has come. When it is finished, the four add up to
    the rows that the import created.
    """

    started_at: datetime
    finished_at: datetime | None
    removed: int
    missing: int
    changed: int
    referred_to: int


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A row that the undo has kept."""

    line: int
    record: int
    id: str
    reason: Reason


async def get(conn: Connection, import_id: UUID) -> Undo | None:
    """The undo of the import; None if there is none."""
    cursor = conn.cursor(row_factory=class_row(Undo))
    await cursor.execute(
        """
        SELECT started_at, finished_at, removed, missing, changed, referred_to
        FROM import_undos
        WHERE import_id = %(id)s
        """,
        {"id": import_id},
    )
    return await cursor.fetchone()


async def start(conn: Connection, import_id: UUID) -> None:
    """Starts the undo of a final, undoable import. If it is finished and has kept rows that were referred to, it begins again.

    Otherwise does nothing if there is one. Needs a transaction. Raises `Gone` if the import was deleted.
    """
    cursor = await conn.execute("SELECT FROM import_jobs WHERE id = %(id)s FOR NO KEY UPDATE", {"id": import_id})
    if cursor.rowcount == 0:
        raise Gone
    await conn.execute(
        """
        INSERT INTO import_undos (import_id)
        VALUES (%(id)s)
        ON CONFLICT (import_id) DO UPDATE
        SET run = import_undos.run + 1,
            started_at = clock_timestamp(),
            finished_at = NULL,
            changed = 0,
            referred_to = 0
        WHERE import_undos.finished_at IS NOT NULL AND import_undos.referred_to > 0
        """,
        {"id": import_id},
    )


async def unfinished(conn: Connection) -> list[UUID]:
    """The imports whose undo is not finished, in random order: one that is delayed by a lock must not delay the others."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("SELECT import_id FROM import_undos WHERE finished_at IS NULL ORDER BY random()")
    return await cursor.fetchall()


async def run(conn: Connection, import_id: UUID, *, seconds: float = SECONDS) -> Undo | None:
    """Processes batches for about `seconds`. To be called outside of a transaction, because each batch is one.

    Returns the undo if this call has finished it. It stays unfinished if the time is over, or if a row is locked by another
    transaction for too long.
    """
    end = monotonic() + seconds
    while True:
        try:
            async with conn.transaction():
                is_processed = await _process_batch(conn, import_id)
            if not is_processed or monotonic() >= end:
                return await _finish(conn, import_id)
        except RETRYABLE:
            if monotonic() >= end:
                return None


async def kept(conn: Connection, import_id: UUID) -> AsyncGenerator[list[Kept]]:
    """The rows that the undo has kept, in the order of the file. Needs a transaction.

    Raises `Gone` at the end if some are missing.
    """
    undo = await get(conn, import_id)
    listed = 0
    async with conn.cursor(name="kept", row_factory=class_row(Kept)) as cursor:
        await cursor.execute(
            """
            SELECT import_record_line(import_id, record) AS line, record, id, reason
            FROM import_created
            CROSS JOIN LATERAL unnest(records, ids, reasons) AS kept (record, id, reason)
            WHERE import_id = %(id)s AND reason IS NOT NULL
            ORDER BY record
            """,
            {"id": import_id},
        )
        while rows := await cursor.fetchmany(ROWS):
            yield rows
            listed += len(rows)
    # retention removes an import in several steps; an incomplete file must not look complete
    if undo is None or listed != undo.changed + undo.referred_to:
        raise Gone


class _Batch(msgspec.Struct, frozen=True, kw_only=True):
    resource: str
    end_snapshot: str | None
    run: int
    batch: int
    records: list[int]
    ids: list[str]


async def _process_batch(conn: Connection, import_id: UUID) -> bool:
    """Removes what can be removed of the next batch. Returns False if there is none."""
    # look-ups by keys, whatever the planner believes of tables that grow fast
    await conn.execute(
        """
        SELECT set_config('lock_timeout', %(lock)s, true), set_config('enable_seqscan', 'off', true),
            set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)
        """,
        {"lock": str(LOCK_MILLISECONDS)},
    )
    batch = await _next_batch(conn, import_id)
    if batch is None:
        return False
    resource = RESOURCES[batch.resource]
    await _lock(conn, resource, import_id, batch)
    removed = await _remove(conn, resource, import_id, batch)
    reasons = await _reasons(conn, resource, import_id, batch, [id for id in batch.ids if id not in removed])
    kept = [(record, id, reasons[id]) for record, id in zip(batch.records, batch.ids, strict=True) if id in reasons]
    await conn.execute(
        """
        UPDATE import_created
        SET run = %(run)s, records = %(records)s, ids = %(ids)s, reasons = %(reasons)s
        WHERE import_id = %(import_id)s AND batch = %(batch)s
        """
        if kept
        else "DELETE FROM import_created WHERE import_id = %(import_id)s AND batch = %(batch)s",
        {
            "import_id": import_id,
            "batch": batch.batch,
            "run": batch.run,
            "records": [record for record, _, _ in kept],
            "ids": [id for _, id, _ in kept],
            "reasons": [reason for _, _, reason in kept],
        },
    )
    changed = sum(reason == "changed" for _, _, reason in kept)
    await conn.execute(
        """
        UPDATE import_undos
        SET removed = removed + %(removed)s,
            missing = missing + %(missing)s,
            changed = changed + %(changed)s,
            referred_to = referred_to + %(referred_to)s
        WHERE import_id = %(import_id)s
        """,
        {
            "import_id": import_id,
            "removed": len(removed),
            "missing": len(batch.ids) - len(removed) - len(kept),
            "changed": changed,
            "referred_to": len(kept) - changed,
        },
    )
    return True


async def _next_batch(conn: Connection, import_id: UUID) -> _Batch | None:
    """The next batch of a running undo, whose row is locked for the rest of the transaction."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        "SELECT run FROM import_undos WHERE import_id = %(id)s AND finished_at IS NULL FOR NO KEY UPDATE",
        {"id": import_id},
    )
    current = await cursor.fetchone()
    if current is None:
        return None
    # a statement of its own, which sees what the previous holder of the lock has committed
    cursor = conn.cursor(row_factory=class_row(_Batch))
    await cursor.execute(
        """
        SELECT resource, end_snapshot::text, %(run)s::int AS run, batch, records, ids
        FROM import_created
        JOIN import_jobs ON import_jobs.id = import_id
        WHERE import_id = %(id)s AND run < %(run)s
        ORDER BY batch
        LIMIT 1
        """,
        {"id": import_id, "run": current},
    )
    return await cursor.fetchone()


async def _finish(conn: Connection, import_id: UUID) -> Undo | None:
    """Returns the undo to the one call that has finished it. A run that began again meanwhile is not finished."""
    cursor = conn.cursor(row_factory=class_row(Undo))
    await cursor.execute(
        """
        UPDATE import_undos
        SET finished_at = clock_timestamp()
        WHERE import_id = %(id)s
            AND finished_at IS NULL
            AND NOT EXISTS (SELECT FROM import_created WHERE import_id = %(id)s AND import_created.run < import_undos.run)
        RETURNING started_at, finished_at, removed, missing, changed, referred_to
        """,
        {"id": import_id},
    )
    return await cursor.fetchone()


# The row is as the import has created it. Rows have the lower 32 bits of the number of the transaction that wrote them; they are
# extended to that one of all such numbers which is nearest to the present.
_UNTOUCHED = sql.SQL(
    """
    other.import_id = %(import_id)s
    AND other.import_action = 'created'
    AND (
        %(end_snapshot)s::pg_snapshot IS NULL
        OR (
            SELECT pg_visible_in_snapshot(
                (present + ((other.xmin::text::bigint - present + 2147483648) & 4294967295) - 2147483648)::text::xid8,
                %(end_snapshot)s::pg_snapshot
            )
            FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS present) AS snapshot
        )
    )
    """
)


async def _lock(conn: Connection, resource: Resource, import_id: UUID, batch: _Batch) -> None:
    """Locks the rows, so that none is written until the commit, and none is referred to by a transaction that is not seen."""
    await conn.execute(
        _format(resource, "SELECT FROM {table} AS other WHERE {is_named} AND {untouched} ORDER BY id FOR UPDATE"),
        _arguments(import_id, batch, batch.ids),
    )


async def _remove(conn: Connection, resource: Resource, import_id: UUID, batch: _Batch) -> set[str]:
    """Deletes the rows that nothing refers to; returns their ids. Where PostgreSQL refuses that, deletes them one by one.

    It does so for a foreign key, or a trigger, that the resources' definitions do not contain.
    """
    try:
        async with conn.transaction():
            return await _delete(conn, resource, import_id, batch, batch.ids)
    except UNAVAILABLE:
        raise
    except DATABASE_ERROR:
        pass
    removed: set[str] = set()
    for id in batch.ids:
        try:
            async with conn.transaction():
                removed |= await _delete(conn, resource, import_id, batch, [id])
        except UNAVAILABLE:
            raise
        except DATABASE_ERROR:
            continue
    return removed


async def _delete(conn: Connection, resource: Resource, import_id: UUID, batch: _Batch, ids: Sequence[str]) -> set[str]:
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        _format(
            resource,
            "DELETE FROM {table} AS other WHERE {is_named} AND {untouched} AND NOT ({is_referred_to}) RETURNING id::text",
        ),
        _arguments(import_id, batch, ids),
    )
    return set(await cursor.fetchall())


async def _reasons(
    conn: Connection, resource: Resource, import_id: UUID, batch: _Batch, ids: Sequence[str]
) -> dict[str, Reason]:
    """Why the rows with these ids are kept, by id. An id without a row is left out."""
    if not ids:
        return {}
    cursor = await conn.execute(
        _format(
            resource,
            """
            SELECT id::text, CASE WHEN {untouched} THEN 'referred_to' ELSE 'changed' END
            FROM {table} AS other
            WHERE {is_named}
            """,
        ),
        _arguments(import_id, batch, ids),
    )
    return dict(await cursor.fetchall())


def _format(resource: Resource, statement: Any) -> sql.Composed:
    return sql.SQL(statement).format(
        table=sql.Identifier(resource.name),
        is_named=sql.SQL("other.id = ANY (%(ids)s::{}[])").format(sql.SQL(resource.column_types[0])),
        untouched=_UNTOUCHED,
        is_referred_to=is_referred_to(resource),
    )


def _arguments(import_id: UUID, batch: _Batch, ids: Sequence[str]) -> dict[str, Any]:
    return {"import_id": import_id, "end_snapshot": batch.end_snapshot, "ids": list(ids)}
