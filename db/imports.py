"""Import jobs from the upload to the end: open, append, seal; look; finish."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from psycopg.errors import ForeignKeyViolation, UniqueViolation
from psycopg.rows import class_row, scalar_row
from uuid_utils.compat import uuid7

from db import queue
from db.payload import Chunk, Format
from db.pool import Connection
from db.staging import Mode

Status = Literal["uploading", "pending", "processing", "completed", "failed", "cancelled"]
Outcome = Literal["success", "partial", "rejected"]
FINAL = ("completed", "failed", "cancelled")


class Gone(Exception):
    """The upload is no more: it showed no sign of life for too long and was swept."""


class TokenTaken(Exception):
    """Another job has the idempotency token."""


class AfterUnknown(Exception):
    """There is no import with the id that this one is to wait for."""


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of an import once its last byte is here. `digest` is that of its parameters and bytes."""

    resource: str
    mode: str
    dry_run: bool
    on_error: str
    max_errors: int | None
    max_error_rate: float | None
    after_id: UUID | None
    parent_id: UUID | None
    unknown_fields: str
    format: str
    csv_delimiter: str
    csv_header: bytes | None
    csv_columns: list[str] | None
    file_name: str | None
    file_bytes: int
    file_sha256: bytes
    total_records: int
    total_chunks: int
    idempotency_token: str | None
    digest: bytes
    request_id: str | None


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it is now; the counters of a running one are the sums of its finished chunks."""

    id: UUID
    status: Status
    outcome: Outcome | None
    resource: str
    mode: str
    dry_run: bool
    format: str
    file_name: str | None
    file_bytes: int
    file_sha256: bytes
    total_records: int
    created: int
    updated: int
    unchanged: int
    skipped: int
    failed: int
    # set aside to be decided when all chunks are done; 0 once the job is final
    deferred: int
    errors: int
    after_id: UUID | None
    parent_id: UUID | None
    problem: dict[str, Any] | None
    request_digest: bytes
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    now: datetime

    @property
    def processed(self) -> int:
        return self.created + self.updated + self.unchanged + self.skipped + self.failed


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a job at its end, once."""

    id: UUID
    resource: str
    status: Status
    outcome: Outcome | None
    request_id: str | None
    total_records: int
    created: int
    failed: int
    seconds: float


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker must know of the import that its chunk belongs to."""

    resource: str
    mode: Mode
    dry_run: bool
    # whether refused records may stop the import
    has_budget: bool
    unknown_fields: str
    format: Format
    csv_delimiter: str
    csv_columns: list[str] | None
    total_chunks: int
    request_id: str | None


async def open_upload(conn: Connection, *, token: str | None) -> UUID:
    """A new job that no worker touches and no list shows. Raises `TokenTaken`."""
    id = uuid7()
    cursor = await conn.execute(
        """
        INSERT INTO import_jobs (id, idempotency_token)
        VALUES (%(id)s, %(token)s)
        ON CONFLICT (idempotency_token) DO NOTHING
        """,
        {"id": id, "token": token},
    )
    if cursor.rowcount == 0:
        raise TokenTaken
    return id


async def append(conn: Connection, id: UUID, chunks: Sequence[Chunk], *, first_seq: int) -> None:
    """Adds chunks to an upload, numbered from `first_seq`. Raises `Gone`."""
    await touch(conn, [id], or_raise=True)
    async with conn.cursor().copy(
        "COPY chunks (import_id, seq, first_record, records) FROM STDIN (FORMAT binary)"
    ) as copy:
        copy.set_types(["uuid", "int4", "int8", "int4"])
        for seq, chunk in enumerate(chunks, first_seq):
            await copy.write_row((id, seq, chunk.first_record, chunk.records))
    async with conn.cursor().copy(
        "COPY import_payloads (import_id, first_record, first_line, data, starts, lines) FROM STDIN (FORMAT binary)"
    ) as copy:
        copy.set_types(["uuid", "int8", "int8", "bytea", "int4[]", "int4[]"])
        for chunk in chunks:
            await copy.write_row((id, chunk.first_record, chunk.first_line, chunk.data, chunk.starts, chunk.lines))


async def touch(conn: Connection, ids: Sequence[UUID], *, or_raise: bool = False) -> None:
    """Shows that these uploads are alive. With `or_raise`, raises `Gone` when one of them is no more."""
    cursor = await conn.execute(
        """
        UPDATE import_jobs
        SET touched_at = clock_timestamp()
        WHERE id = ANY(%(ids)s) AND status = 'uploading'
        """,
        {"ids": list(ids)},
    )
    if or_raise and cursor.rowcount != len(ids):
        raise Gone


async def seal(conn: Connection, id: UUID, upload: Upload) -> None:
    """Makes the upload a job that counts: totals, digest, `pending`; tells the workers. No record: completed at once.

    Raises `Gone`; `AfterUnknown`; `TokenTaken` when the token became known only now and is another job's.
    """
    try:
        cursor = await conn.execute(
            """
            UPDATE import_jobs
            SET status = CASE WHEN %(total_records)s = 0 THEN 'completed' ELSE 'pending' END,
                outcome = CASE WHEN %(total_records)s = 0 THEN 'success' END,
                started_at = CASE WHEN %(total_records)s = 0 THEN clock_timestamp() END,
                finished_at = CASE WHEN %(total_records)s = 0 THEN clock_timestamp() END,
                sealed_at = clock_timestamp(),
                resource = %(resource)s,
                mode = %(mode)s,
            dry_run = %(dry_run)s,
            on_error = %(on_error)s,
            max_errors = %(max_errors)s,
            max_error_rate = %(max_error_rate)s,
            after_id = %(after_id)s,
            parent_id = %(parent_id)s,
                unknown_fields = %(unknown_fields)s,
                format = %(format)s,
                csv_delimiter = %(csv_delimiter)s,
                csv_header = %(csv_header)s,
                csv_columns = %(csv_columns)s,
                file_name = %(file_name)s,
                file_bytes = %(file_bytes)s,
                file_sha256 = %(file_sha256)s,
                total_records = %(total_records)s,
                total_chunks = %(total_chunks)s,
                idempotency_token = %(idempotency_token)s,
                request_digest = %(digest)s,
                request_id = %(request_id)s
            WHERE id = %(id)s AND status = 'uploading'
            """,
            {"id": id, **msgspec.structs.asdict(upload)},
        )
    except UniqueViolation:
        raise TokenTaken from None
    except ForeignKeyViolation:
        raise AfterUnknown from None
    if cursor.rowcount != 1:
        raise Gone
    await queue.notify(conn)


async def discard(conn: Connection, id: UUID) -> None:
    """Removes an upload that will not be sealed, its chunks with it; its token is free again."""
    await conn.execute("DELETE FROM import_jobs WHERE id = %(id)s AND status = 'uploading'", {"id": id})


async def sweep_uploads(conn: Connection, *, grace_seconds: float) -> int:
    """Removes uploads whose API process died; how many."""
    cursor = await conn.execute(
        """
        DELETE FROM import_jobs
        WHERE id IN (
            SELECT id
            FROM import_jobs
            WHERE status = 'uploading' AND touched_at < statement_timestamp() - %(grace)s * interval '1 second'
            ORDER BY touched_at
            LIMIT 10
            FOR UPDATE SKIP LOCKED
        )
        """,
        {"grace": grace_seconds},
    )
    return cursor.rowcount


# the columns of Import; a job that is not final yet gets its counters from its chunks, by their key (job_id, seq)
_SELECT = """
    SELECT jobs.id, status, outcome, resource, mode, dry_run, after_id, parent_id, format,
        file_name, file_bytes, file_sha256, total_records, problem,
        request_digest, created_at, started_at, finished_at, clock_timestamp() AS now,
        coalesce(done.created, jobs.created) AS created,
        coalesce(done.updated, jobs.updated) AS updated,
        coalesce(done.unchanged, jobs.unchanged) AS unchanged,
        coalesce(done.skipped, jobs.skipped) AS skipped,
        coalesce(done.failed, jobs.failed) AS failed,
        coalesce(done.deferred, 0) AS deferred,
        coalesce(done.errors, jobs.errors) AS errors
    FROM import_jobs AS jobs
    LEFT JOIN LATERAL (
        SELECT sum(created)::bigint AS created, sum(updated)::bigint AS updated, sum(unchanged)::bigint AS unchanged,
            sum(skipped)::bigint AS skipped, sum(failed)::bigint AS failed, sum(deferred)::bigint AS deferred,
            sum(errors)::bigint AS errors
        FROM chunks
        WHERE chunks.job_id = jobs.id AND jobs.finished_at IS NULL
    ) AS done ON true
