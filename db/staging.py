"""The set statements of a merge, over the temporary table `staged` that lives as long as the transaction.

`staged` has the columns of the resource, as they were sent (NULL where a record gave nothing), and of each record: its number
and line; whether it shares id or key with another of its chunk (`is_twin`); whether a parent is missing (`is_orphan`); and what
`match` found: the stored row that it is (`target`), and its `verdict`:

    refused, taken, key_conflict, not_found    it is not stored
    insert, update                             it is stored now
    deferred                                   it collides with its own import, and is decided by `db.settle`

A record leaves the table when it has found its place: in the resource's table, among the errors, or among the deferred.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Literal, LiteralString
from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.errors import DataError, IntegrityError

from db.pool import Connection
from db.queue import Counts
from db.resource import Parsed, Resource, foreign_key_message

Mode = Literal["insert", "skip", "upsert", "update"]


async def create(conn: Connection, resource: Resource) -> None:
    await conn.execute(
        compose(
            resource,
            """
            CREATE TEMPORARY TABLE IF NOT EXISTS staged ON COMMIT DROP AS
            SELECT {columns}, NULL::bigint AS record, NULL::bigint AS line, false AS is_twin, false AS is_orphan,
                false AS id_is_taken, false AS key_is_taken, true AS is_alone, true AS is_different,
                id AS target, false AS target_existed, NULL::text AS verdict
            FROM {table}
            WITH NO DATA
            """,
        )
    )


async def fill(conn: Connection, resource: Resource, parsed: Parsed, *, twins: set[int]) -> None:
    """Puts the sound records of a chunk into a new `staged`; `twins` are indexes."""
    await create(conn, resource)
    columns = [*resource.columns, "record", "line", "is_twin", "is_orphan", "is_alone"]
    async with conn.cursor().copy(
        sql.SQL("COPY staged ({}) FROM STDIN (FORMAT binary)").format(names(columns))
    ) as copy:
        copy.set_types([*resource.column_types, "int8", "int8", "bool", "bool", "bool"])
        rows = zip(parsed.records, parsed.numbers, parsed.lines, strict=True)
        for i, (record, number, line) in enumerate(rows):
            await copy.write_row((*msgspec.structs.astuple(record), number, line, i in twins, False, True))


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
                parent=sql.Identifier(parent),
                field=sql.Identifier(field),
            ),
            {"import_id": import_id, "n": n, "field": field, "message": foreign_key_message(resource, field)},
        )
        codes["foreign_key_not_found"] += cursor.rowcount
    return codes


async def match(conn: Connection, resource: Resource, import_id: UUID, mode: Mode) -> None:
    """Finds for each staged record its stored row, if any, and what is to become of the record.

    A row is *ours* when this import touched it, and *existed* when it was there before this import.
    """
    if mode in ("upsert", "update"):
        # what another transaction is just changing is looked at when it has ended, by the next statement's snapshot
        await conn.execute(
            compose(
                resource,
                """
                SELECT
                FROM {table} AS other
                WHERE id IN (
                    SELECT id FROM staged
                    UNION ALL
                    SELECT other.id FROM {table} AS other JOIN staged ON {other_key} = {key}
                )
                ORDER BY id
                FOR NO KEY UPDATE
                """,
            )
        )
    await conn.execute(
        compose(
            resource,
            """
            WITH matched AS (
                SELECT staged.record, by_id.id AS by_id, by_key.id AS by_key,
                    CASE WHEN staged.id IS NULL THEN by_key.id ELSE by_id.id END AS target,
                    CASE WHEN staged.id IS NULL THEN {by_key_existed} ELSE {by_id_existed} END AS target_existed,
                    by_id.import_id IS NOT DISTINCT FROM %(import_id)s AS id_is_ours,
                    by_key.import_id IS NOT DISTINCT FROM %(import_id)s AS key_is_ours,
                    {by_key_existed} AS key_existed,
                    {by_id_key} IS DISTINCT FROM {key} AS is_moved
                FROM staged
                LEFT JOIN {table} AS by_id ON by_id.id = staged.id
                LEFT JOIN {table} AS by_key ON {by_key_key} = {key}
            )
            UPDATE staged
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
            by_id_key=_key(resource, "by_id"),
            by_key_key=_key(resource, "by_key"),
            by_id_existed=_existed("by_id"),
            by_key_existed=_existed("by_key"),
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
                FROM staged
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
                WHERE hit.applies
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
        """
        WITH gone AS (
            DELETE FROM staged
            WHERE verdict IN ('refused', 'taken', 'key_conflict', 'not_found')
            RETURNING verdict
        )
        SELECT count(*) FILTER (WHERE verdict = 'taken' AND %(mode)s = 'skip'), count(*)
        FROM gone
        """,
        {"mode": mode},
    )
    skipped, gone = await cursor.fetchone() or (0, 0)
    return Counts(failed=gone - skipped, skipped=skipped, codes=codes)


