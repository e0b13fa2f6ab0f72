"""Carries out the verdicts `insert` and `update`, in the resource's table."""

from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from db.connections.pool import Connection
from db.errors import REFUSED_ROW
from db.imports.created import BATCH_ROWS
from db.merge import staging
from db.merge.sql import cached_sql, format_sql, is_different, value_after_update
from db.queue import Counts
from db.resources.definition import Resource

# of the rows `stored` by an undoable import
_REMEMBERED = sql.SQL(
    """, remembered AS (
                INSERT INTO import_created (import_id, records, ids)
                SELECT %(import_id)s, array_agg(import_record), array_agg(id::text)
                FROM stored
                GROUP BY import_record / {batch_rows}
            )"""
).format(batch_rows=sql.Literal(BATCH_ROWS))


async def store(conn: Connection, resource: Resource, import_id: UUID, *, undoable: bool) -> Counts:
    """Stores the records to be updated and inserted. Those that met a row stored meanwhile stay in the staging table.

    `undoable`: remembers the rows that are created.
    """
    updated = await _update(conn, resource, import_id)
    return updated + await _insert(conn, resource, import_id, undoable=undoable)


async def store_one_by_one(conn: Connection, resource: Resource, import_id: UUID, *, undoable: bool) -> Counts:
    """Stores record by record, each in a savepoint, and refuses those that PostgreSQL refuses.

    For constraints, indexes and triggers that the resource's definition does not contain. Slow, rarely needed.
    """
    counts = Counts()
    for record in await staging.remaining(conn, resource):
        try:
            async with conn.transaction():
                stored = await _update(conn, resource, import_id, only=record)
                stored += await _insert(conn, resource, import_id, undoable=undoable, only=record)
            reason = None if stored.created + stored.updated + stored.unchanged else "a unique index refuses it"
        except REFUSED_ROW as error:
            stored, reason = Counts(), refusal(error)
        counts += stored if reason is None else await _refuse(conn, resource, import_id, record, reason=reason)
    return counts


