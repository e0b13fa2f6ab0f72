"""`python -m db.audit`: checks that the counters of every final import agree with its chunks, errors and stored rows."""

import asyncio
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import LiteralString
from uuid import UUID

import msgspec
from psycopg import AsyncConnection, OperationalError, sql
from psycopg.rows import class_row, scalar_row

from db import settings
from db.connections import pool
from db.connections.pool import Connection
from db.resources import RESOURCES
from db.settings import Settings, SettingsError

EXAMPLES = 3


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A number of an import that is wrong: `book` is the recorded value, `counted` the actual one."""

    fact: str
    import_id: UUID
    book: int
    counted: int


# Each table is read once and grouped by import before it is joined: the cost grows with the tables, not with their product.
VIOLATIONS: LiteralString = """
WITH job AS MATERIALIZED (
    SELECT *,
        total_records - created - updated - unchanged - skipped - failed AS unprocessed,
        -- a dry run stores none
        CASE WHEN dry_run THEN 0 ELSE 1 END AS row_a_record
    FROM import_jobs
    WHERE finished_at IS NOT NULL
        AND (%(import_id)s::uuid IS NULL OR id = %(import_id)s)
        AND (
            %(retention)s::float8 IS NULL
            OR finished_at >= statement_timestamp() - %(retention)s * interval '1 second'
        )
), link AS (
    SELECT chunks.*, first_record - lag(first_record + records, 1, 1::bigint) OVER (
        PARTITION BY import_id, kind ORDER BY seq
    ) AS gap
    FROM chunks
    WHERE import_id IN (SELECT id FROM job)
), chunk AS (
    SELECT import_id,
        count(*) FILTER (WHERE kind = 'records') AS chunks,
        count(*) FILTER (WHERE kind = 'records' AND gap <> 0) AS gaps,
        count(*) FILTER (WHERE state IN ('pending', 'running')) AS live,
        coalesce(sum(records) FILTER (WHERE kind = 'records'), 0) AS records,
        coalesce(sum(records) FILTER (WHERE kind = 'records' AND state <> 'done'), 0) AS not_done,
        coalesce(bool_or(kind = 'settle' AND state <> 'done'), false) AS is_unsettled,
        sum(created) AS created, sum(updated) AS updated, sum(unchanged) AS unchanged,
        sum(skipped) AS skipped, sum(failed) AS failed, sum(errors) AS errors,
        sum(errors_omitted) AS errors_omitted
    FROM link
    GROUP BY import_id
), refused AS MATERIALIZED (
    SELECT import_id, record, count(*) AS errors
    FROM import_errors
    WHERE import_id IN (SELECT id FROM job)
    GROUP BY import_id, record
    UNION ALL
    SELECT import_id, generate_series(lower(numbers), upper(numbers) - 1), 0
    FROM import_refused, unnest(import_refused.records) AS numbers
    WHERE import_id IN (SELECT id FROM job)
), error AS (
    SELECT import_id, sum(refused.errors) AS errors, count(*) AS records,
        count(*) FILTER (WHERE record NOT BETWEEN 1 AND total_records) AS outside
    FROM refused
    JOIN job ON job.id = import_id
    GROUP BY import_id
), undecided AS (
    SELECT import_id, count(*) AS records
    FROM import_deferred
    WHERE import_id IN (SELECT id FROM job)
    GROUP BY import_id
), undone AS (
    SELECT import_id, removed, missing, finished_at IS NOT NULL AS is_finished,
        removed + missing + changed + referred_to AS processed
    FROM import_undos
    WHERE import_id IN (SELECT id FROM job)
), remembered AS (
    SELECT import_id, sum(cardinality(ids)) AS rows
    FROM import_created
    WHERE import_id IN (SELECT id FROM job)
    GROUP BY import_id
), stored AS (
    {stored}
), row_counts AS (
    SELECT stored.import_id,
        count(*) AS rows,
        count(*) FILTER (WHERE action = 'created') AS created,
        count(*) FILTER (WHERE action = 'updated') AS updated,
        count(*) FILTER (WHERE action = 'unchanged') AS unchanged,
        count(refused.record) AS refused,
        count(DISTINCT stored.record) AS records,
        count(*) FILTER (WHERE stored.record NOT BETWEEN 1 AND total_records) AS outside
    FROM stored
    JOIN job ON job.id = stored.import_id
    LEFT JOIN refused ON refused.import_id = stored.import_id AND refused.record = stored.record
    GROUP BY stored.import_id
)
SELECT fact, job.id AS import_id, book::bigint, coalesce(counted, 0)::bigint AS counted
FROM job
LEFT JOIN chunk ON chunk.import_id = job.id
LEFT JOIN error ON error.import_id = job.id
LEFT JOIN undecided ON undecided.import_id = job.id
LEFT JOIN row_counts ON row_counts.import_id = job.id
LEFT JOIN undone ON undone.import_id = job.id
LEFT JOIN remembered ON remembered.import_id = job.id
CROSS JOIN LATERAL (
    VALUES
        ('records of chunks', total_records, chunk.records),
        ('chunks', total_chunks, chunk.chunks),
        ('gaps between chunks', 0, chunk.gaps),
        ('chunks of a final import that are not final', 0, chunk.live),
        ('created, by chunks', job.created, chunk.created),
        ('updated, by chunks', job.updated, chunk.updated),
        ('unchanged, by chunks', job.unchanged, chunk.unchanged),
        ('skipped, by chunks', job.skipped, chunk.skipped),
        ('failed, by chunks', job.failed, chunk.failed),
        ('errors, by chunks', job.errors, chunk.errors),
        ('errors, by chunks, not stored', job.errors_omitted, chunk.errors_omitted),
        ('errors', job.errors - job.errors_omitted, error.errors),
        ('records with errors', job.failed, error.records),
        ('errors of records outside of the file', 0, error.outside),
        ('unprocessed records', unprocessed, coalesce(not_done, 0) + coalesce(undecided.records, 0)),
        (
            'unprocessed records of a completed import',
            0,
            CASE WHEN status = 'completed' THEN unprocessed END
        ),
        ('undecided records of a settled import', 0, CASE WHEN NOT is_unsettled THEN undecided.records END),
        ('records with a row and an error', 0, row_counts.refused),
        ('records with several rows', 0, row_counts.rows - row_counts.records),
        ('rows of records outside of the file', 0, row_counts.outside),
        (
            'rows that are remembered for an undo',
            CASE WHEN undoable THEN job.created - coalesce(undone.removed + undone.missing, 0) ELSE 0 END,
            remembered.rows
        ),
        (
            'rows of a finished undo',
            CASE WHEN is_finished THEN job.created ELSE 0 END,
            CASE WHEN is_finished THEN undone.processed END
        )
    UNION ALL
    SELECT fact, book, counted
    FROM (
        VALUES
            ('rows created', job.created * row_a_record - coalesce(undone.removed, 0), coalesce(row_counts.created, 0)),
            ('rows updated', job.updated * row_a_record, coalesce(row_counts.updated, 0)),
            ('rows unchanged', job.unchanged * row_a_record, coalesce(row_counts.unchanged, 0))
    ) AS line (fact, book, counted)
    WHERE counted > book OR %(strict)s
) AS line (fact, book, counted)
WHERE book <> coalesce(counted, 0)
ORDER BY fact, job.id
"""


async def violations(
    conn: Connection, *, import_id: UUID | None = None, retention_seconds: float | None = None, strict: bool = False
) -> list[Violation]:
    """The violations of all final imports, or of one.

    Imports that have been final for longer than `retention_seconds` are left out, because they are being removed. With `strict`
    each stored record must still have its row; otherwise other imports and clients may have changed the rows since.
    """
    cursor = conn.cursor(row_factory=class_row(Violation))
    await cursor.execute(
        sql.SQL(VIOLATIONS).format(stored=sql.SQL(" UNION ALL ").join(map(_stored, RESOURCES))),
        {"import_id": import_id, "retention": retention_seconds, "strict": strict},
    )
    return await cursor.fetchall()


def _stored(table: str) -> sql.Composable:
    """The rows of one resource that the audited imports have written."""
    return sql.SQL(
        "SELECT import_id, import_record AS record, import_action AS action FROM {} WHERE import_id IN (SELECT id FROM job)"
    ).format(sql.Identifier(table))


async def checked(conn: Connection, *, retention_seconds: float) -> int:
    """How many imports `violations` looks at."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT count(*)
        FROM import_jobs
        WHERE finished_at >= statement_timestamp() - %(retention)s * interval '1 second'
        """,
        {"retention": retention_seconds},
    )
    return await cursor.fetchone() or 0


def main() -> None:
    try:
        given = settings.load()
        lines, is_right = asyncio.run(_report(given))
    except SettingsError as error:
        sys.exit(str(error))
    except OperationalError as error:
        sys.exit(f"the database cannot be asked: {error}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(0 if is_right else 1)


async def _report(given: Settings) -> tuple[list[str], bool]:
    """What to print, and whether all is right."""
    retention_seconds = given.job_retention_seconds
    # without the limits of the service's own sessions: an audit may take as long as it takes
    async with await AsyncConnection.connect(
        pool.conninfo(given), autocommit=True, application_name="bulk audit", connect_timeout=pool.CONNECT_SECONDS
    ) as conn:
        found = await violations(conn, retention_seconds=retention_seconds)
        imports = await checked(conn, retention_seconds=retention_seconds)
    if found:
        return _lines(found), False
    return [f"no errors: {imports} imports checked"], True


def _lines(found: Sequence[Violation]) -> list[str]:
    by_fact: defaultdict[str, list[Violation]] = defaultdict(list)
    for violation in found:
        by_fact[violation.fact].append(violation)
    return [
        f"{fact}: {len(violated)} imports, "
        + "; ".join(f"{one.import_id} has {one.counted}, should have {one.book}" for one in violated[:EXAMPLES])
        + ("; …" if len(violated) > EXAMPLES else "")
        for fact, violated in by_fact.items()
    ]


if __name__ == "__main__":
    main()
