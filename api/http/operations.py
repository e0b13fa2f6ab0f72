"""Describes an operation in the OpenAPI document: parameters and bodies that its handler reads itself, and files in responses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    Operation,
    Parameter,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIType

# schemas that are used more than once
STRING = Schema(type=OpenAPIType.STRING)
OBJECT = Schema(type=OpenAPIType.OBJECT)
# bytes; the framework's enum of formats does not have this one
BINARY = Schema(type=OpenAPIType.STRING, format="binary")  # pyright: ignore[reportArgumentType]
OBJECTS = Schema(type=OpenAPIType.ARRAY, items=OBJECT)
# the content of a response that is a file in one of two formats
CSV_OR_NDJSON = {"text/csv": BINARY, "application/x-ndjson": BINARY}


def operation(
    *,
    query: type[msgspec.Struct] | None = None,
    headers: Mapping[str, str] | None = None,
    path: Mapping[str, Schema] | None = None,
    body: RequestBody | None = None,
    files: Mapping[str, Mapping[str, Schema]] | None = None,
) -> type[Operation]:
    """For a handler's `operation_class=`: documents what the framework cannot derive from the handler's signature.

    `query` is the struct that the handler parses its query into, `headers` has descriptions by name, `path` the schemas of
    path parameters, `body` the body that the handler reads itself, `files` more media types of a response and their schemas:
    if the response has that media type already, its body is one of the two.
    """

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            parameters = [item for item in self.parameters or [] if isinstance(item, Parameter)]
            for parameter in parameters:
                parameter.schema = (path or {}).get(parameter.name, parameter.schema)
            parameters += map(_as_text, query_parameters(query)) if query else []
            parameters += [
                Parameter(name=name, param_in="header", required=False, description=description, schema=STRING)
                for name, description in (headers or {}).items()
            ]
            self.parameters = [*parameters]
            self.request_body = body or self.request_body
            for status, content in (files or {}).items():
                response: Any = (self.responses or {})[status]
                for name, schema in content.items():
                    known = response.content.get(name)
                    # STRING is the framework's schema of bytes, which `schema` describes better
                    is_either = known and known.schema != STRING
                    either = Schema(one_of=[known.schema, schema]) if is_either else schema
                    response.content[name] = OpenAPIMediaType(schema=either)

    return Described


def json_body(of: type[msgspec.Struct]) -> RequestBody:
    """A required body: a JSON object with the fields of the struct `of`."""
    return RequestBody(required=True, content={"application/json": OpenAPIMediaType(schema=object_schema(of))})


def object_schema(of: type[msgspec.Struct], *, more: Mapping[str, Schema] | None = None) -> Schema:
    """A JSON object with the fields of the struct `of` as optional members, and `more` members."""
    members = query_parameters(of)
    properties = {member.name: member.schema for member in members if member.schema is not None}
    return Schema(
        type=OpenAPIType.OBJECT,
        required=[member.name for member in members if member.required],
        properties=properties | dict(more or {}),
    )


def query_parameters(of: type[msgspec.Struct]) -> list[Parameter]:
    """The documentation of a parameter struct's fields."""
    required = {field.encode_name for field in msgspec.structs.fields(of) if field.required}
    properties: Mapping[str, Any] = msgspec.json.schema(of)["$defs"][of.__name__]["properties"]
    return [
        Parameter(
            name=name,
            param_in="query",
            required=name in required,
            description=schema.get("description"),
            schema=_schema(schema),
        )
        for name, schema in properties.items()
    ]


def _as_text(parameter: Parameter) -> Parameter:
    """In a query an object is JSON text."""
    if isinstance(parameter.schema, Schema) and parameter.schema.type == OpenAPIType.OBJECT:
        parameter.schema = Schema(type=OpenAPIType.STRING, content_media_type="application/json")
    return parameter


_SCHEMA_KEYS = {
    "type": "type",
    "enum": "enum",
    "default": "default",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minimum": "minimum",
    "maximum": "maximum",
    "pattern": "pattern",
    "format": "format",
    "minItems": "min_items",
    "maxItems": "max_items",
}


def _schema(schema: Mapping[str, Any]) -> Schema:
    """The schema of a parameter. An absent parameter is not null, so the alternative null is left out."""
    for alternative in schema.get("anyOf", ()):
        if alternative.get("type") != "null":
            schema = {**alternative, **schema}
    known = {_SCHEMA_KEYS[key]: value for key, value in schema.items() if key in _SCHEMA_KEYS}
    if "enum" in known:
        known["enum"] = [value for value in known["enum"] if value is not None]
        known.setdefault("type", OpenAPIType.STRING)
    if known.get("default", 0) is None:
        del known["default"]
    if "items" in schema:
        known["items"] = _schema(schema["items"])
    if alternatives := schema.get("additionalProperties", {}).get("anyOf"):
        known["additional_properties"] = Schema(any_of=[_schema(alternative) for alternative in alternatives])
    return Schema(**known)