"""


async def get(conn: Connection, id: UUID) -> Import | None:
    """The job as it is now; None when there is no such job or it is still being uploaded."""
    cursor = conn.cursor(row_factory=class_row(Import))
    await cursor.execute(_SELECT + "WHERE jobs.id = %(id)s AND status <> 'uploading'", {"id": id})
    return await cursor.fetchone()


async def by_token(conn: Connection, token: str) -> tuple[UUID, Status] | None:
    """The job that holds an idempotency token, and whether it is still being uploaded."""
    cursor = await conn.execute(
        "SELECT id, status FROM import_jobs WHERE idempotency_token = %(token)s", {"token": token}
    )
    return await cursor.fetchone()


async def newest(
    conn: Connection, *, status: str | None, resource: str | None, before: UUID | None, limit: int
) -> list[Import]:
    """Jobs, newest first, from the one after `before` on."""
    cursor = conn.cursor(row_factory=class_row(Import))
    await cursor.execute(
        _SELECT
        + """
        WHERE status <> 'uploading'
            AND (%(status)s::text IS NULL OR status = %(status)s)
            AND (%(resource)s::text IS NULL OR resource = %(resource)s)
            AND (%(before)s::uuid IS NULL OR jobs.id < %(before)s)
        ORDER BY jobs.id DESC
        LIMIT %(limit)s
        """,
        {"status": status, "resource": resource, "before": before, "limit": limit},
    )
    return await cursor.fetchall()


async def finish(conn: Connection, id: UUID) -> Finished | None:
    """Ends the job if all its chunks are final; to be called after each commit that made one so, and by the sweep.

    Deferred records ask for one more chunk, settle, which is queued here. Returns the job's end to whom it falls to write it.
    """
    if await _is_busy(conn, id):
        return None
    await judge(conn, id)
    await _cancel_pending(conn, id)
    cursor = await conn.execute(
        """
        INSERT INTO chunks (import_id, kind, seq)
        SELECT id, 'settle', total_chunks + 1
        FROM import_jobs
        WHERE id = %(id)s
            AND status = 'processing'
            AND EXISTS (SELECT FROM import_deferred WHERE import_id = %(id)s)
            AND NOT EXISTS (SELECT FROM chunks WHERE job_id = %(id)s AND state IN ('pending', 'running'))
        ON CONFLICT (job_id, seq) DO NOTHING
        """,
        {"id": id},
    )
    if cursor.rowcount == 1:
        await queue.notify(conn)
        return None
    return await _write_end(conn, id)


async def _is_busy(conn: Connection, id: UUID) -> bool:
    """Whether a chunk is still to be worked on: the cheap question, asked after every chunk.

    From the end of chunks_pending, where a live entry is met at once; its beginning is full of entries of claimed chunks.
    """
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT EXISTS (SELECT FROM chunks WHERE state = 'running' AND job_id = %(id)s)
            OR (
                SELECT problem IS NULL AND cancel_requested_at IS NULL
                FROM import_jobs
                WHERE id = %(id)s
            ) AND (
                SELECT true
                FROM chunks
                WHERE state = 'pending' AND job_id = %(id)s
                ORDER BY seq DESC
                LIMIT 1
            ) IS NOT NULL
        """,
        {"id": id},
    )
    return bool(await cursor.fetchone())


