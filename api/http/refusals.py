"""Responses of the server itself, to requests that never reach the application."""

from typing import cast

from litestar.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from api.http.problems import MEDIA_TYPE, Problem
from db.settings import Settings

NOT_HTTP = Problem("invalid-request", "This is not an HTTP/1.1 request.")


def head_too_large(settings: Settings) -> Problem:
    return Problem(
        "head-too-large",
        f"The request line and the headers may have {settings.head_max_bytes} bytes, in {settings.headers_max} headers.",
        limit_bytes=settings.head_max_bytes,
        limit_headers=settings.headers_max,
    )


def too_late(detail: str) -> Problem:
    return Problem("request-timeout", detail)


def too_many(connections: int) -> Problem:
    return Problem("unavailable", f"The limit of {connections} connections is reached. Try again in a few seconds.")


def response(problem: Problem, request_id: str) -> bytes:
    """The whole response. The path is left out, because the request was not parsed to its end."""
    body = problem.body(cast("Scope", {"path": "", "state": {"request_id": request_id}}))
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "X-Request-Id": request_id,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        **problem.headers,
    }
    lines = [f"{name.lower()}: {value}\r\n" for name, value in headers.items()]
    return b"".join([STATUS_LINE[problem.status], *(line.encode() for line in lines), b"\r\n", body])
