"""The file of an export: the output of a COPY, or what is made of it block by block."""

from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, closing
from typing import Any, Literal

import msgspec

from db.connections.pool import Connection
from db.exports import parallel
from db.exports.columnar import ColumnarFormat, ColumnarWriter
from db.exports.copy_out import Block
from db.exports.filters import Selection
from db.exports.workbook import WorkbookWriter
from db.formats import ExportFormat
from db.resources.definition import Resource

_RECORD = msgspec.json.Decoder(dict[str, Any])


async def blocks(
    conns: Sequence[Connection],
    resource: Resource,
    format: ExportFormat,
    selection: Selection,
    *,
    csv_safe: bool = False,
    bom: bool = False,
) -> AsyncGenerator[Block]:
    """As `parallel.blocks`, also for other formats. `bom` puts a byte order mark before a CSV."""
    if format in ("csv", "ndjson", "json"):
        made = parallel.blocks(conns, resource, format, selection, csv_safe=csv_safe)
    else:
        made = _written(conns, resource, format, selection)
    async with aclosing(made):
        async for block in made:
            yield block._replace(data=BOM_UTF8 + block.data) if bom else block
            bom = False


async def _written(
    conns: Sequence[Connection], resource: Resource, format: Literal["xlsx", ColumnarFormat], selection: Selection
) -> AsyncGenerator[Block]:
    """The records of a COPY, block by block through a writer."""
    records = 0
    with closing(_writer(resource, format, selection.fields)) as writer:
        async with aclosing(parallel.blocks(conns, resource, "ndjson", selection)) as lines:
            async for block in lines:
                data = writer.add([[*record.values()] for record in _RECORD.decode_lines(block.data)])
                records += block.records
                # a writer collects some of them
                if data:
                    yield Block(data, records)
                    records = 0
        yield Block(writer.finish(), records)


def _writer(
    resource: Resource, format: Literal["xlsx", ColumnarFormat], fields: Sequence[str]
) -> WorkbookWriter | ColumnarWriter:
    types = dict(zip(resource.columns, resource.column_types, strict=True))
    if format == "xlsx":
        return WorkbookWriter(resource.name, [(name, types[name]) for name in fields])
    return ColumnarWriter(format, [(name, types[name], name not in resource.required) for name in fields])
