"""Settle: one right answer for duplicates inside a file, found when all chunks of the import are done.

Who deserves a natural key or an id is defined by the file alone: among sound records first the natural keys are given out,
each to the first record that has it (modes insert, skip) or to the last (upsert, update); then, among those that got theirs,
the ids in the same way. Each group of rivals has all of its members among the import's deferred records and the rows that the
import has touched, so this one step over both decides them, whatever order the chunks ran in.

One exception keeps the service from hurting others: a stored row that another table refers to by now is not taken away.
"""

from collections import Counter
from uuid import UUID

from psycopg import sql
from psycopg.errors import DataError, IntegrityError

from db.connections.pool import Connection
from db.merge import apply, match, staging
from db.merge.staging import Mode
from db.queue import Counts
from db.resources import RESOURCES
from db.resources.definition import Resource

ROUNDS_MAX = 5


class _Raced(Exception):
    """A row from outside took a winner's place between our look and our insert."""


async def settle(conn: Connection, resource: Resource, import_id: UUID, mode: Mode, *, dry_run: bool) -> Counts:
    """Decides the deferred records of an import, in the caller's transaction; returns the corrections of its counters.

    They may be negative: a stored row that loses to a deferred record is removed or overwritten. A dry run has deferred all
    of its sound records, and stores none.
    """
    await staging.use_indexes(conn)
    if dry_run:
        return await _rehearse(conn, resource, import_id, mode)
    for _ in range(ROUNDS_MAX):
        try:
            async with conn.transaction():
                return await _attempt(conn, resource, import_id, mode, is_last=False)
        except _Raced:
            continue
        except (IntegrityError, DataError):
            break
    return await _attempt(conn, resource, import_id, mode, is_last=True)


async def _attempt(conn: Connection, resource: Resource, import_id: UUID, mode: Mode, *, is_last: bool) -> Counts:
    """Settles, or raises for want of room for a winner; the last attempt refuses such a winner instead."""
    await _stage_deferred(conn, resource, import_id)
    # parents and rows from outside may have come and gone since the records were deferred
    counts = Counts(codes=await match.mark_orphans(conn, resource, import_id))
    await match.match(conn, resource, import_id, mode)
    counts += await match.refuse(conn, resource, import_id, mode)

    await _rank(conn, resource, import_id, mode)
    counts += await _refuse_beaten(conn, resource, import_id, mode)
    counts += await _remove_beaten(conn, resource, import_id)
    counts += await _count_again(conn, resource, import_id)
    await _choose(conn, resource)
    if is_last:
        counts += await apply.store_singly(conn, resource, import_id)
    else:
        counts += await apply.update(conn, resource, import_id)
        counts += await apply.insert(conn, resource, import_id)
        if await staging.remaining(conn, resource):
            raise _Raced
    await _clear(conn, import_id)
    return counts


