"""What each staged record is to become: which stored row it is, whether its parents are there, what stands against it."""

from collections import Counter
from uuid import UUID

from psycopg import sql

from db.connections.pool import Connection
from db.merge.staging import Mode, compose
from db.queue import Counts
from db.resources.definition import Resource, foreign_key_message


async def mark_orphans(conn: Connection, resource: Resource, import_id: UUID) -> Counter[str]:
    """Marks the records whose parents are missing and writes why; returns the errors by code.

    The parents that are there are locked against removal until the end of the transaction.
    """
    codes = Counter[str]()
    for n, (field, parent) in enumerate(resource.references.items(), 1):
        cursor = await conn.execute(
            compose(
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
                    WHERE NOT EXISTS (SELECT FROM parents WHERE parents.id = staged.{field})
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


async def match(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> None:
    """Finds for each staged record its stored row, if any, and what is to become of the record.

    A row is *ours* when this import touched it, and *existed* when it was there before this import. Rows that may be overwritten
    are locked, and seen as they are once we have the lock. One that comes, or comes by its key, while we wait for locks is not
    seen: it will be in the way of INSERT or UPDATE, and be found by the next round.
    """
    await conn.execute(
        compose(
            resource,
            """
            WITH found AS MATERIALIZED (
                SELECT id, {other_key} AS key, import_id, import_action
                FROM {table} AS other
                WHERE {other_meets}
                ORDER BY id
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
                        WHEN is_twin OR by_id IS NOT NULL OR by_key IS NOT NULL THEN 'deferred'
                        ELSE 'insert'
                    END
                    WHEN key_existed AND by_key IS DISTINCT FROM matched.target THEN 'key_conflict'
                    WHEN %(mode)s = 'update' AND matched.target_existed IS NOT TRUE THEN 'not_found'
                    WHEN is_twin OR by_id IS NOT NULL AND id_is_ours OR by_key IS NOT NULL AND key_is_ours THEN 'deferred'
                    WHEN matched.target IS NULL THEN 'insert'
                    -- it would move a unique column of a stored row, which could not be undone
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


async def refuse(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    """Takes out what is not stored, and writes why; in mode skip a match is no error, but counted as skipped."""
    cursor = await conn.execute(
        compose(
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
        compose(
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


async def refuse_one(conn: Connection, resource: Resource, import_id: UUID, record: int, *, why: str) -> Counts:
    """Refuses a record that the database does not take, for a reason that the resource's definition does not know of."""
    await conn.execute(
        compose(
            resource,
            """
            WITH gone AS (
                DELETE FROM {staged} AS staged
                WHERE record = %(record)s
                RETURNING *
            )
            INSERT INTO import_errors (import_id, record, n, line, record_id, record_key, code, message)
            SELECT %(import_id)s, record, 1, line, id::text, {sent_key}, 'constraint_violation', %(why)s
            FROM gone AS staged
            """,
        ),
        {"import_id": import_id, "record": record, "why": why},
    )
    return Counts(failed=1, codes=Counter(constraint_violation=1))


def _existed(alias: str) -> sql.Composable:
    """The condition that a row was there before this import."""
    return sql.SQL(
        "({alias}.id IS NOT NULL"
        " AND ({alias}.import_id IS DISTINCT FROM %(import_id)s OR {alias}.import_action <> 'created'))"
    ).format(alias=sql.Identifier(alias))
