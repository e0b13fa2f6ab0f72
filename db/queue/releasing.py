"""Fence, finish, drop and give back: what happens to a claim.

`state || '' = 'running'` keeps the planner from using chunks_running for a look-up by id. That index looks cheaper because it is
small, but while an old transaction stays open it holds an entry for every chunk that was done since.
"""

from collections.abc import Sequence

import msgspec

from db.connections.pool import Connection
from db.queue.claims import Claim, ClaimLost, Counts, State


async def fence(conn: Connection, claim: Claim) -> bool:
    """Locks the claimed chunks for the rest of the transaction. False: the job was stopped, and the claim is to be dropped.

    Raises `ClaimLost` when the lease is no longer valid. Waits for a lock on the row, held by a reclaim or by a claim that came
    too late: PostgreSQL locks the newest version of a row before it checks that the row is still pending. SKIP LOCKED would
    lose a claim here that no other worker has taken.
    """
    cursor = await conn.execute(
        """
        SELECT coalesce(
            (SELECT cancel_requested_at IS NOT NULL OR problem IS NOT NULL FROM import_jobs WHERE id = import_id),
            (SELECT cancel_requested_at IS NOT NULL FROM export_jobs WHERE id = export_id)
        )
        FROM chunks
        WHERE id = ANY(%(ids)s) AND lease = %(lease)s AND state || '' = 'running'
        FOR NO KEY UPDATE
        """,
        {"ids": claim.ids, "lease": claim.lease},
    )
    rows = await cursor.fetchall()
    if len(rows) != len(claim.ids):
        raise ClaimLost
    return claim.kind == "settle" or not rows[0][0]


async def finish(conn: Connection, claim: Claim, counts: Counts) -> bool:
    """Marks the claimed chunks as done, in the transaction that stores their records. Raises `ClaimLost`.

    The first chunk holds the counts of all. Returns whether the job has another pending chunk; the worker that ends the last
    one also finishes the job.
    """
    if claim.followers:
        cursor = await conn.execute(
            """
            UPDATE chunks
            SET state = 'done', finished_at = clock_timestamp(), counted_in_seq = %(seq)s
            WHERE id = ANY(%(followers)s) AND lease = %(lease)s AND state || '' = 'running'
            """,
            {"followers": claim.followers, "lease": claim.lease, "seq": claim.seq},
        )
        if cursor.rowcount != len(claim.followers):
            raise ClaimLost
    cursor = await conn.execute(
        """
        UPDATE chunks
        SET state = 'done',
            finished_at = clock_timestamp(),
            last_error = NULL,
            created = %(created)s,
            updated = %(updated)s,
            unchanged = %(unchanged)s,
            skipped = %(skipped)s,
            failed = %(failed)s,
            deferred = %(deferred)s,
            errors = %(errors)s,
            errors_omitted = %(errors_omitted)s
        WHERE id = %(id)s AND lease = %(lease)s AND state || '' = 'running'
        -- from the end of chunks_pending, where the first entry is a live one
        RETURNING (
            SELECT problem IS NULL AND cancel_requested_at IS NULL
            FROM import_jobs
            WHERE import_jobs.id = chunks.import_id
        ) AND (
            SELECT true
            FROM chunks AS other
            WHERE other.state = 'pending' AND other.job_id = chunks.job_id
            ORDER BY other.seq DESC
            LIMIT 1
        ) IS NOT NULL
        """,
        {"id": claim.id, "lease": claim.lease, "errors": counts.codes.total(), **msgspec.structs.asdict(counts)},
    )
    row = await cursor.fetchone()
    if row is None:
        raise ClaimLost
    return bool(row[0])


async def drop(conn: Connection, claim: Claim) -> None:
    """Cancels the claimed chunks of a job that was stopped before the work began. Raises `ClaimLost`."""
    cursor = await conn.execute(
        """
        UPDATE chunks
        SET state = 'cancelled', finished_at = clock_timestamp()
        WHERE id = ANY(%(ids)s) AND lease = %(lease)s AND state || '' = 'running'
        """,
        {"ids": claim.ids, "lease": claim.lease},
    )
    if cursor.rowcount != len(claim.ids):
        raise ClaimLost


async def separate(conn: Connection, companions: Sequence[Claim]) -> None:
    """Returns companions of a claim to the queue, untried: the attempt is not counted. They are claimed alone next."""
    await conn.execute(
        """
        UPDATE chunks
        SET state = 'pending', attempt = attempt - 1
        WHERE id = ANY(%(ids)s) AND lease = %(lease)s AND state || '' = 'running'
        """,
        {"ids": [companion.id for companion in companions], "lease": companions[0].lease},
    )


async def give_back(
    conn: Connection, claim: Claim, *, error: str | None, delay_seconds: float, attempts_max: int
) -> State | None:
    """Returns the claimed chunks, with those of the companions, to the queue.

    The result is their new state, or None when the claim was lost or finished.

    Without an `error` (a worker that stops) the attempt is not counted. With one, the chunks are not claimed again for
    `delay_seconds`, and they fail when this was attempt `attempts_max`. Their crash counters do not change. Chunks that were
    claimed together have the same number of attempts, and are claimed separately from now on.
    """
    cursor = await conn.execute(
        """
        UPDATE chunks
        SET state = CASE WHEN %(is_last)s THEN 'failed' ELSE 'pending' END,
            finished_at = CASE WHEN %(is_last)s THEN clock_timestamp() END,
            attempt = attempt - CASE WHEN %(error)s::text IS NULL THEN 1 ELSE 0 END,
            retry_at = clock_timestamp() + %(delay)s * interval '1 second',
            last_error = coalesce(%(error)s, last_error)
        WHERE id = ANY(%(ids)s) AND lease = %(lease)s AND state || '' = 'running'
        RETURNING state
        """,
        {
            "ids": [*claim.ids, *claim.companion_ids],
            "lease": claim.lease,
            "error": error,
            "is_last": error is not None and claim.attempt >= attempts_max,
            "delay": delay_seconds,
        },
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]
