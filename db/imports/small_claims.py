"""Small imports that were claimed together: loads all of them, and finishes and ends them, in one transaction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg.rows import kwargs_row

from db.connections.pool import Connection
from db.imports import claimed, completion
from db.imports.claimed import ClaimedImport
from db.imports.completion import Finished
from db.imports.payload import Chunk
from db.queue import Claim, ClaimLost
from db.webhooks.endpoints import Endpoint

# A record that waits for another transaction delays all imports of the claim. After this time they are processed separately.
LOCK_SECONDS = 0.5


class SmallImport(NamedTuple):
    """A claimed small import: its claim, its parameters, and its chunk."""

    claim: Claim
    job: ClaimedImport
    chunk: Chunk


async def load(conn: Connection, claim: Claim) -> list[SmallImport]:
    """Locks the chunks of a claim and of its companions, and loads those whose import was not stopped.

    Changes lock_timeout and enable_seqscan for the rest of the transaction. Raises `ClaimLost` when the lease is no longer valid.
    """
    claims = {one.id: one for one in (claim, *claim.companions)}
    cursor = conn.cursor(row_factory=kwargs_row(_row), binary=True)
    # few rows of large tables: without statistics the planner would read the tables as a whole
    await conn.execute(
        "SELECT set_config('lock_timeout', %(lock)s, true), set_config('enable_seqscan', 'off', true)",
        {"lock": f"{round(1000 * LOCK_SECONDS)}ms"},
    )
    await cursor.execute(
        f"""
        SELECT chunks.id, cancel_requested_at IS NOT NULL OR problem IS NOT NULL AS stopped, {claimed.COLUMNS}
        FROM chunks
        JOIN import_jobs ON import_jobs.id = chunks.import_id
        JOIN import_payloads AS payload
            ON payload.import_id = chunks.import_id AND payload.first_record = chunks.first_record
        WHERE chunks.id = ANY (%(ids)s)
            AND import_jobs.id = ANY (%(jobs)s)
            AND payload.import_id = ANY (%(jobs)s)
            AND lease = %(lease)s
            AND state || '' = 'running'
        ORDER BY chunks.id
        FOR NO KEY UPDATE OF chunks
        """,  # noqa: S608  of literals only
        {"ids": list(claims), "jobs": [one.job_id for one in claims.values()], "lease": claim.lease},
    )
    rows = await cursor.fetchall()
    if len(rows) != len(claims):
        raise ClaimLost
    return [SmallImport(claims[id], job, chunk) for id, stopped, job, chunk in rows if not stopped]


async def end(conn: Connection, done: Sequence[SmallImport], *, endpoints: Sequence[Endpoint]) -> list[Finished]:
    """Marks the chunks as done and makes their imports final, in the transaction that has created all of their records.

    To be followed by `completion.follow_up` after the commit.
    """
    chunks = [small.claim.id for small in done]
    jobs = [small.claim.job_id for small in done]
    created = [small.chunk.records for small in done]
    await conn.execute(
        """
        UPDATE chunks
        SET state = 'done', finished_at = clock_timestamp(), last_error = NULL, created = done.created
        FROM unnest(%(chunks)s::bigint[], %(created)s::int[]) AS done (id, created)
        WHERE chunks.id = done.id AND chunks.id = ANY (%(chunks)s)
        """,
        {"chunks": chunks, "created": created},
    )
    return await completion.end_small(conn, dict(zip(jobs, created, strict=True)), endpoints=endpoints)


def _row(*, id: int, stopped: bool, **columns: Any) -> tuple[int, bool, ClaimedImport, Chunk]:
    job, chunk = claimed.row(**columns)
    assert chunk is not None, "the payload is joined"  # noqa: S101
    return id, stopped, job, chunk
