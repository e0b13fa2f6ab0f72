"""The queue protocol: claim, fence, finish, give back, fail, reclaim. db/README.md tells why each step is as it is.

The held row lock is the lease. A claim is a short transaction of its own; the work is a second one that first locks the
chunk's row (the fence) and last marks it done. A running chunk whose row is not locked belongs to a dead worker.

Everything here assumes READ COMMITTED, PostgreSQL's default, and PostgreSQL's clock. Only the work on an export is done in
REPEATABLE READ; see `db.exports.claimed.use_repeatable_read`.

Where a chunk is asked for by its id, `state || '' = 'running'` keeps the planner from chunks_running. That index looks the
cheaper one, being small, but as long as some old transaction stays open it is full of entries of chunks done since.
"""

from collections import Counter
from typing import Literal
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from db.connections.pool import Connection

CHANNEL = "bulk_work"

State = Literal["pending", "running", "done", "failed", "cancelled"]


class ClaimLost(Exception):
    """The lease is not ours any more: another worker has the chunk, or it is final. Nothing of ours may be kept."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's right to a chunk, and to those that are done along with it.

    `state` is running, or failed when a reclaim found that it was one crash too many.
    """

    id: int
    kind: Literal["records", "settle", "export"]
    job_id: UUID
    seq: int
    lease: int
    attempt: int
    crashes: int
    state: State
    # of the upload or the order, for the log
    request_id: str | None
    # the chunks of the same import that were claimed along with it, in their order, and by the same lease
    followers: list[int] = []

    @property
    def ids(self) -> list[int]:
        return [self.id, *self.followers]


