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

from api import answers, parameters
from api.errors import Fault, Problem, request_id
from api.uploads import Key, idempotency_key
from db.exports import Order
from db.packing import Compression
from db.payload import Format


class OrderParameters(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of an order. Defaults are left out of its digest, so that a parameter that is added later changes none."""

    resource: Literal["users", "articles", "comments"]
    format: Format = "ndjson"
    compression: Compression = "none"
    filters: Annotated[dict[str, Any] | None, Meta(description="Null or empty.")] = None
    fields: Annotated[list[str] | None, Meta(description="Null or empty: all of them.")] = None
    idempotency_token: Annotated[Key | None, Meta(description="The same as the header Idempotency-Key.")] = None


@dataclass
class OrderOperation(Operation):
    """The handler reads the body itself, to name all that is wrong with it at once."""

    def __post_init__(self) -> None:
        members = answers.query_parameters(OrderParameters)
        schema = Schema(
            type=OpenAPIType.OBJECT,
            required=[member.name for member in members if member.required],
            properties={member.name: member.schema for member in members if member.schema is not None},
        )
        self.request_body = RequestBody(required=True, content={"application/json": OpenAPIMediaType(schema=schema)})


async def read(request: Request) -> Order:
    """What the body and the query ask for. Raises `Problem` 400, 413, 415."""
    media_type = request.headers.get("content-type", answers.JSON).partition(";")[0].strip().lower()
    if media_type != answers.JSON:
        raise Problem("unsupported-format", f"An export is ordered as {answers.JSON}.")
    try:
        body = msgspec.json.decode(await request.body())
    except msgspec.DecodeError as error:
        raise Problem("invalid-request", f"The body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Problem("invalid-request", "The body is not a JSON object.")
    asked = parameters.parse([*request.query_params.multi_items(), *body.items()], OrderParameters)
    _refuse_selection(asked)
    key = idempotency_key(request)
    if key is not None and asked.idempotency_token not in (None, key):
        raise _invalid([Fault("idempotency_token", "conflicting_values", "differs from the header Idempotency-Key")])
    content = msgspec.structs.replace(asked, filters=None, fields=None, idempotency_token=None)
    return Order(
        resource=asked.resource,
        format=asked.format,
        compression=asked.compression,
        idempotency_token=key or asked.idempotency_token,
        digest=hashlib.sha256(msgspec.json.encode(content)).digest(),
        request_id=request_id(request.scope),
    )


def _refuse_selection(asked: OrderParameters) -> None:
    """An export is always of all records and fields; what asks for less must not be passed by."""
    faults = [Fault(f"filters.{name}", "unknown_parameter", "is not a filter here") for name in asked.filters or ()]
    if asked.fields:
        faults.append(Fault("fields", "invalid_value", "must be null or empty: all fields are exported"))
    if faults:
        raise _invalid(faults)


def _invalid(faults: list[Fault]) -> Problem:
    detail = "; ".join(f"{fault.field} {fault.message}" for fault in faults)
    return Problem("invalid-request", detail, errors=faults)
