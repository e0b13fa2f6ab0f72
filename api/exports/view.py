"""The JSON representation of an export job."""

from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from api.http import responses
from api.http.operations import BINARY, OBJECTS
from db.connections.pool import Pool
from db.exports import files, jobs
from db.exports.jobs import Export
from db.formats import MEDIA_TYPES, Compression
from db.settings import Settings
from db.webhooks.deliveries import DeliveryState

PATH = "/api/v1/exports"
# the media types of streams and files in the OpenAPI document
RECORD_FILES = {
    "application/x-ndjson": BINARY,
    "text/csv": BINARY,
    "application/json": OBJECTS,
    **{MEDIA_TYPES[format]: BINARY for format in ("xlsx", "parquet", "arrow")},
}


class ExportFile(msgspec.Struct, frozen=True, kw_only=True):
    """The complete file, as stored."""

    bytes: int
    records: int
    sha256: str
    content_type: str


class ExportProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Percent is 0 while the export is pending and 100 when the file is complete. Null means unknown."""

    percent: float | None
    records_per_second: float | None
    eta_seconds: float | None


class ExportView(msgspec.Struct, frozen=True, kw_only=True):
    """An export job. `file`, `snapshot_at` and `watermark` are null until the file is complete.

    The file is removed at `expires_at`. `watermark` is the `changed_since` of the next incremental export.

    `waiting_for` is the reason why the job is not final yet, in one sentence; null if it is final, and behind a pooler.
    `webhooks` are the deliveries of the end of the job. Lists do not have these two.
    """

    id: UUID
    kind: Literal["export"] = "export"
    resource: str
    format: str
    status: jobs.Status
    filters: dict[str, Any]
    fields: list[str] | None
    csv_safe: bool
    bom: bool
    changed_since: str | None
    compression: Compression
    snapshot_at: datetime | None
    watermark: str | None
    total_records: int | None
    exported_records: int | None
    progress: ExportProgress
    file: ExportFile | None
    download_url: str | None
    waiting_for: str | UnsetType | None = UNSET
    webhooks: list[DeliveryState] | UnsetType = UNSET
    problem: dict[str, Any] | None
    created_at: datetime
    created_by: str | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    links: dict[str, str]


async def get_or_404(pool: Pool, id: str) -> Export:
    """The export with the id from the path. Raises `Problem` 404."""
    return await responses.get_or_404(pool, jobs.get, id, "export")


async def view(pool: Pool, settings: Settings, job: Export) -> ExportView:
    """The complete representation."""
    waiting_for = await responses.waiting_for(pool, settings, "export", job)
    webhooks = await responses.webhooks(pool, settings, "export", job)
    return msgspec.structs.replace(summary(settings, job), waiting_for=waiting_for, webhooks=webhooks)


def summary(settings: Settings, job: Export) -> ExportView:
    """The representation without `waiting_for` and `webhooks`."""
    self = f"{PATH}/{job.id}"
    is_done = job.status == "completed"
    return ExportView(
        id=job.id,
        resource=job.resource,
        format=job.format,
        status=job.status,
        filters=job.filters or {},
        fields=job.fields,
        csv_safe=job.csv_safe,
        bom=job.bom,
        changed_since=job.changed_since,
        compression=job.compression,
        snapshot_at=job.snapshot_at,
        watermark=job.watermark,
        total_records=job.total_records,
        exported_records=0 if job.status == "pending" else job.exported_records,
        progress=_progress(job),
        file=_file(job),
        download_url=f"{self}/download" if is_done else None,
        problem=job.problem,
        created_at=job.created_at,
        created_by=job.created_by,
        started_at=job.started_at,
        finished_at=job.finished_at,
        expires_at=_expires_at(settings, job),
        links=_links(job),
    )


def _links(job: Export) -> dict[str, str]:
    """The resources of the export and the actions that are possible in its state."""
    self = f"{PATH}/{job.id}"
    links = {"self": self, "events": f"{self}/events"}
    if job.status == "completed":
        links["download"] = f"{self}/download"
    if not job.is_final:
        links["cancel"] = f"{self}/cancel"
    return links


def _progress(job: Export) -> ExportProgress:
    if job.file_sha256 is not None:
        percent = 100.0
    elif job.status == "pending":
        percent = 0.0
    elif job.total_records is None or job.exported_records is None:
        percent = None
    else:
        percent = 100 * job.exported_records / job.total_records if job.total_records else 0.0
    rate = eta = None
    if job.exported_records and job.started_at is not None:
        rate = job.exported_records / ((job.finished_at or job.now) - job.started_at).total_seconds()
        if job.finished_at is None and job.total_records is not None:
            eta = (job.total_records - job.exported_records) / rate
    return ExportProgress(
        percent=None if percent is None else round(percent, 2),
        records_per_second=None if rate is None else round(rate, 1),
        eta_seconds=None if eta is None else round(eta, 1),
    )


def _expires_at(settings: Settings, job: Export) -> datetime | None:
    if job.finished_at is None or job.status not in ("completed", "expired"):
        return None
    return job.finished_at + timedelta(seconds=settings.export_retention_seconds)


def _file(job: Export) -> ExportFile | None:
    """Also returned after the file has expired."""
    if job.finished_at is None or job.file_bytes is None or job.file_records is None or job.file_sha256 is None:
        return None
    return ExportFile(
        bytes=job.file_bytes,
        records=job.file_records,
        sha256=job.file_sha256.hex(),
        content_type=files.media_type(job.format, job.compression),
    )
