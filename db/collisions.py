"""What stands in the way of a chunk's records: each other, rows that have their id or their key, parents that are not there.

Asked when an import has shown that something does: the other records, mostly nearly all, can then still be copied straight.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import Any

from psycopg import sql

from db.pool import Connection
from db.resource import Resource


def twins(resource: Resource, records: Sequence[Any]) -> set[int]:
    """The records, by index, that share their id or their natural key with another one of the chunk."""
    found = _repeated([record.id if record.id is not None else i for i, record in enumerate(records)])
    if resource.key is not None:
        found |= _repeated(_keys(resource, records))
    return found


async def find(conn: Connection, resource: Resource, records: Sequence[Any]) -> set[int]:
    """The records, by index, that the table does not take as it is now."""
    found: set[int] = set()
    ids, keys = await _taken(conn, resource, records)
    if ids:
        found |= {i for i, record in enumerate(records) if record.id in ids}
    if keys:
        found |= {i for i, key in enumerate(_keys(resource, records)) if key in keys}
    for field, parent in resource.references.items():
        if missing := await missing_parents(conn, parent, {getattr(record, field) for record in records} - {None}):
            found |= {i for i, record in enumerate(records) if getattr(record, field) in missing}
    return found


async def missing_parents(conn: Connection, parent: str, ids: Collection[Any]) -> set[Any]:
    """Those of the ids that no row of the resource `parent` has."""
    cursor = await conn.execute(
        sql.SQL(
            """
            SELECT wanted.id
            FROM unnest(%(ids)s::uuid[]) AS wanted (id)
            WHERE NOT EXISTS (SELECT FROM {} AS parent WHERE parent.id = wanted.id)
            """
        ).format(sql.Identifier(parent)),
        {"ids": list(ids)},
    )
    return {id for (id,) in await cursor.fetchall()}


async def _taken(conn: Connection, resource: Resource, records: Sequence[Any]) -> tuple[set[Any], set[str]]:
    """The ids and the natural keys of the stored rows that have one of the records' ids or keys."""
    table = sql.Identifier(resource.name)
    cursor = await conn.execute(
        sql.SQL("SELECT id FROM {} WHERE id = ANY(%(ids)s)").format(table),
        {"ids": [record.id for record in records if record.id is not None]},
    )
    ids = {id for (id,) in await cursor.fetchall()}
    if resource.key is None:
        return ids, set()
    key = sql.SQL(resource.key_sql).format(table)
    cursor = await conn.execute(
        sql.SQL("SELECT {key} FROM {table} WHERE {key} = ANY(%(keys)s)").format(key=key, table=table),
        {"keys": _keys(resource, records)},
    )
    return ids, {key for (key,) in await cursor.fetchall()}


def _keys(resource: Resource, records: Sequence[Any]) -> list[str]:
    return [] if resource.key is None else [resource.key_of(getattr(record, resource.key)) for record in records]


def _repeated(values: Sequence[Hashable]) -> set[int]:
    counts = Counter(values) if len(set(values)) < len(values) else {}
    return {i for i, value in enumerate(values) if counts[value] > 1} if counts else set()