async def defer(conn: Connection, resource: Resource, import_id: UUID) -> int:
    """Sets the deferred records aside; how many."""
    cursor = await conn.execute(
        compose(
            resource,
            """
            WITH colliding AS (
                DELETE FROM staged
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
                DELETE FROM staged
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
                LEFT JOIN {table} AS other ON other.id = staged.target
            ) AS staged
            """,
            kept=sql.SQL(", ").join(
                sql.SQL("staged.differs AS is_different" if key == "is_different" else "staged.{}").format(
                    sql.Identifier(key)
                )
                for key in keys
            ),
            is_different=_is_different(resource),
        ),
        {"import_id": import_id},
    )
    return cursor.rowcount


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
                FROM staged
                WHERE verdict = 'update'
                    AND other.id = staged.target
                    AND (%(only)s::bigint IS NULL OR staged.record = %(only)s)
                RETURNING other.import_record, other.import_action
            ), gone AS (
                DELETE FROM staged
                USING changed
                WHERE staged.record = changed.import_record
            )
            SELECT count(*) FILTER (WHERE import_action = 'updated'), count(*) FILTER (WHERE import_action = 'unchanged')
            FROM changed
            """,
            assignments=sql.SQL(", ").join(_assignment(resource, column) for column in resource.columns[1:]),
            is_different=_is_different(resource),
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
                FROM staged
                WHERE verdict = 'insert' AND (%(only)s::bigint IS NULL OR record = %(only)s)
                ORDER BY {key}
                ON CONFLICT DO NOTHING
                RETURNING import_record
            )
            DELETE FROM staged
            USING stored
            WHERE staged.record = stored.import_record
            """,
            new_values=sql.SQL(", ").join(_new_value(resource, column) for column in resource.columns),
        ),
        {"import_id": import_id, "only": only},
    )
    return Counts(created=cursor.rowcount)


async def store_singly(conn: Connection, resource: Resource, import_id: UUID) -> Counts:
    """Record by record, for constraints and indexes that the resource's definition does not know of. Slow, hardly ever needed."""
    counts = Counts()
    for record in await remaining(conn):
        try:
            async with conn.transaction():
                stored = await update(conn, resource, import_id, only=record)
                stored += await insert(conn, resource, import_id, only=record)
            why = None if stored.created + stored.updated + stored.unchanged else "a unique index refuses it"
        except (IntegrityError, DataError) as error:
            stored, why = Counts(), error.diag.message_primary or type(error).__name__
        if why is not None:
            stored = await refuse_one(conn, resource, import_id, record, why=why)
        counts += stored
    return counts


async def refuse_one(conn: Connection, resource: Resource, import_id: UUID, record: int, *, why: str) -> Counts:
    """Refuses a record that the database does not take, for a reason that the resource's definition does not know of."""
    await conn.execute(
        compose(
            resource,
            """
            WITH gone AS (
                DELETE FROM staged
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


async def remaining(conn: Connection) -> list[int]:
    """The numbers of the records that have not found their place."""
    cursor = await conn.execute("SELECT record FROM staged ORDER BY record")
    return [record for (record,) in await cursor.fetchall()]


def names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def compose(resource: Resource, statement: LiteralString, **more: sql.Composable) -> sql.Composed:
    """Fills a statement with the resource's names; `key` is of `staged`, `other_key` of a table or alias `other`.

    The key of a resource without a natural key is NULL, which equals nothing.
    """
    own: dict[str, sql.Composable] = {
        "table": sql.Identifier(resource.name),
        "columns": names(resource.columns),
        "key": _key(resource, "staged"),
        "other_key": _key(resource, "other"),
        "key_name": sql.Literal(resource.key),
        "sent_key": sql.SQL("NULL::text") if resource.key is None else sql.Identifier("staged", resource.key),
    }
    return sql.SQL(statement).format(**own, **more)


def _key(resource: Resource, alias: str) -> sql.Composable:
    if resource.key is None:
        return sql.SQL("NULL::text")
    return sql.SQL(resource.key_sql).format(sql.Identifier(alias))


def _existed(alias: str) -> sql.Composable:
    """The condition that a row was there before this import."""
    return sql.SQL(
        "({alias}.id IS NOT NULL"
        " AND ({alias}.import_id IS DISTINCT FROM %(import_id)s OR {alias}.import_action <> 'created'))"
    ).format(alias=sql.Identifier(alias))


def _new_value(resource: Resource, column: str) -> sql.Composable:
    if column == "id":
        return sql.SQL("coalesce(id, {})").format(sql.SQL(resource.new_id_sql))
    return sql.SQL("coalesce({}, now())" if column in resource.stamped else "{}").format(sql.Identifier(column))


def _kept(resource: Resource, column: str) -> sql.Composable:
    """The value of a column after an update: what was sent, of a time that was not sent what is stored."""
    return sql.SQL("coalesce(staged.{0}, other.{0})" if column in resource.stamped else "staged.{0}").format(
        sql.Identifier(column)
    )


def _is_different(resource: Resource) -> sql.Composable:
    """The condition that a staged record would change its row."""
    columns = resource.columns[1:]
    return sql.SQL("(ROW({}) IS DISTINCT FROM ROW({}))").format(
        sql.SQL(", ").join(_kept(resource, column) for column in columns),
        sql.SQL(", ").join(sql.Identifier("other", column) for column in columns),
    )


def _assignment(resource: Resource, column: str) -> sql.Composable:
    value = _kept(resource, column)
    if column == resource.touched:
        value = sql.SQL("CASE WHEN staged.{} IS NULL AND {} THEN now() ELSE {} END").format(
            sql.Identifier(column), _is_different(resource), value
        )
    return sql.SQL("{} = {}").format(sql.Identifier(column), value)
