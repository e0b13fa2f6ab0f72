"""Repairs: imports of corrected records of another import, their parent. Each refused record is taken on by one repair at most.

A record of a repair is the refused record of the parent that starts on the same line of the first file. If an earlier repair or
a retry of the parent has refused that record again, it is the record that was refused last. `import_repairs` says which refused
record of an import is in which repair. It is written in the transaction that seals the repair, and read by retries and commits,
which leave these records out. Both lock the rows of the imports whose records they take, so that each sees what the other took.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec
from psycopg.rows import scalar_row

from db.connections.pool import Connection
from db.imports import uploads
from db.imports.records import Gone
from db.imports.uploads import ImportSpec
from db.webhooks.endpoints import Endpoint

# how many lines are named that cannot be repaired
LINES_MAX = 50


class NotRefused(Exception):
    """These lines, at most `LINES_MAX`, were not refused by the parent, or are in the repair more often than they were."""

    def __init__(self, lines: list[int]) -> None:
        super().__init__(lines)
        self.lines = lines


class AlreadyRepaired(Exception):
    """The records on these lines, at most `LINES_MAX`, were taken, or are being imported, by another import."""

    def __init__(self, lines: list[int]) -> None:
        super().__init__(lines)
        self.lines = lines


class TakenOn(msgspec.Struct, frozen=True):
    """The records of an import that repairs have taken on: their number, and a digest of which they are."""

    count: int
    digest: str


class Totals(msgspec.Struct, frozen=True):
    """What became of the refused and unprocessed records of an import.

    `imports` repairs and retries follow from it. They have taken `taken` of the records; `left` are left.
    """

    imports: int
    taken: int
    left: int


async def seal(conn: Connection, id: UUID, spec: ImportSpec, *, endpoints: Sequence[Endpoint]) -> None:
    """Seals an upload as a repair of `spec.parent_id`. The upload's chunks have the lines of the first file.

    Can be repeated, as `uploads.seal`. Raises `records.Gone` if the parent was deleted, `NotRefused`, `AlreadyRepaired`, and
    what `uploads.seal` raises.
    """
    parent_id = spec.parent_id
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute(
        """
        SELECT id
        FROM import_jobs
        WHERE id IN (SELECT import_family(%(id)s)) AND finished_at IS NOT NULL
        ORDER BY id
        FOR NO KEY UPDATE
        """,
        {"id": parent_id},
    )
    family = await cursor.fetchall()
    if parent_id not in family:
        raise Gone
    # first, because a repeated request, whose token is taken, has records that are taken as well
    if not await uploads.seal(conn, id, spec, endpoints=endpoints):
        return
    remaining = await conn.execute(_TAKE_ON, {"id": id, "parent": parent_id, "family": family, "lines_max": LINES_MAX})
    rows = await remaining.fetchall()
    if not_refused := [line for line, was_refused in rows if not was_refused]:
        raise NotRefused(not_refused)
    if rows:
        raise AlreadyRepaired([line for line, _ in rows])


# Takes on the records of the upload that can be. Returns the lines of the others, and whether the parent refused each of them.
# Several elements of a JSON array may start on one line; these are taken on in their order.
_TAKE_ON = """
    WITH requested AS MATERIALIZED (
        SELECT record, line, row_number() OVER (PARTITION BY line ORDER BY record) AS nth
        FROM (
            SELECT first_record + ordinal - 1 AS record, first_line + coalesce(distance, ordinal - 1) AS line
            FROM chunks
            JOIN import_payloads AS payload USING (import_id, first_record)
            CROSS JOIN LATERAL ROWS FROM (generate_series(1, records), unnest(lines)) AS place (ordinal, distance)
            WHERE import_id = %(id)s AND kind = 'records'
        ) AS sent
    ), refused AS MATERIALIZED (
        SELECT import_id, record, line
        FROM import_errors
        WHERE import_id = ANY (%(family)s) AND line IN (SELECT line FROM requested)
        UNION
        SELECT import_id, record, line
        FROM (
            SELECT import_refused.import_id, record,
                first_line + coalesce(lines[record - first_record + 1], record - first_record) AS line
            FROM import_refused
            JOIN import_payloads AS payload USING (import_id, first_record)
            CROSS JOIN LATERAL unnest(records) AS numbers
            CROSS JOIN LATERAL generate_series(lower(numbers), upper(numbers) - 1) AS record
            WHERE import_refused.import_id = ANY (%(family)s)
        ) AS unlisted
        WHERE line IN (SELECT line FROM requested)
    ), vacant AS (
        SELECT import_id, record, line, row_number() OVER (PARTITION BY line ORDER BY import_id, record) AS nth
        FROM refused
        WHERE NOT EXISTS (
                SELECT 1
                FROM import_repairs
                WHERE parent_id = refused.import_id AND import_repairs.record = refused.record
            )
            -- all other records of an import are in its commit, or else in its retry
            AND NOT EXISTS (
                SELECT 1
                FROM import_jobs AS child
                WHERE child.parent_id = refused.import_id
                    AND child.status <> 'uploading'
                    AND child.relation IS DISTINCT FROM 'repair'
            )
    ), matched AS (
        SELECT requested.record, line, nth, vacant.import_id AS vacant_id, vacant.record AS vacant_record
        FROM requested
        LEFT JOIN vacant USING (line, nth)
    ), taken_on AS (
        INSERT INTO import_repairs (parent_id, record, import_id, import_record)
        SELECT vacant_id, vacant_record, %(id)s, record
        FROM matched
        WHERE vacant_id IS NOT NULL
    )
    SELECT line, nth <= (SELECT count(*) FROM refused WHERE import_id = %(parent)s AND refused.line = matched.line)
    FROM matched
    WHERE vacant_id IS NULL
    ORDER BY 2, record
    LIMIT %(lines_max)s
