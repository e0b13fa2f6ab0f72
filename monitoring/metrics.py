"""Every metric, defined once, and what is counted when something happens.

Import this module only after `monitoring.processes.join`: each metric opens its file in that folder when it is defined.
A process that has not joined (a test, a tool) counts in its own memory, which no scrape sees.

Labels are names from short closed lists: never an id, an address, or a path as it was asked for. The numbers of records are
added once a chunk, not once a record.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from db.errors import RETRYABLE
from db.formats import Format
from db.health import QueueNumbers, ServerNumbers
from db.resources import RESOURCES
from db.resources.definition import Code
from monitoring import multiprocess

if multiprocess.folder():
    values.ValueClass = values.MultiProcessValue(multiprocess.identity)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_CHUNK_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_JOB_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)

http_requests = Counter("http_requests", "Requests answered.", ["method", "route", "status"])
http_request_duration = Histogram(
    "http_request_duration_seconds",
    "From the request's head to the last byte of its answer.",
    ["method", "route"],
    buckets=_HTTP_SECONDS,
)
wrong_api_keys = Counter("http_wrong_api_keys", "Requests with an API key that is not one of API_KEYS.")
http_requests_in_progress = Gauge("http_requests_in_progress", "Requests being answered.", multiprocess_mode="livesum")

jobs = Counter("bulk_jobs", "Jobs that became final.", ["kind", "resource", "status"])
job_duration = Histogram(
    "bulk_job_duration_seconds",
    "From a job's start, which is its first claim, to its end.",
    ["kind", "resource"],
    buckets=_JOB_SECONDS,
)
records = Counter("bulk_records", "Records worked through.", ["kind", "resource", "result"])
record_errors = Counter("bulk_record_errors", "Reasons why records were refused.", ["resource", "code"])
chunk_duration = Histogram(
    "bulk_chunk_duration_seconds", "Working through one chunk.", ["resource"], buckets=_CHUNK_SECONDS
)
chunks_reclaimed = Counter("bulk_chunks_reclaimed", "Chunks taken over from dead workers.")
claims_lost = Counter("bulk_claims_lost", "Chunks that were gone when their worker wanted to finish them.")
chunk_retries = Counter("bulk_chunk_retries", "Chunks begun again after an accident.", ["reason"])
workers = Gauge("bulk_workers", "Worker processes of this machine.", multiprocess_mode="livesum")

export_bytes = Counter("bulk_export_bytes", "Bytes of exports written, before compression.", ["resource", "format"])
streams_aborted = Counter("bulk_export_streams_aborted", "Streaming exports that did not come to their end.")
idempotency_requests = Counter("idempotency_requests", "Requests with an idempotency key.", ["result"])


def request_finished(method: str, route: str, status: int, seconds: float) -> None:
    """`route` is the route's template, e.g. `/api/v1/imports/{id}`."""
    http_requests.labels(method, route, str(status)).inc()
    http_request_duration.labels(method, route).observe(seconds)


def worker_started() -> None:
    """Called once by each worker process, after it was forked or spawned."""
    workers.set(1)


def chunk_done(resource: str, counts: Mapping[str, int], errors_by_code: Mapping[str, int], seconds: float) -> None:
    """Called after the chunk's commit. `counts`: records by result (created, updated, unchanged, skipped, failed)."""
    for result, count in counts.items():
        # a settle chunk corrects what its import counted before, also downwards, which a counter cannot follow
        if count > 0:
            records.labels("import", resource, result).inc(count)
    for code, count in errors_by_code.items():
        record_errors.labels(resource, code).inc(count)
    chunk_duration.labels(resource).observe(seconds)


def job_finished(kind: str, resource: str, status: str, seconds: float) -> None:
    """`kind` is import or export; `seconds` from the job's start to its end. Called by whoever made it final."""
    jobs.labels(kind, resource, status).inc()
    job_duration.labels(kind, resource).observe(seconds)


def reclaimed(chunks: int = 1) -> None:
    """A claim of a dead worker was taken over."""
    chunks_reclaimed.inc(chunks)


def claim_lost() -> None:
    """A chunk was reclaimed from this worker, which lives."""
    claims_lost.inc()


def retried(reason: str) -> None:
    """A chunk was begun again; `reason` names the accident from a short list (deadlock, connection, …)."""
    chunk_retries.labels(reason).inc()


def exported(resource: str, format: str, records_count: int, bytes_count: int) -> None:
    """A streamed or written export, or a block of it. `bytes_count` is before compression."""
    records.labels("export", resource, "exported").inc(records_count)
    export_bytes.labels(resource, format).inc(bytes_count)


def stream_aborted() -> None:
    """A streaming export ended before its end: the client left, or the database did."""
    streams_aborted.inc()


