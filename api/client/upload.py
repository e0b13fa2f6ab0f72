"""Sends a file, or the address of an object, as an import, with the idempotency key that makes a repetition safe."""

import hashlib
import json
from collections.abc import Callable
from typing import Literal
from uuid import uuid4

from api.client.errors import Conflict
from api.client.jobs import Job
from api.client.source import Form, Source
from api.client.transport import READ_SECONDS, Transport

Key = Literal["content", "random"]


def send(
    transport: Transport,
    path: str,
    file: Source,
    params: dict[str, str],
    *,
    key: Key | str,
    on_sent: Callable[[int], None],
) -> Job:
    """Posts the file as a form. `key` is "content", "random", or the idempotency key itself."""
    form = Form(file)
    if key == "content":
        key = _content_key(transport.url, file, params)
    elif key == "random":
        key = uuid4().hex
    data, headers = transport.json(
        "POST",
        path,
        params=params,
        headers=form.headers | {"Idempotency-Key": key},
        content=lambda: form.blocks(on_sent),
    )
    return Job.from_response(data, headers)


def send_source(transport: Transport, path: str, address: str, params: dict[str, str], *, key: Key | str) -> Job:
    """Has the service read an object of a bucket. `key` is "random" or the idempotency key itself; "content" is "random".

    Waits until the object was read, also if a request times out: the service continues, and a request with the same key returns
    the job at the end.
    """
    body = json.dumps({**params, "source": address}).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Idempotency-Key": uuid4().hex if key in ("content", "random") else key,
    }
    while True:
        try:
            data, received = transport.json(
                "POST",
                path,
                headers=headers,
                content=lambda: iter((body,)),
                # after a request that has timed out there is time for another one
                retry_seconds=READ_SECONDS + transport.retry_seconds,
            )
        except Conflict as error:
            if error.type != "idempotency-in-progress":
                raise
        else:
            return Job.from_response(data, received)


def _content_key(url: str, file: Source, params: dict[str, str]) -> str:
    parts = [url, file.name, file.sha256, sorted(params.items())]
    return "content-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()
