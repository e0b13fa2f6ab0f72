"""The OpenAPI document: what the framework derives from the handlers, completed by what their answers have in common.

The statuses of an operation tell its headers, so that a new handler documents them without a word of its own.
"""

from collections.abc import Iterator
from typing import Any

from litestar import Request, Router
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from api import health
from api.http.auth import is_public
from api.http.problems import KINDS, MEDIA_TYPE, Slug
from db.settings import Settings

# an operation, a response, a header: parts of the document as they are written
Node = dict[str, Any]

PATH = "/schema/openapi.json"
TEXT: Node = {"type": "string"}

REQUEST_HEADERS = {
    "X-Request-Id": "An id of the caller's for this request: at most 128 letters, digits, dots, hyphens, underscores.",
    "Idempotency-Key": "One key makes one job: the same request again is answered with the job of the first.",
    "Content-Digest": "`sha-256=:…:` over the body as it is sent; it is checked.",
    "Content-Encoding": "How the whole body is packed.",
    "Accept-Encoding": "How the body may be packed: `zstd`, `gzip`; not at all without it.",
    "If-None-Match": "An ETag that the client knows.",
    "Range": "One range of bytes, like `bytes=1000-`.",
    "If-Range": "The ETag of the file that the range continues; for another one the whole file is sent.",
}
# what is asked of a header, where that is not just any text
REQUEST_SCHEMAS: dict[str, Node] = {
    "Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": 255},
    "Content-Encoding": {"type": "string", "enum": ["gzip", "zstd"]},
}
RESPONSE_HEADERS = {
    "X-Request-Id": "The id of the request: the caller's if it was sane, else a new one. It stands in the log.",
    "Location": "Where the job is found.",
    "Retry-After": "So many seconds later it is worth asking again; absent when nothing will change.",
    "Idempotent-Replayed": "`true`: an earlier request made this job.",
    "Preference-Applied": "How long the answer would have been held back, when that was preferred.",
    "ETag": "Changes whenever the content does.",
    "Link": '`rel="next"`: the next page; absent on the last one.',
    "Content-Disposition": "What the file may be called.",
    "Content-Range": "Which bytes of how many these are.",
    "Accept-Ranges": "`bytes`.",
    "Repr-Digest": "`sha-256=:…:` of the whole file.",
    "Vary": "`Accept, Accept-Encoding`: these headers decide on the format and its packing.",
    "Content-Encoding": "How the body is packed, as accepted; absent when it is not.",
    "X-Snapshot-At": "The time whose state is exported.",
    "WWW-Authenticate": "`Bearer`.",
}


class Document(JsonRenderPlugin):
    """Serves the completed document."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def render(self, request: Request, openapi_schema: dict[str, Any]) -> bytes:
        """What is there already is not added again, so that the framework's copy may be completed in place."""
        for path, item in openapi_schema["paths"].items():
            for operation in item.values():
                self._complete(path, operation)
        return self.render_json(request, openapi_schema)

    def _complete(self, path: str, operation: Node) -> None:
        responses = operation["responses"]
        responses.setdefault("500", _problem("internal-error"))
        if self.settings.keys:
            if is_public(path, self.settings):
                operation["security"] = []
            else:
                responses.setdefault("401", _problem("unauthorized"))
        for status, response in responses.items():
            headers = response.setdefault("headers", {})
            for name, is_always_there in _response_headers(operation, status):
                told = {"description": RESPONSE_HEADERS[name], "required": is_always_there, "schema": TEXT}
                headers.setdefault(name, told)
        given = _names(operation)
        operation.setdefault("parameters", []).extend(
            {
                "name": name,
                "in": "header",
                "required": False,
                "description": REQUEST_HEADERS[name],
                "schema": REQUEST_SCHEMAS.get(name, TEXT),
            }
            for name in _request_headers(operation)
            if name not in given
        )


def config(settings: Settings) -> OpenAPIConfig:
    """The document alone, at /schema/openapi.json: the framework's pages load their scripts from elsewhere."""
    keys = Components(
        security_schemes={
            "bearer": SecurityScheme(type="http", scheme="bearer"),
            "key": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
        }
    )
    return OpenAPIConfig(
        title="Bulk import and export",
        version=health.version(),
        description="Imports and exports users, articles and comments in bulk. Errors are problem documents (RFC 9457).",
        openapi_router=Router("/schema", route_handlers=[], include_in_schema=False, before_request=_only_the_document),
        render_plugins=[Document(settings)],
        components=keys if settings.keys else Components(),
        security=[{"bearer": []}, {"key": []}] if settings.keys else None,
    )


def _only_the_document(request: Request) -> None:
    """The framework answers every other address below /schema with a page that is no problem document."""
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
    """The names, and whether the header is always there."""
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
        # what comes in pages too has no name as a page
        yield "Content-Disposition", "cursor" not in _names(operation)
    if "406" in responses:
        yield from dict.fromkeys(("Vary", "X-Snapshot-At"), True).items()
        yield "Content-Encoding", False


def _names(operation: Node) -> set[str]:
    return {parameter["name"] for parameter in operation.get("parameters", ())}


def _problem(slug: Slug) -> Node:
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {"description": f"{KINDS[slug].title} (`{slug}`)", "content": {MEDIA_TYPE: {"schema": schema}}}
