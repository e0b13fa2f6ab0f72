"""Downloads to a file, which appears under its name only when it is complete."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import httpx

from api.client.errors import IncompleteDownload, InvalidRequest
from api.client.transport import Transport, backoff

BLOCK_BYTES = 256 * 1024

Compression = Literal["none", "gzip", "zstd"]
ENCODINGS: dict[Compression, str] = {"none": "identity", "gzip": "gzip", "zstd": "zstd"}
OnReceived = Callable[[int], None]
OnHeaders = Callable[[httpx.Headers], None]


def _ignore(_headers: httpx.Headers) -> None:
    pass


def stream_to(
    transport: Transport,
    path: str,
    params: dict[str, str],
    target: Path,
    on_received: OnReceived,
    *,
    compression: Compression = "none",
    on_headers: OnHeaders = _ignore,
) -> None:
    """Writes a response that cannot be resumed to `target`. Raises `IncompleteDownload`, and then leaves no file."""
    part = _part(target)
    try:
        with part.open("wb") as file:
            size = 0
            for block in blocks(transport, path, params, compression=compression, on_headers=on_headers):
                file.write(block)
                size += len(block)
                on_received(size)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def blocks(
    transport: Transport,
    path: str,
    params: dict[str, str],
    *,
    compression: Compression = "none",
    on_headers: OnHeaders = _ignore,
) -> Iterator[bytes]:
    """The body of a response, compressed if requested. Raises `IncompleteDownload` if it is incomplete."""
    headers = {"Accept-Encoding": ENCODINGS[compression]}
    with transport.stream("GET", path, params=params, headers=headers) as response:
        on_headers(response.headers)
        try:
            yield from response.iter_raw(BLOCK_BYTES)
        except httpx.TransportError as error:
            raise IncompleteDownload(f"the stream broke off ({error})") from error


def resume_to(transport: Transport, path: str, target: Path, *, sha256: str, on_received: OnReceived) -> None:
    """Downloads a file that does not change, resuming after a broken connection (RFC 9110, 14.2).

    The received bytes are kept in `NAME.DIGEST.part` until the file is complete, and a later call continues it. Raises
    `IncompleteDownload` if the retries end without any progress, or if the digest is wrong.
    """
    part = target.with_name(f"{target.name}.{sha256[:12]}.part")
    with part.open("ab") as file:
        _Resumable(transport, path, file, on_received).run()
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        raise IncompleteDownload(f"the digest of {target.name} is {found}, not {sha256}")
    part.replace(target)


class _Resumable:
    """A download that is resumed until it is complete."""

    def __init__(self, transport: Transport, path: str, file: BinaryIO, on_received: OnReceived) -> None:
        self._transport = transport
        self._path = path
        self._file = file
        self._on_received = on_received
        self._etag: str | None = None

    def run(self) -> None:
        attempt = 0
        deadline = time.monotonic() + self._transport.retry_seconds
        while True:
            begun = self._file.seek(0, os.SEEK_END)
            try:
                return self._fetch(begun)
            except httpx.TransportError as error:
                if self._file.tell() > begun:
                    attempt, deadline = 0, time.monotonic() + self._transport.retry_seconds
                pause = backoff(attempt)
                if time.monotonic() + pause > deadline:
                    raise IncompleteDownload(
                        f"the download broke off ({error}); {self._file.name} has what came"
                    ) from error
                if self._transport.on_retry:
                    self._transport.on_retry("the download broke off; continuing it")
                attempt += 1
                time.sleep(pause)

    def _fetch(self, begun: int) -> None:
        """Appends the missing bytes; starts again if the file of the service has changed."""
        headers = {"Range": f"bytes={begun}-"} if begun else {}
        if begun and self._etag:
            headers["If-Range"] = self._etag
        try:
            with self._transport.stream("GET", self._path, headers=headers) as response:
                self._etag = response.headers.get("etag")
                if response.status_code != httpx.codes.PARTIAL_CONTENT:
                    self._file.truncate(0)
                size = self._file.seek(0, os.SEEK_END)
                for block in response.iter_raw(BLOCK_BYTES):
                    self._file.write(block)
                    size += len(block)
                    self._on_received(size)
        except InvalidRequest as refusal:
            # no bytes are missing; the digest shows whether they are right
            if refusal.status != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")
