"""All metrics, and the functions that update them.

Import this module after `monitoring.multiprocess.join`: a metric opens its file in that folder when it is defined. In a process
that has not joined (a test, a tool) the metrics stay in memory and are not part of a scrape.

Label values come from short closed lists, never ids, addresses or requested paths. Records are counted once per chunk.
README.md describes how to add a metric.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import product
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from db.errors import RETRYABLE
from db.formats import ExportFormat
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

http_requests = Counter("http_requests", "Completed requests.", ["method", "route", "status"])
http_request_duration = Histogram(
    "http_request_duration_seconds",
    "From the head of a request to the last byte of its response.",
    ["method", "route"],
    buckets=_HTTP_SECONDS,
)
wrong_api_keys = Counter("http_wrong_api_keys", "Requests with an API key that is not one of API_KEYS.")
http_requests_in_progress = Gauge("http_requests_in_progress", "Requests in progress.", multiprocess_mode="livesum")

db_pool_size = Gauge("db_pool_size", "Open connections of the API's pools.", multiprocess_mode="livesum")
db_pool_idle = Gauge("db_pool_idle", "Idle connections of the API's pools.", multiprocess_mode="livesum")
db_pool_waiting = Gauge("db_pool_waiting", "Requests that wait for a connection.", multiprocess_mode="livesum")
db_pool_wait_seconds = Counter("db_pool_wait_seconds", "Time that requests have waited for a connection.")
longest_pause = Gauge(
    "bulk_api_event_loop_longest_pause_seconds",
    "Longest time of the last minute or two in which the event loop of an API process answered nothing.",
    multiprocess_mode="livemax",
)

jobs = Counter("bulk_jobs", "Jobs that became final.", ["kind", "resource", "status"])
job_duration = Histogram(
    "bulk_job_duration_seconds",
    "From a job's start, which is its first claim, to its end.",
    ["kind", "resource"],
    buckets=_JOB_SECONDS,
)
records = Counter("bulk_records", "Processed records.", ["kind", "resource", "result"])
record_errors = Counter("bulk_record_errors", "Errors of records.", ["resource", "code"])
chunk_duration = Histogram(
    "bulk_chunk_duration_seconds", "Processing of one claim.", ["resource"], buckets=_CHUNK_SECONDS
)
chunks_reclaimed = Counter("bulk_chunks_reclaimed", "Interrupted chunks that another worker took over.", ["cause"])
claims_lost = Counter("bulk_claims_lost", "Claims that another worker had taken over when their worker used them.")
chunk_retries = Counter("bulk_chunk_retries", "Retries of chunks.", ["reason"])
workers = Gauge("bulk_workers", "Worker processes on this machine.", multiprocess_mode="livesum")

export_bytes = Counter("bulk_export_bytes", "Exported bytes, before compression.", ["resource", "format"])
streams_aborted = Counter("bulk_export_streams_aborted", "Streaming exports that ended early.")
webhook_attempts = Counter("bulk_webhook_attempts", "Attempts to deliver webhooks.", ["endpoint", "result"])
idempotency_requests = Counter("idempotency_requests", "Requests with an idempotency key.", ["result"])


def request_finished(method: str, route: str, status: int, seconds: float) -> None:
    """`route` is the template of the route, for example `/api/v1/imports/{id}`."""
    http_requests.labels(method, route, str(status)).inc()
    http_request_duration.labels(method, route).observe(seconds)


def worker_started() -> None:
    """Called once by each worker process, after the fork."""
    workers.set(1)


def chunk_done(resource: str, counts: Mapping[str, int], errors_by_code: Mapping[str, int], seconds: float) -> None:
    """Call it after the commit. `counts` are records by result: created, updated, unchanged, skipped, failed."""
    for result, count in counts.items():
        # a settle chunk may correct counts downwards, which a counter cannot represent
        if count > 0:
            records.labels("import", resource, result).inc(count)
    for code, count in errors_by_code.items():
        record_errors.labels(resource, code).inc(count)
    chunk_duration.labels(resource).observe(seconds)


def job_finished(kind: str, resource: str, status: str, seconds: float) -> None:
    """`kind` is import or export; `seconds` is the time from the first claim to the end."""
    jobs.labels(kind, resource, status).inc()
    job_duration.labels(kind, resource).observe(seconds)


def reclaimed(cause: Literal["worker", "server"]) -> None:
    """A chunk was taken over because its worker died, or because PostgreSQL was restarted or replaced."""
    chunks_reclaimed.labels(cause).inc()


def claim_lost() -> None:
    """This worker found that another one has taken over its chunk."""
    claims_lost.inc()


def retried(reason: str) -> None:
    """A chunk is retried. `reason` is the name of a retryable database error, or `error` for a chunk that was given back."""
    chunk_retries.labels(reason).inc()


def deliverer_started(endpoints: Iterable[str]) -> None:
    """Called by the process that delivers webhooks. As `_initialise_series`, for labels that are settings."""
    for endpoint, result in product(endpoints, ("delivered", "retried", "failed")):
        webhook_attempts.labels(endpoint, result)


def webhook_attempted(endpoint: str, result: str) -> None:
    """`result`: delivered, retried (it will be), or failed, which is the last attempt."""
    webhook_attempts.labels(endpoint, result).inc()


def exported(resource: str, format: str, records_count: int, bytes_count: int) -> None:
    """Counts an export or a block of it. `bytes_count` is before compression."""
    records.labels("export", resource, "exported").inc(records_count)
    export_bytes.labels(resource, format).inc(bytes_count)


def stream_aborted() -> None:
    """A streaming export ended early: the client or the database disconnected, or it took too long."""
    streams_aborted.inc()


def idempotency(result: str) -> None:
    """`result`: created, replayed, in_progress or reused."""
    idempotency_requests.labels(result).inc()


class ApiProcess:
    """The numbers of this API process, which a scrape of another one needs too: `measured` stores them."""

    def __init__(self) -> None:
        self._wait_seconds = 0.0

    def measured(
        self, *, size: int, idle: int, waiting: int, wait_seconds: float, longest_pause_seconds: float
    ) -> None:
        """Open and idle connections of its pool, waiting requests, the time they have waited in all, and the longest pause."""
        db_pool_size.set(size)
        db_pool_idle.set(idle)
        db_pool_waiting.set(waiting)
        db_pool_wait_seconds.inc(wait_seconds - self._wait_seconds)
        self._wait_seconds = wait_seconds
        longest_pause.set(longest_pause_seconds)


def exposition(queue: QueueNumbers | None, server: ServerNumbers | None) -> bytes:
    """The response to a scrape: the metrics of all processes of this machine, and those read from the database if available.

    Reads files: call it in a thread. Raises `RuntimeError` in a process that has not joined.
    """
    _initialise_series()
    registry = CollectorRegistry()
    registry.register(Machine())
    registry.register(_ScrapeTime(queue, server))
    return generate_latest(registry)


class Machine(Collector):
    """The sums over the processes of this machine, including the counters of dead ones."""

    def collect(self) -> Iterator[Metric]:
        folder = multiprocess.folder()
        if folder is None:
            raise RuntimeError("monitoring.multiprocess.join was not called")
        multiprocess.sweep(folder)
        yield from MultiProcessCollector(None, path=str(folder)).collect()


@cache
def _initialise_series() -> None:
    """Creates all label combinations with the value 0; otherwise rate() misses the first increment."""
    for resource, result in product(RESOURCES, ("created", "updated", "unchanged", "skipped", "failed")):
        records.labels("import", resource, result)
    for resource, code in product(RESOURCES, get_args(Code)):
        record_errors.labels(resource, code)
    for resource, format in product(RESOURCES, get_args(ExportFormat)):
        export_bytes.labels(resource, format)
    for kind, resource, status in product(("import", "export"), RESOURCES, ("completed", "failed", "cancelled")):
        jobs.labels(kind, resource, status)
        job_duration.labels(kind, resource)
    for resource in RESOURCES:
        records.labels("export", resource, "exported")
        chunk_duration.labels(resource)
    for cause in ("worker", "server"):
        chunks_reclaimed.labels(cause)
    for reason in ("error", *(error.__name__ for error in RETRYABLE)):
        chunk_retries.labels(reason)
    for result in ("created", "replayed", "in_progress", "reused"):
        idempotency_requests.labels(result)


class _ScrapeTime(Collector):
    """Metrics that are read from the database at the time of the scrape."""

    def __init__(self, queue: QueueNumbers | None, server: ServerNumbers | None) -> None:
        self.queue = queue
        self.server = server

    def collect(self) -> Iterator[Metric]:
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
        "bulk_queue_oldest_seconds", "Time since the oldest unclaimed chunk became claimable.", queue.oldest_seconds
    )
    left = GaugeMetricFamily(
        "bulk_records_left", "Records of imports in chunks that are not final.", labels=["resource"]
    )
    for resource, count in queue.records_left.items():
        left.add_metric([resource], count)
    yield left
    if queue.webhooks:
        waiting = GaugeMetricFamily("bulk_webhooks_waiting", "Deliveries that are not final.", labels=["endpoint"])
        oldest = GaugeMetricFamily(
            "bulk_webhooks_oldest_seconds", "Age of the oldest delivery that is not final.", labels=["endpoint"]
        )
        for numbers in queue.webhooks:
            waiting.add_metric([numbers.endpoint], numbers.deliveries)
            oldest.add_metric([numbers.endpoint], numbers.oldest_seconds)
        yield from (waiting, oldest)


def _server(server: ServerNumbers) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "bulk_worker_sessions", "Workers of any machine that are connected to the database.", server.worker_sessions
    )
    yield GaugeMetricFamily("bulk_queue_dead_rows", "Dead rows of the table chunks.", server.dead_queue_rows)
    yield GaugeMetricFamily("db_sessions", "Sessions in this database.", server.sessions)
    yield GaugeMetricFamily("db_lock_waits", "Sessions that wait for a lock.", server.lock_waits)
    yield GaugeMetricFamily(
        "db_oldest_transaction_seconds", "Age of the oldest open transaction.", server.oldest_transaction_seconds
    )
    yield CounterMetricFamily("db_deadlocks", "Deadlocks detected by the server.", server.deadlocks)
    yield CounterMetricFamily("db_wal_bytes", "Write-ahead log written by the server.", server.wal_bytes)
