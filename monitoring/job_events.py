"""Logs, counts and traces the end of each job. The workers and the API call it, whichever of them finished the job.

`started_ns` is the time at which it began to finish the job, in nanoseconds.
"""

from uuid import UUID

import structlog

from db.exports.completion import Finished as FinishedExport
from db.imports.completion import Finished as FinishedImport
from db.imports.undo import Undo
from db.jobs import Kind
from monitoring import metrics, tracing
from monitoring.tracing import Attributes

log = structlog.get_logger(__name__)


def import_finished(job: FinishedImport, *, started_ns: int) -> None:
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
        **tracing.log_fields(job.traceparent),
    )
    counts: Attributes = {"bulk.records": job.total_records, "bulk.refused": job.failed}
    _trace("import", job, job.outcome or job.status, counts, started_ns)


def export_finished(job: FinishedExport, *, started_ns: int) -> None:
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
        **tracing.log_fields(job.traceparent),
    )
    _trace("export", job, job.status, {"bulk.records": job.records}, started_ns)


def _trace(kind: Kind, job: FinishedImport | FinishedExport, outcome: str, counts: Attributes, started_ns: int) -> None:
    common = {"bulk.job.id": str(job.id), "bulk.job.kind": kind, "bulk.resource": job.resource, "bulk.outcome": outcome}
    span = tracing.span(f"{kind} end", job.traceparent, {**common, **counts}, started_ns=started_ns)
    if job.status == "failed":
        span.fail("failed")
    span.end()


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
