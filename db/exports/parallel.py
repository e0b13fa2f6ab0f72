"""An export that several sessions of PostgreSQL read at once, in one snapshot, as `pg_dump --jobs` does.

The first session exports its snapshot and the others import it. The ids are divided into ranges of about RANGE_RECORDS records,
and the sessions read them by turns: while one range is written, the next ones are read into memory, AHEAD_BLOCKS of each
session. Only whole resources are read so: a filter would be evaluated for each range.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import pairwise
from typing import TypeAlias

import msgspec
import structlog
from psycopg import sql

from db.connections import liveness, pool
from db.connections.pool import Connection
from db.errors import UNAVAILABLE
from db.exports import claimed, copy_out
from db.exports.copy_out import Block, Part
from db.exports.filters import Selection
from db.formats import Format
from db.resources.definition import Resource
from db.settings import Settings

log = structlog.get_logger(__name__)

RANGE_RECORDS = 20_000
# of fewer, another session would take longer to connect than to read
RECORDS_MIN = 5 * RANGE_RECORDS
SAMPLE_PERCENT = 1
AHEAD_BLOCKS = 32

# None at the end of each range; an exception if the session has failed
_Queue: TypeAlias = asyncio.Queue[Block | Exception | None]


@asynccontextmanager
async def sessions(
    conn: Connection, selection: Selection, settings: Settings, *, total: int, client_timeout_seconds: float
) -> AsyncIterator[list[Connection]]:
    """`conn`, and up to EXPORT_SESSIONS others with the snapshot of its transaction, if `total` records are worth it.

    The transaction of `conn` must be REPEATABLE READ. `client_timeout_seconds`: as for `liveness.begin_long_read`. If PostgreSQL
    accepts no further session, there are fewer.
    """
    conns = [conn]
    async with AsyncExitStack() as stack:
        if total >= RECORDS_MIN and selection == Selection(fields=selection.fields):
            cursor = await conn.execute("SELECT pg_export_snapshot()")
            (snapshot,) = await cursor.fetchone() or ("",)
            while len(conns) < settings.export_sessions:
                try:
                    other = await stack.enter_async_context(await pool.connect(settings, name="bulk export reader"))
                except UNAVAILABLE as error:
                    log.info("export with fewer sessions", sessions=len(conns), error=type(error).__name__)
                    break
                await stack.enter_async_context(other.transaction())
                await claimed.use_repeatable_read(other)
                await other.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
                await liveness.begin_long_read(other, client_timeout_seconds=client_timeout_seconds)
                conns.append(other)
        yield conns


async def blocks(
    conns: Sequence[Connection], resource: Resource, format: Format, selection: Selection, *, csv_safe: bool = False
) -> AsyncGenerator[Block]:
    """The same bytes as `copy_out.blocks`. Needs transactions with one snapshot. A caller that stops early must close it."""
    if len(conns) == 1:
        async with aclosing(copy_out.blocks(conns[0], resource, format, selection, csv_safe=csv_safe)) as made:
            async for block in made:
                yield block
        return
    ranges = await parts(conns[0], resource, selection)
    queues = [_Queue(AHEAD_BLOCKS) for _ in conns]
    readers = [
        asyncio.create_task(_read(conn, resource, format, ranges[first :: len(conns)], queue, csv_safe=csv_safe))
        for first, (conn, queue) in enumerate(zip(conns, queues, strict=True))
    ]
    try:
        for number in range(len(ranges)):
            while (block := await queues[number % len(queues)].get()) is not None:
                if isinstance(block, Exception):
                    raise block
                yield block
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)


async def _read(
    conn: Connection,
    resource: Resource,
    format: Format,
    parts: Iterable[tuple[Selection, Part]],
    queue: _Queue,
    *,
    csv_safe: bool,
) -> None:
    try:
        for selection, part in parts:
            async with aclosing(
                copy_out.blocks(conn, resource, format, selection, csv_safe=csv_safe, part=part)
            ) as made:
                async for block in made:
                    await queue.put(block)
            await queue.put(None)
    except Exception as error:
        # for `blocks` to raise
        await queue.put(error)


async def parts(conn: Connection, resource: Resource, selection: Selection) -> list[tuple[Selection, Part]]:
    """The selection by ranges of ids. Each range but the last one ends with an id that exists, so it is not empty."""
    cursor = await conn.execute(
        sql.SQL(
            """
            SELECT id
            FROM (
                SELECT id, row_number() OVER (ORDER BY id) AS n
                FROM {} TABLESAMPLE SYSTEM ({})
            ) AS sample
            WHERE n %% %(step)s = 0
            ORDER BY id
            """
        ).format(sql.Identifier(resource.name), sql.Literal(SAMPLE_PERCENT)),
        {"step": RANGE_RECORDS * SAMPLE_PERCENT // 100},
    )
    bounds = [None, *(id for (id,) in await cursor.fetchall()), None]
    return [
        (
            msgspec.structs.replace(selection, after=after, up_to=up_to),
            Part(is_first=after is None, is_last=up_to is None),
        )
        for after, up_to in pairwise(bounds)
    ]