"""


async def taken_on(conn: Connection, id: UUID) -> TakenOn:
    """The refused records of the import that are in repairs."""
    cursor = await conn.execute(
        """
        SELECT count(*), md5(coalesce(string_agg(record::text, ',' ORDER BY record), ''))
        FROM import_repairs
        WHERE parent_id = %(id)s
        """,
        {"id": id},
    )
    row = await cursor.fetchone()
    return TakenOn(*row) if row else TakenOn(0, "")


async def release(conn: Connection, id: UUID) -> None:
    """Before a repair is deleted: its parents have the records again that it did not store.

    Those that a further import has are not released, because that may store them.
    """
    await conn.execute(
        """
        DELETE FROM import_repairs AS taken
        USING import_jobs AS job
        WHERE taken.import_id = %(id)s
            AND job.id = %(id)s
            AND NOT EXISTS (
                SELECT 1
                FROM import_jobs AS child
                WHERE parent_id = %(id)s AND status <> 'uploading' AND relation IS DISTINCT FROM 'repair'
            )
            AND NOT EXISTS (
                SELECT 1 FROM import_repairs AS further WHERE parent_id = %(id)s AND further.record = taken.import_record
            )
            AND (
                job.dry_run
                OR EXISTS (SELECT 1 FROM import_errors WHERE import_id = %(id)s AND record = taken.import_record)
                OR EXISTS (SELECT 1 FROM import_deferred WHERE import_id = %(id)s AND record = taken.import_record)
                OR EXISTS (
                    SELECT 1
                    FROM import_refused
                    WHERE import_id = %(id)s AND records @> taken.import_record
                )
                OR EXISTS (
                    SELECT 1
                    FROM chunks
                    WHERE import_id = %(id)s
                        AND kind = 'records'
                        AND state <> 'done'
                        AND taken.import_record >= first_record
                        AND taken.import_record < first_record + chunks.records
                )
            )
        """,
        {"id": id},
    )


async def totals(conn: Connection, id: UUID, *, remaining: int) -> Totals | None:
    """What became of the `remaining` records of a final import; None if no other import follows from it.

    For a repair of a dry run that was committed, the commit counts.
    """
    cursor = await conn.execute(
        """
        SELECT count(*), coalesce(sum(taken), 0)::bigint
        FROM import_family(%(id)s) AS family (id)
        JOIN import_jobs AS child USING (id)
        CROSS JOIN LATERAL (
            SELECT created + updated + unchanged + skipped AS taken
            FROM import_jobs
            WHERE id = child.id OR (parent_id = child.id AND relation = 'commit' AND finished_at IS NOT NULL)
            ORDER BY id DESC
            LIMIT 1
        ) AS job
        WHERE child.id <> %(id)s AND child.relation IN ('repair', 'retry')
        """,
        {"id": id},
    )
    row = await cursor.fetchone()
    if row is None or not row[0]:
        return None
    imports, taken = row
    return Totals(imports, taken, max(0, remaining - taken))