async def _rehearse(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    await _stage_deferred(conn, resource, import_id)
    await _rank(conn, resource, import_id, mode)
    counts = await _refuse_beaten(conn, resource, import_id, mode)
    await _choose(conn, resource)
    cursor = await conn.execute(
        staging.compose(
            resource,
            """
            SELECT count(*) FILTER (WHERE verdict = 'insert'),
                count(*) FILTER (WHERE verdict = 'update' AND (is_different OR NOT is_alone)),
                count(*) FILTER (WHERE verdict = 'update' AND NOT is_different AND is_alone)
            FROM {staged} AS staged
            """,
        )
    )
    created, updated, unchanged = await cursor.fetchone() or (0, 0, 0)
    await _clear(conn, import_id)
    return counts + Counts(created=created, updated=updated, unchanged=unchanged)


async def _stage_deferred(conn: Connection, resource: Resource, import_id: UUID) -> None:
    await staging.create(conn, resource)
    await conn.execute(
        staging.compose(
            resource,
            """
            INSERT INTO {staged}
            SELECT record.*
            FROM import_deferred
            CROSS JOIN LATERAL jsonb_populate_record(NULL::{staged}, data) AS record
            WHERE import_deferred.import_id = %(import_id)s
            """,
        ),
        {"import_id": import_id},
    )
    await conn.execute(staging.compose(resource, "ANALYZE {staged}"))


async def _clear(conn: Connection, import_id: UUID) -> None:
    await conn.execute("DELETE FROM import_deferred WHERE import_id = %(import_id)s", {"import_id": import_id})
    await conn.execute("DROP TABLE rivals")


async def _rank(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> None:
    """Makes the temporary table `rivals`: staged records, the touched rows that they collide with, and who is beaten by whom."""
    are_rivals = staging.phrase(
        resource,
        "other.import_id = %(import_id)s AND {other_meets}",
    )
    # from here on nobody can begin to refer to a row that we may remove
    await conn.execute(
        staging.compose(
            resource,
            "SELECT FROM {table} AS other WHERE {are_rivals} ORDER BY id FOR UPDATE",
            are_rivals=lambda: are_rivals,
        ),
        {"import_id": import_id},
    )
    await conn.execute(
        staging.compose(
            resource,
            """
            CREATE TEMPORARY TABLE rivals ON COMMIT DROP AS
            WITH everyone AS (
                -- a record that is matched to a stored row by its key has that row's id
                SELECT record, line, id::text AS sent_id, {sent_key} AS sent_key, {key} AS key,
                    CASE WHEN id IS NOT NULL THEN id WHEN target_existed THEN target END AS id,
                    NULL::text AS action, false AS is_kept
                FROM {staged} AS staged
                UNION ALL
                SELECT import_record, NULL, NULL, {other_sent_key}, {other_key}, id,
                    import_action, import_action = 'created' AND ({is_referred_to})
                FROM {table} AS other
                WHERE {are_rivals}
            ), with_key AS (
                SELECT *, CASE
                    WHEN key IS NULL THEN record
                    ELSE first_value(record) OVER (PARTITION BY key ORDER BY is_kept DESC, record {order})
                END AS key_winner
                FROM everyone
            ), with_id AS (
                SELECT record, CASE
                    WHEN id IS NULL THEN record
                    ELSE first_value(record) OVER (PARTITION BY id ORDER BY is_kept DESC, record {order})
                END AS id_winner
                FROM with_key
                WHERE key_winner = record
            )
            SELECT with_key.*,
                CASE WHEN key_winner <> record THEN key_winner WHEN id_winner <> record THEN id_winner END AS beaten_by,
                id IS NULL OR count(*) OVER (PARTITION BY id) = 1 AS is_alone
            FROM with_key
            LEFT JOIN with_id USING (record)
            """,
            variant=mode,
            are_rivals=lambda: are_rivals,
            is_referred_to=lambda: _is_referred_to(resource),
            other_sent_key=lambda: sql.SQL("NULL") if resource.key is None else sql.Identifier("other", resource.key),
            order=lambda: sql.SQL("ASC" if mode in ("insert", "skip") else "DESC"),
        ),
        {"import_id": import_id},
    )
    await conn.execute("ANALYZE rivals")


async def _refuse_beaten(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> Counts:
    """Writes the errors of the beaten, or in the other modes only counts them."""
    if mode != "insert":
        cursor = await conn.execute("SELECT count(*) FROM rivals WHERE beaten_by IS NOT NULL")
        (skipped,) = await cursor.fetchone() or (0,)
        return Counts(skipped=skipped)
    cursor = await conn.execute(
        """
        INSERT INTO import_errors (
            import_id, record, n, line, record_id, record_key, field, code, message, value, duplicate_of_line
        )
        SELECT %(import_id)s, record, 1, coalesce(rivals.line, import_record_line(%(import_id)s, record)),
            CASE WHEN action IS NULL THEN sent_id WHEN import_sent_id(%(import_id)s, record, id::text) THEN id::text END,
            sent_key,
            field, 'duplicate_in_file', format('line %%s has the same %%s', winner.line, field),
            CASE WHEN is_key THEN sent_key ELSE id::text END, winner.line
        FROM rivals
        CROSS JOIN LATERAL (SELECT beaten_by = key_winner AS is_key) AS by_key
        CROSS JOIN LATERAL (SELECT CASE WHEN is_key THEN %(key)s::text ELSE 'id' END AS field) AS by_field
        CROSS JOIN LATERAL (SELECT import_record_line(%(import_id)s, beaten_by) AS line) AS winner
        WHERE beaten_by IS NOT NULL
        """,
        {"import_id": import_id, "key": resource.key},
    )
    return Counts(failed=cursor.rowcount, codes=Counter(duplicate_in_file=cursor.rowcount))


async def _remove_beaten(conn: Connection, resource: Resource, import_id: UUID) -> Counts:
    """Removes the rows that this import created for records that are beaten now."""
    cursor = await conn.execute(
        staging.compose(
            resource,
            """
            DELETE FROM {table} AS other
            USING rivals
            WHERE other.id = rivals.id
                AND other.id = ANY (ARRAY(SELECT id FROM rivals WHERE beaten_by IS NOT NULL))
                AND other.import_id = %(import_id)s
                AND other.import_record = rivals.record
                AND action = 'created'
                AND beaten_by IS NOT NULL
            """,
        ),
        {"import_id": import_id},
    )
    return Counts(created=-cursor.rowcount)


async def _count_again(conn: Connection, resource: Resource, import_id: UUID) -> Counts:
    """Takes back what was counted for rows that were there before: beaten, or unchanged but matched by several records."""
    cursor = await conn.execute(
        """
        SELECT count(*) FILTER (WHERE action = 'updated' AND beaten_by IS NOT NULL),
            count(*) FILTER (WHERE action = 'unchanged' AND beaten_by IS NOT NULL),
            count(*) FILTER (WHERE action = 'unchanged' AND beaten_by IS NULL AND NOT is_alone)
        FROM rivals
        """
    )
    updated, unchanged, shared = await cursor.fetchone() or (0, 0, 0)
    if shared:
        await conn.execute(
            staging.compose(
                resource,
                """
                UPDATE {table} AS other
                SET import_action = 'updated'
                FROM rivals
                WHERE other.id = rivals.id
                    AND other.id = ANY (ARRAY(SELECT id FROM rivals WHERE NOT is_alone))
                    AND other.import_id = %(import_id)s
                    AND other.import_record = rivals.record
                    AND action = 'unchanged'
                    AND beaten_by IS NULL
                    AND NOT is_alone
                """,
            ),
            {"import_id": import_id},
        )
    return Counts(updated=shared - updated, unchanged=-unchanged - shared)


async def _choose(conn: Connection, resource: Resource) -> None:
    """Leaves only the winners in `staged`, each with the row that it overwrites, if that was there before this import."""
    await conn.execute(
        staging.compose(
            resource,
            """
            DELETE FROM {staged} AS staged
            USING rivals
            WHERE staged.record = rivals.record AND beaten_by IS NOT NULL
            """,
        )
    )
    await conn.execute(
        staging.compose(
            resource,
            """
            UPDATE {staged} AS staged
            SET verdict = CASE WHEN target_existed THEN 'update' ELSE 'insert' END, is_alone = rivals.is_alone
            FROM rivals
            WHERE staged.record = rivals.record
            """,
        )
    )


def _is_referred_to(resource: Resource) -> sql.Composable:
    """The condition that a row of another table refers to `other`."""
    referrers = [
        sql.SQL("EXISTS (SELECT FROM {} AS referrer WHERE referrer.{} = other.id)").format(
            sql.Identifier(child.name), sql.Identifier(field)
        )
        for child in RESOURCES.values()
        for field, parent in child.references.items()
        if parent == resource.name
    ]
    return sql.SQL(" OR ").join(referrers) if referrers else sql.SQL("false")
