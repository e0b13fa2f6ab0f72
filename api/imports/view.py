"""The JSON representation of an import job."""

from datetime import datetime, timedelta
from typing import Any, Literal, Self
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from api.http import responses
from api.imports.turn import Turn
from db.connections.pool import Connection, Pool, repeatable
from db.imports import errors as record_errors
from db.imports import jobs, repairs, undo
from db.imports.errors import ErrorCount
from db.imports.jobs import Import, ImportCounts, Relation
from db.imports.repairs import Totals
from db.imports.undo import Undo
from db.resources.definition import RecordError
from db.settings import Settings
from db.webhooks.deliveries import DeliveryState

PATH = "/api/v1/imports"
# errors in the representation of a job; …/errors has all
ERRORS_SHOWN = 100


class ImportFile(msgspec.Struct, frozen=True, kw_only=True):
    """The decompressed file."""

    name: str | None
    bytes: int
    sha256: str


class ImportSource(msgspec.Struct, frozen=True, kw_only=True):
    """The object of a bucket that the file was read from; `bytes` as stored.

    `verified` is the checksum that its bytes were compared with: `sha256` is `source_sha256`, `md5` is the ETag. It is null
    without `source_sha256` if the ETag is not the MD5 of the bytes, as after a multipart upload.
    """

    url: str
    bytes: int
    e_tag: str
    last_modified: datetime
    verified: Literal["sha256", "md5"] | None


class ImportProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Null means unknown."""

    percent: float
    records_per_second: float | None
    eta_seconds: float | None


class KeptCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that the undo has kept: written by others since the import, or referred to."""

    changed: int
    referred_to: int


class UndoView(msgspec.Struct, frozen=True, kw_only=True):
    """The undo of an import. `missing` rows were deleted by others before it.

    When it is finished, `removed`, `missing` and what is `kept` add up to the count `created`.
    """

    status: Literal["running", "finished"]
    removed: int
    missing: int
    kept: KeptCounts
    started_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, state: Undo) -> Self:
        return cls(
            status="running" if state.finished_at is None else "finished",
            removed=state.removed,
            missing=state.missing,
            kept=KeptCounts(changed=state.changed, referred_to=state.referred_to),
            started_at=state.started_at,
            finished_at=state.finished_at,
        )


class ImportView(msgspec.Struct, frozen=True, kw_only=True):
    """An import job. In lists it has no `errors`, `error_summary`, `error_kinds`, `waiting_for`, `repaired`, `undo` and
    `webhooks`.

    `waiting_for` is the reason why the job is not final yet, in one sentence; null if it is final, and behind a pooler.
    `error_count` counts all errors; `errors_stored` is the number of those that can be read. `error_summary` counts the stored
    errors by code and field, the most frequent first; `error_kinds` is the number of these combinations. `relation` is how the
    import comes from its parent. `repaired` counts the repairs and retries that follow from it, and its refused and unprocessed
    records that these have taken, and that are left; null if there are none. `undo` is null without an undo. `webhooks` are the
    deliveries of the end of the job.
    """

    id: UUID
    kind: Literal["import"] = "import"
    resource: str
    status: Literal["pending", "processing", "completed", "failed", "cancelled"]
    outcome: Literal["success", "partial", "rejected"] | None
    mode: str
    dry_run: bool
    format: str
    csv_delimiter: str | None
    file: ImportFile
    source: ImportSource | None
    columns: dict[str, str | None] | None
    undoable: bool
    total_records: int
    processed_records: int
    counts: ImportCounts
    progress: ImportProgress
    error_count: int
    errors_stored: int
    errors: list[RecordError] | UnsetType = UNSET
    error_summary: list[ErrorCount] | UnsetType = UNSET
    error_kinds: int | UnsetType = UNSET
    waiting_for: str | UnsetType | None = UNSET
    problem: dict[str, Any] | None
    parent_id: UUID | None
    relation: Relation | None
    repaired: Totals | UnsetType | None = UNSET
    undo: UndoView | UnsetType | None = UNSET
    webhooks: list[DeliveryState] | UnsetType = UNSET
    after: UUID | None
    created_at: datetime
    created_by: str | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    links: dict[str, str]


async def get_or_404(pool: Pool, id: str) -> Import:
    """The import with the id from the path. Raises `Problem` 404."""
    return await responses.get_or_404(pool, jobs.get, id, "import")


