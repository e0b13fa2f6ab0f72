"""The span of a request, which `api.http.middleware` starts and ends."""

from uuid import UUID

from litestar.types import Scope

from db.jobs import Kind
from monitoring.tracing import Span


def span(scope: Scope) -> Span:
    return scope["state"].get("span") or Span(None)


def note_job(scope: Scope, kind: Kind, id: UUID, resource: str, *, is_replay: bool, records: int | None = None) -> None:
    """Notes in the span which job the request has created, or which one it has found as that of an earlier request."""
    span(scope).set(
        {
            "bulk.job.id": str(id),
            "bulk.job.kind": kind,
            "bulk.resource": resource,
            "bulk.records": records,
            "bulk.outcome": "replayed" if is_replay else "created",
        }
    )
