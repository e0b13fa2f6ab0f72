"""Responds with rows of an import as CSV or NDJSON. Holds a database connection while the client reads."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Annotated, Literal, TypeVar

import msgspec
from litestar.response.base import ASGIResponse
from msgspec import Meta

from api.http.stream_admission import Deadline, StreamAdmission
from api.imports.records import download_name, removed, stream
from db.connections import liveness
from db.connections.pool import Connection, Pool
from db.formats import MEDIA_TYPES
from db.imports.jobs import Import
from db.imports.records import Gone
from db.settings import Settings

Row = TypeVar("Row", bound=msgspec.Struct)
RowFormat = Literal["csv", "ndjson"]


class RowFileParameters(msgspec.Struct, kw_only=True):
    format: Annotated[RowFormat, Meta(description="The format of the file.")] = "ndjson"


async def respond(
    stream_pools: Sequence[Pool],
    settings: Settings,
    admission: StreamAdmission,
    job: Import,
    read: Callable[[Connection], AsyncGenerator[list[Row]]],
    kind: type[Row],
    *,
    content: str,
    format: RowFormat,
) -> ASGIResponse:
    """The file of the rows that `read` returns in a transaction. `content` is a part of its name.

    No cell may need quotes. Raises `Problem` 404 if rows were removed meanwhile, 429, 503.
    """
    # on the primary: a standby may not have the rows yet
    blocks = _blocks(stream_pools[-1], settings, read, kind, format=format)
    name = download_name(job.file_name, job.resource, content, format)
    try:
        return await stream(blocks, MEDIA_TYPES[format], name, admitted=admission.stream())
    except Gone:
        raise removed() from None


async def _blocks(
    pool: Pool,
    settings: Settings,
    read: Callable[[Connection], AsyncGenerator[list[Row]]],
    kind: type[Row],
    *,
    format: RowFormat,
) -> AsyncGenerator[bytes, None]:
    deadline = Deadline(settings)
    encoder = msgspec.json.Encoder()
    head = ",".join(kind.__struct_fields__).encode() + b"\n" if format == "csv" else b""
    async with pool.connection() as conn, conn.transaction():
        # longer than the limit for the client, so that the stalled client is disconnected first
        await liveness.begin_long_read(conn, client_timeout_seconds=2 * settings.stall_seconds)
        async with aclosing(read(conn)) as parts:
            async for rows in parts:
                deadline.check()
                if data := head + (_csv(rows) if format == "csv" else encoder.encode_lines(rows)):
                    yield data
                head = b""
    if head:
        yield head


def _csv(rows: Sequence[msgspec.Struct]) -> bytes:
    cells = (["" if cell is None else str(cell) for cell in msgspec.structs.astuple(row)] for row in rows)
    return "".join([f"{','.join(row)}\n" for row in cells]).encode()
