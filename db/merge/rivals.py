"""The temporary table `rivals`, with which `duplicates` decides: the records of an import that collide with each other.

`loses_to` is the number of the record that wins the key or the id; NULL for a winner.
"""

from collections import Counter
from uuid import UUID

from psycopg import sql

from db.connections.pool import Connection
from db.imports import created
from db.imports.jobs import Mode
from db.merge.sql import cached_sql, format_sql
from db.queue import Counts
from db.resources.definition import Resource
from db.resources.references import is_referred_to


async def rank(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> None:
    """Creates the table from the staged records and the import's rows that they collide with."""
    are_rivals = format_sql(resource, "other.import_id = %(import_id)s AND {other_meets}")
    # no other transaction can begin to refer to a row that may be removed below
    await conn.execute(
        cached_sql(
            resource,
            "SELECT FROM {table} AS other WHERE {are_rivals} ORDER BY id FOR UPDATE",
            are_rivals=lambda: are_rivals,
        ),
        {"import_id": import_id},
    )
    await conn.execute(
        cached_sql(
            resource,
            """
            CREATE TEMPORARY TABLE rivals ON COMMIT DROP AS
            WITH candidate AS (
                -- a record that is matched to a stored row by its key has that row's id
                SELECT record, line, id::text AS sent_id, {sent_key} AS sent_key, {key} AS key,
                    CASE WHEN id IS NOT NULL THEN id WHEN target_existed THEN target END AS id,
                    NULL::text AS action, false AS is_protected
                FROM {staged} AS staged
                UNION ALL
                SELECT import_record, NULL, NULL, {other_sent_key}, {other_key}, id,
                    import_action, import_action = 'created' AND ({is_referred_to})
                FROM {table} AS other
                WHERE {are_rivals}
            ), with_key AS (
                SELECT *, CASE
                    WHEN key IS NULL THEN record
                    ELSE first_value(record) OVER (PARTITION BY key ORDER BY is_protected DESC, record {order})
                END AS key_winner
                FROM candidate
            ), with_id AS (
                SELECT record, CASE
                    WHEN id IS NULL THEN record
                    ELSE first_value(record) OVER (PARTITION BY id ORDER BY is_protected DESC, record {order})
                END AS id_winner
                FROM with_key
                WHERE key_winner = record
            )
            SELECT with_key.*,
                CASE WHEN key_winner <> record THEN key_winner WHEN id_winner <> record THEN id_winner END AS loses_to,
                id IS NULL OR count(*) OVER (PARTITION BY id) = 1 AS is_only_match
            FROM with_key
            LEFT JOIN with_id USING (record)
            """,
            variant=mode,
            are_rivals=lambda: are_rivals,
            is_referred_to=lambda: is_referred_to(resource),
            other_sent_key=lambda: sql.SQL("NULL") if resource.key is None else sql.Identifier("other", resource.key),
            order=lambda: sql.SQL("ASC" if mode in ("insert", "skip") else "DESC"),
        ),
        {"import_id": import_id},
    )
    await conn.execute("ANALYZE rivals")


async def refuse_losers(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    """Writes the errors of the losers in mode insert; in the other modes they count as skipped."""
    if mode != "insert":
        cursor = await conn.execute("SELECT count(*) FROM rivals WHERE loses_to IS NOT NULL")
        (skipped,) = await cursor.fetchone() or (0,)
        return Counts(skipped=skipped)
    cursor = await conn.execute(
        # Whether the record of a stored row was sent with its id, or got it from the service, is seen in the file. A chunk of
        # lines is split once for all its losers; encode, because the bytes of a chunk may not be valid text.
        """
        WITH loser AS MATERIALIZED (
            SELECT record, id::text AS id, (
                SELECT first_record
                FROM import_payloads
                WHERE import_id = %(import_id)s AND first_record <= record
                ORDER BY first_record DESC
                LIMIT 1
            ) AS first_record
            FROM rivals
            WHERE loses_to IS NOT NULL AND action IS NOT NULL
        ), sent AS MATERIALIZED (
            SELECT loser.record, bool_or(position(spelling IN slice.content) > 0) AS with_id
            FROM import_payloads AS payload
            CROSS JOIN LATERAL (
                SELECT content, payload.first_record + number - 1 AS record
                FROM unnest(string_to_array(encode(payload.data, 'escape'), E'\n')) WITH ORDINALITY AS line (content, number)
                WHERE payload.starts IS NULL
                UNION ALL
                SELECT encode(substring(payload.data FROM start + 1 FOR next_start - start), 'escape'), record
                FROM loser
                CROSS JOIN LATERAL (SELECT record - payload.first_record + 1 AS number) AS numbered
                CROSS JOIN LATERAL (
                    SELECT payload.starts[number] AS start, coalesce(payload.starts[number + 1], octet_length(payload.data))
                ) AS bounds (start, next_start)
                WHERE payload.starts IS NOT NULL AND loser.first_record = payload.first_record
            ) AS slice
            JOIN loser ON loser.record = slice.record
            CROSS JOIN unnest(
                ARRAY[id, upper(id), replace(id, '-', ''), upper(replace(id, '-', ''))]
            ) AS spelling
            WHERE payload.import_id = %(import_id)s
                AND payload.first_record = ANY (ARRAY(SELECT DISTINCT first_record FROM loser))
            GROUP BY loser.record
        )
        INSERT INTO import_errors (
            import_id, record, n, line, record_id, record_key, field, code, message, value, duplicate_of_line
        )
        SELECT %(import_id)s, record, 1, coalesce(rivals.line, import_record_line(%(import_id)s, record)),
            CASE WHEN action IS NULL THEN sent_id WHEN sent.with_id THEN id::text END,
            sent_key,
            field, 'duplicate_in_file', format('line %%s has the same %%s', winner.line, field),
            CASE WHEN is_key THEN sent_key ELSE id::text END, winner.line
        FROM rivals
        LEFT JOIN sent USING (record)
        CROSS JOIN LATERAL (SELECT loses_to = key_winner AS is_key) AS by_key
        CROSS JOIN LATERAL (SELECT CASE WHEN is_key THEN %(key)s::text ELSE 'id' END AS field) AS by_field
        CROSS JOIN LATERAL (SELECT import_record_line(%(import_id)s, loses_to) AS line) AS winner
        WHERE loses_to IS NOT NULL
        """,
        {"import_id": import_id, "key": resource.key},
    )
    return Counts(failed=cursor.rowcount, codes=Counter(duplicate_in_file=cursor.rowcount))


async def remove_losers(conn: Connection, resource: Resource, import_id: UUID, *, undoable: bool) -> Counts:
    """Deletes the rows that this import created for records that lose. `undoable`: they were remembered."""
    cursor = await conn.execute(
        cached_sql(
            resource,
            """
            DELETE FROM {table} AS other
            USING rivals
            WHERE other.id = rivals.id
                AND other.id = ANY (ARRAY(SELECT id FROM rivals WHERE loses_to IS NOT NULL))
                AND other.import_id = %(import_id)s
                AND other.import_record = rivals.record
                AND action = 'created'
                AND loses_to IS NOT NULL
            RETURNING other.import_record
            """,
        ),
        {"import_id": import_id},
    )
    if undoable:
        await created.forget(conn, import_id, [record for (record,) in await cursor.fetchall()])
    return Counts(created=-cursor.rowcount)


async def correct_counts(conn: Connection, resource: Resource, import_id: UUID) -> Counts:
    """Corrects what was counted for rows stored before the import: those of losers, and unchanged ones with several matches."""
    cursor = await conn.execute(
        """
        SELECT count(*) FILTER (WHERE action = 'updated' AND loses_to IS NOT NULL),
            count(*) FILTER (WHERE action = 'unchanged' AND loses_to IS NOT NULL),
            count(*) FILTER (WHERE action = 'unchanged' AND loses_to IS NULL AND NOT is_only_match)
        FROM rivals
        """
    )
    updated, unchanged, shared = await cursor.fetchone() or (0, 0, 0)
    if shared:
        await conn.execute(
            cached_sql(
                resource,
                """
                UPDATE {table} AS other
                SET import_action = 'updated'
                FROM rivals
                WHERE other.id = rivals.id
                    AND other.id = ANY (ARRAY(SELECT id FROM rivals WHERE NOT is_only_match))
                    AND other.import_id = %(import_id)s
                    AND other.import_record = rivals.record
                    AND action = 'unchanged'
                    AND loses_to IS NULL
                    AND NOT is_only_match
                """,
            ),
            {"import_id": import_id},
        )
    return Counts(updated=shared - updated, unchanged=-unchanged - shared)


async def keep_winners(conn: Connection, resource: Resource) -> None:
    """Leaves only the winners in the staging table, each to be inserted or to overwrite the row stored before this import."""
    await conn.execute(
        cached_sql(
            resource,
            """
            DELETE FROM {staged} AS staged
            USING rivals
            WHERE staged.record = rivals.record AND loses_to IS NOT NULL
            """,
        )
    )
    await conn.execute(
        cached_sql(
            resource,
            """
            UPDATE {staged} AS staged
            SET verdict = CASE WHEN target_existed THEN 'update' ELSE 'insert' END, is_only_match = rivals.is_only_match
            FROM rivals
            WHERE staged.record = rivals.record
            """,
        )
    )


async def drop(conn: Connection) -> None:
    await conn.execute("DROP TABLE rivals")
