"""The file of an export: the output of a COPY, or what is made of it block by block."""

from codecs import BOM_UTF8
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from typing import Any

import msgspec

from db.connections.pool import Connection
from db.exports import copy_out
from db.exports.copy_out import Block
from db.exports.filters import Selection
from db.exports.workbook import WorkbookWriter
from db.formats import ExportFormat
from db.resources.definition import Resource

_RECORD = msgspec.json.Decoder(dict[str, Any])


async def blocks(
    conn: Connection,
    resource: Resource,
    format: ExportFormat,
    selection: Selection,
    *,
    csv_safe: bool = False,
    bom: bool = False,
) -> AsyncGenerator[Block]:
    """As `copy_out.blocks`, also for other formats. `bom` puts a byte order mark before a CSV."""
    if format == "xlsx":
        made = _workbook(conn, resource, selection)
    else:
        made = copy_out.blocks(conn, resource, format, selection, csv_safe=csv_safe)
    async with aclosing(made):
        async for block in made:
            yield block._replace(data=BOM_UTF8 + block.data) if bom else block
            bom = False


async def _workbook(conn: Connection, resource: Resource, selection: Selection) -> AsyncGenerator[Block]:
    types = dict(zip(resource.columns, resource.column_types, strict=True))
    columns = [(name, types[name]) for name in selection.fields]
    records = 0
    with closing(WorkbookWriter(resource.name, columns)) as writer:
        async with aclosing(copy_out.blocks(conn, resource, "ndjson", selection)) as lines:
            async for block in lines:
                data = writer.add([*record.values()] for record in _RECORD.decode_lines(block.data))
                records += block.records
                # the compressor keeps small inputs
                if data:
                    yield Block(data, records)
                    records = 0
        yield Block(writer.finish(), records)
