"""What answers about jobs have in common: validators, when to ask again, pages of lists, documented parameters."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Request, Response
from litestar.openapi.spec import OpenAPIMediaType, Operation, Parameter, Schema

from api.http.problems import Fault, Problem
from db.formats import MEDIA_TYPES


class Job(Protocol):
    """Of an import or an export what lists need."""

    @property
    def id(self) -> UUID: ...


J = TypeVar("J", bound=Job)

JSON = "application/json"
# OpenAPI's own word for bytes, which the framework's enum of formats lacks
BINARY: Any = "binary"


def job(request: Request, view: msgspec.Struct, *, is_final: bool) -> Response[bytes]:
    """A job as it is now, with an ETag: 304 when the client has just this. Retry-After while it will still change."""
    body = msgspec.json.encode(view)
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if not is_final:
        headers["Retry-After"] = "1"
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if etag in known or "*" in known:
        return Response(b"", status_code=304, headers=headers, media_type=JSON)
    return Response(body, headers=headers, media_type=JSON)


def page(request: Request, name: str, items: list[Any], next_cursor: str | None, **more: Any) -> Response[bytes]:
    """A page of a list as `{name: items, "next_cursor": …}`, and a link to the next one."""
    headers = {}
    if next_cursor is not None:
        query = dict(request.query_params.items()) | {"cursor": next_cursor}
        headers["Link"] = f'<{request.url.path}?{urlencode(query)}>; rel="next"'
    body = msgspec.json.encode({name: items, "next_cursor": next_cursor, **more})
    return Response(body, headers=headers, media_type=JSON)


def jobs(request: Request, name: str, found: list[J], limit: int, view: Callable[[J], Any]) -> Response[bytes]:
    """A page of jobs, of which one more than `limit` was asked for, to know whether there are more."""
    shown = found[:limit]
    cursor = str(shown[-1].id) if len(found) > limit else None
    return page(request, name, [view(job) for job in shown], cursor)


def id_cursor(cursor: str | None) -> UUID | None:
    """The last job of the page before. Raises `Problem` 400."""
    try:
        return None if cursor is None else UUID(cursor)
    except ValueError:
        raise cursor_fault() from None


def job_id(id: str, kind: str) -> UUID:
    """The id in a path. What cannot be an id is the id of nothing: raises `Problem` 404."""
    try:
        return UUID(id)
    except ValueError:
        raise unknown(kind) from None


def unknown(kind: str) -> Problem:
    return Problem("not-found", f"There is no {kind} with this id.")


def cursor_fault() -> Problem:
    return Problem(
        "invalid-request",
        "cursor is not one that a page gave",
        errors=[Fault("cursor", "invalid_value", "is not one that a page gave")],
    )


def document_file(operation: Operation, *statuses: str) -> None:
    """Tells the OpenAPI document that these answers are records in any of the formats, which one status cannot have."""
    for status in statuses:
        response: Any = (operation.responses or {})[status]
        # without schemas: a part of an array is none
        response.content = {media_type.partition(";")[0]: OpenAPIMediaType() for media_type in MEDIA_TYPES.values()}


def query_parameters(of: type[msgspec.Struct]) -> list[Parameter]:
    """The fields of a parameter struct as the OpenAPI document shows them."""
    required = {field.encode_name for field in msgspec.structs.fields(of) if field.required}
    properties: Mapping[str, Any] = msgspec.json.schema(of)["$defs"][of.__name__]["properties"]
    return [
        Parameter(
            name=name,
            param_in="query",
            required=name in required,
            description=schema.pop("description", None),
            schema=Schema(**_schema(schema)),
        )
        for name, schema in ((name, dict(schema)) for name, schema in properties.items())
    ]


_SCHEMA_KEYS = {
    "type": "type",
    "enum": "enum",
    "default": "default",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minimum": "minimum",
    "maximum": "maximum",
    "format": "format",
}


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter that is absent is not null: of `anyOf` with null the other side is what matters."""
    for one in schema.get("anyOf", ()):
        if one.get("type") != "null":
            schema = {**one, **{key: value for key, value in schema.items() if key == "default" and value is not None}}
    known = {_SCHEMA_KEYS[key]: value for key, value in schema.items() if key in _SCHEMA_KEYS}
    if isinstance(known.get("enum"), list):
        known["enum"] = [value for value in known["enum"] if value is not None]
    if known.get("default", 0) is None:
        del known["default"]
    return known
