"""Decides what becomes of each staged record: which stored row it matches, whether its parents exist, what refuses it."""

from collections import Counter
from uuid import UUID

from psycopg import sql

from db.connections.pool import Connection
from db.imports.jobs import Mode
from db.merge.sql import cached_sql
from db.queue import Counts
from db.resources.definition import Resource, foreign_key_message


async def decide(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    """Gives each staged record its verdict. The refused ones leave the staging table: counted, their errors written."""
    codes = await _mark_orphans(conn, resource, import_id)
    await _match(conn, resource, import_id, mode)
    return Counts(codes=codes) + await _refuse(conn, resource, import_id, mode)


async def _mark_orphans(conn: Connection, resource: Resource, import_id: UUID) -> Counter[str]:
    """Marks the records with a missing parent and writes their errors; returns the errors by code.

    The existing parents are locked against removal until the end of the transaction.
    """
    codes = Counter[str]()
    for n, (field, parent) in enumerate(resource.references.items(), 1):
        cursor = await conn.execute(
            cached_sql(
                resource,
                """
                WITH parents AS MATERIALIZED (
                    SELECT id
                    FROM {parent}
                    WHERE id = ANY (ARRAY(SELECT {field} FROM {staged} AS staged))
                    ORDER BY id
                    FOR KEY SHARE
                ), orphans AS (
                    UPDATE {staged} AS staged
                    SET is_orphan = true
                    WHERE staged.{field} IS NOT NULL
                        AND NOT EXISTS (SELECT 1 FROM parents WHERE parents.id = staged.{field})
                    RETURNING *
                )
                INSERT INTO import_errors (
                    import_id, record, n, line, record_id, record_key, field, code, message, value
                )
                SELECT %(import_id)s, record, %(n)s, line, id::text, {sent_key},
                    %(field)s, 'foreign_key_not_found', %(message)s, {field}::text
                FROM orphans AS staged
                """,
                variant=field,
                parent=lambda parent=parent: sql.Identifier(parent),
                field=lambda field=field: sql.Identifier(field),
            ),
            {"import_id": import_id, "n": n, "field": field, "message": foreign_key_message(resource, field)},
        )
        codes["foreign_key_not_found"] += cursor.rowcount
    return codes


async def _match(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> None:
    """Finds the stored row of each staged record, if there is one, and sets the verdict.

    A row is *ours* when this import has written it, and *existed* when it was stored before this import. Rows that may be
    overwritten are locked, in the order of their keys like those of `apply.update_unmoved`, and read as they are once the lock is
    held. A row that is inserted, or gets its key, while this statement waits for locks is not seen: it makes INSERT or UPDATE
    fail, and the next round finds it.
    """
    await conn.execute(
        cached_sql(
            resource,
            """
            WITH found AS MATERIALIZED (
                SELECT id, {other_key} AS key, import_id, import_action
                FROM {table} AS other
                WHERE {other_meets}
                ORDER BY key, id
                {lock}
            ), matched AS (
                SELECT staged.record, by_id.id AS by_id, by_key.id AS by_key,
                    CASE WHEN staged.id IS NULL THEN by_key.id ELSE by_id.id END AS target,
                    CASE WHEN staged.id IS NULL THEN {by_key_existed} ELSE {by_id_existed} END AS target_existed,
                    by_id.import_id IS NOT DISTINCT FROM %(import_id)s AS id_is_ours,
                    by_key.import_id IS NOT DISTINCT FROM %(import_id)s AS key_is_ours,
                    {by_key_existed} AS key_existed,
                    by_id.key IS DISTINCT FROM {key} AS is_moved
                FROM {staged} AS staged
                LEFT JOIN found AS by_id ON by_id.id = staged.id
                LEFT JOIN found AS by_key ON by_key.key = {key}
            )
            UPDATE {staged} AS staged
            SET target = matched.target,
                target_existed = coalesce(matched.target_existed, false),
                id_is_taken = by_id IS NOT NULL AND NOT id_is_ours,
                key_is_taken = by_key IS NOT NULL AND NOT key_is_ours,
                verdict = CASE
                    WHEN is_orphan THEN 'refused'
                    WHEN %(mode)s IN ('insert', 'skip') THEN CASE
                        WHEN by_id IS NOT NULL AND NOT id_is_ours OR by_key IS NOT NULL AND NOT key_is_ours THEN 'taken'
                        WHEN by_id IS NOT NULL OR by_key IS NOT NULL THEN 'deferred'
                        ELSE 'insert'
                    END
                    WHEN key_existed AND by_key IS DISTINCT FROM matched.target THEN 'key_conflict'
                    WHEN %(mode)s = 'update' AND matched.target_existed IS NOT TRUE THEN 'not_found'
                    WHEN by_id IS NOT NULL AND id_is_ours OR by_key IS NOT NULL AND key_is_ours THEN 'deferred'
                    WHEN matched.target IS NULL THEN 'insert'
                    -- it would change the key of a stored row, which could not be undone
                    WHEN staged.id IS NOT NULL AND is_moved THEN 'deferred'
                    ELSE 'update'
                END
            FROM matched
            WHERE staged.record = matched.record
            """,
            variant="locked" if mode in ("upsert", "update") else "",
            lock=lambda: sql.SQL("FOR NO KEY UPDATE" if mode in ("upsert", "update") else ""),
            by_id_existed=lambda: _existed("by_id"),
            by_key_existed=lambda: _existed("by_key"),
        ),
        {"import_id": import_id, "mode": mode},
    )


async def _refuse(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    """Removes the records that are not stored and writes their errors; in mode skip a match is counted as skipped instead."""
    cursor = await conn.execute(
        cached_sql(
            resource,
            """
            WITH written AS (
                INSERT INTO import_errors (
                    import_id, record, n, line, record_id, record_key, field, code, message, value
                )
                SELECT %(import_id)s, record, %(n)s + hit.n, line, id::text, {sent_key},
                    hit.field, hit.code, format(hit.message, hit.field), hit.value
                FROM {staged} AS staged
                CROSS JOIN LATERAL (
                    VALUES
                        (1, 'id', id::text, 'already_exists', 'a stored record has this %%s',
                            %(mode)s = 'insert' AND id_is_taken),
                        (2, {key_name}, {sent_key}, 'already_exists', 'a stored record has this %%s',
                            %(mode)s = 'insert' AND key_is_taken),
                        (3, {key_name}, {sent_key}, 'key_conflict', 'another stored record has this %%s',
                            verdict = 'key_conflict'),
                        (4, CASE WHEN id IS NULL THEN {key_name} ELSE 'id' END, coalesce(id::text, {sent_key}),
                            'not_found', 'no stored record has this %%s', verdict = 'not_found')
                ) AS hit (n, field, value, code, message, applies)
                WHERE verdict IN ('refused', 'taken', 'key_conflict', 'not_found') AND hit.applies
                RETURNING code
            )
            SELECT code, count(*)
            FROM written
            GROUP BY code
            """,
        ),
        {"import_id": import_id, "mode": mode, "n": len(resource.references)},
    )
    codes = Counter(dict(await cursor.fetchall()))
    cursor = await conn.execute(
        cached_sql(
            resource,
            """
            WITH gone AS (
                DELETE FROM {staged} AS staged
                WHERE verdict IN ('refused', 'taken', 'key_conflict', 'not_found')
                RETURNING verdict
            )
            SELECT count(*) FILTER (WHERE verdict = 'taken' AND %(mode)s = 'skip'), count(*)
            FROM gone
            """,
        ),
        {"mode": mode},
    )
    skipped, gone = await cursor.fetchone() or (0, 0)
    return Counts(failed=gone - skipped, skipped=skipped, codes=codes)


def _existed(alias: str) -> sql.Composable:
    """The condition that the row was stored before this import."""
    return sql.SQL(
        "({alias}.id IS NOT NULL"
        " AND ({alias}.import_id IS DISTINCT FROM %(import_id)s OR {alias}.import_action <> 'created'))"
    ).format(alias=sql.Identifier(alias))