class Counts(msgspec.Struct, kw_only=True):
    """What became of a chunk's records, and its record errors by code. A settle chunk's are corrections, perhaps negative."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    deferred: int = 0
    codes: Counter[str] = msgspec.field(default_factory=Counter)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


async def claim(
    conn: Connection,
    *,
    worker: str,
    chunks_max: int = 1,
    bytes_max: int = 0,
    workers: int = 1,
    takes_exports: bool = True,
) -> Claim | None:
    """Claims the next chunk of the job that has the fewest running, so that a small job never waits behind a large one.

    One statement, which is the whole transaction. Among equals the lot decides: it needs no memory of whom was served last, and
    starves neither the old nor the new, the large nor the small. Within a job the file's order counts.

    Of an import the chunks that follow come along: `chunks_max` in all, of `bytes_max` bytes as far as the file's mean tells,
    and no more than is left for each of `workers` (guided self-scheduling; Polychronopoulos and Kuck, 1987). Only those that
    nobody has ever claimed: whatever once came to grief is done by itself. Nor those of an import that may be stopped by its
    refused records, of which as few as possible are to be stored after the last one.

    With `takes_exports` false, exports are left to other workers, so that long exports never occupy all workers of a pool.

    The claim of an import's chunk does not wait for the disk. If the server crashes before it is there, the chunk is pending
    again, and its number may be given out a second time; then two workers may mean the same claim, and the row's lock and
    state decide. A claim of an export must never be forgotten: its number is in the name of the file.
    """
    cursor = conn.cursor(row_factory=class_row(Claim))
    await cursor.execute(
        # the LATERAL look-up leans on chunks_pending and is run for one job after the other until it finds a row;
        # MATERIALIZED, because the planner may run a plain sub-select again and lock more than it returns
        """
        WITH live AS (
            SELECT id, cancel_requested_at IS NOT NULL OR problem IS NOT NULL AS stopped
            FROM import_jobs AS job
            WHERE status IN ('pending', 'processing')
                -- an import that waits for another, which is looked up by its id: for an IN all completed jobs would be read
                AND (
                    after_id IS NULL
                    OR (SELECT status FROM import_jobs AS earlier WHERE earlier.id = job.after_id) = 'completed'
                )
            UNION ALL
            SELECT id, cancel_requested_at IS NOT NULL OR problem IS NOT NULL
            FROM export_jobs
            WHERE status IN ('pending', 'processing') AND %(takes_exports)s
        ), busy AS (
            SELECT job_id, count(*) AS running
            FROM chunks
            WHERE state = 'running'
            GROUP BY job_id
        ), jobs AS MATERIALIZED (
            SELECT live.id, live.stopped
            FROM live
            LEFT JOIN busy ON busy.job_id = live.id
            ORDER BY coalesce(busy.running, 0), random()
        ), next AS MATERIALIZED (
            SELECT chunk.*
            FROM jobs
            CROSS JOIN LATERAL (
                SELECT id, import_id, export_id, seq, lease
                FROM chunks
                WHERE job_id = jobs.id
                    AND state = 'pending'
                    AND (not_before IS NULL OR not_before <= statement_timestamp())
                    AND (kind = 'settle' OR NOT jobs.stopped)
                ORDER BY seq
                LIMIT 1
                FOR NO KEY UPDATE SKIP LOCKED
            ) AS chunk
            LIMIT 1
        ), following AS MATERIALIZED (
            SELECT chunk.id, chunk.seq
            FROM next
            JOIN import_jobs AS job ON job.id = next.import_id
            CROSS JOIN LATERAL (
                SELECT id, seq
                FROM chunks
                WHERE job_id = next.import_id AND state = 'pending' AND lease = 0 AND seq BETWEEN next.seq + 1 AND total_chunks
                ORDER BY seq
                LIMIT greatest(1, least(
                    %(chunks_max)s,
                    (total_chunks - next.seq + 1) / %(workers)s,
                    %(bytes_max)s::bigint * total_chunks / greatest(file_bytes, 1)
                )) - 1
                FOR NO KEY UPDATE SKIP LOCKED
            ) AS chunk
            WHERE next.lease = 0 AND on_error = 'continue' AND max_errors IS NULL AND max_error_rate IS NULL
        ), started_import AS (
            UPDATE import_jobs
            SET status = 'processing', started_at = clock_timestamp()
            FROM next
            WHERE import_jobs.id = next.import_id AND import_jobs.status = 'pending'
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
                claimed_at = clock_timestamp()
            FROM next
            WHERE chunks.id = ANY (ARRAY(SELECT id FROM next UNION ALL SELECT id FROM following))
                AND (next.export_id IS NOT NULL OR set_config('synchronous_commit', 'off', true) = 'off')
            RETURNING chunks.*
        )
        SELECT claimed.id, kind, job_id, claimed.seq, claimed.lease, attempt, crashes, state,
            coalesce(
                (SELECT request_id FROM import_jobs WHERE id = claimed.import_id),
                (SELECT request_id FROM export_jobs WHERE id = claimed.export_id)
            ) AS request_id,
            ARRAY(SELECT id FROM following ORDER BY seq) AS followers
        FROM claimed
        JOIN next ON next.id = claimed.id
        """,
        {
            "worker": worker,
            "chunks_max": chunks_max,
            "bytes_max": bytes_max,
            "workers": workers,
            "takes_exports": takes_exports,
        },
    )
    return await cursor.fetchone()


async def reclaim(
    conn: Connection,
    *,
    worker: str,
    grace_seconds: float,
    attempts_max: int,
    crashes_max: int,
    takes_exports: bool = True,
) -> Claim | None:
    """Takes over a chunk whose worker died: claimed longer ago than the grace, its row not locked.

    The grace doubles from the third crash on. The chunk fails at once (`state` tells) when it has now crashed `crashes_max`
    times or was claimed `attempts_max` times.
    """
    cursor = conn.cursor(row_factory=class_row(Claim))
    await cursor.execute(
        # a living worker holds the row's lock, which SKIP LOCKED passes by
        """
        WITH orphan AS MATERIALIZED (
            SELECT id, crashes + 1 >= %(crashes_max)s OR attempt >= %(attempts_max)s AS is_poison
            FROM chunks
            WHERE state = 'running'
                AND (kind <> 'export' OR %(takes_exports)s)
                AND claimed_at < statement_timestamp() - %(grace)s * interval '1 second' * power(2, greatest(0, crashes - 1))
            ORDER BY claimed_at
            LIMIT 1
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE chunks
        SET state = CASE WHEN is_poison THEN 'failed' ELSE 'running' END,
            finished_at = CASE WHEN is_poison THEN clock_timestamp() END,
            accident = CASE WHEN is_poison THEN format('%%s workers died over it', crashes + 1) ELSE accident END,
            lease = lease + 1,
            crashes = crashes + 1,
            attempt = attempt + CASE WHEN is_poison THEN 0 ELSE 1 END,
            worker = %(worker)s,
            claimed_at = clock_timestamp()
        FROM orphan
        WHERE chunks.id = orphan.id
        RETURNING chunks.id, kind, job_id, seq, lease, attempt, crashes, state, coalesce(
            (SELECT request_id FROM import_jobs WHERE id = chunks.import_id),
            (SELECT request_id FROM export_jobs WHERE id = chunks.export_id)
        ) AS request_id
        """,
        {
            "worker": worker,
            "grace": grace_seconds,
            "attempts_max": attempts_max,
            "crashes_max": crashes_max,
            "takes_exports": takes_exports,
        },
    )
    return await cursor.fetchone()


async def fence(conn: Connection, claim: Claim) -> bool:
    """Locks what was claimed for the rest of the transaction. False: the job was stopped, and it is to be dropped.

    Raises `ClaimLost` when the lease is not ours any more. Waits for whoever holds the row just now: that is a reclaim about
    to take the chunk over, or, just as well, a claim that came too late for it: PostgreSQL locks the newest version of a row
    before it finds that this one is not pending any more. So SKIP LOCKED here would lose claims that nobody has taken.
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
    """Marks what was claimed as done, in the transaction of its effects. Raises `ClaimLost` when the lease is not ours any more.

    The counts, which are of all chunks together, are told with the first. Returns whether another chunk waits for its claim,
    whose end will be later than ours and the time to ask for the job's.
    """
    if claim.followers:
        cursor = await conn.execute(
            """
            UPDATE chunks
            SET state = 'done', finished_at = clock_timestamp(), counted_with = %(seq)s
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
            accident = NULL,
            created = %(created)s,
            updated = %(updated)s,
            unchanged = %(unchanged)s,
            skipped = %(skipped)s,
            failed = %(failed)s,
            deferred = %(deferred)s,
            errors = %(errors)s
        WHERE id = %(id)s AND lease = %(lease)s AND state || '' = 'running'
        -- from the end of chunks_pending, where a live entry is met at once
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
    """Ends what was claimed of a job that was stopped before the work began. Raises `ClaimLost` like `finish`."""
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


async def give_back(
    conn: Connection, claim: Claim, *, accident: str | None, delay_seconds: float, attempts_max: int
) -> State | None:
    """Returns a claim in a transaction of its own; the new state, or None when the claim was lost or had been finished.

    Without an accident (a worker that stops) the attempt is not counted. With one the chunk rests for `delay_seconds`, and
    fails once it has been claimed `attempts_max` times. A worker that can still do this costs the chunk no crash. Chunks that
    were claimed together have the same number of attempts; from now on each goes its own way.
    """
    cursor = await conn.execute(
        """
        UPDATE chunks
        SET state = CASE WHEN %(is_last)s THEN 'failed' ELSE 'pending' END,
            finished_at = CASE WHEN %(is_last)s THEN clock_timestamp() END,
            attempt = attempt - CASE WHEN %(accident)s::text IS NULL THEN 1 ELSE 0 END,
            not_before = clock_timestamp() + %(delay)s * interval '1 second',
            accident = coalesce(%(accident)s, accident)
        WHERE id = ANY(%(ids)s) AND lease = %(lease)s AND state || '' = 'running'
        RETURNING state
        """,
        {
            "ids": claim.ids,
            "lease": claim.lease,
            "accident": accident,
            "is_last": accident is not None and claim.attempt >= attempts_max,
            "delay": delay_seconds,
        },
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def notify(conn: Connection) -> None:
    """Tells idle workers to look; delivered at commit, and never relied upon."""
    await conn.execute("SELECT pg_notify(%(channel)s, '')", {"channel": CHANNEL})


async def listen(conn: Connection) -> None:
    await conn.execute(f"LISTEN {CHANNEL}")


async def wait(conn: Connection, seconds: float) -> None:
    """Returns at the next notification, or after `seconds`."""
    async for _ in conn.notifies(timeout=seconds, stop_after=1):
        return
