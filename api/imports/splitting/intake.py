"""One file on its way in: its format is found, it is cut into chunks, counted and digested. No I/O."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from api.http.problems import Fault, Problem
from api.imports import splitting
from api.imports.body import HEAD_MAX_BYTES
from api.imports.splitting import Cutter
from api.imports.unpacking import too_large
from db.imports.payload import Chunk, Format
from db.resources.definition import Resource
from db.settings import Settings

# columns that come from an annotated file of refused records
ANNOTATIONS = ("_line", "_errors")


class Intake:
    """Blocks in, chunks out. `format` is a wish; None: the first byte decides, and then `format` tells how."""

    def __init__(self, settings: Settings, *, format: Format | None, delimiter: str) -> None:
        self.settings = settings
        self.format: Format | None = format
        self.delimiter = delimiter
        self.bytes = 0
        self._sha256 = hashlib.sha256()
        self._head = b""
        self._cutter: Cutter | None = None

    def feed(self, block: bytes) -> list[Chunk]:
        """Raises `chunking.Unreadable`, and `Problem` 413."""
        self.bytes += len(block)
        if self.bytes > self.settings.upload_max_bytes:
            raise too_large(self.settings.upload_max_bytes)
        self._sha256.update(block)
        if self._cutter is not None:
            return self._cutter.feed(block)
        self._head += block
        found = splitting.sniff(self._head)
        if found is None and len(self._head) < HEAD_MAX_BYTES:
            return []
        self.format = self.format or found or "csv"
        self._cutter = splitting.cutter(
            self.format,
            batch_size=self.settings.batch_size,
            chunk_max_bytes=self.settings.chunk_max_bytes,
            record_max_bytes=self.settings.record_max_bytes,
            delimiter=self.delimiter,
        )
        head, self._head = self._head, b""
        return self._cutter.feed(head)

    def finish(self) -> list[Chunk]:
        """The last chunks. A file without any but blank bytes has none. Raises `chunking.Unreadable`."""
        return self._cutter.finish() if self._cutter is not None else []

    @property
    def records(self) -> int:
        return self._cutter.records if self._cutter is not None else 0

    @property
    def sha256(self) -> bytes:
        return self._sha256.digest()

    @property
    def header(self) -> bytes | None:
        return self._cutter.header if self._cutter is not None else None

    @property
    def columns(self) -> list[str] | None:
        return self._cutter.columns if self._cutter is not None else None

    def check_columns(self, resource: Resource, *, ignore_unknown: bool) -> None:
        """Raises `Problem` 400 naming each column that is unknown or missing: a header speaks for every record."""
        columns = self.columns
        if columns is None:
            return
        faults = [
            Fault(column, "missing_required", f"is a column that {resource.name} must have")
            for column in resource.columns
            if column in resource.required and column not in columns
        ]
        if not ignore_unknown:
            faults += [
                Fault(column, "unknown_field", f"is not a column of {resource.name}")
                for column in columns
                if column not in (*resource.columns, *ANNOTATIONS)
            ]
        if faults:
            detail = "; ".join(f"{fault.field} {fault.message}" for fault in faults)
            raise Problem(
                "invalid-request", f"The first line is not a header of {resource.name}: {detail}", errors=faults
            )

    def digest(self, parameters: Mapping[str, Any]) -> bytes:
        """What tells this import from another: its parameters and its bytes."""
        return hashlib.sha256(msgspec.json.encode(parameters, order="sorted") + self.sha256).digest()
