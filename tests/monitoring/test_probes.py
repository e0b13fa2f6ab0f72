"""Probes, request ids, keys, logs and metrics, of real processes."""

import os
import re
import signal
import stat
from uuid import uuid4

import httpx
import psycopg
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from db import health
from db.connections import pool
from db.exports.storage.folder import Folder
from db.settings import Settings
from monitoring import metrics  # noqa: F401  registers the metrics
from tests.support import postgres
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.service import Process, running_service

COUNTED = {
    *("http_requests", "http_request_duration_seconds", "http_requests_in_progress", "http_wrong_api_keys"),
    *("bulk_chunks_reclaimed", "bulk_claims_lost", "bulk_export_streams_aborted", "bulk_workers"),
    *("db_pool_size", "db_pool_idle", "db_pool_waiting", "db_pool_wait_seconds"),
    "bulk_api_event_loop_longest_pause_seconds",
}
OF_THE_DATABASE = {
    *("bulk_jobs", "bulk_chunks", "bulk_queue_oldest_seconds", "bulk_records_left"),
    *("bulk_worker_sessions", "bulk_queue_dead_rows", "db_sessions", "db_lock_waits"),
    *("db_oldest_transaction_seconds", "db_deadlocks", "db_wal_bytes"),
}
# these have labels, and no line before something has happened
DEFINED = COUNTED | {
    *("bulk_job_duration_seconds", "bulk_records", "bulk_record_errors", "bulk_chunk_duration_seconds"),
    *("bulk_chunk_retries", "bulk_export_bytes", "idempotency_requests"),
}


async def get(url: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        return await client.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})


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


async def ready(url: str, **checks: dict[str, str]) -> httpx.Response:
    """The answer of `/ready` once these checks have these results. A busy machine may miss a check's deadline now and then."""

    async def answer() -> httpx.Response | None:
        response = await get(f"{url}/ready")
        return response if response.json()["checks"].items() >= checks.items() else None

    return await eventually(answer)


def families(text: str) -> set[str]:
    return {family.name for family in text_string_to_metric_families(text)}


def allow_connections(server_url: str, database_url: str, *, allow: bool) -> None:
    """Allows or forbids connections to the database."""
    name = database_url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {allow}")
        if not allow:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %(name)s", {"name": name}
            )


async def test_ready_without_workers_is_a_warning(service):
    """An API without workers accepts uploads, so it is ready, with a warning."""
    url = (await service(run=["api"])).url
    ok = {"status": "ok"}
    response = await ready(url, database=ok, migrations=ok, storage=ok)
    assert response.status_code == 200
    checks = response.json()["checks"]
    assert checks.keys() == {"database", "migrations", "workers", "storage"}
    assert checks["workers"]["status"] == "warning"

    health_document = (await get(f"{url}/health")).json()
    assert health_document["checks"].keys() == checks.keys()
    assert health_document["version"]
    assert health_document["uptime_seconds"] > 0


async def test_readiness_follows_the_database(service, server_url, database_url):
    """Without its database the API lives and is not ready; it recovers by itself. Metrics are answered throughout."""
    url = (await service(run=["api"])).url
    allow_connections(server_url, database_url, allow=False)

    async def status() -> int:
        return (await get(f"{url}/ready")).status_code

    await eventually(lambda: _is(status, 503))
    assert (await get(f"{url}/ready")).json()["checks"]["database"]["status"] == "failed"
    assert (await get(f"{url}/live")).status_code == 200
    without = await get(f"{url}/metrics")
    assert without.status_code == 200
    assert families(without.text) >= COUNTED
    allow_connections(server_url, database_url, allow=True)
    await eventually(lambda: _is(status, 200))


async def _is(status, wanted: int) -> bool:
    return await status() == wanted


async def test_an_api_starts_without_its_database(service, server_url, database_url):
    """A process that starts while the database is unreachable runs and is not ready."""
    allow_connections(server_url, database_url, allow=False)
    url = (await service(run=["api"])).url
    assert (await get(f"{url}/ready")).status_code == 503
    allow_connections(server_url, database_url, allow=True)


async def test_missing_migrations_are_named(service, conn):
    """A database that is older than the code makes the service unready, and the answer names what is missing."""
    await conn.execute("DELETE FROM _yoyo_migration WHERE migration_id = '0002.jobs'")
    url = (await service(run=["api"])).url
    response = await ready(url, migrations={"status": "failed", "detail": "not applied: 0002.jobs"})
    assert response.status_code == 503


async def test_a_read_only_database_is_not_ready(service, server_url, database_url):
    """A standby that a failover has left at the old address, or a database that was set to read-only, receives no requests."""
    url = (await service(run=["api"])).url
    name = database_url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    allow_connections(server_url, database_url, allow=False)
    allow_connections(server_url, database_url, allow=True)
    response = await ready(url, database={"status": "failed", "detail": "does not accept writes"})
    assert response.status_code == 503


