"""The set statements of a merge, over the temporary table `staged` that lives as long as the transaction.

`staged` has the columns of the resource's table and, for each record: its line; whether its id was generated here; whether
it shares id or key with another of its chunk (`is_twin`); whether it is known to be refused already (`is_refused`).
A record leaves the table when it has found its place: in the resource's table, among the errors, or among the deferred.
"""

from collections import Counter
from collections.abc import Iterable
from typing import LiteralString
from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.errors import DataError, IntegrityError
from psycopg.rows import scalar_row

from db.pool import Connection
from db.queue import Counts
from db.resource import Parsed, Resource, foreign_key_message


async def create(conn: Connection, resource: Resource) -> None:
    await conn.execute(
        sql.SQL(
            """
            CREATE TEMPORARY TABLE IF NOT EXISTS staged (
                LIKE {table},
                line bigint,
                is_generated boolean,
                is_twin boolean,
                is_refused boolean
            ) ON COMMIT DROP
            """
        ).format(table=sql.Identifier(resource.name))
    )


async def fill(conn: Connection, resource: Resource, parsed: Parsed, *, generated: set[int], twins: set[int]) -> None:
    """Puts the sound records of a chunk into a new `staged`; `generated` and `twins` are indexes."""
    await create(conn, resource)
    columns = [*resource.columns, "import_record", "line", "is_generated", "is_twin", "is_refused"]
    async with conn.cursor().copy(
        sql.SQL("COPY staged ({}) FROM STDIN (FORMAT binary)").format(names(columns))
    ) as copy:
        copy.set_types([*resource.column_types, "int8", "int8", "bool", "bool", "bool"])
        rows = zip(parsed.records, parsed.numbers, parsed.lines, strict=True)
        for i, (record, number, line) in enumerate(rows):
            await copy.write_row((*msgspec.structs.astuple(record), number, line, i in generated, i in twins, False))


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
                    WHERE id IN (SELECT {field} FROM staged)
                    ORDER BY id
                    FOR KEY SHARE
                ), orphans AS (
                    UPDATE staged
                    SET is_refused = true
                    WHERE NOT EXISTS (SELECT FROM parents WHERE parents.id = staged.{field})
                    RETURNING *
                )
                INSERT INTO import_errors (import_id, record, n, line, record_id, record_key, field, code, message, value)
                SELECT %(import_id)s, import_record, %(n)s, line, {sent_id}, {sent_key},
                    %(field)s, 'foreign_key_not_found', %(message)s, {field}::text
                FROM orphans AS staged
                """,
                parent=sql.Identifier(parent),
                field=sql.Identifier(field),
            ),
            {"import_id": import_id, "n": n, "field": field, "message": foreign_key_message(resource, field)},
        )
        codes["foreign_key_not_found"] += cursor.rowcount
    return codes


async def insert(conn: Connection, resource: Resource, import_id: UUID) -> int:
    """Stores what nothing is in the way of, in the order of the key; the number of rows."""
    cursor = await conn.execute(
        compose(
            resource,
            """
            WITH stored AS (
                INSERT INTO {table} ({columns}, import_id, import_record, import_action)
                SELECT {columns}, %(import_id)s, import_record, 'created'
                FROM staged
                WHERE NOT is_twin AND NOT is_refused
                ORDER BY {key}
                ON CONFLICT DO NOTHING
                RETURNING import_record
            )
            DELETE FROM staged
            USING stored
            WHERE staged.import_record = stored.import_record
            """,
        ),
        {"import_id": import_id},
    )
    return cursor.rowcount


async def refuse_existing(conn: Connection, resource: Resource, import_id: UUID) -> Counts:
    """Refuses the records whose id or natural key a row from outside this import has; and takes out all refused ones."""
    cursor = await conn.execute(
        compose(
            resource,
            """
            INSERT INTO import_errors (import_id, record, n, line, record_id, record_key, field, code, message, value)
            SELECT %(import_id)s, import_record, hit.n, line, {sent_id}, {sent_key},
                hit.field, 'already_exists', format('a stored record has this %%s', hit.field), hit.value
            FROM staged
            CROSS JOIN LATERAL (
                VALUES (
                    %(n)s + 1, 'id', id::text, EXISTS (
                        SELECT
                        FROM {table} AS other
                        WHERE other.id = staged.id AND other.import_id IS DISTINCT FROM %(import_id)s
                    )
                ), (
                    %(n)s + 2, {key_name}, {sent_key}, EXISTS (
                        SELECT
                        FROM {table} AS other
                        WHERE {other_key} = {key} AND other.import_id IS DISTINCT FROM %(import_id)s
                    )
                )
            ) AS hit (n, field, value, is_taken)
            WHERE hit.is_taken
            """,
        ),
        {"import_id": import_id, "n": len(resource.references)},
    )
    codes = Counter(already_exists=cursor.rowcount)
    cursor = await conn.execute(
        """
        DELETE FROM staged
        WHERE is_refused
            OR EXISTS (
                SELECT
                FROM import_errors
                WHERE import_errors.import_id = %(import_id)s AND record = staged.import_record
            )
        """,
        {"import_id": import_id},
    )
    return Counts(failed=cursor.rowcount, codes=codes)


async def defer(conn: Connection, resource: Resource, import_id: UUID) -> int:
    """Sets aside the records that collide with a row of their own import or with each other; how many."""
    cursor = await conn.execute(
        compose(
            resource,
            """
            WITH colliding AS (
                DELETE FROM staged
                WHERE is_twin
                    OR EXISTS (SELECT FROM {table} AS other WHERE other.id = staged.id)
                    OR EXISTS (SELECT FROM {table} AS other WHERE {other_key} = {key})
                RETURNING *
            )
            INSERT INTO import_deferred (import_id, record, line, record_id, record_key, data)
            SELECT %(import_id)s, import_record, line, id::text, {key}, to_jsonb(staged)
            FROM colliding AS staged
            """,
        ),
        {"import_id": import_id},
    )
    return cursor.rowcount


async def insert_singly(conn: Connection, resource: Resource, import_id: UUID) -> Counts:
    """Stores or refuses (`constraint_violation`) what is left, one by one: slow, and hardly ever needed."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("SELECT import_record FROM staged WHERE NOT is_refused ORDER BY import_record")
    counts = Counts()
    for number in await cursor.fetchall():
        try:
            async with conn.transaction():
                await conn.execute(
                    compose(
                        resource,
                        """
                        INSERT INTO {table} ({columns}, import_id, import_record, import_action)
                        SELECT {columns}, %(import_id)s, import_record, 'created'
                        FROM staged
                        WHERE import_record = %(number)s
                        """,
                    ),
                    {"import_id": import_id, "number": number},
                )
            counts.created += 1
        except (IntegrityError, DataError) as error:
            await conn.execute(
                compose(
                    resource,
                    """
                    INSERT INTO import_errors (import_id, record, n, line, record_id, record_key, field, code, message)
                    SELECT %(import_id)s, import_record, 1, line, {sent_id}, {sent_key},
                        %(field)s, 'constraint_violation', %(message)s
                    FROM staged
                    WHERE import_record = %(number)s
                    """,
                ),
                {
                    "import_id": import_id,
                    "number": number,
                    "field": error.diag.column_name,
                    "message": error.diag.message_primary or str(error),
                },
            )
            counts.failed += 1
            counts.codes["constraint_violation"] += 1
    cursor = await conn.execute("DELETE FROM staged WHERE is_refused")
    counts.failed += cursor.rowcount
    return counts


async def is_empty(conn: Connection) -> bool:
    cursor = await conn.execute("SELECT FROM staged LIMIT 1")
    return cursor.rowcount == 0


def names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def compose(resource: Resource, statement: LiteralString, **more: sql.Composable) -> sql.Composed:
    """Fills a statement with the resource's names; `key` is of `staged`, `other_key` of a table or alias `other`.

    The key of a resource without a natural key is NULL, which equals nothing.
    """
    null = sql.SQL("NULL::text")
    key = resource.key
    own = {
        "table": sql.Identifier(resource.name),
        "columns": names(resource.columns),
        "key": null if key is None else sql.SQL(resource.key_sql).format(sql.Identifier("staged")),
        "other_key": null if key is None else sql.SQL(resource.key_sql).format(sql.Identifier("other")),
        "key_name": sql.Literal(key),
        "sent_id": sql.SQL("CASE WHEN NOT staged.is_generated THEN staged.id::text END"),
        "sent_key": null if key is None else sql.Identifier("staged", key),
    }
    return sql.SQL(statement).format(**own, **more)
