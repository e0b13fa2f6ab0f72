"""Stores an XLSX file that is received in a temporary file, and lets a process write the rows of one of its sheets."""

import asyncio
import hashlib
import json
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec
import structlog

import api
from api.http.problems import Problem, invalid
from api.imports.body import File, Parameter
from api.imports.parameters import ImportParameters
from api.imports.sheets.errors import Kind
from db.resources import RESOURCES
from db.settings import Settings

log = structlog.get_logger(__name__)

BLOCK_BYTES = 64 * 1024
# the file is written in pieces of this size, in a thread
WRITE_BYTES = 1024 * 1024
# the status of api.imports.sheets.__main__, which has the reason on standard error
REFUSED = 3
ERROR_MAX_BYTES = 64 * 1024


class Reason(msgspec.Struct, frozen=True):
    """Why the process refused the file."""

    kind: Kind
    message: str


class SheetConversion:
    """Converts the file of one upload. `bytes` and `sha256` are those of the file itself.

    `turn` limits the number of processes. `requested` returns the parameters of the request when the whole body was received.
    """

    def __init__(self, settings: Settings, turn: asyncio.Semaphore, requested: Callable[[], ImportParameters]) -> None:
        self.bytes = 0
        self._settings = settings
        self._turn = turn
        self._requested = requested
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        return self._sha256.digest()

    async def rows(self, events: AsyncIterator[Parameter | File | bytes]) -> AsyncGenerator[Parameter | bytes]:
        """Yields the parameters after the file, then the output of the process. Raises `Problem`: 400, 413, 503."""
        with tempfile.TemporaryFile() as file:
            async for event in self._store(events, file):
                yield event
            options = self._options(self._requested())
            await asyncio.to_thread(file.seek, 0)
            async with self._turn, _process(options, file) as process:
                assert process.stdout is not None  # noqa: S101
                assert process.stderr is not None  # noqa: S101
                while block := await process.stdout.read(BLOCK_BYTES):
                    yield block
                error = await process.stderr.read(ERROR_MAX_BYTES)
                self._check(await process.wait(), error)

    async def _store(
        self, events: AsyncIterator[Parameter | File | bytes], file: IO[bytes]
    ) -> AsyncIterator[Parameter]:
        """Writes the file, and yields the parameters behind it."""
        limit = self._settings.xlsx_max_bytes
        collected = bytearray()
        async for event in events:
            if isinstance(event, Parameter):
                yield event
            elif isinstance(event, bytes):
                self.bytes += len(event)
                if self.bytes > limit:
                    raise Problem("payload-too-large", f"An XLSX file may have {limit} bytes.", limit_bytes=limit)
                self._sha256.update(event)
                collected += event
                if len(collected) >= WRITE_BYTES:
                    await _write(file, collected)
                    collected = bytearray()
        await _write(file, collected)

    def _options(self, requested: ImportParameters) -> dict[str, Any]:
        """The options of the process. Raises `Problem` 400."""
        if requested.resource is None:
            raise invalid("resource", f"is required: {', '.join(RESOURCES)}", "missing")
        resource, fields, settings = RESOURCES[requested.resource], requested.columns or {}, self._settings
        types = dict(zip(resource.columns, resource.column_types, strict=True))
        times = {field for field, type in types.items() if type == "timestamptz"}
        return {
            "sheet": requested.sheet,
            "times": [name for name in {*types, *fields} if fields.get(name, name) in times],
            "delimiter": requested.delimiter,
            "record_max_bytes": settings.record_max_bytes,
            "unpacked_max_bytes": settings.upload_max_bytes,
            "unpack_ratio_max": settings.unpack_ratio_max,
            "memory_max_bytes": settings.xlsx_memory_bytes,
            "seconds_max": settings.xlsx_seconds,
        }

    def _check(self, status: int, error: bytes) -> None:
        """Raises `Problem` if the process did not write all rows."""
        if status == 0:
            return
        if status == REFUSED:
            reason = msgspec.json.decode(error, type=Reason)
            if reason.kind == "sheet":
                raise invalid("sheet", reason.message)
            if reason.kind == "too_large":
                raise Problem("payload-too-large", reason.message)
            raise Problem("invalid-request", f"The file cannot be read: {reason.message}.")
        if status == -signal.SIGXCPU:
            raise Problem(
                "payload-too-large",
                f"Reading the XLSX file takes more than {self._settings.xlsx_seconds} seconds of CPU time (XLSX_SECONDS).",
            )
        # the name of the exception only: its text may have values of the file
        lines = error.decode(errors="replace").strip().splitlines()
        log.error("XLSX file not read", status=status, error=lines[-1].partition(":")[0] if lines else None)
        raise Problem("internal-error", "The process that reads the XLSX file has failed.")


async def _write(file: IO[bytes], data: bytearray) -> None:
    try:
        await asyncio.to_thread(file.write, data)
        await asyncio.to_thread(file.flush)
    except OSError as error:
        log.error("XLSX file not stored", error=type(error).__name__)
        raise Problem("unavailable", "The service has no room for the XLSX file at present.") from None


@asynccontextmanager
async def _process(options: dict[str, Any], file: IO[bytes]) -> AsyncIterator[Process]:
    """Runs the process while the block runs. It gets no environment, so it has no secrets that a file could make it reveal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "api.imports.sheets",
        json.dumps(options),
        stdin=file,
        stdout=PIPE,
        stderr=PIPE,
        cwd=Path(api.__file__).parents[1],
        env={},
        # a signal to the service's group does not reach it
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
