"""A small import is created, stored and sealed by one statement, which is one exchange with the server.

Small: one chunk, and no repair. Other files are stored by the transactions of `uploads`.
"""

from functools import cache
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.errors import ForeignKeyViolation
from psycopg.rows import kwargs_row

from db import copy
from db.connections.pgbouncer import time_limits
from db.connections.pool import Connection
from db.imports import jobs, uploads
from db.imports.backlog import MEASURE, Backlog
from db.imports.jobs import Import
from db.imports.payload import Chunk
from db.imports.uploads import AfterUnknown, ImportSpec


async def create(
    conn: Connection, id: UUID, spec: ImportSpec, chunk: Chunk, *, jobs_max: int, bytes_max: int
) -> tuple[Import | None, Backlog]:
    """Creates a pending import, and returns it and the backlog before it.

    None, and nothing is stored, if the backlog has `jobs_max` imports or `bytes_max` bytes, or another job has the idempotency
    token or the id. Raises `AfterUnknown`. The statement is a transaction of its own: `conn` must not be in one.
    """
    columns = uploads.columns(spec)
    cursor = conn.cursor(row_factory=kwargs_row(_row))
    try:
        async with time_limits(conn):
            await cursor.execute(
                _statement(tuple(columns)),
                {"id": id, "jobs_max": jobs_max, "bytes_max": bytes_max, **columns, **chunk._asdict()},
            )
    except ForeignKeyViolation:
        raise AfterUnknown from None
    return (await cursor.fetchall())[0]


@cache
def _statement(columns: tuple[str, ...]) -> bytes:
    return (
        sql.SQL(
            """
            WITH live AS MATERIALIZED (
                {measure}
            ), job AS (
                INSERT INTO import_jobs (id, status, sealed_at, {columns})
                SELECT %(id)s, 'pending', clock_timestamp(), {values}
                FROM live
                WHERE live.jobs < %(jobs_max)s AND live.bytes < %(bytes_max)s
                ON CONFLICT DO NOTHING
                RETURNING *
            ), chunk AS (
                INSERT INTO chunks (import_id, seq, first_record, records)
                SELECT id, 1, %(first_record)s, %(records)s
                FROM job
            ), payload AS (
                INSERT INTO import_payloads (import_id, first_record, first_line, data, starts, lines)
                SELECT id, %(first_record)s, %(first_line)s, %(data)s, %(starts)s::int4[], %(lines)s::int4[]
                FROM job
            )
            SELECT live.jobs AS live_jobs, live.bytes AS live_bytes, {job}, created, updated, unchanged, skipped, failed,
                0 AS deferred, errors, errors_omitted
            FROM live
            LEFT JOIN job AS jobs ON true
            """
        )
        .format(
            measure=sql.SQL(MEASURE),
            columns=copy.names(columns),
            values=sql.SQL(", ").join(map(sql.Placeholder, columns)),
            job=sql.SQL(jobs.COLUMNS),
        )
        .as_bytes()
    )


def _row(*, live_jobs: int, live_bytes: int, **job: Any) -> tuple[Import | None, Backlog]:
    return None if job["id"] is None else Import(**job), Backlog(jobs=live_jobs, bytes=live_bytes)
