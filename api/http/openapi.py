"""The OpenAPI document: adds to every operation what all of them have in common.

The headers of a response follow from its status and its media types, so a new handler does not list them. Handlers describe their
parameters and bodies with `api.http.operations`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from litestar import Request, Router
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    Contact,
    License,
    SecurityScheme,
    Tag,
)

from api.http.auth import is_public
from api.http.problems import KINDS, MEDIA_TYPE, Slug
from db.resources import RESOURCES
from db.settings import Settings

# the JSON of an operation, a response or a header
Node = dict[str, Any]

PATH = "/schema/openapi.json"
TEXT: Node = {"type": "string"}

TAGS = {
    "resources": "The fields of records, and template files.",
    "imports": "Import files of records, follow the jobs, correct and retry refused records.",
    "exports": "Stream the records of a resource, or write them to a file in the background.",
    "operations": "Probes and metrics.",
}

REQUEST_HEADERS = {
    "X-Request-Id": "The client's id of this request: at most 128 letters, digits, dots, hyphens, underscores.",
    "Idempotency-Key": "Requests with the same key create one job; a repeated request returns the existing job.",
    "Content-Digest": "`sha-256=:…:` of the body as sent; it is verified.",
    "Content-Encoding": "The compression of the whole body.",
    "Accept-Encoding": "The accepted compressions of the response: `zstd`, `gzip`.",
    "If-None-Match": "The ETag of the client's copy.",
    "Range": "One range of bytes, like `bytes=1000-`.",
    "If-Range": "The ETag of the file that the range continues; for another one the whole file is sent.",
}
# the schemas of headers other than plain text
REQUEST_SCHEMAS: dict[str, Node] = {
    "Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": 255},
    "Content-Encoding": {"type": "string", "enum": ["gzip", "zstd"]},
}
RESPONSE_HEADERS = {
    "X-Request-Id": "The id of the request, which the log also has: the client's if that was valid, else a new one.",
    "Location": "The path of the job.",
    "Retry-After": "The seconds after which to ask again; absent when the job is final.",
    "Idempotent-Replayed": "`true`: an earlier request created this job.",
    "Preference-Applied": "The preference `wait` that was applied.",
    "ETag": "Changes whenever the content does.",
    "Link": '`rel="next"`: the next page; absent on the last one.',
    "Content-Disposition": "A name for the file.",
    "Content-Range": "The range of this response and the length of the whole file.",
    "Accept-Ranges": "`bytes`.",
    "Repr-Digest": "`sha-256=:…:` of the whole file.",
    "Vary": "`Accept, Accept-Encoding`: the response depends on these headers.",
    "Content-Encoding": "The compression of the body; absent when it is not compressed.",
    "X-Snapshot-At": "The time of the snapshot that is exported.",
    "X-Watermark": "The `changed_since` of the next incremental export.",
    "WWW-Authenticate": "`Bearer`.",
}


class Document(JsonRenderPlugin):
    """Renders the document, completed by headers, security and the problems that every operation can return."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Idempotent, because the framework caches the dictionary that is completed in place."""
        for component in openapi_schema["components"].get("schemas", {}).values():
            for name, schema in component.get("properties", {}).items():
                # the framework's form of a member that may be absent
                if len(schema.get("oneOf", ())) == 1:
                    component["properties"][name] = schema["oneOf"][0]
        # without keys: nothing is required, which the document has to say
        openapi_schema.setdefault("security", [])
        for path, item in openapi_schema["paths"].items():
            for method, operation in item.items():
                self._complete(path, method, operation)
        return self.render_json(request, openapi_schema)

    def _complete(self, path: str, method: str, operation: Node) -> None:
        responses = operation["responses"]
        responses.setdefault("431", _problem("head-too-large"))
        responses.setdefault("500", _problem("internal-error"))
        if method not in ("get", "head"):
            slugs: list[Slug] = ["cross-origin", "forbidden"] if self.settings.keys else ["cross-origin"]
            responses.setdefault("403", _problem(*slugs))
        if self.settings.hosts_checked:
            responses.setdefault("421", _problem("misdirected-request"))
        if self.settings.keys:
            if is_public(path, self.settings):
                operation["security"] = []
            else:
                responses.setdefault("401", _problem("unauthorized"))
        for status, response in responses.items():
            headers = response.setdefault("headers", {})
            for name, is_always_there in _response_headers(operation, status):
                described = {"description": RESPONSE_HEADERS[name], "required": is_always_there, "schema": TEXT}
                headers.setdefault(name, described)
        documented = _names(operation)
        operation.setdefault("parameters", []).extend(
            {
                "name": name,
                "in": "header",
                "required": False,
                "description": REQUEST_HEADERS[name],
                "schema": REQUEST_SCHEMAS.get(name, TEXT),
            }
            for name in _request_headers(operation)
            if name not in documented
        )


