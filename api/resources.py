"""The resources over HTTP: their fields and rules, derived from `db.resources`, and template files."""

import csv
import io
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from msgspec import Meta

from api.http import parameters, responses
from api.http.headers import AnyRequest
from api.http.operations import CSV_OR_NDJSON, operation
from api.http.problems import problem_responses
from db.exports import columnar
from db.exports.filters import Test, filters
from db.formats import MEDIA_TYPES, ExportFormat
from db.imports.jobs import Mode
from db.resources import RESOURCES
from db.resources.definition import Resource

PATH = "/api/v1/resources"

FieldType = Literal["uuid", "text", "boolean", "time", "list of text"]


class FieldView(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a record. `key`: the natural key. `reference`: the resource whose id the field holds."""

    name: str
    type: FieldType
    required: bool
    key: bool
    reference: str | None
    enum: list[str] | None
    min_length: int | None
    max_length: int | None
    pattern: str | None
    description: str | None


class FilterView(msgspec.Struct, frozen=True, kw_only=True):
    """A filter of exports, on a field. `any_of` and `overlaps` take several values; `from` is inclusive, `before` exclusive."""

    name: str
    field: str
    test: Test


class ResourceView(msgspec.Struct, frozen=True, kw_only=True):
    """A resource. `fields` are in the order of exported files. `export_formats` are those whose libraries are installed."""

    name: str
    fields: list[FieldView]
    modes: list[Mode]
    filters: list[FilterView]
    export_formats: list[ExportFormat]
    links: dict[str, str]


class ResourceList(msgspec.Struct, frozen=True, kw_only=True):
    """In the order in which foreign keys require them to be imported."""

    resources: list[ResourceView]


class TemplateParameters(msgspec.Struct, kw_only=True):
    format: Annotated[
        Literal["csv", "ndjson"], Meta(description="csv: a header and an example row; ndjson: an example object.")
    ] = "csv"


@get(
    PATH,
    tags=["resources"],
    summary="List the resources",
    responses={
        200: ResponseSpec(ResourceList, description="All resources", generate_examples=False),
        **problem_responses("invalid-request"),
    },
)
async def list_resources(request: AnyRequest) -> Response[bytes]:
    """All resources, in the order in which foreign keys require them to be imported."""
    parameters.query(request)
    return _json(ResourceList(resources=[view(resource) for resource in RESOURCES.values()]))


@get(
    f"{PATH}/{{name:str}}",
    tags=["resources"],
    summary="Get a resource",
    responses={
        200: ResponseSpec(ResourceView, description="The resource", generate_examples=False),
        **problem_responses("invalid-request", "not-found"),
    },
)
async def get_resource(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    """The fields of the records with their types and limits, the modes of an import, the filters and formats of an export."""
    parameters.query(request)
    return _json(view(_resource(name)))


@get(
    f"{PATH}/{{name:str}}/template",
    operation_class=operation(query=TemplateParameters, files={"200": CSV_OR_NDJSON}),
    tags=["resources"],
    summary="Get a template file",
    responses={
        200: ResponseSpec(bytes, description="The file", media_type="text/csv", generate_examples=False),
        **problem_responses("invalid-request", "not-found"),
    },
)
async def get_resource_template(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    """A file with all fields and one example record."""
    resource = _resource(name)
    requested = parameters.query(request, TemplateParameters)
    return Response(
        _csv(resource) if requested.format == "csv" else msgspec.json.encode(resource.example) + b"\n",
        headers={"Content-Disposition": f'attachment; filename="{resource.name}-template.{requested.format}"'},
        media_type=MEDIA_TYPES[requested.format],
    )


def view(resource: Resource) -> ResourceView:
    path = f"{PATH}/{resource.name}"
    schema = msgspec.json.schema(resource.record)["$defs"][resource.record.__name__]["properties"]
    return ResourceView(
        name=resource.name,
        fields=[_field(resource, name, schema[name]) for name in resource.columns],
        modes=list(get_args(Mode)),
        filters=[
            FilterView(name=name, field=filter.column, test=filter.test) for name, filter in filters(resource).items()
        ],
        export_formats=[*filter(columnar.is_available, get_args(ExportFormat))],
        links={"self": path, "template": f"{path}/template"},
    )


def _field(resource: Resource, name: str, schema: Mapping[str, Any]) -> FieldView:
    # an optional field is `anyOf` its type and null
    schema = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    return FieldView(
        name=name,
        type=_type(schema),
        required=name in resource.required,
        key=name == resource.key,
        reference=resource.references.get(name),
        enum=schema.get("enum"),
        min_length=schema.get("minLength"),
        max_length=schema.get("maxLength"),
        # JSON Schema's expressions are those of JavaScript, which has no \Z
        pattern=schema["pattern"].replace(r"\Z", "$") if "pattern" in schema else None,
        description=resource.descriptions.get(name),
    )


def _type(schema: Mapping[str, Any]) -> FieldType:
    if schema.get("type") == "array":
        return "list of text"
    if schema.get("type") == "boolean":
        return "boolean"
    formats: dict[Any, FieldType] = {"uuid": "uuid", "date-time": "time"}
    return formats.get(schema.get("format"), "text")


def _csv(resource: Resource) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, resource.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerow({name: _cell(value) for name, value in resource.example.items()})
    return file.getvalue().encode()


def _cell(value: str | bool | list[str]) -> str:
    """The value as an export writes it: lists and booleans as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _resource(name: str) -> Resource:
    if name not in RESOURCES:
        raise responses.not_found("resource", "name")
    return RESOURCES[name]


def _json(view: msgspec.Struct) -> Response[bytes]:
    return Response(msgspec.json.encode(view), media_type=responses.JSON)


HANDLERS = [list_resources, get_resource, get_resource_template]
