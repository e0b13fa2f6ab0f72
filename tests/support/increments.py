"""A copy of a table that is kept up to date by incremental exports, and its comparison with the table."""

import json
from typing import Any

from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

from db.connections.pool import Connection
from db.exports import copy_out, watermarks
from db.exports.filters import select
from db.resources import RESOURCES
from tests.support.eventually import eventually


class Copy:
    """The records of a resource by id, as received. `watermark` is that of the last export, None before the first."""

    def __init__(self, resource: str) -> None:
        self.resource = resource
        self.records: dict[str, dict[str, Any]] = {}
        self.watermark: str | None = None

    def receive(self, ndjson: str, watermark: str | None) -> list[str]:
        """Applies an export. Returns the ids that it has."""
        assert watermark is not None
        received = {record["id"]: record for record in map(json.loads, ndjson.splitlines())}
        self.records |= received
        self.watermark = watermark
        return [*received]

    async def export(self, conn: Connection) -> list[str]:
        """Reads and applies the next increment as a stream does. Returns the ids that it has."""
        resource = RESOURCES[self.resource]
        selection = select(resource, filters={}, changed_since=self.watermark)
        async with conn.transaction():
            snapshot = await watermarks.begin(conn, selection.changed_since)
            data = b"".join([block.data async for block in copy_out.blocks(conn, resource, "ndjson", selection)])
        return self.receive(data.decode(), str(snapshot.watermark))

    async def settle(self, conn: Connection) -> None:
        """Exports until nothing is repeated. A transaction of any database of the server repeats rows, such as a test's."""

        async def is_empty() -> bool:
            return await self.export(conn) == []

        await eventually(is_empty)

    async def check(self, conn: Connection) -> None:
        """Compares each row of the table with the copy. Deletions are not exported, so the copy may have more records."""
        rows = await stored(conn, self.resource)
        assert {id: self.records.get(id) for id in rows} == rows


async def stored(conn: Connection, resource: str) -> dict[str, dict[str, Any]]:
    """The rows of a table by id, as an export has them."""
    columns = SQL(", ").join(map(Identifier, RESOURCES[resource].columns))
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        SQL("SELECT to_json(record) AS record FROM (SELECT {} FROM {}) AS record").format(columns, Identifier(resource))
    )
    return {row["record"]["id"]: row["record"] async for row in cursor}