def refusal(error: Exception) -> str:
    """The message of a `constraint_violation`: PostgreSQL's own, without its details."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return primary or type(error).__name__


async def _update(conn: Connection, resource: Resource, import_id: UUID, *, only: int | None = None) -> Counts:
    """Overwrites the rows that `match` has found and locked, of one record or of all."""
    return await _overwrite(
        conn,
        resource,
        {"import_id": import_id, "only": only},
        variant="matched",
        condition=lambda: format_sql(
            resource,
            """
            verdict = 'update'
            AND other.id = staged.target
            AND other.id = ANY (ARRAY(SELECT target FROM {staged} AS staged WHERE verdict = 'update'))
            AND (%(only)s::bigint IS NULL OR staged.record = %(only)s)
            """,
        ),
    )


async def update_unmoved(conn: Connection, resource: Resource, import_id: UUID) -> Counts:
    """Overwrites the rows whose key and parents stay the same, without a match before; for modes upsert and update.

    `match` would find the same rows and nothing against the records: this import has not written the rows, and nothing changes
    in them that is unique or refers to a parent. No two records have the same row: all but one of them were deferred. The rows
    are locked in the order of the staging table, which is that of their keys.
    """
    return await _overwrite(
        conn, resource, {"import_id": import_id}, variant="unmoved", condition=lambda: _is_unmoved(resource)
    )


async def _overwrite(
    conn: Connection,
    resource: Resource,
    parameters: dict[str, Any],
    *,
    variant: str,
    condition: Callable[[], sql.Composable],
) -> Counts:
    """Overwrites the rows `other` with the records `staged` that meet the condition; an equal row is counted as unchanged."""
    cursor = await conn.execute(
        cached_sql(
            resource,
            """
            WITH changed AS (
                UPDATE {table} AS other
                SET {assignments},
                    import_id = %(import_id)s,
                    import_record = staged.record,
                    import_action = CASE WHEN {is_different} OR NOT is_only_match THEN 'updated' ELSE 'unchanged' END
                FROM {staged} AS staged
                WHERE {condition}
                RETURNING other.import_record, other.import_action
            ), gone AS (
                DELETE FROM {staged} AS staged
                USING changed
                WHERE staged.record = changed.import_record
            )
            SELECT count(*) FILTER (WHERE import_action = 'updated'), count(*) FILTER (WHERE import_action = 'unchanged')
            FROM changed
            """,
            variant=variant,
            assignments=lambda: sql.SQL(", ").join(_assignment(resource, column) for column in resource.columns[1:]),
            is_different=lambda: is_different(resource),
            condition=condition,
        ),
        parameters,
    )
    updated, unchanged = await cursor.fetchone() or (0, 0)
    return Counts(updated=updated, unchanged=unchanged)


async def _insert(
    conn: Connection, resource: Resource, import_id: UUID, *, undoable: bool, only: int | None = None
) -> Counts:
    """Inserts new rows, of one record or of all, in the order of their key. A record that conflicts with a row stays staged."""
    cursor = await conn.execute(
        cached_sql(
            resource,
            """
            WITH stored AS (
                INSERT INTO {table} ({columns}, import_id, import_record, import_action)
                SELECT {new_values}, %(import_id)s, record, 'created'
                FROM {staged} AS staged
                WHERE verdict = 'insert' AND (%(only)s::bigint IS NULL OR record = %(only)s)
                ORDER BY {key}
                ON CONFLICT DO NOTHING
                RETURNING {returned}
            ){remembered}
            DELETE FROM {staged} AS staged
            USING stored
            WHERE staged.record = stored.import_record
            """,
            variant="undoable" if undoable else "",
            new_values=lambda: sql.SQL(", ").join(_new_value(resource, column) for column in resource.columns),
            returned=lambda: sql.SQL("import_record, id" if undoable else "import_record"),
            remembered=lambda: _REMEMBERED if undoable else sql.SQL(""),
        ),
        {"import_id": import_id, "only": only},
    )
    return Counts(created=cursor.rowcount)


async def _refuse(conn: Connection, resource: Resource, import_id: UUID, record: int, *, reason: str) -> Counts:
    await conn.execute(
        cached_sql(
            resource,
            """
            WITH gone AS (
                DELETE FROM {staged} AS staged
                WHERE record = %(record)s
                RETURNING *
            )
            INSERT INTO import_errors (import_id, record, n, line, record_id, record_key, code, message)
            SELECT %(import_id)s, record, 1, line, id::text, {sent_key}, 'constraint_violation', %(reason)s
            FROM gone AS staged
            """,
        ),
        {"import_id": import_id, "record": record, "reason": reason},
    )
    return Counts(failed=1, codes=Counter(constraint_violation=1))


def _is_unmoved(resource: Resource) -> sql.Composable:
    """The condition that a staged record has the row `other`, and leaves its key and parents as they are.

    The row is looked up by its key, or by its id if the resource has no key.
    """
    looked_up = (
        """
        other.id = staged.id
        AND other.id = ANY (ARRAY(SELECT id FROM {staged} AS staged))
        """
        if resource.key is None
        else """
        {other_key} = {key}
        AND {other_key} = ANY (ARRAY(SELECT {key} FROM {staged} AS staged))
        AND (staged.id IS NULL OR other.id = staged.id)
        """
    )
    has_same_parents = [
        sql.SQL("AND other.{0} IS NOT DISTINCT FROM staged.{0}").format(sql.Identifier(field))
        for field in resource.references
    ]
    return sql.SQL(" ").join(
        [
            format_sql(resource, looked_up),
            *has_same_parents,
            sql.SQL("AND other.import_id IS DISTINCT FROM %(import_id)s"),
        ]
    )


def _new_value(resource: Resource, column: str) -> sql.Composable:
    if column == "id":
        return sql.SQL("coalesce(id, {})").format(sql.SQL(resource.new_id_sql))
    return sql.SQL("coalesce({}, now())" if column in resource.stamped else "{}").format(sql.Identifier(column))


def _assignment(resource: Resource, column: str) -> sql.Composable:
    value = value_after_update(resource, column)
    if column == resource.touched:
        value = sql.SQL("CASE WHEN staged.{} IS NULL AND {} THEN now() ELSE {} END").format(
            sql.Identifier(column), is_different(resource), value
        )
    return sql.SQL("{} = {}").format(sql.Identifier(column), value)
