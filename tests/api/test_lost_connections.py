"""A request that loses its database connection once is answered as if nothing had happened, and stores its job once."""

import asyncio
from collections.abc import AsyncIterator
from typing import LiteralString

import httpx
import pytest
from psycopg import AsyncConnection
from psycopg.sql import SQL, Literal

from tests.support import repairs
from tests.support.api_client import USERS_HEADER, Api, post_users, problem, user_row
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.factories import queued, users
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.service import running_service

RECORDS = 10
FILE = USERS_HEADER + b"".join(map(user_row, range(RECORDS)))
KEY = {"Idempotency-Key": "key"}
LOCK = 4712
# transactions, by what each of them alone writes
STEPS: dict[str, LiteralString] = {
    "whole": "INSERT ON import_jobs",
    "begin": "INSERT ON import_jobs",
    "append": "INSERT ON import_payloads",
    "seal": "UPDATE OF sealed_at ON import_jobs",
    "export": "INSERT ON export_jobs",
}
# the one of a small upload, and those of one whose size is not announced
EACH_STEP = pytest.mark.parametrize("step", ["whole", "begin", "append", "seal"])
EACH_WAY = pytest.mark.parametrize(
    "bouncer", ["direct", pytest.param("pgbouncer", marks=pytest.mark.needs("pgbouncer"))], indirect=True
)


class Stage:
    """An API whose transactions stop at their COMMIT. `proxy` is between it and the database."""

    def __init__(self, api: Api, proxy: FaultProxy) -> None:
        self.api = api
        self.proxy = proxy

    async def stop_at(self, step: str) -> None:
        """Until `resume`, each transaction of this step stops at its COMMIT."""
        await self.api.conn.execute(
            SQL(
                """
                CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS
                $$ BEGIN PERFORM pg_advisory_xact_lock_shared({lock}); RETURN NULL; END $$;
                CREATE CONSTRAINT TRIGGER wait_at_commit AFTER {write} DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION wait_at_commit();
                SELECT pg_advisory_lock({lock})
                """
            ).format(lock=Literal(LOCK), write=SQL(STEPS[step]))
        )

    async def resume(self) -> None:
        await self.api.conn.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))

    async def stopped(self) -> int:
        """The pid of the API's session that is stopped, or that waits for a table."""
        waiting = """
            SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)
            WHERE datname = current_database() AND NOT granted AND application_name = 'bulk api'
                AND (objid = %s OR locktype = 'relation')
        """
        return await eventually(lambda: self.api.value(waiting, LOCK))

    async def end_session(self) -> None:
        """Ends the session that is stopped, and with it its transaction."""
        pid = await self.stopped()
        assert await self.api.value("SELECT pg_terminate_backend(%s, %s)", pid, int(PATIENCE_SECONDS * 1000))

    async def commit(self) -> None:
        """Lets the transaction that is stopped be committed. Its client gets no answer."""
        pid = await self.stopped()
        self.proxy.swallow_answers()
        await self.resume()
        is_ended = "SELECT count(*) = 0 FROM pg_locks WHERE pid = %s AND locktype = 'transactionid'"
        await eventually(lambda: self.api.value(is_ended, pid))

    async def lose_answer(self) -> None:
        """As `commit`, and breaks the connection then."""
        await self.commit()
        self.proxy.drop()


@pytest.fixture
async def stage(service, tmp_path, database_url, bouncer) -> AsyncIterator[Stage]:
    """Workers connect directly."""
    await service(run=["workers"], worker_pool_size=1, poll_seconds=0.2)
    pooler = "transaction" if bouncer else "none"
    async with (
        fault_proxy(bouncer.url(database_url) if bouncer else database_url) as proxy,
        running_service(
            tmp_path, proxy.url, run=["api"], database_pooler=pooler, queue_jobs_max=1, api_pool_size=2
        ) as running,
        httpx.AsyncClient(base_url=running.url, timeout=PATIENCE_SECONDS) as client,
        await AsyncConnection.connect(database_url, autocommit=True) as conn,
    ):
        yield Stage(Api(running, client, conn), proxy)


