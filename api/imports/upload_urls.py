"""`POST /uploads`: a URL to which a client uploads an object by itself, to import it with `source` afterwards."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from litestar import Response, post
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Meta
from uuid_utils.compat import uuid7

from api.http import parameters, responses
from api.http.dependencies import SettingsHere
from api.http.headers import AnyRequest
from api.http.operations import json_body, operation
from api.http.problems import Problem, problem_responses
from api.imports import source
from db.formats import EXTENSIONS, Compression, ImportFormat
from db.imports import objects

PATH = "/api/v1/uploads"


class UploadParameters(msgspec.Struct, kw_only=True):
    format: Annotated[ImportFormat | None, Meta(description="Default: given by the object when it is imported.")] = None
    compression: Compression = "none"


class UploadUrl(msgspec.Struct, frozen=True, kw_only=True):
    """`url` accepts one PUT of the file, without further headers, until `expires_at`. `source` is the parameter of the import."""

    url: str
    source: str
    expires_at: datetime


@post(
    PATH,
    status_code=201,
    operation_class=operation(body=json_body(UploadParameters)),
    tags=["imports"],
    summary="Create a URL for an upload to a bucket",
    responses={
        201: ResponseSpec(UploadUrl, description="The URL", generate_examples=False),
        **problem_responses(
            "invalid-request",
            "source-not-allowed",
            "cross-origin",
            "forbidden",
            "payload-too-large",
            "unsupported-format",
            "unavailable",
        ),
    },
)
async def create_upload_url(request: AnyRequest, settings: SettingsHere) -> Response[bytes]:
    """The service chooses the object's name, below UPLOAD_DIR, and makes the URL without a request to the bucket.

    Format and compression become extensions of the name, from which the import takes them.
    """
    sent = [*request.query_params.multi_items(), *(await parameters.json_object(request)).items()]
    requested = parameters.parse(sent, UploadParameters)
    if settings.upload_dir is None:
        raise Problem("source-not-allowed", "UPLOAD_DIR is not set: the service has no bucket for uploads.")
    extension = (f".{requested.format}" if requested.format else "") + EXTENSIONS[requested.compression]
    url = f"{settings.upload_dir.removesuffix('/')}/{uuid7()}{extension}"
    expires_at = datetime.now(UTC) + timedelta(seconds=settings.upload_url_seconds)
    with source.problems(url):
        signed = await objects.upload_url(url, seconds=settings.upload_url_seconds)
    created = UploadUrl(url=signed, source=url, expires_at=expires_at)
    return Response(
        msgspec.json.encode(created), status_code=201, headers={"Cache-Control": "no-store"}, media_type=responses.JSON
    )


HANDLERS = [create_upload_url]