def config(settings: Settings, *, version: str) -> OpenAPIConfig:
    """Only the document, at /schema/openapi.json: the framework's HTML pages load scripts from other hosts."""
    keys = Components(
        security_schemes={
            "bearer": SecurityScheme(type="http", scheme="bearer"),
            "key": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
        }
    )
    return OpenAPIConfig(
        title="Bulk import and export",
        version=version,
        description=f"Imports and exports {', '.join(RESOURCES)} in bulk. Errors are problem documents (RFC 9457).",
        contact=Contact(name="The operator of this service"),
        license=License(name="All rights reserved", identifier="LicenseRef-All-Rights-Reserved"),
        tags=[Tag(name=name, description=description) for name, description in TAGS.items()],
        operation_id_creator=_operation_id,
        use_handler_docstrings=True,
        openapi_router=Router("/schema", route_handlers=[], include_in_schema=False, before_request=_only_the_document),
        render_plugins=[Document(settings)],
        components=keys if settings.keys else Components(),
        security=[{"bearer": []}, {"key": []}] if settings.keys else None,
    )


def _operation_id(handler: HTTPRouteHandler, _method: object, _path: Sequence[object]) -> str:
    """The handler's name in the document's notation: `create_import` is `createImport`."""
    first, *rest = handler.handler_name.split("_")
    return first + "".join(word.title() for word in rest)


def _only_the_document(request: Request[Any, Any, Any]) -> None:
    """A problem document for every other path below /schema, where the framework would return a page."""
    if request.scope["path"] != PATH:
        raise NotFoundException


def _request_headers(operation: Node) -> Iterator[str]:
    responses = operation["responses"]
    yield "X-Request-Id"
    if "422" in responses:
        yield "Idempotency-Key"
    if "multipart/form-data" in operation.get("requestBody", {}).get("content", {}):
        yield from ("Content-Digest", "Content-Encoding")
    if "304" in responses:
        yield "If-None-Match"
    if "206" in responses:
        yield from ("Range", "If-Range")
    if "406" in responses:
        yield "Accept-Encoding"


def _response_headers(operation: Node, status: str) -> Iterator[tuple[str, bool]]:
    """Pairs of a header and whether it is always present."""
    yield "X-Request-Id", True
    content = operation["responses"][status].get("content", {})
    if MEDIA_TYPE in content:
        yield from _problem_headers(int(status))
    elif int(status) < 400:
        yield from _job_headers(operation, status)
        yield from _file_headers(operation, status, content)


def _problem_headers(status: int) -> Iterator[tuple[str, bool]]:
    kinds = [kind for kind in KINDS.values() if kind.status == status]
    for name in sorted({name for kind in kinds for name in kind.headers}):
        yield name, all(name in kind.headers for kind in kinds)
    if status == 416:
        yield "Content-Range", True


def _job_headers(operation: Node, status: str) -> Iterator[tuple[str, bool]]:
    responses, parameters = operation["responses"], _names(operation)
    if "202" in responses:
        yield "Location", True
        yield "Retry-After", False
        if status == "200":
            yield "Idempotent-Replayed", False
        if "Prefer" in parameters:
            yield "Preference-Applied", False
    if "304" in responses:
        yield "ETag", True
        if "206" not in responses:
            yield "Retry-After", False
    if "cursor" in parameters:
        yield "Link", False


def _file_headers(operation: Node, status: str, content: Node) -> Iterator[tuple[str, bool]]:
    responses = operation["responses"]
    if "206" in responses:
        yield from dict.fromkeys(("Accept-Ranges", "Content-Disposition", "Repr-Digest"), True).items()
        if status == "206":
            yield "Content-Range", True
    elif "text/csv" in content:
        # a page of a list has no file name
        yield "Content-Disposition", "cursor" not in _names(operation)
    if "406" in responses:
        yield from dict.fromkeys(("Vary", "X-Snapshot-At", "X-Watermark"), True).items()
        yield "Content-Encoding", False


def _names(operation: Node) -> set[str]:
    return {parameter["name"] for parameter in operation.get("parameters", ())}


def _problem(*slugs: Slug) -> Node:
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    description = "; ".join(f"{KINDS[slug].title} (`{slug}`)" for slug in slugs)
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}
