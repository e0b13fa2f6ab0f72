"""Reads and checks what a client requests: the body of POST /exports, and the filters and fields of files and streams."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api.http import parameters, tracing
from api.http.auth import key_name
from api.http.headers import AnyRequest, idempotency_key
from api.http.parameters import IdempotencyToken
from api.http.problems import Fault, Problem, invalid_request, request_id
from db.exports import columnar
from db.exports import filters as export_filters
from db.exports.filters import InvalidSelection, Selection
from db.exports.jobs import ExportRequest
from db.exports.watermarks import Expired
from db.formats import PACKED_FORMATS, Compression, ExportFormat
from db.resources import RESOURCES, ResourceName
from db.resources.definition import Resource


class ExportParameters(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of POST /exports. Defaults are not part of the digest, so that a new parameter does not change old digests."""

    resource: ResourceName
    format: ExportFormat = "ndjson"
    compression: Compression = "none"
    filters: Annotated[
        dict[str, Any] | None,
        Meta(description="The filters of the stream, by name. A list selects records with any of its values."),
    ] = None
    fields: Annotated[list[str] | None, Meta(description="The fields in output order. All fields if omitted.")] = None
    csv_safe: Annotated[
        bool, Meta(description="Escape CSV cells so that spreadsheets do not read them as formulas.")
    ] = False
    bom: Annotated[bool, Meta(description="Only for csv: begin the file with a byte order mark, for Excel.")] = False
    changed_since: Annotated[
        str | None,
        Meta(description="The `watermark` of an earlier export: only records that were stored or changed since."),
    ] = None
    idempotency_token: Annotated[
        IdempotencyToken | None, Meta(description="The same as the header Idempotency-Key.")
    ] = None


async def read(request: AnyRequest) -> ExportRequest:
    """The checked request. Raises `Problem` 400, 413, 415."""
    requested = parameters.parse(
        [*request.query_params.multi_items(), *(await parameters.json_object(request)).items()], ExportParameters
    )
    select(
        RESOURCES[requested.resource],
        filters=requested.filters or {},
        fields=requested.fields,
        changed_since=requested.changed_since,
        filter_prefix="filters.",
    )
    check_format(requested.format, csv_safe=requested.csv_safe, bom=requested.bom, compression=requested.compression)
    token = parameters.check_token(idempotency_key(request), requested.idempotency_token)
    content = msgspec.structs.replace(requested, filters=requested.filters or None, idempotency_token=None)
    return ExportRequest(
        resource=requested.resource,
        format=requested.format,
        compression=requested.compression,
        filters=requested.filters or None,
        fields=requested.fields,
        csv_safe=requested.csv_safe,
        bom=requested.bom,
        changed_since=requested.changed_since,
        idempotency_token=token,
        digest=hashlib.sha256(msgspec.json.encode(content, order="deterministic")).digest(),
        request_id=request_id(request.scope),
        traceparent=tracing.span(request.scope).traceparent,
        created_by=key_name(request.scope),
    )


def select(
    resource: Resource,
    *,
    filters: Mapping[str, Any],
    fields: Sequence[str] | None,
    changed_since: str | None = None,
    after: str | None = None,
    limit: int | None = None,
    filter_prefix: str = "",
) -> Selection:
    """The selection. Raises `Problem` 400 with everything that is wrong; filters are named with `filter_prefix`."""
    try:
        return export_filters.select(
            resource, filters=filters, fields=fields, changed_since=changed_since, after=after, limit=limit
        )
    except InvalidSelection as error:
        known = export_filters.filters(resource)
        faults = [
            Fault(
                filter_prefix + invalid.name if invalid.name in filters else invalid.name,
                "unknown_parameter" if invalid.name in filters and invalid.name not in known else "invalid_value",
                invalid.message,
            )
            for invalid in error.parameters
        ]
        raise invalid_request(faults) from None


def check_format(format: ExportFormat, *, csv_safe: bool, bom: bool, compression: Compression = "none") -> None:
    """Raises `Problem` 400 for options that do not go with the format, and for a format whose library is not installed."""
    faults = [
        Fault(name, "conflicting_values", f"requires the format csv, but the format is {format}")
        for name, is_set in (("csv_safe", csv_safe), ("bom", bom))
        if is_set and format != "csv"
    ]
    if compression != "none" and format in PACKED_FORMATS:
        faults.append(Fault("compression", "conflicting_values", f"must be none: {format} is compressed already"))
    if not columnar.is_available(format):
        message = f"{format} needs pyarrow, which is not installed; it is in the extra {columnar.EXTRA}"
        faults.append(Fault("format", "invalid_value", message))
    if faults:
        raise invalid_request(faults)


def watermark_expired(error: Expired) -> Problem:
    return Problem("watermark-expired", f"Export all records again, without changed_since: {error}.")
