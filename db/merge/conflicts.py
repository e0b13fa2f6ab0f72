"""Conflicts of a chunk's records: with each other, with stored rows that have their id or key, with missing parents.

Looked for once an import has met a conflict: the other records, usually nearly all, can still be copied straight.
"""

from collections.abc import Collection, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from psycopg import sql

from db.connections.pool import Connection
from db.imports.jobs import Mode
from db.merge.sql import cached_sql
from db.resources.definition import Resource


def keys(resource: Resource, records: Sequence[Any]) -> list[str]:
    """The natural key of each record in its comparable form; empty if the resource has none."""
    return [] if resource.key is None else list(map(resource.key_of, map(attrgetter(resource.key), records)))


def duplicates(records: Sequence[Any], keys: Sequence[str], mode: Mode) -> set[int]:
    """The indexes of the records that lose their id or natural key to another record of the chunk.

    The winner may still lose it to a record of another chunk, which is decided when the import is settled.
    """
    order = range(len(records))
    order = order[::-1] if mode in ("upsert", "update") else order
    ids = [i if record.id is None else record.id for i, record in enumerate(records)]
    return _repeated(ids, order) | (_repeated(keys, order) if keys else set())


async def conflicting_rows(
    conn: Connection, resource: Resource, records: Sequence[Any], keys: Sequence[str], indexes: Sequence[int]
) -> set[int]:
    """Those of the indexes whose records the table does not accept as it is now."""
    found: set[int] = set()
    chosen = [records[i] for i in indexes]
    if ids := await _taken_ids(conn, resource, chosen):
        found |= {i for i, record in zip(indexes, chosen, strict=True) if record.id in ids}
    if resource.key is not None and (taken := await _taken_keys(conn, resource, [keys[i] for i in indexes])):
        found |= {i for i in indexes if keys[i] in taken}
    for field, parent in resource.references.items():
        ids = [id for id in map(attrgetter(field), chosen) if id is not None]
        if missing := await missing_parents(conn, parent, ids):
            found |= {i for i, record in zip(indexes, chosen, strict=True) if getattr(record, field) in missing}
    return found


async def missing_parents(conn: Connection, parent: str, ids: Collection[Any]) -> set[Any]:
    """The ids that no row of the resource `parent` has."""
    if not ids:
        return set()
    cursor = await conn.execute(
        sql.SQL(
            """
            SELECT parent_ids.id
            FROM unnest(%(ids)b) AS parent_ids (id)
            WHERE (SELECT true FROM {} AS parent WHERE parent.id = parent_ids.id LIMIT 1) IS NULL
            """
        ).format(sql.Identifier(parent)),
        {"ids": list(ids)},
    )
    return {id for (id,) in await cursor.fetchall()}


async def _taken_ids(conn: Connection, resource: Resource, records: Sequence[Any]) -> set[Any]:
    ids = [record.id for record in records if record.id is not None]
    if not ids:
        return set()
    # binary: an array as text takes several times as long to format
    cursor = await conn.execute(
        cached_sql(resource, "SELECT id FROM {table} AS other WHERE id = ANY(%(ids)b)"), {"ids": ids}
    )
    return {id for (id,) in await cursor.fetchall()}


async def _taken_keys(conn: Connection, resource: Resource, keys: Sequence[str]) -> set[str]:
    cursor = await conn.execute(
        cached_sql(resource, "SELECT {other_key} FROM {table} AS other WHERE {other_key} = ANY(%(keys)b)"),
        {"keys": list(keys)},
    )
    return {key for (key,) in await cursor.fetchall()}


def _repeated(values: Sequence[Hashable], order: Iterable[int]) -> set[int]:
    """The indexes of the values that one before them, in this order of the indexes, is equal to."""
    first: dict[Hashable, int] = {}
    return {i for i in order if first.setdefault(values[i], i) != i}