async def view(pool: Pool, settings: Settings, job: Import, *, turn: Turn | None = None) -> ImportView:
    """The complete representation. Reads the errors after the job, so that it never has fewer errors than it counts.

    `turn` is for a small import that was just created.
    """
    if turn is not None and job.status == "pending" and job.after_id is None:
        waiting_for = await turn.waiting_for()
    else:
        waiting_for = await responses.waiting_for(pool, settings, "import", job)
    complete = msgspec.structs.replace(
        summary(settings, job),
        errors=[],
        error_summary=[],
        error_kinds=0,
        waiting_for=waiting_for,
        repaired=None,
        undo=await _undo(pool, job),
        webhooks=await responses.webhooks(pool, settings, "import", job),
    )
    remaining = job.unprocessed + job.failed if job.is_final else 0
    if not remaining and not job.errors:
        return complete

    async def read(conn: Connection) -> ImportView:
        repaired = await repairs.totals(conn, job.id, remaining=remaining) if remaining else None
        errors, _ = await record_errors.page(
            conn, job.id, after=record_errors.START, code=None, field=None, limit=ERRORS_SHOWN
        )
        kinds = await record_errors.summary(conn, job.id)
        return msgspec.structs.replace(
            complete, errors=errors, error_summary=kinds.counts, error_kinds=kinds.kinds, repaired=repaired
        )

    return await repeatable(pool, read)


async def _undo(pool: Pool, job: Import) -> UndoView | None:
    if not job.undoable or not job.is_final:
        return None
    state = await repeatable(pool, lambda conn: undo.get(conn, job.id))
    return None if state is None else UndoView.of(state)


def summary(settings: Settings, job: Import) -> ImportView:
    """The representation without the errors."""
    return ImportView(
        id=job.id,
        resource=job.resource,
        status=job.status,  # pyright: ignore[reportArgumentType]  # `jobs.get` returns no upload
        outcome=job.outcome,
        mode=job.mode,
        dry_run=job.dry_run,
        format=job.format,
        csv_delimiter=job.csv_delimiter if job.format == "csv" else None,
        file=ImportFile(name=job.file_name, bytes=job.file_bytes, sha256=job.file_sha256.hex()),
        source=msgspec.convert(job.source, ImportSource | None),
        columns=job.columns,
        undoable=job.undoable,
        total_records=job.total_records,
        processed_records=job.processed,
        counts=job.counts,
        progress=_progress(job),
        error_count=job.errors,
        errors_stored=job.errors - job.errors_omitted,
        problem=job.problem,
        parent_id=job.parent_id,
        relation=job.relation,
        after=job.after_id,
        created_at=job.created_at,
        created_by=job.created_by,
        started_at=job.started_at,
        finished_at=job.finished_at,
        expires_at=job.finished_at and job.finished_at + timedelta(seconds=settings.job_retention_seconds),
        links=_links(job),
    )


def _links(job: Import) -> dict[str, str]:
    """The resources of the import and the actions that are possible in its state."""
    self = f"{PATH}/{job.id}"
    links = {"self": self} | {
        name.replace("-", "_"): f"{self}/{name}"
        for name in ("errors", "failed-records", "unprocessed-records", "events", "timeline")
    }
    if job.parent_id is not None:
        links["parent"] = f"{PATH}/{job.parent_id}"
    if not job.is_final:
        return links | {"cancel": f"{self}/cancel"}
    if job.failed or job.processed < job.total_records:
        links["retry"] = f"{self}/retry"
    if job.failed:
        links["repair"] = f"{PATH}?repairs={job.id}"
    links["children"] = f"{PATH}?parent={job.id}"
    if not job.dry_run:
        links["results"] = f"{self}/results"
    if job.dry_run and job.status == "completed":
        links["commit"] = f"{self}/commit"
    if job.undoable:
        links |= {"undo": f"{self}/undo", "kept_records": f"{self}/kept-records"}
    return links


def _progress(job: Import) -> ImportProgress:
    # deferred records have been processed; while they are settled they are briefly counted twice
    done = min(job.total_records, job.processed + job.deferred)
    percent = 100.0 if job.total_records == 0 else 100 * done / job.total_records
    rate = None
    if job.started_at is not None and done:
        seconds = ((job.finished_at or job.now) - job.started_at).total_seconds()
        rate = done / seconds if seconds > 0 else None
    remaining = job.total_records - done
    eta = None if rate is None or job.finished_at is not None else remaining / rate
    return ImportProgress(
        percent=round(percent, 2),
        records_per_second=None if rate is None else round(rate, 1),
        eta_seconds=None if eta is None else round(eta, 1),
    )
