"""The addresses of the console: one shell for every page, static files, the API reference, documents, the command `bulk`.

Neither the shell nor the files contain data or settings, so they are public; the pages read `/api/v1` with the user's key.
"""

import asyncio
from functools import cache

from litestar import Response, get
from litestar.params import FromPath
from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

from api.console import assets, guide, zipapp
from api.http import parameters
from api.http.headers import AnyRequest
from api.http.problems import Problem

# Scripts run only from our own files, and text becomes HTML only in lit-html's templates, which are constants: what a file, a
# record or a message contains is always shown as text. Nothing is loaded from, or sent to, another host.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types lit-html"
)
# Swagger UI writes the HTML of descriptions itself, through DOMPurify, and has images in data URLs
REFERENCE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
GUIDE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


@get(["/", "/ui", "/ui/{path:path}"], include_in_schema=False)
async def get_page(request: AnyRequest) -> Response[bytes]:
    """The shell. Its script shows the page for the address."""
    return _respond(request, "index.html", {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})


@get("/docs", include_in_schema=False)
async def get_reference(request: AnyRequest) -> Response[bytes]:
    """The API reference: Swagger UI with the OpenAPI document."""
    parameters.query(request)
    return _respond(
        request, "reference.html", {"Content-Security-Policy": REFERENCE_POLICY, "Cache-Control": "no-store"}
    )


@get("/docs/guide", include_in_schema=False)
async def get_guide(request: AnyRequest) -> Response[bytes]:
    """The first document."""
    return _document(request, "")


@get("/docs/guide/{name:str}", include_in_schema=False)
async def get_document(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    """Another document. Raises `Problem` 404."""
    return _document(request, name)


def _document(request: AnyRequest, name: str) -> Response[bytes]:
    parameters.query(request)
    page = guide.page(name)
    if page is None:
        raise Problem("not-found", f"The documents are {', '.join(map(guide.address, guide.DOCUMENTS))}.")
    headers = {**_ISOLATED, "Content-Security-Policy": GUIDE_POLICY, "Cache-Control": "no-store"}
    return Response(page, headers=headers, media_type="text/html")


@get("/bulk.pyz", include_in_schema=False)
async def get_command(request: AnyRequest) -> Response[bytes]:
    """The command `bulk` as one file, of the version of this service."""
    parameters.query(request)
    return Response(
        await asyncio.to_thread(_command),
        headers={
            "Content-Disposition": 'attachment; filename="bulk.pyz"',
            "Cache-Control": "no-store",
        },
        media_type="application/octet-stream",
    )


@get("/ui/assets/{edition:str}/{path:path}", include_in_schema=False)
async def get_asset(request: AnyRequest, edition: FromPath[str], path: FromPath[str]) -> Response[bytes]:
    """A static file of this edition of the pages. Raises `Problem` 404."""
    parameters.query(request)
    if edition != assets.edition():
        raise Problem("not-found", "The page belongs to another version of the service. Load it again.")
    return _respond(request, path.lstrip("/"), {"Cache-Control": "public, max-age=31536000, immutable"})


def _respond(request: AnyRequest, name: str, headers: dict[str, str]) -> Response[bytes]:
    asset = assets.get(name)
    if asset is None:
        raise Problem("not-found", "No such file.")
    is_packed = parse_accept_header(request.headers.get("accept-encoding", ""), Accept).quality("gzip") > 0
    return Response(
        asset.packed if is_packed else asset.content,
        headers={
            **_ISOLATED,
            "Vary": "Accept-Encoding",
            **({"Content-Encoding": "gzip"} if is_packed else {}),
            **headers,
        },
        media_type=asset.media_type,
    )


@cache
def _command() -> bytes:
    return zipapp.build()


HANDLERS = [get_page, get_reference, get_guide, get_document, get_command, get_asset]