async def _cancel_pending(conn: Connection, id: UUID) -> None:
    """Cancels what a stopped job has not begun; a chunk that is being claimed right now is passed by and dropped there."""
    await conn.execute(
        """
        WITH stopped AS MATERIALIZED (
            SELECT chunks.id
            FROM chunks
            JOIN import_jobs ON import_jobs.id = chunks.job_id
            WHERE chunks.job_id = %(id)s
                AND state = 'pending'
                AND kind = 'records'
                AND (import_jobs.problem IS NOT NULL OR import_jobs.cancel_requested_at IS NOT NULL)
            ORDER BY chunks.id
            FOR NO KEY UPDATE OF chunks SKIP LOCKED
        )
        UPDATE chunks
        SET state = 'cancelled', finished_at = clock_timestamp()
        FROM stopped
        WHERE chunks.id = stopped.id
        """,
        {"id": id},
    )


async def _write_end(conn: Connection, id: UUID) -> Finished | None:
    """The one statement that makes a job final. Both of two workers that ended the last two chunks may come here: one wins."""
    cursor = conn.cursor(row_factory=class_row(Finished))
    await cursor.execute(
        """
        WITH done AS (
            SELECT sum(created) AS created, sum(updated) AS updated, sum(unchanged) AS unchanged,
                sum(skipped) AS skipped, sum(failed) AS failed, sum(errors) AS errors,
                bool_or(kind = 'settle') AS is_settled
            FROM chunks
            WHERE job_id = %(id)s
        )
        UPDATE import_jobs
        SET status = CASE
                WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
                WHEN problem IS NOT NULL THEN 'failed'
                ELSE 'completed'
            END,
            outcome = CASE
                WHEN cancel_requested_at IS NOT NULL OR problem IS NOT NULL THEN NULL
                WHEN done.failed = 0 THEN 'success'
                WHEN done.failed = total_records THEN 'rejected'
                ELSE 'partial'
            END,
            created = done.created, updated = done.updated, unchanged = done.unchanged,
            skipped = done.skipped, failed = done.failed, errors = done.errors,
            finished_at = clock_timestamp()
        FROM done
        WHERE id = %(id)s
            AND status IN ('pending', 'processing')
            AND NOT EXISTS (SELECT FROM chunks WHERE job_id = %(id)s AND state IN ('pending', 'running'))
            AND (is_settled OR NOT EXISTS (SELECT FROM import_deferred WHERE import_id = %(id)s))
            -- judged by `judge` before, so that a broken chunk cannot slip through between two statements
            AND (problem IS NOT NULL OR NOT EXISTS (SELECT FROM chunks WHERE job_id = %(id)s AND state = 'failed'))
        RETURNING id, resource, status, outcome, request_id, total_records, import_jobs.created, import_jobs.failed,
            extract(epoch FROM import_jobs.finished_at - coalesce(started_at, sealed_at))::float8 AS seconds
        """,
        {"id": id},
    )
    return await cursor.fetchone()


