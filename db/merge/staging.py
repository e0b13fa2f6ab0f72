"""The staging table: a temporary table with the records that are not copied straight into the resource's table.

There is one for each resource and session. It is emptied at commit and kept, and with it the plans of its statements. Its
columns are those of the resource, as sent (NULL where a record has no value), and for each record: its number and line; whether
a parent is missing (`is_orphan`); and what `match` found: the stored row that the record matches (`target`), and the `verdict`:

    refused, taken, key_conflict, not_found    not stored
    insert, update                             stored now
    deferred                                   collides with a record of its own import: decided by `duplicates`

A record leaves the table when it is stored, refused or deferred.
"""

from collections.abc import Collection

import msgspec
from psycopg import sql

from db import copy
from db.connections.pool import Connection
from db.merge.sql import STAGING_COLUMNS, cached_sql, staging_table
from db.resources.definition import Parsed, Resource


async def create(conn: Connection, resource: Resource) -> None:
    await conn.execute(
        cached_sql(
            resource,
            """
            CREATE TEMPORARY TABLE IF NOT EXISTS {staged} ON COMMIT DELETE ROWS AS
            SELECT {columns}, {more}
            FROM {table}
            WITH NO DATA
            """,
            more=lambda: sql.SQL(STAGING_COLUMNS),
        )
    )


async def fill(conn: Connection, resource: Resource, parsed: Parsed, rows: Collection[int]) -> None:
    """Copies the records with these indexes into the staging table."""
    await create(conn, resource)
    columns = [*resource.columns, "record", "line", "is_orphan", "is_only_match"]
    values = (
        (*msgspec.structs.astuple(parsed.records[i]), parsed.numbers[i], parsed.lines[i], False, True) for i in rows
    )
    await copy.rows(
        conn,
        staging_table(resource),
        columns,
        [*resource.column_types, "int8", "int8", "bool", "bool"],
        values,
    )


async def remaining(conn: Connection, resource: Resource) -> list[int]:
    """The numbers of the records that are still in the staging table."""
    cursor = await conn.execute(cached_sql(resource, "SELECT record FROM {staged} AS staged ORDER BY record"))
    return [record for (record,) in await cursor.fetchall()]


async def use_indexes(conn: Connection) -> None:
    """Makes the rest of the transaction use index scans and hash joins.

    A chunk is small and its table large, but the planner has no statistics of the temporary table, nor good ones of a table
    that has just begun to grow. It would read the whole table for each chunk, or compare each row with each, and keep that
    plan. So sequential scans, merge joins and nested loops are switched off, and no statement joins the table as a whole: it is
    filtered by an ARRAY of keys, or looked up row by row (LATERAL, with a LIMIT).
    """
    await conn.execute(
        """
        SELECT set_config('enable_seqscan', 'off', true),
            set_config('enable_mergejoin', 'off', true),
            set_config('enable_nestloop', 'off', true)
        """
    )
