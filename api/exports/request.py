"""What a client orders when it asks for an export to be written: the body of the POST, read and checked."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request
from litestar.openapi.spec import Operation, RequestBody
from litestar.openapi.spec.enums import OpenAPIType
from litestar.openapi.spec.media_type import OpenAPIMediaType
from litestar.openapi.spec.schema import Schema
from msgspec import Meta

from api.http import responses, parameters
from api.exports import selection
from api.http.problems import Fault, Problem, request_id
from api.imports.parameters import Key, idempotency_key
from db.exports.jobs import Order
from db.compression import Compression
from db.imports.payload import Format
from db.resources import RESOURCES


class OrderParameters(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of an order. Defaults are left out of its digest, so that a parameter that is added later changes none."""

    resource: Literal["users", "articles", "comments"]
    format: Format = "ndjson"
    compression: Compression = "none"
    filters: Annotated[
        dict[str, Any] | None,
        Meta(description="The filters of the stream by their names; a list has any of its values."),
    ] = None
    fields: Annotated[list[str] | None, Meta(description="In the order of the file; without them there are all.")] = (
        None
    )
    csv_safe: Annotated[bool, Meta(description="No cell of a CSV is a formula to a spreadsheet.")] = False
    idempotency_token: Annotated[Key | None, Meta(description="The same as the header Idempotency-Key.")] = None


@dataclass
class OrderOperation(Operation):
    """The handler reads the body itself, to name all that is wrong with it at once."""

    def __post_init__(self) -> None:
        members = responses.query_parameters(OrderParameters)
        schema = Schema(
            type=OpenAPIType.OBJECT,
            required=[member.name for member in members if member.required],
            properties={member.name: member.schema for member in members if member.schema is not None},
        )
        self.request_body = RequestBody(required=True, content={"application/json": OpenAPIMediaType(schema=schema)})


async def read(request: Request) -> Order:
    """What the body and the query ask for. Raises `Problem` 400, 413, 415."""
    media_type = request.headers.get("content-type", responses.JSON).partition(";")[0].strip().lower()
    if media_type != responses.JSON:
        raise Problem("unsupported-format", f"An export is ordered as {responses.JSON}.")
    try:
        body = msgspec.json.decode(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("invalid-request", f"The body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Problem("invalid-request", "The body is not a JSON object.")
    asked = parameters.parse([*request.query_params.multi_items(), *body.items()], OrderParameters)
    selection.select(
        RESOURCES[asked.resource], filters=asked.filters or {}, fields=asked.fields, filter_prefix="filters."
    )
    selection.check_csv_safe(asked.format, csv_safe=asked.csv_safe)
    key = idempotency_key(request)
    if key is not None and asked.idempotency_token not in (None, key):
        raise _invalid([Fault("idempotency_token", "conflicting_values", "differs from the header Idempotency-Key")])
    content = msgspec.structs.replace(asked, filters=asked.filters or None, idempotency_token=None)
    return Order(
        resource=asked.resource,
        format=asked.format,
        compression=asked.compression,
        filters=asked.filters or None,
        fields=asked.fields,
        csv_safe=asked.csv_safe,
        idempotency_token=key or asked.idempotency_token,
        digest=hashlib.sha256(msgspec.json.encode(content, order="deterministic")).digest(),
        request_id=request_id(request.scope),
    )


def _invalid(faults: list[Fault]) -> Problem:
    detail = "; ".join(f"{fault.field} {fault.message}" for fault in faults)
    return Problem("invalid-request", detail, errors=faults)
