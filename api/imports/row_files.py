"""Streams rows of an import as CSV or NDJSON. Holds a database connection while the client reads."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Literal, TypeVar

import msgspec

from api.http.stream_admission import Deadline
from db.connections import liveness
from db.connections.pool import Connection, Pool
from db.settings import Settings

Row = TypeVar("Row", bound=msgspec.Struct)
RowFormat = Literal["csv", "ndjson"]


async def blocks(
    pool: Pool,
    settings: Settings,
    read: Callable[[Connection], AsyncGenerator[list[Row]]],
    kind: type[Row],
    *,
    format: RowFormat,
    csv: Callable[[list[Row]], str],
) -> AsyncGenerator[bytes, None]:
    """The file of the rows that `read` returns in a transaction; `csv` formats them, the header has the names of their fields."""
    deadline = Deadline(settings)
    encoder = msgspec.json.Encoder()
    head = ",".join(kind.__struct_fields__).encode() + b"\n" if format == "csv" else b""
    async with pool.connection() as conn, conn.transaction():
        # longer than the limit for the client, so that the stalled client is disconnected first
        await liveness.begin_long_read(conn, client_timeout_seconds=2 * settings.stall_seconds)
        async with aclosing(read(conn)) as parts:
            async for rows in parts:
                deadline.check()
                if data := head + (csv(rows).encode() if format == "csv" else encoder.encode_lines(rows)):
                    yield data
                head = b""
    if head:
        yield head
