"""The table `import_deferred`: the records of an import that are decided at its end, by `duplicates`.

`data` has the columns of the staging table; those that are missing are NULL.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.types.json import Jsonb

from db import copy
from db.connections.pool import Connection
from db.merge import staging
from db.merge.sql import cached_sql, is_different
from db.resources.definition import Parsed, Resource


async def insert(
    conn: Connection,
    resource: Resource,
    import_id: UUID,
    parsed: Parsed,
    keys: Sequence[str],
    indexes: Collection[int],
) -> int:
    """Defers the records with these indexes; returns how many. `keys` are those of all records of the chunk."""
    if not indexes:
        return 0
    rows = []
    for i in indexes:
        record, number, line = parsed.records[i], parsed.numbers[i], parsed.lines[i]
        row = dict(zip(resource.columns, msgspec.structs.astuple(record), strict=True))
        data = Jsonb(row | {"record": number, "line": line}, dumps=msgspec.json.encode)
        rows.append((import_id, number, line, record.id and str(record.id), keys[i] if keys else None, data))
    columns = ["import_id", "record", "line", "record_id", "record_key", "data"]
    await copy.rows(conn, "import_deferred", columns, ["uuid", "int8", "int8", "text", "text", "jsonb"], rows)
    return len(rows)


async def move_colliding(conn: Connection, resource: Resource, import_id: UUID) -> int:
    """Moves the staged records with verdict `deferred`; returns how many."""
    cursor = await conn.execute(
        cached_sql(
            resource,
            """
            WITH colliding AS (
                DELETE FROM {staged} AS staged
                WHERE verdict = 'deferred'
                RETURNING *
            )
            INSERT INTO import_deferred (import_id, record, line, record_id, record_key, data)
            SELECT %(import_id)s, record, line, id::text, {key}, to_jsonb(staged)
            FROM colliding AS staged
            """,
        ),
        {"import_id": import_id},
    )
    return cursor.rowcount


async def move_all(conn: Connection, resource: Resource, import_id: UUID) -> int:
    """For a dry run: moves all staged records, reduced to what `duplicates` needs; returns how many."""
    columns = ["record", "line", "id", "target", "target_existed", "is_different"]
    columns += [] if resource.key is None else [resource.key]
    cursor = await conn.execute(
        cached_sql(
            resource,
            """
            WITH sound AS (
                DELETE FROM {staged} AS staged
                RETURNING *
            )
            INSERT INTO import_deferred (import_id, record, line, record_id, record_key, data)
            SELECT %(import_id)s, record, line, staged.id::text, {key}, (
                SELECT to_jsonb(reduced)
                FROM (SELECT {reduced}) AS reduced
            )
            FROM (
                SELECT staged.*, other.id IS NULL OR {is_different} AS differs
                FROM sound AS staged
                LEFT JOIN LATERAL (SELECT * FROM {table} AS other WHERE id = staged.target LIMIT 1) AS other ON true
            ) AS staged
            """,
            reduced=lambda: sql.SQL(", ").join(
                sql.SQL("staged.differs AS is_different" if column == "is_different" else "staged.{}").format(
                    sql.Identifier(column)
                )
                for column in columns
            ),
            is_different=lambda: is_different(resource),
        ),
        {"import_id": import_id},
    )
    return cursor.rowcount


async def stage(conn: Connection, resource: Resource, import_id: UUID) -> None:
    """Copies the deferred records of an import back into the staging table."""
    await staging.create(conn, resource)
    await conn.execute(
        cached_sql(
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
    await conn.execute(cached_sql(resource, "ANALYZE {staged}"))


async def clear(conn: Connection, import_id: UUID) -> None:
    await conn.execute("DELETE FROM import_deferred WHERE import_id = %(import_id)s", {"import_id": import_id})
