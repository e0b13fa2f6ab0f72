"""Claim and reclaim: how a worker gets a chunk.

The statements assume READ COMMITTED and use the server's clock only.
"""

from typing import LiteralString

import msgspec
from psycopg.rows import class_row

from db.connections.pgbouncer import time_limits
from db.connections.pool import Connection
from db.queue.claims import SMALL_BYTES, Claim

# of a claimed chunk
JOB: LiteralString = """
    SELECT resource, request_id, traceparent, extract(epoch FROM statement_timestamp() - sealed_at)::float8 AS waited_seconds
    FROM import_jobs
    WHERE id = claimed.import_id
    UNION ALL
    SELECT resource, request_id, traceparent, 0
    FROM export_jobs
    WHERE id = claimed.export_id
"""
WITHOUT_BUDGET: LiteralString = "on_error = 'continue' AND max_errors IS NULL AND max_error_rate IS NULL"
LIVE_IMPORTS: LiteralString = f"""
    SELECT id, cancel_requested_at IS NOT NULL OR problem IS NOT NULL AS stopped, uuid_hash(id) AS hash, resource,
        total_chunks = 1 AND file_bytes <= %(small_bytes)s AND {WITHOUT_BUDGET}
            AND mode <> 'update' AND NOT dry_run AND NOT undoable AS is_small
    FROM import_jobs AS job
    WHERE status IN ('pending', 'processing') AND %(takes_imports)s
        -- An import that waits for another: looked up by its id. An IN would read all completed jobs.
        AND (
            after_id IS NULL
            OR (SELECT status FROM import_jobs AS earlier WHERE earlier.id = job.after_id) = 'completed'
        )
"""  # noqa: S608  of literals only
LIVE_EXPORTS = """
    SELECT id, cancel_requested_at IS NOT NULL OR problem IS NOT NULL AS stopped, uuid_hash(id) AS hash, resource, false
    FROM export_jobs
    WHERE status IN ('pending', 'processing') AND %(takes_exports)s
"""