async def test_a_database_that_cannot_store_unicode_is_not_ready(server_url, tmp_path):
    """The check names the encoding, and the one that is needed."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        url = postgres.database_url(server_url, name)
        async with running_service(tmp_path, url, run=["api"]) as started:
            detail = "the database has the encoding LATIN1; it must be created with ENCODING 'UTF8'"
            response = await ready(started.url, database={"status": "failed", "detail": detail})
            assert response.status_code == 503
    finally:
        postgres.drop_database(server_url, name)


async def test_a_folder_that_cannot_be_written_is_not_ready(service, tmp_path):
    """Exports need their folder: a file in its place is a failed check."""
    (tmp_path / "in-the-way").touch()
    url = (await service(run=["api"], export_dir=tmp_path / "in-the-way")).url
    response = await get(f"{url}/ready")
    assert response.status_code == 503
    assert response.json()["checks"]["storage"]["status"] == "failed"


@pytest.mark.parametrize(("before", "after"), [(0o755, 0o700), (0o777, 0o700), (0o1777, 0o1777)])
async def test_a_folder_of_exports_that_exists_is_made_private(tmp_path, before, after):
    """Other users lose their rights on it before anything is written. A folder with the sticky bit is shared on purpose."""
    folder = tmp_path / "exports"
    folder.mkdir()
    folder.chmod(before)
    await Folder(folder).check()
    assert stat.S_IMODE(folder.stat().st_mode) == after


async def test_a_valid_request_id_is_kept(service):
    """The client's id is in the response, also of an error, and in the log."""
    started = await service(run=["api"])
    response = await get(f"{started.url}/nowhere", X_Request_Id="caller.id_1-2")
    assert response.headers["x-request-id"] == response.json()["request_id"] == "caller.id_1-2"
    # the line is written after the answer
    await eventually(lambda: any(line.get("request_id") == "caller.id_1-2" for line in started.api.log_lines()))


async def test_an_invalid_request_id_is_replaced(service):
    """An id that is long or has special characters is replaced by a generated one."""
    url = (await service(run=["api"])).url
    for insane in ("two words", "a" * 129, '{"a":1}', "ö"):
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
            response = await client.get(f"{url}/live", headers={"X-Request-Id": insane.encode()})
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_the_log_has_the_route_and_nothing_personal(service):
    """The access line has the route's template, no query; probes have none."""
    started = await service(run=["api"])
    await get(f"{started.url}/schema/openapi.json?email=somebody@example.org")
    await get(f"{started.url}/ready")
    (line,) = await eventually(lambda: started.api.logged("request"))
    assert (line["method"], line["route"], line["status"]) == ("GET", "/schema/openapi.json", 200)
    assert line["bytes"] > 1000
    assert line["duration_ms"] > 0
    assert "somebody" not in started.api.output


async def test_a_valid_key_is_accepted(service):
    """With API_KEYS one of them is required in either header, also for unknown routes; probes need none."""
    url = (await service(run=["api"], api_keys="first-key-of-two-keys, second-key-of-two-keys")).url
    for right in (
        {"Authorization": "Bearer first-key-of-two-keys"},
        {"Authorization": "bearer second-key-of-two-keys"},
        {"X_API_Key": "second-key-of-two-keys"},
    ):
        assert (await get(f"{url}/schema/openapi.json", **right)).status_code == 200
        assert (await get(f"{url}/nowhere", **right)).status_code == 404
    for wrong in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer first-key-of-two-key"},
        {"Authorization": "Basic first-key-of-two-keys"},
        {"X_API_Key": "first-key-of-two-keys, second-key-of-two-keys"},
        {"X_API_Key": ""},
    ):
        for path in ("schema/openapi.json", "metrics", "nowhere"):
            response = await get(f"{url}/{path}", **wrong)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["type"] == "/problems/unauthorized"
            assert response.json()["request_id"] == response.headers["x-request-id"]
    for path in ("live", "ready", "health"):
        assert (await get(f"{url}/{path}")).status_code == 200


async def test_metrics_can_be_public(service):
    """With METRICS_PUBLIC only /metrics is served without a key."""
    url = (await service(run=["api"], api_keys="the-only-key-there-is", metrics_public=True)).url
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

    await eventually(lambda: _is(workers, 2))
    await ready(started.url, workers={"status": "ok"})
    before = set(started.workers.children())
    os.kill(min(before), signal.SIGKILL)
    await eventually(lambda: len(set(started.workers.children()) - before) == 1)
    await eventually(lambda: _is(workers, 2))


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
    numbers = await health.queue_numbers(conn)
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


async def test_a_requested_stop_is_no_failure(service):
    """SIGTERM ends the API with 0, and so does Ctrl-C."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        started = await service(run=["api"])
        started.api.send(signum)
        await eventually(lambda api=started.api: api.exit_code is not None)
        assert started.api.exit_code == 0


def test_a_bad_setting_stops_the_start(tmp_path):
    """One clear line on standard error, exit code 2."""
    environment = {"PATH": os.environ["PATH"], "HTTP_PORT": "eighty", "DATA_DIR": str(tmp_path)}
    process = Process("api", environment, tmp_path / "api.log")
    assert process.popen.wait(PATIENCE_SECONDS) == 2
    assert process.output.splitlines() == ["api: HTTP_PORT: Expected `int`, got `str`"]


def test_every_metric_is_on_the_list():
    """Also those with labels, which have no sample before their first event."""
    ours = {family.name for family in REGISTRY.collect() if not family.name.startswith(("python_", "process_"))}
    assert ours == {*DEFINED, "bulk_jobs"} - {name for name in DEFINED if name.startswith(("db_pool_", "bulk_api_"))}
