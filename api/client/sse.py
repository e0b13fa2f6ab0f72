"""Server-sent events of a response (WHATWG HTML, 9.2)."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

EVENT_BYTES_MAX = 64 << 20


@dataclass(frozen=True)
class Message:
    """One event: its name, its data as JSON, and its id if it has one."""

    name: str
    data: Any
    id: str | None


def messages(blocks: Iterable[bytes]) -> Iterator[Message]:
    """The events in a stream of bytes. An incomplete event at the end of the stream is dropped."""
    name, data, last_id = "message", b"", None
    for line in _lines(blocks):
        if not line:
            if data:
                yield Message(name, json.loads(data), last_id)
            name, data = "message", b""
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value.decode()
        elif field == b"data":
            data += value
        elif field == b"id":
            last_id = value.decode()


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that end with LF or CRLF. Raises `ValueError` for one that is too long."""
    buffer = b""
    for block in blocks:
        buffer += block
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        if len(buffer) > EVENT_BYTES_MAX:
            raise ValueError("an event is too long")