# The job is one of a random sample, so that the cost does not grow with the live jobs; `every_job` is evaluated only if the
# sample has no chunk to claim. The sample is 16 neighbours in the order of the hashes of their ids, from a random place on, and
# from the beginning if the end is reached. import_jobs_by_hash has that order. With fewer live jobs it has all of them.
#
# chunks_pending serves the LATERAL look-up, which runs for one job after the other until it finds a row. MATERIALIZED, because
# the planner may evaluate a plain sub-select twice and lock more rows than it returns.
CLAIM: LiteralString = f"""
WITH draw AS MATERIALIZED (
    SELECT (4294967295 * random() - 2147483648)::integer AS place, set_config('synchronous_commit', 'off', true)
), sample AS MATERIALIZED (
    SELECT id, stopped, resource, is_small
    FROM (
        SELECT *
        FROM (
            ({LIVE_IMPORTS} AND uuid_hash(id) >= (SELECT place FROM draw) ORDER BY uuid_hash(id) LIMIT 16)
            UNION ALL
            ({LIVE_IMPORTS} AND uuid_hash(id) < (SELECT place FROM draw) ORDER BY uuid_hash(id) LIMIT 16)
            LIMIT 16
        ) AS imports
        UNION ALL
        {LIVE_EXPORTS}
    ) AS jobs
    ORDER BY hash < (SELECT place FROM draw), hash
    LIMIT 16
), busy AS (
    SELECT job_id, count(*) AS running
    FROM chunks
    WHERE state = 'running'
    GROUP BY job_id
), sampled_job AS MATERIALIZED (
    SELECT sample.id, sample.stopped, busy.running
    FROM sample
    LEFT JOIN busy ON busy.job_id = sample.id
    ORDER BY coalesce(busy.running, 0), random()
), every_job AS MATERIALIZED (
    SELECT live.id, live.stopped, busy.running
    FROM ({LIVE_IMPORTS} UNION ALL {LIVE_EXPORTS}) AS live
    LEFT JOIN busy ON busy.job_id = live.id
    WHERE (SELECT count(*) FROM sample) = 16
    ORDER BY coalesce(busy.running, 0), random()
), next AS MATERIALIZED (
    SELECT chunk.*
    FROM (SELECT * FROM sampled_job UNION ALL SELECT * FROM every_job) AS jobs
    CROSS JOIN LATERAL (
        SELECT id, import_id, export_id, seq, lease, first_record
        FROM chunks
        WHERE job_id = jobs.id
            AND state = 'pending'
            AND (retry_at IS NULL OR retry_at <= statement_timestamp())
            AND (kind = 'settle' OR NOT jobs.stopped)
        ORDER BY seq
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS chunk
    LIMIT 1
), candidates AS MATERIALIZED (
    SELECT chunk.id, chunk.seq, chunk.first_record
    FROM next
    JOIN import_jobs AS job ON job.id = next.import_id
    CROSS JOIN LATERAL (
        SELECT id, seq, first_record
        FROM chunks
        WHERE job_id = next.import_id AND state = 'pending' AND lease = 0 AND seq BETWEEN next.seq + 1 AND total_chunks
        ORDER BY seq
        LIMIT greatest(1, least(%(chunks_max)s, (total_chunks - next.seq + 1) / %(workers)s)) - 1
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS chunk
    WHERE next.lease = 0 AND {WITHOUT_BUDGET}
), following AS MATERIALIZED (
    -- by the chunks' own bytes: a file may have short records and long ones. octet_length does not read the bytes.
    SELECT sized.id, sized.seq
    FROM next
    CROSS JOIN LATERAL (
        SELECT candidates.id, candidates.seq, first.bytes + sum(payload.bytes) OVER (ORDER BY candidates.seq) AS bytes
        FROM candidates
        CROSS JOIN LATERAL (
            SELECT octet_length(data) AS bytes
            FROM import_payloads
            WHERE import_id = next.import_id AND first_record = candidates.first_record
        ) AS payload
        CROSS JOIN LATERAL (
            SELECT octet_length(data) AS bytes
            FROM import_payloads
            WHERE import_id = next.import_id AND first_record = next.first_record
        ) AS first
    ) AS sized
    WHERE sized.bytes <= %(bytes_max)s
), small AS MATERIALIZED (
    SELECT sample.id, sample.resource
    FROM next
    JOIN sample ON sample.id = next.import_id
    WHERE sample.is_small AND next.lease = 0
), companion AS MATERIALIZED (
    SELECT chunk.id, chunk.import_id
    FROM small
    JOIN sample ON sample.is_small AND sample.resource = small.resource AND sample.id <> small.id AND NOT sample.stopped
    CROSS JOIN LATERAL (
        SELECT id, import_id
        FROM chunks
        WHERE job_id = sample.id AND state = 'pending' AND lease = 0
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS chunk
    LIMIT %(imports_max)s - 1
), started_import AS (
    UPDATE import_jobs
    SET status = 'processing', started_at = clock_timestamp()
    WHERE id = ANY (ARRAY(SELECT import_id FROM next UNION ALL SELECT import_id FROM companion)) AND status = 'pending'
), started_export AS (
    UPDATE export_jobs
    SET status = 'processing', started_at = clock_timestamp()
    FROM next
    WHERE export_jobs.id = next.export_id AND export_jobs.status = 'pending'
), claimed AS (
    UPDATE chunks
    SET state = 'running',
        lease = chunks.lease + 1,
        attempt = attempt + 1,
        worker = %(worker)s,
        claimed_at = clock_timestamp(),
        server_since = primary_since(),
        first_span_id = coalesce(first_span_id, %(span_id)s)
    FROM (SELECT id FROM next UNION ALL SELECT id FROM following UNION ALL SELECT id FROM companion) AS chosen
    WHERE chunks.id = chosen.id
    RETURNING chunks.*
)
SELECT claimed.id, kind, job_id, claimed.seq, claimed.lease, attempt, crashes, state, first_span_id,
    resource, request_id, traceparent, ARRAY(SELECT id FROM following ORDER BY seq) AS followers,
    waited_seconds,
    EXISTS (SELECT FROM small) AS is_small,
    (SELECT count(*) FROM sample) < 16
        AND (SELECT count(*) FROM sampled_job WHERE running IS NULL) <= 1 + (SELECT count(*) FROM companion) AS is_only
FROM claimed
CROSS JOIN LATERAL ({JOB}) AS job
WHERE claimed.id <> ALL (ARRAY(SELECT id FROM following))
-- the companions of the first one follow it
ORDER BY claimed.id <> (SELECT id FROM next)
"""  # noqa: S608  of literals only


