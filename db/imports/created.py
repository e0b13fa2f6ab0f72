"""The rows that an undoable import has created, remembered by the transactions that create them, in batches for its undo."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

from db.connections.pool import Connection

# rows that the undo processes in one transaction
BATCH_ROWS = 5000


def noting(rows: Iterable[Sequence[Any]], created: dict[int, str], *, record: int) -> Iterator[Sequence[Any]]:
    """Passes the rows on, and notes their id, the first value, by the number of their record, which is at index `record`."""
    for row in rows:
        created[row[record]] = str(row[0])
        yield row


async def remember(conn: Connection, import_id: UUID, created: dict[int, str]) -> None:
    """Stores ids by the numbers of their records. Ids have no commas."""
    records, ids = list(map(str, created)), list(created.values())
    for start in range(0, len(ids), BATCH_ROWS):
        await conn.execute(
            # as text that PostgreSQL splits: to format arrays in Python takes several times as long
            """
            INSERT INTO import_created (import_id, records, ids)
            VALUES (%(import_id)s, string_to_array(%(records)s, ',')::bigint[], string_to_array(%(ids)s, ','))
            """,
            {
                "import_id": import_id,
                "records": ",".join(records[start : start + BATCH_ROWS]),
                "ids": ",".join(ids[start : start + BATCH_ROWS]),
            },
        )


async def forget(conn: Connection, import_id: UUID, records: Sequence[int]) -> None:
    """Removes the rows of these records, which the import itself has deleted again. Reads all batches of the import."""
    if not records:
        return
    await conn.execute(
        """
        UPDATE import_created AS target
        SET records = coalesce(remaining.records, '{}'), ids = coalesce(remaining.ids, '{}')
        FROM (
            SELECT batch,
                array_agg(created.record) FILTER (WHERE lost.record IS NULL) AS records,
                array_agg(created.id) FILTER (WHERE lost.record IS NULL) AS ids
            FROM import_created
            CROSS JOIN LATERAL unnest(records, ids) AS created (record, id)
            LEFT JOIN unnest(%(records)s::bigint[]) AS lost (record) ON lost.record = created.record
            WHERE import_id = %(import_id)s
            GROUP BY batch
            HAVING count(lost.record) > 0
        ) AS remaining
        WHERE target.import_id = %(import_id)s AND target.batch = remaining.batch
        """,
        {"import_id": import_id, "records": list(records)},
    )
