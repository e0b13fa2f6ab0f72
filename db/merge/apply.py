"""Puts the staged records in their places, set by set: into the resource's table, or among the deferred."""

from uuid import UUID

from psycopg import sql
from psycopg.errors import DataError, IntegrityError

from db.connections.pool import Connection
from db.merge import match
from db.merge.staging import compose, is_different, kept, remaining
from db.queue import Counts
from db.resources.definition import Resource


async def update(conn: Connection, resource: Resource, import_id: UUID, *, only: int | None = None) -> Counts:
    """Overwrites the stored rows of the records with this verdict, of one record or of all; equal ones keep their values.

    `match` has locked the rows, so that nobody else can have changed them meanwhile.
    """
    cursor = await conn.execute(
        compose(
            resource,
            """
            WITH changed AS (
                UPDATE {table} AS other
                SET {assignments},
                    import_id = %(import_id)s,
                    import_record = staged.record,
                    import_action = CASE WHEN {is_different} OR NOT is_alone THEN 'updated' ELSE 'unchanged' END
                FROM {staged} AS staged
                WHERE verdict = 'update'
                    AND other.id = staged.target
                    AND other.id = ANY (ARRAY(SELECT target FROM {staged} AS staged WHERE verdict = 'update'))
                    AND (%(only)s::bigint IS NULL OR staged.record = %(only)s)
                RETURNING other.import_record, other.import_action
            ), gone AS (
                DELETE FROM {staged} AS staged
                USING changed
                WHERE staged.record = changed.import_record
            )
            SELECT count(*) FILTER (WHERE import_action = 'updated'), count(*) FILTER (WHERE import_action = 'unchanged')
            FROM changed
            """,
            assignments=lambda: sql.SQL(", ").join(_assignment(resource, column) for column in resource.columns[1:]),
            is_different=lambda: is_different(resource),
        ),
        {"import_id": import_id, "only": only},
    )
    updated, unchanged = await cursor.fetchone() or (0, 0)
    return Counts(updated=updated, unchanged=unchanged)


async def insert(conn: Connection, resource: Resource, import_id: UUID, *, only: int | None = None) -> Counts:
    """Stores the records with this verdict, one or all, in the order of their key. Those that something is in the way of stay."""
    cursor = await conn.execute(
        compose(
            resource,
            """
            WITH stored AS (
                INSERT INTO {table} ({columns}, import_id, import_record, import_action)
                SELECT {new_values}, %(import_id)s, record, 'created'
                FROM {staged} AS staged
                WHERE verdict = 'insert' AND (%(only)s::bigint IS NULL OR record = %(only)s)
                ORDER BY {key}
                ON CONFLICT DO NOTHING
                RETURNING import_record
            )
            DELETE FROM {staged} AS staged
            USING stored
            WHERE staged.record = stored.import_record
            """,
            new_values=lambda: sql.SQL(", ").join(_new_value(resource, column) for column in resource.columns),
        ),
        {"import_id": import_id, "only": only},
    )
    return Counts(created=cursor.rowcount)


async def store_singly(conn: Connection, resource: Resource, import_id: UUID) -> Counts:
    """Record by record, for constraints and indexes that the resource's definition does not know of. Slow, hardly ever needed."""
    counts = Counts()
    for record in await remaining(conn, resource):
        try:
            async with conn.transaction():
                stored = await update(conn, resource, import_id, only=record)
                stored += await insert(conn, resource, import_id, only=record)
            why = None if stored.created + stored.updated + stored.unchanged else "a unique index refuses it"
        except (IntegrityError, DataError) as error:
            stored, why = Counts(), error.diag.message_primary or type(error).__name__
        if why is not None:
            stored = await match.refuse_one(conn, resource, import_id, record, why=why)
        counts += stored
    return counts


async def defer(conn: Connection, resource: Resource, import_id: UUID) -> int:
    """Sets the deferred records aside; how many."""
    cursor = await conn.execute(
        compose(
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


async def defer_all(conn: Connection, resource: Resource, import_id: UUID) -> int:
    """A dry run: sets all sound records aside, with what `db.settle` must know of them and no more; how many."""
    keys = ["record", "line", "id", "target", "target_existed", "is_different"]
    keys += [] if resource.key is None else [resource.key]
    cursor = await conn.execute(
        compose(
            resource,
            """
            WITH sound AS (
                DELETE FROM {staged} AS staged
                RETURNING *
            )
            INSERT INTO import_deferred (import_id, record, line, record_id, record_key, data)
            SELECT %(import_id)s, record, line, staged.id::text, {key}, (
                SELECT to_jsonb(kept)
                FROM (SELECT {kept}) AS kept
            )
            FROM (
                SELECT staged.*, other.id IS NULL OR {is_different} AS differs
                FROM sound AS staged
                LEFT JOIN LATERAL (SELECT * FROM {table} AS other WHERE id = staged.target LIMIT 1) AS other ON true
            ) AS staged
            """,
            kept=lambda: sql.SQL(", ").join(
                sql.SQL("staged.differs AS is_different" if key == "is_different" else "staged.{}").format(
                    sql.Identifier(key)
                )
                for key in keys
            ),
            is_different=lambda: is_different(resource),
        ),
        {"import_id": import_id},
    )
    return cursor.rowcount


def _new_value(resource: Resource, column: str) -> sql.Composable:
    if column == "id":
        return sql.SQL("coalesce(id, {})").format(sql.SQL(resource.new_id_sql))
    return sql.SQL("coalesce({}, now())" if column in resource.stamped else "{}").format(sql.Identifier(column))


def _assignment(resource: Resource, column: str) -> sql.Composable:
    value = kept(resource, column)
    if column == resource.touched:
        value = sql.SQL("CASE WHEN staged.{} IS NULL AND {} THEN now() ELSE {} END").format(
            sql.Identifier(column), is_different(resource), value
        )
    return sql.SQL("{} = {}").format(sql.Identifier(column), value)