async def claim(
    conn: Connection,
    *,
    worker: str,
    chunks_max: int = 1,
    bytes_max: int = 0,
    workers: int = 1,
    imports_max: int = 1,
    takes_imports: bool = True,
    takes_exports: bool = True,
    span_id: str | None = None,
) -> Claim | None:
    """Claims the next chunk of the job that has the fewest running chunks, so that small jobs do not wait behind large ones.

    Ties between jobs are broken at random, which needs no state and starves no job. Within a job the order is that of `seq`.

    For an import, following chunks are claimed too: `chunks_max` in all, `bytes_max` bytes,
    and at most the job's remaining chunks divided by `workers` (guided self-scheduling; Polychronopoulos and Kuck, 1987). Only
    chunks that have never been claimed follow, so that a chunk that has failed once is worked on alone. A job that may be
    stopped by its error budget gets no followers, so that few records are stored after the last allowed error.

    A small import is one chunk of at most SMALL_BYTES that is not a dry run, not undoable, not of mode update, and has no error
    budget. If the next chunk is one, those of up to `imports_max` - 1 other small imports of the same resource that are in the
    sample are claimed too, as its `companions`. Again only chunks that have never been claimed.

    `span_id` is stored with each of these chunks unless it has that of an earlier attempt.

    With `takes_exports` false, exports are left to other workers, so that long exports never occupy all workers of a pool; with
    `takes_imports` false, imports are.

    The commit does not wait for the disk. If the server crashes before the claim is written, the chunk is pending again and its
    lease number may be given out twice; row lock and state then decide between the two workers. The claim of an export must be
    durable, because the lease is part of the file's name: a second, synchronous commit flushes it.
    """
    cursor = conn.cursor(row_factory=class_row(Claim))
    # the statement is the transaction: one exchange with the server
    async with time_limits(conn):
        await cursor.execute(
            CLAIM,
            {
                "worker": worker,
                "chunks_max": chunks_max,
                "bytes_max": bytes_max,
                "workers": workers,
                "imports_max": imports_max,
                "small_bytes": SMALL_BYTES,
                "takes_imports": takes_imports,
                "takes_exports": takes_exports,
                "span_id": span_id,
            },
        )
    claims = await cursor.fetchall()
    if not claims:
        return None
    if claims[0].kind == "export":
        await _flush(conn, claims[0])
    return msgspec.structs.replace(claims[0], companions=claims[1:])


async def _flush(conn: Connection, claim: Claim) -> None:
    """Waits until the claim is on disk: a synchronous commit flushes all log records before its own."""
    await conn.execute(
        "UPDATE chunks SET claimed_at = clock_timestamp() WHERE id = %(id)s AND lease = %(lease)s AND state || '' = 'running'",
        {"id": claim.id, "lease": claim.lease},
    )


async def reclaim(
    conn: Connection,
    *,
    worker: str,
    grace_seconds: float,
    attempts_max: int,
    crashes_max: int,
    takes_exports: bool = True,
    span_id: str | None = None,
) -> Claim | None:
    """Takes over a chunk whose worker has died: claimed longer ago than the grace period, its row not locked.

    The grace period doubles from the third crash on. The chunk fails at once (`state` is failed) when this is its `crashes_max`th
    crash, or when it was claimed `attempts_max` times already. A claim that was made on another server is not a crash: its worker
    has lost the connection, and the chunk is not the reason.
    """
    cursor = conn.cursor(row_factory=class_row(Claim))
    await cursor.execute(
        # a living worker holds the row's lock, and SKIP LOCKED skips its chunk
        f"""
        WITH orphan AS MATERIALIZED (
            SELECT id, is_crash, crashes + is_crash::int >= %(crashes_max)s AS is_poison, attempt >= %(attempts_max)s AS is_last
            FROM chunks
            -- true for a claim by a worker of a version without server_since
            CROSS JOIN LATERAL (SELECT (server_since = primary_since()) IS NOT FALSE AS is_crash) AS origin
            WHERE state = 'running'
                AND (kind <> 'export' OR %(takes_exports)s)
                AND claimed_at < statement_timestamp() - %(grace)s * interval '1 second' * power(2, greatest(0, crashes - 1))
            ORDER BY claimed_at
            LIMIT 1
            FOR NO KEY UPDATE OF chunks SKIP LOCKED
        ), claimed AS (
            UPDATE chunks
            SET state = CASE WHEN is_poison OR is_last THEN 'failed' ELSE 'running' END,
                finished_at = CASE WHEN is_poison OR is_last THEN clock_timestamp() END,
                last_error = CASE
                    WHEN is_poison THEN format('%%s workers died over it', crashes + is_crash::int)
                    WHEN is_last THEN format('attempt %%s was interrupted, and was the last', attempt)
                    ELSE last_error
                END,
                lease = lease + 1,
                crashes = crashes + is_crash::int,
                attempt = attempt + CASE WHEN is_poison OR is_last THEN 0 ELSE 1 END,
                worker = %(worker)s,
                claimed_at = clock_timestamp(),
                server_since = primary_since(),
                first_span_id = coalesce(first_span_id, %(span_id)s)
            FROM orphan
            WHERE chunks.id = orphan.id
            RETURNING chunks.*, is_crash
        )
        SELECT claimed.id, kind, job_id, seq, lease, attempt, crashes, state, is_crash, first_span_id,
            resource, request_id, traceparent
        FROM claimed
        CROSS JOIN LATERAL ({JOB}) AS job
        """,  # noqa: S608  of literals only
        {
            "worker": worker,
            "grace": grace_seconds,
            "attempts_max": attempts_max,
            "crashes_max": crashes_max,
            "takes_exports": takes_exports,
            "span_id": span_id,
        },
    )
    return await cursor.fetchone()
