"""The client: imports, exports and their jobs."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self
from uuid import uuid4

from api.client import download, following, source, upload
from api.client.download import Compression
from api.client.errors import BulkError, NotFound, ProblemError
from api.client.jobs import Event, Job, Kind
from api.client.parameters import query
from api.client.source import Records
from api.client.transport import Transport
from api.client.upload import Key

API = "/api/v1"
IMPORTS = f"{API}/imports"
EXPORTS = f"{API}/exports"
WATERMARK = "X-Watermark"

RETRY_SECONDS = 60.0

Progress = Callable[[int, int | None], None]


def _no_progress(_done: int, _total: int | None) -> None:
    pass


class Client:
    """A client of one service. Close it, or use it in a `with` statement.

    `api_key` is sent as `Authorization: Bearer`. After a broken connection, 429 or 503 a request is repeated for at most
    `retry_seconds`, honouring Retry-After. `on_retry` is called with a message before a pause for a new cause. All methods raise
    `ProblemError` for a request that the service refuses, and `Disconnected` when the retries end.

    >>> with Client(url) as client:
    ...     job = client.import_file([{"email": "ada@example.org", "name": "Ada", "role": "admin", "active": True}],
    ...                              resource="users")
    ...     job = client.wait(job.id)
    ...     job.outcome, job.counts["created"]
    ('success', 1)
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        retry_seconds: float = RETRY_SECONDS,
        on_retry: Callable[[str], None] | None = None,
    ) -> None:
        self._transport = Transport(url, api_key=api_key, retry_seconds=retry_seconds, on_retry=on_retry)

    @property
    def url(self) -> str:
        return self._transport.url

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: object, _traceback: TracebackType | None) -> None:
        self.close()

    # ── imports ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def import_file(
        self,
        data: str | Path | BinaryIO | Records,
        *,
        resource: str | None = None,
        name: str | None = None,
        key: Key | str = "content",
        on_sent: Progress = _no_progress,
        **parameters: object,
    ) -> Job:
        """Imports a path, a binary stream, or an iterable of dicts; returns the job, which is not final yet.

        `parameters` are those of `POST /imports`: `mode`, `format`, `dry_run`, `max_errors`, `after`, … `name` is the file's
        name if it has none. `on_sent(bytes_sent, bytes)` reports the upload; memory does not grow with the file.

        The path `s3://bucket/key` is read by the service itself, which must allow it. `name` and `on_sent` do not apply then, and
        the key "content" is a random one.

        `key` is the idempotency key. With "content" it is derived from the service, the parameters and the file's digest: the
        same call returns the same job, with `is_replayed` true, for as long as the service keeps that job. With "random" each
        call imports. Any other text is the key itself.

        >>> with Client(url) as client:
        ...     first = client.import_file("two.csv", resource="users")
        ...     again = client.import_file("two.csv", resource="users")
        ...     first.id == again.id, again.is_replayed
        (True, True)
        """
        params = query({**parameters, "resource": resource})
        if source.is_object(data):
            return upload.send_source(self._transport, IMPORTS, data, params, key=key)
        with source.opened(data, name=name) as opened:
            return upload.send(
                self._transport, IMPORTS, opened, params, key=key, on_sent=lambda sent: on_sent(sent, opened.size)
            )

    def repair(self, job: Job, file: Path, **parameters: Any) -> Job:
        """Imports corrected records of an import: the file that `refused_to(annotate=True)` wrote, edited.

        Resource, mode, `columns` and the like are those of the import. Errors have the lines of the first file, also if `job` is
        a repair. `parameters` are further parameters of `POST /imports`. Raises `Conflict` if a record was repaired before.
        """
        format = None if file.suffix.lower() == ".xlsx" else job.data["format"]
        return self.import_file(file, repairs=job.id, format=format, **parameters)

    def errors(self, import_id: str, *, code: str | None = None, field: str | None = None) -> Iterator[dict[str, Any]]:
        """The errors of an import, in the order of the file, a page at a time.

        >>> with Client(url) as client:
        ...     job = client.wait(client.import_file("two.csv", resource="users").id)
        ...     [(error["line"], error["field"], error["code"]) for error in client.errors(job.id)]
        [(3, 'email', 'invalid_format'), (3, 'role', 'invalid_enum')]
        """
        params = query({"limit": 1000, "code": code, "field": field})
        for page in self._transport.pages(f"{IMPORTS}/{import_id}/errors", params):
            yield from page["errors"]

    def errors_file(self, import_id: str, format: Literal["csv", "ndjson"], **filters: str) -> Iterator[bytes]:
        """All errors of an import as one file, in blocks. Raises `IncompleteDownload` if it is incomplete."""
        return download.blocks(self._transport, f"{IMPORTS}/{import_id}/errors", {"format": format, **filters})

    def results(self, import_id: str, format: Literal["csv", "ndjson"]) -> Iterator[bytes]:
        """Line, record, id and outcome of each record of a final import that was not refused, in blocks.

        Raises `IncompleteDownload` if the file is incomplete.
        """
        return download.blocks(self._transport, f"{IMPORTS}/{import_id}/results", {"format": format})

    def refused(self, import_id: str, *, annotate: bool = False, unrepaired: bool = False) -> Iterator[bytes]:
        """The refused records of an import as they were sent, in blocks, in the format of the file.

        `annotate` adds `_line` and `_errors` to each; `unrepaired` omits those that repairs have. Raises `IncompleteDownload` if
        the file is incomplete.
        """
        path = f"{IMPORTS}/{import_id}/failed-records"
        return download.blocks(self._transport, path, query({"annotate": annotate, "unrepaired": unrepaired}))

    def refused_to(
        self, import_id: str, target: str | Path, *, annotate: bool = False, unrepaired: bool = False
    ) -> None:
        """Writes the refused records to a file, which appears only when it is complete."""
        path = f"{IMPORTS}/{import_id}/failed-records"
        params = query({"annotate": annotate, "unrepaired": unrepaired})
        download.stream_to(self._transport, path, params, Path(target), lambda _size: None)

    def refused_count(self, import_id: str, *, unrepaired: bool = False) -> int:
        """The number of refused records of an import; `unrepaired`: without those that repairs have."""
        params = query({"as": "cells", "limit": 1, "unrepaired": unrepaired})
        return self._transport.json("GET", f"{IMPORTS}/{import_id}/failed-records", params=params)[0]["total"]

    def retry(self, import_id: str) -> Job:
        """Imports the refused and unprocessed records of a final import again, as they were sent."""
        return self._act(import_id, "retry")

    def commit(self, import_id: str, *, undoable: bool = False) -> Job:
        """Imports the file of a completed dry run, without sending it again."""
        return self._act(import_id, "commit", undoable=undoable or None)

    def undo(self, import_id: str) -> Job:
        """Removes the rows that an import with `undoable=True` created, and waits until that is done.

        Rows that were changed or referred to since are kept: `data["undo"]` has the counts, `kept` the rows.

        >>> with Client(url) as client:
        ...     records = [{"email": "grace@example.org", "name": "Grace", "role": "admin", "active": True}]
        ...     job = client.wait(client.import_file(records, resource="users", undoable=True).id)
        ...     client.undo(job.id).data["undo"]["removed"]
        1
        """
        return following.undone(self._transport, self._act(import_id, "undo"))

    def kept(self, import_id: str, format: Literal["csv", "ndjson"]) -> Iterator[bytes]:
        """Line, record, id and reason of each row that an undo has kept, in blocks.

        Raises `IncompleteDownload` if the file is incomplete.
        """
        return download.blocks(self._transport, f"{IMPORTS}/{import_id}/kept-records", {"format": format})

    # ── exports ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def export_records(self, resource: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The records of a resource as dicts, from one snapshot. `parameters` are those of `export`.

        Raises `IncompleteDownload` if the stream breaks: without an exception all records were received.

        >>> with Client(url) as client:
        ...     next(client.export_records("users", email="ada@example.org"))["name"]
        'Ada'
        """
        tail = b""
        for block in self.export(resource, **parameters, format="ndjson"):
            *lines, tail = (tail + block).split(b"\n")
            yield from map(json.loads, lines)

    def export(
        self,
        resource: str,
        *,
        compression: Compression = "none",
        on_watermark: Callable[[str], None] | None = None,
        **parameters: object,
    ) -> Iterator[bytes]:
        """A streamed export in blocks of bytes. Raises `IncompleteDownload` if it breaks.

        `parameters` are the filters, `format`, `fields`, `limit` and `changed_since`. `on_watermark` is called with the watermark
        before the first block. When all blocks are stored, keep it: with `changed_since` the next export has only the records
        that were stored or changed since.

        >>> with Client(url) as client:
        ...     marks = []
        ...     stored = list(client.export_records("users", on_watermark=marks.append))
        ...     changed = list(client.export_records("users", changed_since=marks[-1], on_watermark=marks.append))
        ...     len(stored), len(marks)
        (2, 2)
        """
        path = f"{EXPORTS}/{resource}/stream"
        return download.blocks(
            self._transport,
            path,
            query(parameters),
            compression=compression,
            on_headers=lambda headers: on_watermark(headers[WATERMARK]) if on_watermark else None,
        )

    def export_to(
        self,
        target: str | Path,
        resource: str,
        *,
        compression: Compression = "none",
        on_received: Progress = _no_progress,
        **parameters: object,
    ) -> str:
        """Streams an export to a file, which appears only when it is complete. Returns its watermark, see `export`."""
        watermarks: list[str] = []
        path = f"{EXPORTS}/{resource}/stream"
        download.stream_to(
            self._transport,
            path,
            query(parameters),
            Path(target),
            lambda size: on_received(size, None),
            compression=compression,
            on_headers=lambda headers: watermarks.append(headers[WATERMARK]),
        )
        return watermarks[-1]

    def start_export(self, resource: str, *, filters: Mapping[str, Any] | None = None, **members: object) -> Job:
        """Creates a background export. `members` are those of `POST /exports`: `format`, `fields`, `changed_since`, …

        The final job has the watermark for the next incremental export in `data["watermark"]`.
        """
        order = {"resource": resource, "filters": dict(filters) if filters else None, **members}
        present = {name: value for name, value in order.items() if value is not None}
        body = json.dumps(present, ensure_ascii=False).encode()
        data, headers = self._transport.json(
            "POST",
            EXPORTS,
            headers={
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Idempotency-Key": uuid4().hex,
            },
            content=lambda: iter((body,)),
        )
        return Job.from_response(data, headers)

    def download(self, export_id: str, target: str | Path, *, on_received: Progress = _no_progress) -> Job:
        """Downloads the file of a completed export, resumes it after a broken connection, and checks its digest."""
        job = self.get(export_id, kind="export")
        if not job.file:
            raise BulkError(f"the export {job.id} is {job.status} and has no file")
        download.resume_to(
            self._transport,
            f"{EXPORTS}/{job.id}/download",
            Path(target),
            sha256=job.file["sha256"],
            on_received=lambda size: on_received(size, job.file["bytes"]),
        )
        return job

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, job_id: str, *, kind: Kind | None = None) -> Job:
        """The current state of a job; without `kind`, an import or else an export with that id."""
        if kind != "export":
            try:
                return Job(self._transport.json("GET", f"{IMPORTS}/{job_id}")[0])
            except NotFound:
                if kind == "import":
                    raise
        return Job(self._transport.json("GET", f"{EXPORTS}/{job_id}")[0])

    def jobs(self, kind: Kind = "import", **filters: object) -> Iterator[Job]:
        """Jobs, newest first, a page at a time. `filters` are those of the list, such as `status` and `resource`."""
        path = IMPORTS if kind == "import" else EXPORTS
        for page in self._transport.pages(path, {"limit": "100", **query(filters)}):
            yield from map(Job, page[f"{kind}s"])

    def watch(self, job: Job | str) -> Iterator[Event]:
        """The job's server-sent events until it is final; the last one is `done`.

        Reconnects if the stream ends early. If that happens twice in a row without an event, polls the job instead.
        """
        yield from following.watch(self._transport, self._job(job))

    def wait(self, job: Job | str, *, seconds: float | None = None) -> Job:
        """Waits until the job is final and returns it. Raises `WaitTimeout` after `seconds`."""
        return following.wait(self._transport, self._job(job), seconds=seconds)

    def cancel(self, job: Job | str) -> Job:
        """Cancels a job. Records that an import has stored remain."""
        return self._act(job, "cancel")

    def delete(self, job: Job | str) -> None:
        """Deletes a final job, with its errors and its file. Imported records remain."""
        self._transport.json("DELETE", self._job(job).path)

    # ── the service ───────────────────────────────────────────────────────────────────────────────────────────────────

    def resources(self) -> list[dict[str, Any]]:
        """The resources with their fields and rules."""
        return self._transport.json("GET", f"{API}/resources")[0]["resources"]

    def resource(self, name: str) -> dict[str, Any]:
        """One resource with its fields and rules."""
        return self._transport.json("GET", f"{API}/resources/{name}")[0]

    def template(self, resource: str, format: Literal["csv", "ndjson"] = "csv") -> bytes:
        """A header and one example record."""
        return b"".join(download.blocks(self._transport, f"{API}/resources/{resource}/template", {"format": format}))

    def health(self) -> dict[str, Any]:
        """The response of `/health`, also if the service is not ready."""
        try:
            return self._transport.json("GET", "/health", retry_seconds=0)[0]
        except ProblemError as error:
            return error.document

    # ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _job(self, job: Job | str) -> Job:
        return self.get(job) if isinstance(job, str) else job

    def _act(self, job: Job | str, action: str, **parameters: object) -> Job:
        data, headers = self._transport.json("POST", f"{self._job(job).path}/{action}", params=query(parameters))
        return Job.from_response(data, headers)
