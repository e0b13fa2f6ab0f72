"""PostgreSQL is unreachable: at the start, while the service runs, for a while."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from db import audit, migrate
from tests.support import ROOT, postgres_outage
from tests.support.api_client import PATH, USERS_HEADER, user_row
from tests.support.eventually import broken_off, eventually, in_time
from tests.support.factories import user
from tests.support.postgres_outage import Server, finished, is_ready, running
from tests.support.service import Process

ID = "0192f0c1-0000-7000-8000-000000000000"
FILE = USERS_HEADER + b"".join(user_row(n) for n in range(100))
UPLOAD = {"params": {"resource": "users"}, "headers": {"Content-Type": "text/csv"}}
# what needs the database, but for what has a body
REQUESTS = [
    ("GET", PATH),
    ("GET", f"{PATH}/{ID}"),
    ("GET", f"{PATH}/{ID}/errors"),
    ("GET", f"{PATH}/{ID}/events"),
    ("GET", f"{PATH}/{ID}/failed-records"),
    ("POST", f"{PATH}/{ID}/retry"),
    ("POST", f"{PATH}/{ID}/cancel"),
    ("DELETE", f"{PATH}/{ID}"),
    ("GET", "/api/v1/exports/users/stream"),
    ("GET", "/api/v1/exports"),
    ("GET", f"/api/v1/exports/{ID}/download"),
]


@pytest.fixture(scope="module")
def empty_server() -> Iterator[Server]:
    with postgres_outage.server() as server:
        yield server


@pytest.fixture(scope="module")
def server(empty_server) -> Server:
    migrate.up(empty_server.url)
    return empty_server


async def test_a_start_in_the_wrong_order(empty_server, tmp_path):
    """API, workers and migrations start before the server, which then has no tables: all of them wait, and none exits."""
    empty_server.stop()
    async with running(tmp_path, empty_server.url) as (service, client):
        assert (await client.get("/live")).status_code == 200
        assert (await client.get("/ready")).status_code == 503
        await eventually(lambda: service.workers.logged("database is unreachable"))
        workers = set(service.workers.children())
        empty_server.start()

        async def misses_migrations() -> bool:
            return (await client.get("/ready")).json()["checks"]["migrations"]["status"] == "failed"

        await eventually(misses_migrations)
        await eventually(lambda: "MigrationsMissing" in service.workers.output)
        empty_server.stop()
        # as `make run` does it
        migrating = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "db.migrate", "up", "--wait"),
            cwd=ROOT,
            env=service.environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert migrating.stderr is not None
        assert (await in_time(migrating.stderr.readline())).startswith(b"waiting for the database: ")
        empty_server.start()
        assert await in_time(migrating.wait()) == 0

        async def accepted() -> httpx.Response | None:
            posted = await client.post(PATH, content=FILE, **UPLOAD)
            return posted if posted.status_code == 202 else None

        assert (await finished(client, await eventually(accepted)))["status"] == "completed"
        # no process was replaced
        assert set(service.workers.children()) == workers


@pytest.mark.timing
async def test_an_outage(server, tmp_path):
    """Every request is soon 503 with Retry-After, no process exits or uses much CPU or log; then the service continues."""
    async with running(tmp_path, server.url) as (service, client):
        await eventually(lambda: is_ready(client))
        workers = service.workers.children()
        server.stop()
        processes = [service.api.pid, service.workers.pid, *workers]
        before, started = {pid: cpu_seconds(pid) for pid in processes}, time.monotonic()
        # the first requests wait for as long as a restart may take, those that come later do not
        early, late = await all_answers(client), await all_answers(client)
        assert max(answer.elapsed.total_seconds() for answer in late) < 4
        for answer in early + late:
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), answer.request.url
            assert answer.json()["type"] == "/problems/unavailable"
        assert (await client.get("/live")).status_code == 200
        answer = await client.get("/ready")
        assert answer.status_code == 503
        assert answer.json()["checks"]["database"] == {"status": "failed", "detail": "cannot be reached"}
        assert (await client.get("/metrics")).status_code == 200
        spent = {pid: (cpu_seconds(pid) - before[pid]) / (time.monotonic() - started) for pid in processes}
        assert max(spent.values()) < 0.25, spent
        assert_reported_once(service.api, voices=1)
        assert_reported_once(service.workers, voices=2)
        server.start()
        await eventually(lambda: is_ready(client))
        assert (await finished(client, await client.post(PATH, content=FILE, **UPLOAD)))["status"] == "completed"
        assert service.workers.children() == workers
        await eventually(lambda: len(service.workers.logged("database is reachable again")) >= 2)
        assert len(service.api.logged("database is reachable again")) >= 1


async def all_answers(client: httpx.AsyncClient) -> list[httpx.Response]:
    return await asyncio.gather(
        *(client.request(*request) for request in REQUESTS),
        client.post(PATH, content=FILE, **UPLOAD),
        client.post("/api/v1/exports", json={"resource": "users"}),
    )


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assert_reported_once(process: Process, *, voices: int) -> None:
    """One log line for each reason: the server shuts down, then it is unreachable."""
    complaints = [line for line in process.log_lines() if line["level"] in ("warning", "error")]
    reasons = {(line["event"], line.get("error"), line.get("worker")) for line in complaints}
    assert len(complaints) == len(reasons), complaints
    assert voices <= len(process.logged("database is unreachable")) <= 3 * voices
    assert "Traceback" not in process.output


async def test_work_in_progress(server, tmp_path):
    """A stream is cut off, an upload is refused, `Prefer: wait` returns the current job, events continue, and imports finish."""
    prepare(server)
    # a refused upload may send on for KEEP_ALIVE_SECONDS
    settings = {"upload_grace_seconds": 1, "upkeep_seconds": 0.2, "keep_alive_seconds": 2}
    async with running(tmp_path, server.url, **settings) as (service, client):
        with psycopg.connect(server.url, autocommit=True) as holder:
            holder.execute("SELECT pg_advisory_lock(1)")
            held = await client.post(PATH, json={"resource": "users", "records": [user(1, name="held")]})
            following = asyncio.create_task(last_event(client, held.json()["id"]))
            gone = asyncio.Event()
            uploading = asyncio.create_task(client.post(PATH, content=endless(gone), **UPLOAD))
            waiting = asyncio.create_task(
                client.post(
                    PATH,
                    json={"resource": "users", "records": [user(2, name="held")]},
                    headers={"Prefer": "wait=20"},
                )
            )
            await eventually(lambda: rows(holder, "SELECT FROM import_jobs WHERE status = 'uploading'"))
            await eventually(lambda: len(rows(holder, "SELECT FROM chunks WHERE state = 'running'")) == 2)
            with broken_off():
                async with client.stream("GET", "/api/v1/exports/articles/stream") as response:
                    blocks = response.aiter_raw()
                    await anext(blocks)
                    server.stop()
                    gone.set()
                    async for _ in blocks:
                        pass
        posted = await waiting
        assert posted.status_code == 202
        # the state that was read last, perhaps before the claim
        assert posted.json()["status"] in ("pending", "processing")
        # when it is refused while it still sends, it may see no more than the end of its connection
        [refused] = await asyncio.gather(uploading, return_exceptions=True)
        assert isinstance(refused, httpx.TransportError) or refused.status_code == 503
        server.start()
        assert await following == "done"
        for job in (held, posted):
            final = await finished(client, job)
            assert (final["status"], final["counts"]["created"]) == ("completed", 1)
        with psycopg.connect(server.url, autocommit=True) as conn:
            await eventually(lambda: not rows(conn, "SELECT FROM import_jobs WHERE status = 'uploading'"))
        async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as conn:
            for job in (held, posted):
                assert await audit.violations(conn, import_id=job.json()["id"], strict=True) == []
        assert "Traceback" not in service.workers.output + service.api.output


def prepare(server: Server) -> None:
    """Workers wait at a record of the name `held`; and there is enough for a stream that lasts."""
    server.execute(
        # a test may take longer than the service waits for a lock
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$"
        " BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$",
        "CREATE TRIGGER wait BEFORE INSERT ON users FOR EACH ROW WHEN (NEW.name = 'held') EXECUTE FUNCTION wait()",
        "INSERT INTO users (email, name, role, active) VALUES ('author@example.com', 'An Author', 'author', true)",
        "INSERT INTO articles (slug, title, body, author_id, status)"
        " SELECT format('article-%s', n), 'Title', repeat('x', 20000), users.id, 'draft'"
        " FROM users, generate_series(1, 3000) AS n WHERE email = 'author@example.com'",
    )


def rows(conn: psycopg.Connection, query: str) -> list:
    return conn.execute(query.encode()).fetchall()


async def endless(gone: asyncio.Event) -> AsyncIterator[bytes]:
    """An endless file, sent from the outage on until the connection is closed."""
    yield USERS_HEADER
    await gone.wait()
    while True:
        yield b"".join(user_row(n) for n in range(20_000))


async def last_event(client: httpx.AsyncClient, id: str) -> str:
    """The name of the last event of one stream that outlasts the outage."""
    name = ""
    async with client.stream("GET", f"{PATH}/{id}/events", timeout=40) as response:
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
    return name
