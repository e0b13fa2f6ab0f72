"""A resource streamed as the database reads it: one snapshot, memory of one block, whole or visibly broken."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Self

import msgspec
import structlog
from litestar import Request, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, Parameter, Schema
from litestar.params import FromPath, SkipValidation
from litestar.response.base import ASGIResponse
from msgspec import Meta

from api import answers, files, parameters, reading
from api.errors import Problem, responses
from api.streaming import STALL_SECONDS_MAX, BlockStream
from db import export
from db.payload import Format
from db.pool import Connection, Pool
from db.resources import RESOURCES
from monitoring import metrics

log = structlog.get_logger(__name__)

# what a client may accept, and which format that is; the first is for those who accept anything
ACCEPTABLE: dict[str, Format] = {
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
    "application/json": "json",
}


class StreamParameters(msgspec.Struct, kw_only=True):
    format: Annotated[
        Format | None, Meta(description="Without it the header Accept tells; ndjson when that takes anything.")
    ] = None


@dataclass
class StreamOperation(Operation):
    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or []), *answers.query_parameters(StreamParameters)]
        answers.document_file(self, "200")
        for parameter in self.parameters:
            if isinstance(parameter, Parameter) and parameter.name == "resource":
                parameter.schema = Schema(enum=list(RESOURCES))


@get(
    "/api/v1/exports/{resource:str}/stream",
    operation_class=StreamOperation,
    tags=["exports"],
    summary="Stream all records of a resource",
    responses={
        200: ResponseSpec(
            bytes, description="The records, in order of id", media_type="application/x-ndjson", generate_examples=False
        ),
        **responses("invalid-request", "not-found", "not-acceptable", "unavailable"),
    },
)
async def stream_export(
    request: Request, resource: FromPath[str], stream_pools: NamedDependency[SkipValidation[list[Pool]]]
) -> ASGIResponse:
    """One snapshot, of the time in X-Snapshot-At. A transfer that ends without an error is whole."""
    if resource not in RESOURCES:
        raise Problem("not-found", f"There is no such resource; there are {', '.join(RESOURCES)}.")
    asked = parameters.parse(request.query_params.multi_items(), StreamParameters)
    format = asked.format or _accepted(request)

    async def start(
        conn: Connection, stack: AsyncExitStack
    ) -> tuple[datetime, export.Block | None, AsyncIterator[export.Block]]:
        await stack.enter_async_context(conn.transaction())
        # the server must be more patient with us than we are with the client
        snapshot_at = await export.begin(conn, patience_seconds=2 * STALL_SECONDS_MAX)
        blocks = await stack.enter_async_context(aclosing(export.blocks(conn, RESOURCES[resource], format)))
        # what fails before the first block can still be answered as a problem
        return snapshot_at, await anext(blocks, None), blocks

    (snapshot_at, first, blocks), held = await reading.begin(stream_pools, start)
    tally = held.enter_context(_Tally(resource, format))
    return BlockStream(
        tally.count(first, blocks),
        held=held,
        media_type=files.MEDIA_TYPES[format],
        headers={
            "Content-Disposition": f'attachment; filename="{files.export_name(resource, format, snapshot_at)}"',
            "Vary": "Accept",
            "X-Snapshot-At": msgspec.to_builtins(snapshot_at),
            "Cache-Control": "no-store",
        },
        status_code=200,
    )


class _Tally:
    """Counts what a stream sends, and, when it is left, whether that was all."""

    def __init__(self, resource: str, format: Format) -> None:
        self.resource = resource
        self.format: Format = format
        self.records = 0
        self.is_complete = False

    async def count(self, first: export.Block | None, rest: AsyncIterator[export.Block]) -> AsyncIterator[bytes]:
        if first is not None:
            yield self._add(first)
            async for block in rest:
                yield self._add(block)
        self.is_complete = True

    def _add(self, block: export.Block) -> bytes:
        self.records += block.records
        metrics.exported(self.resource, self.format, block.records, len(block.data))
        return block.data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.is_complete:
            metrics.stream_aborted()
            log.warning("export_stream_aborted", resource=self.resource, format=self.format, records=self.records)


def _accepted(request: Request) -> Format:
    """The format that the client would rather have. Raises `Problem` 406."""
    match = request.accept.best_match(list(ACCEPTABLE))
    if match is None:
        raise Problem("not-acceptable", f"There are {', '.join(ACCEPTABLE)}.")
    return ACCEPTABLE[match]
