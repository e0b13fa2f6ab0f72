"""A resource streamed as the database reads it: one snapshot, memory of one block, whole or visibly broken."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Self, cast

import msgspec
import structlog
from litestar import Request, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, Parameter, Schema
from litestar.params import FromPath, SkipValidation
from litestar.response.base import ASGIResponse
from msgspec import UNSET, Meta, UnsetType

from api.http import responses as answers, content_encoding, parameters
from api.exports import selection as export_selection, download, replica
from api.http.problems import Problem, responses
from api.http.dependencies import SettingsHere
from api.http.streaming import BlockStream
from db.exports import copy_out
from db.imports.payload import Format
from db.connections.pool import Connection, Pool
from db.resources import RESOURCES
from db.exports.filters import Filter, Test, filters
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
    fields: Annotated[
        str | None,
        Meta(description="Separated by commas, in the order in which they are written; all of them without it."),
    ] = None
    limit: Annotated[Annotated[int, Meta(ge=1, le=2**63 - 1)] | None, Meta(description="So many records at most.")] = (
        None
    )
    after: Annotated[
        str | None, Meta(description="An id, perhaps the last of an earlier stream: goes on behind it.")
    ] = None
    csv_safe: Annotated[
        bool,
        Meta(
            description="For csv: an apostrophe goes before a text that a spreadsheet would take for a formula, or that begins "
            "with an apostrophe. An import with csv_safe=true takes them away."
        ),
    ] = False


FILTERS: dict[Test, str] = {
    "any_of": "Any of these values, separated by commas.",
    "holds": "Has any of these, separated by commas.",
    "from": "At this time or later.",
    "before": "Before this time.",
}


@dataclass
class StreamOperation(Operation):
    """Any resource may be in the path, so the filters of all are told."""

    def __post_init__(self) -> None:
        of_all: dict[str, Filter] = {}
        for resource in RESOURCES.values():
            of_all |= filters(resource)
        documented = _parameters(tuple(of_all.values()))
        self.parameters = [*(self.parameters or []), *answers.query_parameters(documented)]
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
    request: Request,
    resource: FromPath[str],
    stream_pools: NamedDependency[SkipValidation[list[Pool]]],
    settings: SettingsHere,
) -> ASGIResponse:
    """One snapshot, of the time in X-Snapshot-At. A transfer that ends without an error is whole."""
    if resource not in RESOURCES:
        raise Problem("not-found", f"There is no such resource; there are {', '.join(RESOURCES)}.")
    known = filters(RESOURCES[resource])
    asked = parameters.parse(request.query_params.multi_items(), _parameters(tuple(known.values())))
    format = asked.format or _accepted(request)
    compression = content_encoding.accepted(request)
    export_selection.check_csv_safe(format, csv_safe=asked.csv_safe)
    selection = export_selection.select(
        RESOURCES[resource],
        filters={name: getattr(asked, name) for name in known if getattr(asked, name) is not UNSET},
        fields=None if asked.fields is None else asked.fields.split(","),
        after=asked.after,
        limit=asked.limit,
    )

    async def start(
        conn: Connection, stack: AsyncExitStack
    ) -> tuple[datetime, copy_out.Block | None, AsyncIterator[copy_out.Block]]:
        await stack.enter_async_context(conn.transaction())
        # the server must be more patient with us than we are with the client
        snapshot_at = await copy_out.begin(conn, patience_seconds=2 * settings.stall_seconds)
        blocks = await stack.enter_async_context(
            aclosing(copy_out.blocks(conn, RESOURCES[resource], format, selection, csv_safe=asked.csv_safe))
        )
        # what fails before the first block can still be answered as a problem
        return snapshot_at, await anext(blocks, None), blocks

    (snapshot_at, first, blocks), held = await replica.begin(stream_pools, start)
    tally = held.enter_context(_Tally(resource, format, seconds_max=settings.stream_seconds_max))
    return BlockStream(
        content_encoding.pack(tally.count(first, blocks), compression),
        held=held,
        media_type=download.MEDIA_TYPES[format],
        headers={
            "Content-Disposition": f'attachment; filename="{download.export_name(resource, format, snapshot_at)}"',
            "Vary": "Accept, Accept-Encoding",
            "X-Snapshot-At": msgspec.to_builtins(snapshot_at),
            "Cache-Control": "no-store",
            **({} if compression == "none" else {"Content-Encoding": compression}),
        },
        status_code=200,
    )


@cache
def _parameters(known: tuple[Filter, ...]) -> type[StreamParameters]:
    """The parameters of every stream and these filters."""
    # unset, not None: a tag may be the word null
    fields = [(f.name, Annotated[str | UnsetType, Meta(description=FILTERS[f.test])], UNSET) for f in known]
    return cast(
        type[StreamParameters],
        msgspec.defstruct("KnownParameters", fields, bases=(StreamParameters,), kw_only=True),
    )


class _Tally:
    """Counts what a stream sends, and, when it is left, whether that was all."""

    def __init__(self, resource: str, format: Format, *, seconds_max: float) -> None:
        self.deadline = time.monotonic() + seconds_max
        self.resource = resource
        self.format: Format = format
        self.records = 0
        self.is_complete = False

    async def count(self, first: copy_out.Block | None, rest: AsyncIterator[copy_out.Block]) -> AsyncIterator[bytes]:
        if first is not None:
            yield self._add(first)
            async for block in rest:
                yield self._add(block)
        self.is_complete = True

    def _add(self, block: copy_out.Block) -> bytes:
        # a client that is slow, though never quite too slow, must not hold its snapshot for ever: no dead row is removed then
        if time.monotonic() > self.deadline:
            raise TimeoutError("the stream took longer than STREAM_SECONDS_MAX")
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
