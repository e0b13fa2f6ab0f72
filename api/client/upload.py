"""Sends a file as an import, with the idempotency key that makes a repetition safe."""

import hashlib
import json
from collections.abc import Callable
from typing import Literal
from uuid import uuid4

from api.client.jobs import Job
from api.client.source import Form, Source
from api.client.transport import Transport

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


def _content_key(url: str, file: Source, params: dict[str, str]) -> str:
    parts = [url, file.name, file.sha256, sorted(params.items())]
    return "content-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()
