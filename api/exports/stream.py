"""GET /exports/{resource}/stream: streams the output of one COPY to the client, one block in memory at a time."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from datetime import datetime
from functools import cache
from typing import Annotated, NamedTuple, Self, cast

import msgspec
import structlog
from litestar import get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath, SkipValidation
from litestar.response.base import ASGIResponse
from msgspec import UNSET, Meta, UnsetType

from api.exports import replica
from api.exports.request import check_format, select, watermark_expired
from api.exports.view import RECORD_FILES
from api.http import content_encoding, parameters, tracing
from api.http.dependencies import PoolHere, SettingsHere
from api.http.headers import AnyRequest
from api.http.operations import operation
from api.http.problems import Problem, problem_responses
from api.http.stream_admission import Deadline, StreamAdmissionHere
from api.http.streaming import BlockStream
from db.connections import liveness
from db.connections.pool import Connection, Pool
from db.exports import copy_out, files, output, watermarks
from db.exports.filters import Filter, Test, filters
from db.exports.watermarks import Snapshot
from db.formats import EXPORT_FORMAT_BY_MEDIA_TYPE, MEDIA_TYPES, PACKED_FORMATS, ExportFormat
from db.resources import RESOURCES
from monitoring import metrics
from monitoring.tracing import Span

log = structlog.get_logger(__name__)


class StreamParameters(msgspec.Struct, kw_only=True):
    format: Annotated[
        ExportFormat | None, Meta(description="Default: the format from the header Accept; ndjson if it accepts any.")
    ] = None
    fields: Annotated[
        str | None,
        Meta(description="Comma-separated, in output order. All fields if omitted."),
    ] = None
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=2**63 - 1)] | None, Meta(description="The maximum number of records.")
    ] = None
    after: Annotated[
        str | None,
        Meta(
            description="An id. Only records with a greater id are returned, for example to resume after the last one received."
        ),
    ] = None
    changed_since: Annotated[
        str | None,
        Meta(
            description="The watermark of an earlier export (`X-Watermark`): only records that were stored or changed since are "
            "returned."
        ),
    ] = None
    csv_safe: Annotated[
        bool,
        Meta(
            description="Only for csv: puts an apostrophe before texts that a spreadsheet would read as a formula, and before "
            "texts that begin with an apostrophe. An import with csv_safe=true removes it."
        ),
    ] = False
    bom: Annotated[bool, Meta(description="Only for csv: begin with a byte order mark, for Excel.")] = False


FILTERS: dict[Test, str] = {
    "any_of": "Comma-separated; selects records with any of these values.",
    "overlaps": "Comma-separated; selects records that contain any of these values.",
    "from": "At this time or later.",
    "before": "Before this time.",
}


@cache
def _parameters(known: tuple[Filter, ...]) -> type[StreamParameters]:
    """The common parameters and these filters as one struct."""
    # UNSET and not None, because msgspec converts the text "null" to None
    fields = [(f.name, Annotated[str | UnsetType, Meta(description=FILTERS[f.test])], UNSET) for f in known]
    return cast(
        type[StreamParameters],
        msgspec.defstruct("ResourceStreamParameters", fields, bases=(StreamParameters,), kw_only=True),
    )


def _all_filters() -> tuple[Filter, ...]:
    """The filters of all resources: the path parameter may be any of them."""
    return tuple(
        {filter.name: filter for resource in RESOURCES.values() for filter in filters(resource).values()}.values()
    )


class _Started(NamedTuple):
    """An open COPY. `first` is its first block, None if there is none."""

    at: datetime
    snapshot: Snapshot
    first: copy_out.Block | None
    blocks: AsyncIterator[copy_out.Block]


@get(
    "/api/v1/exports/{resource:str}/stream",
    operation_class=operation(
        query=_parameters(_all_filters()),
        path={"resource": Schema(type=OpenAPIType.STRING, enum=list(RESOURCES))},
        files={"200": RECORD_FILES},
    ),
    tags=["exports"],
    summary="Stream the records of a resource",
    responses={
        200: ResponseSpec(
            bytes, description="The records, in order of id", media_type="application/x-ndjson", generate_examples=False
        ),
        **problem_responses(
            "invalid-request",
            "not-found",
            "not-acceptable",
            "watermark-expired",
            "too-many-requests",
            "unavailable",
        ),
    },
)
async def stream_export(
    request: AnyRequest,
    resource: FromPath[str],
    db_pool: PoolHere,
    stream_pools: NamedDependency[SkipValidation[list[Pool]]],
    stream_admission: StreamAdmissionHere,
    settings: SettingsHere,
) -> ASGIResponse:
    """One snapshot, taken at the time in X-Snapshot-At. A transfer that ends without an error is complete.

    X-Watermark is the `changed_since` of the next incremental export.
    """
    if resource not in RESOURCES:
        raise Problem("not-found", f"No such resource. The resources are {', '.join(RESOURCES)}.")
    known = filters(RESOURCES[resource])
    requested = parameters.query(request, _parameters(tuple(known.values())))
    format = requested.format or content_encoding.acceptable(request, EXPORT_FORMAT_BY_MEDIA_TYPE)
    compression = "none" if format in PACKED_FORMATS else content_encoding.acceptable_encoding(request)
    check_format(format, csv_safe=requested.csv_safe, bom=requested.bom)
    selection = select(
        RESOURCES[resource],
        filters={name: getattr(requested, name) for name in known if getattr(requested, name) is not UNSET},
        fields=None if requested.fields is None else requested.fields.split(","),
        changed_since=requested.changed_since,
        after=requested.after,
        limit=requested.limit,
    )

    async def start(conn: Connection, stack: AsyncExitStack) -> _Started:
        await stack.enter_async_context(conn.transaction())
        # longer than the limit for the client, so that the stalled client is disconnected first
        snapshot_at = await liveness.begin_long_read(conn, client_timeout_seconds=2 * settings.stall_seconds)
        try:
            snapshot = await watermarks.begin(conn, selection.changed_since)
        except watermarks.Expired as error:
            raise watermark_expired(error) from None
        blocks = await stack.enter_async_context(
            aclosing(
                output.blocks(
                    [conn], RESOURCES[resource], format, selection, csv_safe=requested.csv_safe, bom=requested.bom
                )
            )
        )
        # an error before the first block can still be reported as a problem document
        return _Started(snapshot_at, snapshot, await anext(blocks, None), blocks)

    async with AsyncExitStack() as stack:
        stack.enter_context(stream_admission.stream())
        # only the primary can continue from a watermark
        pools = stream_pools if selection.changed_since is None else stream_pools[-1:]
        started, read = await replica.begin(pools, start)
        await stack.enter_async_context(read)
        if not started.snapshot.is_flushed:
            async with db_pool.connection() as conn:
                await watermarks.flush(conn)
        held = stack.pop_all()
    count = held.enter_context(_StreamCount(resource, format, Deadline(settings), tracing.span(request.scope)))
    return BlockStream(
        content_encoding.compress(count.counted(started.first, started.blocks), compression),
        held=held,
        media_type=MEDIA_TYPES[format],
        headers={
            "Content-Disposition": f'attachment; filename="{files.download_name(resource, format, started.at)}"',
            "Vary": "Accept, Accept-Encoding",
            "X-Snapshot-At": msgspec.to_builtins(started.at),
            "X-Watermark": str(started.snapshot.watermark),
            "Cache-Control": "no-store",
            **({} if compression == "none" else {"Content-Encoding": compression}),
        },
        status_code=200,
    )


class _StreamCount:
    """Counts the records of a stream, and on exit logs a stream that did not reach its end. Enforces the time limit.

    `span` is that of the request.
    """

    def __init__(self, resource: str, format: ExportFormat, deadline: Deadline, span: Span) -> None:
        self.deadline = deadline
        self.span = span
        self.resource = resource
        self.format: ExportFormat = format
        self.records = 0
        # a stream that was not begun, as for HEAD, is not aborted
        self.is_complete = True

    async def counted(self, first: copy_out.Block | None, rest: AsyncIterator[copy_out.Block]) -> AsyncIterator[bytes]:
        self.is_complete = False
        if first is not None:
            yield self._add(first)
            async for block in rest:
                yield self._add(block)
        self.is_complete = True

    def _add(self, block: copy_out.Block) -> bytes:
        self.deadline.check()
        self.records += block.records
        metrics.exported(self.resource, self.format, block.records, len(block.data))
        return block.data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.span.set(
            {
                "bulk.resource": self.resource,
                "bulk.records": self.records,
                "bulk.outcome": "done" if self.is_complete else "aborted",
            }
        )
        if not self.is_complete:
            metrics.stream_aborted()
            log.warning("export stream aborted", resource=self.resource, format=self.format, records=self.records)


HANDLERS = [stream_export]
