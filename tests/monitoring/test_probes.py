"""Probes, request ids, keys and the access log, of real processes."""

import os
import re
import signal
import stat
from uuid import uuid4

import httpx
import psycopg
import pytest

from db.exports.storage.folder import Folder
from tests.support import postgres
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.probes import COUNTED, families, get, has_value, ready
from tests.support.service import Process, running_service


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

    await eventually(lambda: has_value(status, 503))
    assert (await get(f"{url}/ready")).json()["checks"]["database"]["status"] == "failed"
    assert (await get(f"{url}/live")).status_code == 200
    without = await get(f"{url}/metrics")
    assert without.status_code == 200
    assert families(without.text) >= COUNTED
    allow_connections(server_url, database_url, allow=True)
    await eventually(lambda: has_value(status, 200))


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
