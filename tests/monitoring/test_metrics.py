"""The metrics: their names, and what they count over processes, restarts and the database."""

import os
import signal

from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from db import health
from db.connections import pool
from db.settings import Settings
from monitoring import metrics  # noqa: F401  registers the metrics
from tests.support.eventually import eventually
from tests.support.probes import COUNTED, families, get, has_value, ready

OF_THE_DATABASE = {
    *("bulk_jobs", "bulk_chunks", "bulk_queue_oldest_seconds", "bulk_records_left"),
    *("bulk_worker_sessions", "bulk_queue_dead_rows", "db_sessions", "db_lock_waits"),
    *("db_oldest_transaction_seconds", "db_deadlocks", "db_wal_bytes"),
}
# these have labels, and no line before something has happened
DEFINED = COUNTED | {
    *("bulk_job_duration_seconds", "bulk_records", "bulk_record_errors", "bulk_chunk_duration_seconds"),
    *("bulk_chunk_retries", "bulk_export_bytes", "bulk_webhook_attempts", "idempotency_requests"),
}


async def scrape(url: str) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples of `/metrics`: by name, then by the values of their labels in the order of the labels' names."""
    response = await get(f"{url}/metrics")
    assert response.status_code == 200
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            samples.setdefault(sample.name, {})[labels] = sample.value
    return samples


async def test_metrics_can_be_public(service):
    """With METRICS_PUBLIC only /metrics is served without a key."""
    url = (await service(run=["api"], api_keys="a-key-of-the-service", metrics_public=True)).url
    assert (await get(f"{url}/metrics")).status_code == 200
    assert (await get(f"{url}/schema/openapi.json")).status_code == 401


async def test_every_metric_has_its_name(service):
    """One scrape has the counters of all processes and the numbers of the database."""
    url = (await service(run=["api"])).url
    text = (await get(f"{url}/metrics")).text
    text = (await get(f"{url}/metrics")).text
    assert COUNTED | OF_THE_DATABASE <= families(text) <= DEFINED | OF_THE_DATABASE


async def test_requests_are_counted_by_route(service):
    """The label `route` is a template: unknown paths and ids create no series."""
    url = (await service(run=["api"])).url
    await get(f"{url}/nowhere/0192f0c1-0000-7000-8000-000000000000")
    await get(f"{url}/nowhere/else")
    samples = await scrape(url)
    assert samples["http_requests_total"]["GET", "unmatched", "404"] == 2
    assert not [labels for labels in samples["http_requests_total"] if "nowhere" in "".join(labels)]
    assert samples["http_request_duration_seconds_count"]["GET", "unmatched"] == 2
    assert samples["http_requests_in_progress"][()] == 1


async def test_workers_are_counted_while_they_live(service):
    """A scrape of the API sees the workers; one that was killed is not counted, its replacement is."""
    started = await service(worker_pool_size=2)

    async def workers() -> float:
        return (await scrape(started.url))["bulk_workers"][()]

    await eventually(lambda: has_value(workers, 2))
    await ready(started.url, workers={"status": "ok"})
    before = set(started.workers.children())
    os.kill(min(before), signal.SIGKILL)
    await eventually(lambda: len(set(started.workers.children()) - before) == 1)
    await eventually(lambda: has_value(workers, 2))


async def test_a_restart_begins_at_zero(service, tmp_path):
    """The files of processes of earlier runs are not counted."""
    data_dir = tmp_path / "same"
    first = await service(run=["api"], data_dir=data_dir)
    await get(f"{first.url}/nowhere")
    assert (await scrape(first.url))["http_requests_total"]["GET", "unmatched", "404"] == 1
    await first.api.stop()
    second = await service(run=["api"], data_dir=data_dir)
    assert ("GET", "unmatched", "404") not in (await scrape(second.url)).get("http_requests_total", {})


async def test_the_queue_numbers_are_the_tables(conn):
    """Live jobs by kind and status, live chunks by state, and the age of the oldest pending chunk."""
    await conn.execute(
        """
        INSERT INTO import_jobs (id, status, outcome, resource, format, file_bytes, file_sha256, total_records,
            total_chunks, request_digest, sealed_at, started_at, finished_at)
        SELECT gen_random_uuid(), status, outcome, 'users', 'csv', 1, '', 1, 1, '', sealed_at, sealed_at, finished_at
        FROM (VALUES
            ('processing', NULL, now() - interval '1 hour', NULL),
            ('pending', NULL, now() - interval '10 seconds', NULL),
            ('completed', 'success', now(), now())
        ) AS given (status, outcome, sealed_at, finished_at)
        """
    )
    await conn.execute("INSERT INTO import_jobs (id) VALUES (gen_random_uuid())")
    await conn.execute(
        """
        INSERT INTO chunks (import_id, seq, records, state, worker, claimed_at, finished_at)
        SELECT id, 1, 1, state, worker, claimed_at, given.finished_at
        FROM import_jobs
        JOIN (VALUES
            ('processing', 'running', 'w', now(), NULL),
            ('pending', 'pending', NULL, NULL, NULL),
            ('completed', 'done', NULL, NULL, now())
        ) AS given (status, state, worker, claimed_at, finished_at) USING (status)
        """
    )
    numbers = await health.queue_numbers(conn, endpoints=())
    assert numbers.jobs == {
        ("import", "uploading"): 1,
        ("import", "pending"): 1,
        ("import", "processing"): 1,
        ("export", "pending"): 0,
        ("export", "processing"): 0,
    }
    assert numbers.chunks == {"pending": 1, "running": 1}
    assert 10 <= numbers.oldest_seconds < 60


async def test_worker_sessions_are_those_of_this_database(conn, database_url):
    """Sessions are counted by their names, from any machine."""
    assert await health.worker_sessions(conn) == 0
    async with await pool.connect(Settings(database_url=database_url), name="bulk worker 1"):
        assert await health.worker_sessions(conn) == 1


def test_every_metric_is_on_the_list():
    """Also those with labels, which have no sample before their first event."""
    ours = {family.name for family in REGISTRY.collect() if not family.name.startswith(("python_", "process_"))}
    assert ours == {*DEFINED, "bulk_jobs"}
