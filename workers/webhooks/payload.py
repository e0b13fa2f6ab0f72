"""The body of a webhook: the end of a job, with its counters. No file name, no record, nothing that names a person."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from db.connections.pool import Connection
from db.exports import jobs as exports
from db.exports.jobs import Export
from db.imports import jobs as imports
from db.imports.jobs import Import, ImportCounts
from db.jobs import Kind
from db.webhooks.deliveries import Delivery


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed. The job's own problem also has a detail, which may quote the file."""

    type: str
    title: str


class JobData(msgspec.Struct, frozen=True, kw_only=True):
    """The members have the names and the meaning that they have in the job."""

    id: UUID
    resource: str
    status: str
    problem: Problem | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: dict[str, str]


class ImportData(JobData, frozen=True, kw_only=True):
    kind: Literal["import"] = "import"
    outcome: str | None
    mode: str
    dry_run: bool
    parent_id: UUID | None
    total_records: int
    counts: ImportCounts
    error_count: int


class ExportData(JobData, frozen=True, kw_only=True):
    """`records` and `bytes` are of the file, null without one."""

    kind: Literal["export"] = "export"
    format: str
    records: int | None
    bytes: int | None


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """`timestamp` is the time at which the job ended."""

    type: str
    timestamp: datetime | None
    data: ImportData | ExportData


async def load(conn: Connection, delivery: Delivery) -> bytes | None:
    """The body of the delivery as JSON. None: the job was deleted meanwhile, and the delivery with it.

    The same in each attempt, since a final job does not change.
    """
    if delivery.kind == "import":
        job = await imports.get(conn, delivery.job_id)
        data = job and _import_data(job)
    else:
        job = await exports.get(conn, delivery.job_id)
        data = job and _export_data(job, status=delivery.event.partition(".")[2])
    if data is None:
        return None
    return msgspec.json.encode(Payload(type=delivery.event, timestamp=data.finished_at, data=data))


def _import_data(job: Import) -> ImportData:
    names = ["self", *(["errors"] if job.errors else []), *(["failed-records"] if job.failed else [])]
    return ImportData(
        id=job.id,
        resource=job.resource,
        status=job.status,
        outcome=job.outcome,
        mode=job.mode,
        dry_run=job.dry_run,
        parent_id=job.parent_id,
        total_records=job.total_records,
        counts=job.counts,
        error_count=job.errors,
        problem=_problem(job.problem),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        links=_links("import", job.id, names),
    )


def _export_data(job: Export, *, status: str) -> ExportData:
    """`status` is that of the end: the file may have expired since."""
    return ExportData(
        id=job.id,
        resource=job.resource,
        status=status,
        format=job.format,
        records=job.file_records,
        bytes=job.file_bytes,
        problem=_problem(job.problem),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        links=_links("export", job.id, ["self", *(["download"] if status == "completed" else [])]),
    )


def _problem(problem: dict[str, Any] | None) -> Problem | None:
    return None if problem is None else Problem(type=problem["type"], title=problem["title"])


def _links(kind: Kind, id: UUID, names: list[str]) -> dict[str, str]:
    """Paths of the API, named as in the job."""
    job = f"/api/v1/{kind}s/{id}"
    return {name.replace("-", "_"): job if name == "self" else f"{job}/{name}" for name in names}