def posting(api: Api, step: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(post_users(api, FILE if step == "whole" else blocks(), headers=KEY))


async def blocks() -> AsyncIterator[bytes]:
    yield FILE


async def is_stored_once(api: Api, posted: httpx.Response) -> None:
    assert "idempotent-replayed" not in posted.headers
    job = await api.finished(posted)
    assert job["counts"]["created"] == job["total_records"] == RECORDS
    assert await api.value("SELECT count(*) FROM import_jobs") == 1
    assert await api.value("SELECT count(*) FROM import_payloads") == 1


@EACH_WAY
@EACH_STEP
async def test_a_transaction_that_is_rolled_back(stage, step):
    """The session is ended before its COMMIT: the transaction is repeated on another one."""
    await stage.stop_at(step)
    upload = posting(stage.api, step)
    await stage.end_session()
    await stage.resume()
    await is_stored_once(stage.api, await upload)


@EACH_WAY
@EACH_STEP
async def test_a_transaction_that_is_committed(stage, step):
    """The connection breaks after the COMMIT and before its answer: the repeat recognises what is stored."""
    await stage.stop_at(step)
    upload = posting(stage.api, step)
    await stage.lose_answer()
    await is_stored_once(stage.api, await upload)


@EACH_STEP
async def test_a_second_loss(stage, step):
    """The response is 503, and the upload is removed. The request can be sent again with its key."""
    await stage.stop_at(step)
    upload = posting(stage.api, step)
    await stage.end_session()
    await stage.end_session()
    problem(await upload, 503, "unavailable")
    await stage.resume()
    await eventually(stage.api.has_nothing)
    await is_stored_once(stage.api, await posting(stage.api, step))


async def test_a_repeat_that_is_refused(stage):
    """The begin is committed, and its repeat is refused because the queue is full meanwhile: the upload is removed."""
    await stage.stop_at("begin")
    upload = posting(stage.api, "begin")
    await stage.commit()
    async with stage.api.conn.transaction():
        waiting = await queued(stage.api.conn, users(1))
        await stage.api.conn.execute("UPDATE chunks SET retry_at = 'infinity' WHERE job_id = %s", (waiting,))
    stage.proxy.drop()
    problem(await upload, 429, "too-many-requests")
    assert await stage.api.value("SELECT array_agg(id) FROM import_jobs") == [waiting]


async def test_a_repair(stage):
    """The seal of a repair is committed, and its answer is lost: the repair has taken on its records once."""
    parent = await repairs.imported(stage.api, repairs.rows())
    await stage.stop_at("seal")
    line = repairs.REFUSED_LINES[0]
    repairing = asyncio.create_task(repairs.posted(stage.api, parent, repairs.annotated(line)))
    await stage.lose_answer()
    job = await stage.api.finished(await repairing)
    assert job["counts"]["created"] == job["total_records"] == 1
    assert await stage.api.value("SELECT count(*) FROM import_repairs") == 1


@pytest.mark.parametrize("step", ["begin", "seal"])
async def test_a_retry(stage, step):
    """A transaction of a retry is committed, and its answer is lost: there is one retry."""
    parent = await repairs.imported(stage.api, repairs.rows())
    await stage.stop_at(step)
    retrying = asyncio.create_task(stage.api.client.post(parent["links"]["retry"]))
    await stage.lose_answer()
    job = await stage.api.finished(await retrying)
    assert job["counts"]["failed"] == job["total_records"] == len(repairs.REFUSED_LINES)
    assert await stage.api.value("SELECT count(*) FROM import_jobs") == 2


@pytest.mark.parametrize(("is_committed", "status"), [(False, 202), (True, 200)])
async def test_a_commit(stage, is_committed, status):
    """A commit is one transaction. If it was committed, the response is that of a repeated request, and the job is the same."""
    dry_run = await repairs.imported(stage.api, FILE, dry_run="true")
    await stage.stop_at("begin")
    committing = asyncio.create_task(stage.api.client.post(dry_run["links"]["commit"]))
    if is_committed:
        await stage.lose_answer()
    else:
        await stage.end_session()
        await stage.resume()
    answer = await committing
    assert answer.status_code == status, answer.text
    await eventually(stage.api.is_idle)
    assert await stage.api.value("SELECT count(*) FROM users") == RECORDS
    assert await stage.api.value("SELECT count(*) FROM import_jobs") == 2


@EACH_WAY
@pytest.mark.parametrize("is_committed", [False, True])
@pytest.mark.parametrize("headers", [{}, KEY], ids=["without a key", "with a key"])
async def test_an_export(stage, is_committed, headers):
    """One job, which is new to the client, whether the first transaction was committed or not."""
    await stage.stop_at("export")
    posting = asyncio.create_task(stage.api.client.post("/api/v1/exports", json={"resource": "users"}, headers=headers))
    if is_committed:
        await stage.lose_answer()
    else:
        await stage.end_session()
        await stage.resume()
    answer = await posting
    assert answer.status_code == 202, answer.text
    assert "idempotent-replayed" not in answer.headers
    assert await stage.api.value("SELECT array_agg(id::text) FROM export_jobs") == [answer.json()["id"]]
    assert await stage.api.value("SELECT count(*) FROM chunks") == 1


@EACH_WAY
@pytest.mark.parametrize("path", ["self", "errors", "timeline"])
async def test_a_read(stage, path):
    """The session is ended while it waits for a table: the query is repeated on another one."""
    job = await repairs.imported(stage.api, repairs.rows())
    link = job["links"][path]
    async with stage.api.conn.transaction():
        await stage.api.conn.execute("LOCK import_errors, import_jobs, chunks")
        reading = asyncio.create_task(stage.api.client.get(link))
        await stage.end_session()
    answer = await reading
    assert answer.status_code == 200, answer.text


async def test_a_list(stage):
    job = await repairs.imported(stage.api, repairs.rows())
    async with stage.api.conn.transaction():
        await stage.api.conn.execute("LOCK import_jobs")
        reading = asyncio.create_task(stage.api.client.get("/api/v1/imports"))
        await stage.end_session()
    assert [one["id"] for one in (await reading).json()["imports"]] == [job["id"]]
