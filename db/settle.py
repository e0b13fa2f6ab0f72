"""Settle: one right answer for duplicates inside a file, found when all chunks of the import are done.

Who deserves a natural key or an id is defined by the file alone: among sound records first the natural keys are given out,
each to the first record that has it, then, among those that got theirs, the ids in the same way. Each group of rivals has all
of its members among the import's deferred records and its stored rows, so this one step over both decides them, whatever
order the chunks ran in.

One exception keeps the service from hurting others: a stored row that another table refers to by now is not taken away.
"""

from collections import Counter
from uuid import UUID

from psycopg import sql

from db import staging
from db.pool import Connection
from db.queue import Counts
from db.resource import Resource
from db.resources import RESOURCES

ROUNDS_MAX = 5


class _Raced(Exception):
    """A row from outside took a winner's place between our look and our insert."""


async def settle(conn: Connection, resource: Resource, import_id: UUID) -> Counts:
    """Decides the deferred records of an import, in the caller's transaction; returns the corrections of its counters.

    `created` may be negative: a stored row that loses to a deferred record is removed.
    """
    for _ in range(ROUNDS_MAX):
        try:
            async with conn.transaction():
                return await _attempt(conn, resource, import_id)
        except _Raced:
            continue
    raise RuntimeError("others keep inserting the keys that this import tries to settle")


async def _attempt(conn: Connection, resource: Resource, import_id: UUID) -> Counts:
    await staging.create(conn, resource)
    await conn.execute(
        """
        INSERT INTO staged
        SELECT record.*
        FROM import_deferred
        CROSS JOIN LATERAL jsonb_populate_record(NULL::staged, data) AS record
        WHERE import_deferred.import_id = %(import_id)s
        """,
        {"import_id": import_id},
    )
    # both may have changed since the records were deferred
    orphans = await staging.mark_orphans(conn, resource, import_id)
    refused = await staging.refuse_existing(conn, resource, import_id)

    await _rank(conn, resource, import_id)
    beaten = await _refuse_beaten(conn, resource, import_id)
    removed = await _remove_beaten(conn, resource, import_id)
    created = await _store_winners(conn, resource, import_id)
    await conn.execute("DELETE FROM import_deferred WHERE import_id = %(import_id)s", {"import_id": import_id})
    await conn.execute("DROP TABLE rivals, staged")
    return refused + Counts(created=created - removed, failed=beaten, codes=orphans + Counter(duplicate_in_file=beaten))


async def _rank(conn: Connection, resource: Resource, import_id: UUID) -> None:
    """Makes the temporary table `rivals`: staged records, the stored rows that they collide with, and who is beaten by whom."""
    stored_rivals = staging.compose(
        resource,
        """
        other.import_id = %(import_id)s
            AND other.id IN (
                SELECT other.id FROM {table} AS other JOIN staged ON other.id = staged.id
                UNION ALL
                SELECT other.id FROM {table} AS other JOIN staged ON {other_key} = {key}
            )
        """,
    )
    # from here on nobody can begin to refer to a row that we may remove
    await conn.execute(
        staging.compose(
            resource,
            "SELECT FROM {table} AS other WHERE {are_stored_rivals} ORDER BY id FOR UPDATE",
            are_stored_rivals=stored_rivals,
        ),
        {"import_id": import_id},
    )
    await conn.execute(
        staging.compose(
            resource,
            """
            CREATE TEMPORARY TABLE rivals ON COMMIT DROP AS
            WITH everyone AS (
                SELECT import_record AS record, line, id, {sent_id} AS sent_id, {key} AS key,
                    {sent_key} AS sent_key, false AS is_stored, false AS is_kept
                FROM staged
                UNION ALL
                SELECT import_record, NULL, id, id::text, {other_key}, {other_sent_key}, true, {is_referred_to}
                FROM {table} AS other
                WHERE {are_stored_rivals}
            ), with_key AS (
                SELECT *, CASE
                    WHEN key IS NULL THEN record
                    ELSE first_value(record) OVER (PARTITION BY key ORDER BY is_kept DESC, record)
                END AS key_winner
                FROM everyone
            ), with_id AS (
                SELECT record, first_value(record) OVER (PARTITION BY id ORDER BY is_kept DESC, record) AS id_winner
                FROM with_key
                WHERE key_winner = record
            )
            SELECT with_key.*,
                CASE WHEN key_winner <> record THEN key_winner WHEN id_winner <> record THEN id_winner END AS beaten_by
            FROM with_key
            LEFT JOIN with_id USING (record)
            """,
            are_stored_rivals=stored_rivals,
            is_referred_to=_is_referred_to(resource),
            other_sent_key=sql.SQL("NULL") if resource.key is None else sql.Identifier("other", resource.key),
        ),
        {"import_id": import_id},
    )
    await conn.execute("ANALYZE rivals")


async def _refuse_beaten(conn: Connection, resource: Resource, import_id: UUID) -> int:
    cursor = await conn.execute(
        """
        INSERT INTO import_errors (
            import_id, record, n, line, record_id, record_key, field, code, message, value, duplicate_of_line
        )
        SELECT %(import_id)s, record, 1, coalesce(rivals.line, import_line(%(import_id)s, record)), sent_id, sent_key,
            field, 'duplicate_in_file', format('line %%s has the same %%s', winner.line, field),
            CASE WHEN is_key THEN sent_key ELSE id::text END, winner.line
        FROM rivals
        CROSS JOIN LATERAL (SELECT beaten_by = key_winner AS is_key) AS by_key
        CROSS JOIN LATERAL (SELECT CASE WHEN is_key THEN %(key)s::text ELSE 'id' END AS field) AS by_field
        CROSS JOIN LATERAL (SELECT import_line(%(import_id)s, beaten_by) AS line) AS winner
        WHERE beaten_by IS NOT NULL
        """,
        {"import_id": import_id, "key": resource.key},
    )
    return cursor.rowcount


async def _remove_beaten(conn: Connection, resource: Resource, import_id: UUID) -> int:
    cursor = await conn.execute(
        staging.compose(
            resource,
            """
            DELETE FROM {table} AS other
            USING rivals
            WHERE other.id = rivals.id
                AND other.import_id = %(import_id)s
                AND other.import_record = rivals.record
                AND rivals.is_stored
                AND beaten_by IS NOT NULL
            """,
        ),
        {"import_id": import_id},
    )
    return cursor.rowcount


async def _store_winners(conn: Connection, resource: Resource, import_id: UUID) -> int:
    await conn.execute("DELETE FROM staged USING rivals WHERE import_record = rivals.record AND beaten_by IS NOT NULL")
    await conn.execute("UPDATE staged SET is_twin = false WHERE is_twin")
    created = await staging.insert(conn, resource, import_id)
    if not await staging.is_empty(conn):
        raise _Raced
    return created


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
