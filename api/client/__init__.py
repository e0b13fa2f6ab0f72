"""The Python client of the service, and the command `bulk` in `api.client.command`.

    from api.client import Client

    with Client("http://127.0.0.1:8080") as client:
        job = client.wait(client.import_file("users.csv", resource="users"))

It uses only HTTP and imports nothing else of the project, so that it runs on a machine without the server's packages.
"""

from api.client.client import Client
from api.client.errors import (
    BulkError,
    Conflict,
    Disconnected,
    Forbidden,
    IncompleteDownload,
    InvalidRequest,
    NotFound,
    ProblemError,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    WaitTimeout,
)
from api.client.jobs import Event, Job
from api.client.source import Source

__all__ = [
    "BulkError",
    "Client",
    "Conflict",
    "Disconnected",
    "Event",
    "Forbidden",
    "IncompleteDownload",
    "InvalidRequest",
    "Job",
    "NotFound",
    "ProblemError",
    "ServerError",
    "Source",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "WaitTimeout",
]
