"""What stands in the way of a chunk's records: each other, rows that have their id or their key, parents that are not there.

Asked when an import has shown that something does: the other records, mostly nearly all, can then still be copied straight.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from operator import attrgetter
from typing import Any

from psycopg import sql

from db.connections.pool import Connection
from db.merge.staging import compose
from db.resources.definition import Resource


def keys(resource: Resource, records: Sequence[Any]) -> list[str]:
    """The natural key of each record as the table compares it; nothing if the resource has none."""
    return [] if resource.key is None else list(map(resource.key_of, map(attrgetter(resource.key), records)))


def twins(records: Sequence[Any], keys: Sequence[str]) -> set[int]:
    """The records, by index, that share their id or their natural key with another one of the chunk."""
    return _repeated([i if record.id is None else record.id for i, record in enumerate(records)]) | _repeated(keys)


async def find(conn: Connection, resource: Resource, records: Sequence[Any], keys: Sequence[str]) -> set[int]:
    """The records, by index, that the table does not take as it is now."""
    found: set[int] = set()
    if ids := await _taken_ids(conn, resource, records):
        found |= {i for i, record in enumerate(records) if record.id in ids}
    if resource.key is not None and (taken := await _taken_keys(conn, resource, keys)):
        found |= {i for i, key in enumerate(keys) if key in taken}
    for field, parent in resource.references.items():
        ids = [id for id in map(attrgetter(field), records) if id is not None]
        if missing := await missing_parents(conn, parent, ids):
            found |= {i for i, record in enumerate(records) if getattr(record, field) in missing}
    return found


async def missing_parents(conn: Connection, parent: str, ids: Collection[Any]) -> set[Any]:
    """Those of the ids that no row of the resource `parent` has."""
    if not ids:
        return set()
    cursor = await conn.execute(
        sql.SQL(
            """
            SELECT wanted.id
            FROM unnest(%(ids)b) AS wanted (id)
            WHERE (SELECT true FROM {} AS parent WHERE parent.id = wanted.id LIMIT 1) IS NULL
            """
        ).format(sql.Identifier(parent)),
        {"ids": list(ids)},
    )
    return {id for (id,) in await cursor.fetchall()}


async def _taken_ids(conn: Connection, resource: Resource, records: Sequence[Any]) -> set[Any]:
    ids = [record.id for record in records if record.id is not None]
    if not ids:
        return set()
    # binary: as text an array takes several times as long to write
    cursor = await conn.execute(
        compose(resource, "SELECT id FROM {table} AS other WHERE id = ANY(%(ids)b)"), {"ids": ids}
    )
    return {id for (id,) in await cursor.fetchall()}


async def _taken_keys(conn: Connection, resource: Resource, keys: Sequence[str]) -> set[str]:
    cursor = await conn.execute(
        compose(resource, "SELECT {other_key} FROM {table} AS other WHERE {other_key} = ANY(%(keys)b)"),
        {"keys": list(keys)},
    )
    return {key for (key,) in await cursor.fetchall()}


def _repeated(values: Sequence[Hashable]) -> set[int]:
    counts = Counter(values) if len(set(values)) < len(values) else {}
    return {i for i, value in enumerate(values) if counts[value] > 1} if counts else set()
