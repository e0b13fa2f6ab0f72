"""Stores the records of several small imports by one COPY."""

from collections.abc import Sequence
from uuid import UUID

from db import copy
from db.connections.pool import Connection
from db.merge import conflicts, rows
from db.resources.definition import Parsed, Resource


async def create(conn: Connection, resource: Resource, imports: Sequence[tuple[UUID, Parsed]]) -> None:
    """Stores all of these records, which are sound. Raises one of `REFUSED_ROW` if one of them conflicts with anything.

    In the order of their keys over all imports, which makes deadlocks rare.
    """
    keyed = [
        (key, row)
        for import_id, parsed in imports
        for key, row in zip(
            rows.ordering(parsed, conflicts.keys(resource, parsed.records)),
            rows.complete(resource, import_id, parsed, range(len(parsed.records))),
            strict=True,
        )
    ]
    keyed.sort(key=lambda pair: pair[0])
    await copy.rows(conn, resource.name, *rows.columns(resource), (row for _, row in keyed))