async def judge(conn: Connection, id: UUID) -> bool:
    """Gives the job a problem if it has come to one, which stops it: its error budget is spent, or a chunk has failed for good.

    To be called after each chunk of a job with a budget. The share of refused records counts from 1,000 records on, or when
    all is done; `on_error=stop` matters while something is left to stop.
    """
    cursor = await conn.execute(
        """
        WITH done AS (
            SELECT coalesce(sum(failed), 0) AS failed,
                coalesce(sum(created + updated + unchanged + skipped + failed), 0) AS processed,
                count(*) FILTER (WHERE state = 'failed') AS broken,
                min(seq) FILTER (WHERE state = 'failed') AS first_broken,
                bool_or(state = 'pending') AS has_pending,
                bool_or(state IN ('pending', 'running')) AS has_more
            FROM chunks
            WHERE job_id = %(id)s
        ), found AS (
            SELECT CASE
                WHEN broken > 0 AND NOT has_more THEN jsonb_build_object(
                    'type', '/problems/chunk-failed',
                    'title', 'Some records could not be processed',
                    'detail', format(
                        '%%s of %%s chunks could not be finished (the first: %%s); their records count as unprocessed',
                        broken, total_chunks, first_broken
                    )
                )
                WHEN done.failed > max_errors THEN jsonb_build_object(
                    'type', '/problems/error-budget-exceeded',
                    'title', 'Too many records were refused',
                    'detail', format('%%s records were refused, at most %%s may be', done.failed, max_errors)
                )
                WHEN done.failed > max_error_rate * processed AND (processed >= 1000 OR NOT has_more)
                THEN jsonb_build_object(
                    'type', '/problems/error-budget-exceeded',
                    'title', 'Too many records were refused',
                    'detail', format(
                        '%%s of %%s records were refused, at most a share of %%s may be', done.failed, processed, max_error_rate
                    )
                )
                WHEN on_error = 'stop' AND done.failed > 0 AND has_pending THEN jsonb_build_object(
                    'type', '/problems/stopped-on-error',
                    'title', 'A record was refused',
                    'detail', 'on_error=stop: no further records were begun after the first refused one'
                )
            END AS problem
            FROM done
            CROSS JOIN import_jobs
            WHERE id = %(id)s
        )
        UPDATE import_jobs
        SET problem = found.problem
        FROM found
        WHERE id = %(id)s
            AND status IN ('pending', 'processing')
            AND import_jobs.problem IS NULL
            AND found.problem IS NOT NULL
        """,
        {"id": id},
    )
    return cursor.rowcount == 1