def idempotency(result: str) -> None:
    """`result`: created, replayed, in_progress or reused."""
    idempotency_requests.labels(result).inc()


@dataclass(frozen=True, slots=True)
class PoolNumbers:
    """The connections of one API process: `size` open, `idle` of them free, `waiting` requests, `wait_seconds` so far."""

    size: int
    idle: int
    waiting: int
    wait_seconds: float


def exposition(pool: PoolNumbers, queue: QueueNumbers | None, server: ServerNumbers | None) -> bytes:
    """What one scrape tells: every process of the machine, and the database's own truth unless it is away.

    Reads some files: run it beside the event loop. Raises `RuntimeError` in a process that has not joined.
    """
    _begin_at_zero()
    registry = CollectorRegistry()
    registry.register(Machine())
    registry.register(_Now(pool, queue, server))
    return generate_latest(registry)


class Machine(Collector):
    """What the processes of this machine have counted together, those that have died included."""

    def collect(self) -> Iterator[Metric]:
        folder = multiprocess.folder()
        if folder is None:
            raise RuntimeError("monitoring.processes.join was not called")
        multiprocess.sweep(folder)
        yield from MultiProcessCollector(None, path=str(folder)).collect()


@cache
def _begin_at_zero() -> None:
    """A series that appears with its first count has not grown, as Prometheus sees it: the first import would show no rate."""
    for resource, result in product(RESOURCES, ("created", "updated", "unchanged", "skipped", "failed")):
        records.labels("import", resource, result)
    for resource, code in product(RESOURCES, get_args(Code)):
        record_errors.labels(resource, code)
    for resource, format in product(RESOURCES, get_args(Format)):
        export_bytes.labels(resource, format)
    for kind, resource, status in product(("import", "export"), RESOURCES, ("completed", "failed", "cancelled")):
        jobs.labels(kind, resource, status)
        job_duration.labels(kind, resource)
    for resource in RESOURCES:
        records.labels("export", resource, "exported")
        chunk_duration.labels(resource)
    for reason in ("accident", *(error.__name__ for error in RETRYABLE)):
        chunk_retries.labels(reason)
    for result in ("created", "replayed", "in_progress", "reused"):
        idempotency_requests.labels(result)


class _Now(Collector):
    """Numbers that were asked for at the scrape, beside those that were counted."""

    def __init__(self, pool: PoolNumbers, queue: QueueNumbers | None, server: ServerNumbers | None) -> None:
        self.pool = pool
        self.queue = queue
        self.server = server

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("db_pool_size", "Connections of the API's pool.", self.pool.size)
        yield GaugeMetricFamily("db_pool_idle", "Connections that are free.", self.pool.idle)
        yield GaugeMetricFamily("db_pool_waiting", "Requests that wait for a connection.", self.pool.waiting)
        yield CounterMetricFamily(
            "db_pool_wait_seconds", "Time spent waiting for a connection.", self.pool.wait_seconds
        )
        if self.queue is not None:
            yield from _queue(self.queue)
        if self.server is not None:
            yield from _server(self.server)


def _queue(queue: QueueNumbers) -> Iterator[Metric]:
    live = GaugeMetricFamily("bulk_jobs", "Jobs that are not final.", labels=["kind", "status"])
    for labels, count in queue.jobs.items():
        live.add_metric(labels, count)
    yield live
    chunks = GaugeMetricFamily("bulk_chunks", "Chunks that are not final.", labels=["status"])
    for status, count in queue.chunks.items():
        chunks.add_metric([status], count)
    yield chunks
    yield GaugeMetricFamily(
        "bulk_queue_oldest_seconds", "Age of the oldest chunk that nobody has claimed.", queue.oldest_seconds
    )
    left = GaugeMetricFamily(
        "bulk_records_left", "Records of imports that are not worked through.", labels=["resource"]
    )
    for resource, count in queue.records_left.items():
        left.add_metric([resource], count)
    yield left


def _server(server: ServerNumbers) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "bulk_worker_sessions", "Workers of any machine that are connected to the database.", server.worker_sessions
    )
    yield GaugeMetricFamily(
        "bulk_queue_dead_rows", "Rows of the queue's table that vacuum has not removed yet.", server.dead_queue_rows
    )
    yield GaugeMetricFamily("db_sessions", "Sessions of anybody in this database.", server.sessions)
    yield GaugeMetricFamily("db_lock_waits", "Sessions that wait for a lock.", server.lock_waits)
    yield GaugeMetricFamily(
        "db_oldest_transaction_seconds", "Age of the oldest open transaction.", server.oldest_transaction_seconds
    )
    yield CounterMetricFamily("db_deadlocks", "Deadlocks that the server has ended.", server.deadlocks)
    yield CounterMetricFamily("db_wal_bytes", "Write-ahead log written by the server.", server.wal_bytes)
