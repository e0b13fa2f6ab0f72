"""The temporary table `staged`, over which a merge is done set by set; its rows live as long as the transaction.

There is one for each resource and session; it is kept, and with it the plans of its statements. `staged` has the columns of the
resource, as they were sent (NULL where a record gave nothing), and of each record: its number and line; whether it shares id or
key with another of its chunk (`is_twin`); whether a parent is missing (`is_orphan`); and what `db.matching` found: the stored
row that it is (`target`), and its `verdict`:

    refused, taken, key_conflict, not_found    it is not stored
    insert, update                             it is stored now
    deferred                                   it collides with its own import, and is decided by `db.settle`

A record leaves the table when it has found its place: in the resource's table, among the errors, or among the deferred.
"""

from collections.abc import Callable, Collection
from typing import Literal, LiteralString
from zlib import crc32

import msgspec
from psycopg import sql

from db import copy
from db.connections.pool import Connection
from db.resources.definition import Parsed, Resource

Mode = Literal["insert", "skip", "upsert", "update"]


async def create(conn: Connection, resource: Resource) -> None:
    await conn.execute(
        compose(
            resource,
            """
            CREATE TEMPORARY TABLE IF NOT EXISTS {staged} ON COMMIT DELETE ROWS AS
            SELECT {columns}, NULL::bigint AS record, NULL::bigint AS line, false AS is_twin, false AS is_orphan,
                false AS id_is_taken, false AS key_is_taken, true AS is_alone, true AS is_different,
                id AS target, false AS target_existed, NULL::text AS verdict
            FROM {table}
            WITH NO DATA
            """,
        )
    )


async def fill(
    conn: Connection, resource: Resource, parsed: Parsed, indexes: Collection[int], *, twins: Collection[int]
) -> None:
    """Puts the records of a chunk that have these indexes into `staged`; `twins` are indexes too."""
    await create(conn, resource)
    columns = [*resource.columns, "record", "line", "is_twin", "is_orphan", "is_alone"]
    rows = (
        (*msgspec.structs.astuple(parsed.records[i]), parsed.numbers[i], parsed.lines[i], i in twins, False, True)
        for i in indexes
    )
    await copy.rows(
        conn, name(resource), columns, [*resource.column_types, "int8", "int8", "bool", "bool", "bool"], rows
    )


async def use_indexes(conn: Connection) -> None:
    """Lets the rest of the transaction look rows up by their keys, and match the sets that it has found by their hashes.

    A chunk is small and its table large, whatever the planner believes of a temporary table that it knows nothing of and of a
    table that has just begun to grow. It would read all of the latter for each chunk, or compare each row with each, and keep
    that plan. So neither is allowed, and no statement joins the table as a whole: it is asked for an ARRAY of keys, or row by
    row (LATERAL, with a LIMIT). What cannot be done otherwise has a price until PostgreSQL 17 at which each statement would be
    compiled first.
    """
    await conn.execute(
        """
        SELECT set_config('enable_seqscan', 'off', true),
            set_config('enable_mergejoin', 'off', true),
            set_config('enable_nestloop', 'off', true),
            set_config('jit', 'off', true)
        """
    )


async def remaining(conn: Connection, resource: Resource) -> list[int]:
    """The numbers of the records that have not found their place."""
    cursor = await conn.execute(compose(resource, "SELECT record FROM {staged} AS staged ORDER BY record"))
    return [record for (record,) in await cursor.fetchall()]


def name(resource: Resource) -> str:
    """The name of the table. It tells the columns, for a session may outlive a migration behind a connection pooler."""
    columns = ",".join((*resource.columns, *resource.column_types))
    return f"staged_{resource.name}_{crc32(columns.encode()):08x}"


# by resource, statement and variant; there are as many as there are statements in the code
_composed: dict[tuple[Resource, str, str], bytes] = {}


def compose(
    resource: Resource, statement: LiteralString, *, variant: str = "", **more: Callable[[], sql.Composable]
) -> bytes:
    """Fills a statement like `phrase`, once: that takes as long as sending it.

    What `more` gives must depend on nothing but the resource and the `variant`.
    """
    known = _composed.get((resource, statement, variant))
    if known is None:
        filled = phrase(resource, statement, **{name: give() for name, give in more.items()})
        known = _composed[resource, statement, variant] = filled.as_bytes()
    return known


def phrase(resource: Resource, statement: LiteralString, **more: sql.Composable) -> sql.Composed:
    """Fills a statement with the resource's names; `key` is of `staged`, `other_key` of a table or alias `other`.

    The key of a resource without a natural key is NULL, which equals nothing. `other_meets` is the condition that `other` has
    the id or the key of a staged record.
    """
    own: dict[str, sql.Composable] = {
        "table": sql.Identifier(resource.name),
        "staged": sql.Identifier(name(resource)),
        "columns": copy.names(resource.columns),
        "key": key(resource, "staged"),
        "other_key": key(resource, "other"),
        "other_meets": _meets(resource),
        "key_name": sql.Literal(resource.key),
        "sent_key": sql.SQL("NULL::text") if resource.key is None else sql.Identifier("staged", resource.key),
    }
    return sql.SQL(statement).format(**own, **more)


def _meets(resource: Resource) -> sql.Composable:
    by_id, by_key = (
        sql.SQL("{} = ANY (ARRAY(SELECT {} FROM {} AS staged))").format(found, sent, sql.Identifier(name(resource)))
        for found, sent in (
            (sql.Identifier("other", "id"), sql.Identifier("staged", "id")),
            (key(resource, "other"), key(resource, "staged")),
        )
    )
    # a condition on nothing would keep the planner from the index
    return by_id if resource.key is None else sql.SQL("({} OR {})").format(by_id, by_key)


def key(resource: Resource, alias: str) -> sql.Composable:
    """The natural key of the row called `alias`, as the unique index has it."""
    if resource.key is None:
        return sql.SQL("NULL::text")
    return sql.SQL(resource.key_sql).format(sql.Identifier(alias))


def kept(resource: Resource, column: str) -> sql.Composable:
    """The value of a column after an update: what was sent, of a time that was not sent what is stored."""
    return sql.SQL("coalesce(staged.{0}, other.{0})" if column in resource.stamped else "staged.{0}").format(
        sql.Identifier(column)
    )


def is_different(resource: Resource) -> sql.Composable:
    """The condition that a staged record would change its row."""
    columns = resource.columns[1:]
    return sql.SQL("(ROW({}) IS DISTINCT FROM ROW({}))").format(
        sql.SQL(", ").join(kept(resource, column) for column in columns),
        sql.SQL(", ").join(sql.Identifier("other", column) for column in columns),
    )
