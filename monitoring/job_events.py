"""Logs and counts each job that becomes final. The workers and the API call it, whichever of them finished the job."""

from uuid import UUID

import structlog

from db.exports.completion import Finished as FinishedExport
from db.imports.completion import Finished as FinishedImport
from db.imports.undo import Undo
from monitoring import metrics

log = structlog.get_logger(__name__)


def import_finished(job: FinishedImport) -> None:
    metrics.job_finished("import", job.resource, job.status, job.seconds)
    log.info(
        "import finished",
        job_id=str(job.id),
        request_id=job.request_id,
        resource=job.resource,
        status=job.status,
        outcome=job.outcome,
        records=job.total_records,
        created=job.created,
        failed=job.failed,
        seconds=round(job.seconds, 3),
        records_per_second=_rate(job.total_records, job.seconds),
        failed_share=round(job.failed / job.total_records, 4) if job.total_records else 0,
    )


def export_finished(job: FinishedExport) -> None:
    metrics.job_finished("export", job.resource, job.status, job.seconds)
    log.info(
        "export finished",
        job_id=str(job.id),
        request_id=job.request_id,
        resource=job.resource,
        format=job.format,
        status=job.status,
        records=job.records,
        bytes=job.bytes,
        seconds=round(job.seconds, 3),
        records_per_second=_rate(job.records, job.seconds),
    )


def import_undone(id: UUID, undo: Undo) -> None:
    log.info(
        "import undone",
        job_id=str(id),
        removed=undo.removed,
        missing=undo.missing,
        changed=undo.changed,
        referred_to=undo.referred_to,
    )


def _rate(records: int | None, seconds: float) -> int | None:
    return round(records / seconds) if records is not None and seconds else None
