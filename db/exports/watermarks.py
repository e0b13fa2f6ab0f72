"""Watermarks: where the next incremental export continues.

PostgreSQL stores in each row the transaction that wrote it (`xmin`). A watermark is the oldest transaction that was still running
when an export took its snapshot. All transactions before it had ended, so the snapshot contains what they wrote; the next export
selects the rows of this transaction and all later ones. Nothing is missed however long a transaction runs and whatever the clocks
do, and an import pays nothing for it. A row that was written by a later transaction and was already visible is exported twice.
"""

import re
from typing import Self

import msgspec

from db.connections.pool import Connection
from db.errors import READ_ONLY

_TEXT = re.compile(r"([0-9a-f]{12})-([0-9]{1,18})", re.ASCII)
# Rows have the lower 32 bits of the transaction's number, so a greater distance is ambiguous.
_DISTANCE_MAX = 2**31 - 1


class Expired(Exception):
    """The watermark is not one of this server's history, or too old."""

    def __str__(self) -> str:
        return "the watermark is of another database, or from before a failover or a restore, or too old"


class Watermark(msgspec.Struct, frozen=True, kw_only=True):
    """`history` identifies the database and the timeline of its server, in which transaction numbers are unique."""

    history: str
    transaction: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError("must be the watermark of an earlier export")
        return cls(history=match[1], transaction=int(match[2]))

    def __str__(self) -> str:
        return f"{self.history}-{self.transaction}"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The watermark of an export. `is_flushed`: a crash of the server cannot undo what the snapshot contains."""

    watermark: Watermark
    is_flushed: bool


async def begin(conn: Connection, since: Watermark | None) -> Snapshot:
    """Call it before the first statement that reads records, or in the same snapshot. Raises `Expired`, `READ_ONLY`.

    A failover or a restore starts a new timeline. A standby knows that of its last checkpoint, which may be an older one. So only
    the primary continues from a watermark, and may refuse one of a standby.
    """
    cursor = await conn.execute(
        """
        SELECT left(md5(concat_ws('/', system_identifier, timeline, pg_database.oid)), 12),
            pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
            pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
            pg_is_in_recovery()
        FROM pg_database, pg_control_system(), LATERAL (
            SELECT CASE
                WHEN pg_is_in_recovery() THEN (SELECT to_hex(timeline_id) FROM pg_control_checkpoint())
                ELSE ltrim(left(pg_walfile_name(pg_current_wal_lsn()), 8), '0')
            END AS timeline
        ) AS history
        WHERE datname = current_database()
        """
    )
    row = await cursor.fetchone()
    assert row is not None, "a session has a database"  # noqa: S101
    history, oldest_running, next_transaction, is_standby = row
    if since is not None:
        if is_standby:
            raise READ_ONLY("only the primary can continue from a watermark")
        distance = next_transaction - since.transaction
        if since.history != history or not 0 <= distance <= _DISTANCE_MAX:
            raise Expired
    # a standby receives only what the primary has flushed
    return Snapshot(watermark=Watermark(history=history, transaction=oldest_running), is_flushed=is_standby)


async def flush(conn: Connection) -> None:
    """Waits until all commits so far are on disk. Needs a connection to the primary.

    The commits of an import do not wait for the disk. A crash of the server could undo what a client has received, and give the
    numbers of these transactions to others, which the next export would then miss.
    """
    async with conn.pipeline(), conn.transaction():
        await conn.execute("SET LOCAL synchronous_commit = on")
        # the smallest write: without one, the commit would not wait
        await conn.execute("SELECT pg_logical_emit_message(true, 'bulk', '')")