async def stop_dependents(conn: Connection) -> list[UUID]:
    """Gives a problem to jobs that wait for an import which did not complete; their ids, for `finish`."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        UPDATE import_jobs
        SET problem = jsonb_build_object(
            'type', '/problems/after-not-completed',
            'title', 'The import that this one waited for was not completed',
            'detail', format('import %%s ended as %%s', earlier.id, earlier.status)
        )
        FROM import_jobs AS earlier
        WHERE earlier.id = import_jobs.after_id
            AND earlier.status IN ('failed', 'cancelled')
            AND import_jobs.status = 'pending'
            AND import_jobs.problem IS NULL
        RETURNING import_jobs.id
        """
    )
    return await cursor.fetchall()


async def unfinished(conn: Connection) -> list[UUID]:
    """Live jobs that may have nothing left to do: those whose last worker died between its commit and `finish`."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT id
        FROM import_jobs
        WHERE status IN ('pending', 'processing')
            AND NOT EXISTS (SELECT FROM chunks WHERE job_id = import_jobs.id AND state = 'running')
            AND (
                cancel_requested_at IS NOT NULL
                OR problem IS NOT NULL
                OR NOT EXISTS (SELECT FROM chunks WHERE job_id = import_jobs.id AND state = 'pending')
            )
        """
    )
    return await cursor.fetchall()


async def work(conn: Connection, claim: queue.Claim) -> tuple[Work, Chunk | None]:
    """What the claimed chunk's import asks for, and the chunk's payload (None for settle)."""
    cursor = conn.cursor(row_factory=class_row(Work))
    await cursor.execute(
        """
        SELECT resource, mode, dry_run, unknown_fields, format, csv_delimiter, csv_columns, total_chunks, request_id,
            on_error = 'stop' OR max_errors IS NOT NULL OR max_error_rate IS NOT NULL AS has_budget
        FROM import_jobs
        WHERE id = %(id)s
        """,
        {"id": claim.job_id},
    )
    work = await cursor.fetchone()
    assert work is not None, "a chunk's job is there as long as the chunk is"  # noqa: S101
    cursor = conn.cursor(row_factory=class_row(Chunk), binary=True)
    await cursor.execute(
        """
        SELECT payload.first_record, payload.first_line, chunks.records, payload.data, payload.starts, payload.lines
        FROM chunks
        JOIN import_payloads AS payload USING (import_id, first_record)
        WHERE chunks.id = %(id)s AND kind = 'records'
        """,
        {"id": claim.id},
    )
    return work, await cursor.fetchone()
