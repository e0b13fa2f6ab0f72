"""Processes that deliver webhooks: stopped, without the database, killed, beside imports."""

import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

from db.settings import Settings
from tests.support import api_client
from tests.support.api_client import USERS_HEADER, post_users, user_row
from tests.support.eventually import eventually
from tests.support.exports import EXPORTS, completed, create
from tests.support.factories import claim, perform, queued, rows, users
from tests.support.service import Process
from tests.support.webhooks import (
    HANG,
    LONG_SECONDS,
    UNREACHABLE,
    delivering,
    delivery,
    ended,
    make_due,
    receiving,
    setting,
)
from tests.support.workers import is_running
from workers import maintenance


async def test_a_stop_gives_back_what_is_not_answered(conn, database_url):
    """An interrupted attempt does not count, and the delivery is due again immediately."""
    async with receiving(HANG) as receiver:
        async with delivering(
            database_url, receiver.endpoint(), webhook_timeout_seconds=LONG_SECONDS, stop_seconds=0.2
        ):
            await ended(conn, receiver.endpoint())
            await receiver.received(1)
        assert await delivery(conn, "pending", attempts=0) == (None, None)
        async with delivering(database_url, receiver.endpoint()):
            first, second = await receiver.received(2)
    assert first.id == second.id


async def test_a_lost_connection_to_the_database_repeats_no_request(conn, database_url):
    """The result of a request is kept until the process is connected again."""
    async with (
        receiving() as receiver,
        # the claim is not over before the result is stored
        delivering(database_url, receiver.endpoint(), webhook_timeout_seconds=LONG_SECONDS) as deliverer,
    ):
        failing = deliverer.outage.failures
        await conn.execute(
            """
            CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;
            CREATE TRIGGER cut BEFORE UPDATE ON webhook_deliveries
            FOR EACH ROW WHEN (NEW.state = 'delivered') EXECUTE FUNCTION cut()
            """
        )
        await ended(conn, receiver.endpoint())
        await receiver.received(1)
        await eventually(lambda: deliverer.outage.failures > failing)
        await conn.execute("DROP TRIGGER cut ON webhook_deliveries")
        assert await delivery(conn, "delivered", attempts=1) == (204, None)
        assert len(receiver.requests) == 1


@asynccontextmanager
async def crashing_pool(folder: Path, database_url: str, webhooks: str):
    """A pool whose process for webhooks is killed once, when a receiver has replied."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    given = {
        "database_url": database_url,
        "webhooks": webhooks,
        "webhook_timeout_seconds": LONG_SECONDS,
        "worker_pool_size": 1,
        "poll_seconds": 0.2,
        "data_dir": folder,
        "log_format": "json",
        "fault_point": "mid_delivery",
        "fault_number": 1,
        "fault_kind": "exit",
        "fault_file": folder / "fault",
    }
    environment |= {name.upper(): str(value) for name, value in given.items()}
    process = Process("tests.support.crashing_worker", environment, folder / "log")
    try:
        yield process
    finally:
        await process.stop()


async def test_a_process_that_dies_delivers_again(conn, database_url, tmp_path):
    """Killed between the reply and its result: the process is replaced, and the delivery is made again with the same id."""
    async with receiving() as receiver:
        async with crashing_pool(tmp_path, database_url, setting(receiver.endpoint())) as pool:
            await queued(conn, users(1))
            await eventually((tmp_path / "fault").exists)
            await eventually(lambda: pool.logged("worker died, replacing it"))
            assert await delivery(conn, "sending", attempts=1) == (None, None)
            await make_due(conn)
            first, second = await receiver.received(2)
            assert await delivery(conn, "delivered", attempts=2) == (204, None)
        assert (first.id, first.body) == (second.id, second.body)
        [died] = pool.logged("worker died, replacing it")
        assert died["exit_code"] == -signal.SIGKILL


async def test_imports_go_on_while_a_receiver_hangs(service):
    """Imports and an export are completed while the receiver of their ends does not reply. Later all are delivered."""
    async with receiving(*[HANG] * 4) as receiver:
        running = await service(
            worker_pool_size=1,
            poll_seconds=0.2,
            webhooks=setting(receiver.endpoint()),
            webhook_timeout_seconds=LONG_SECONDS,
        )
        # one worker and the process for webhooks
        await eventually(lambda: len(running.workers.children()) == 2)
        async with api_client.connected(running) as api:
            for number in range(1, 7):
                job = await api.finished(await post_users(api, USERS_HEADER + user_row(number)))
                assert (job["status"], job["outcome"]) == ("completed", "success")
                await eventually(lambda number=number: receiver.held == min(number, 4))
            posted = await api.client.post(EXPORTS, json={"resource": "users"})
            export = await completed(api.client, posted.headers["location"])
            assert receiver.held == len(receiver.requests) == 4
            states = await rows(api.conn, "SELECT state, count(*) FROM webhook_deliveries GROUP BY 1 ORDER BY 1")
            assert states == [("pending", 3), ("sending", 4)]
            # from now on it replies; the process is replaced, so that it makes new requests
            [(deliverer,)] = await rows(api.conn, DELIVERER)
            os.kill(deliverer, signal.SIGKILL)
            await eventually(lambda: not is_running(deliverer))
            await make_due(api.conn)
            await eventually(lambda: len({request.id for request in receiver.requests}) == 7)
            await eventually(lambda: all_delivered(api.conn))
            ids = {request.event()["data"]["id"] for request in receiver.requests}
            assert (len(ids), export["id"] in ids) == (7, True)


DELIVERER = """
    SELECT split_part(application_name, ':', 2)::integer
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'bulk webhooks %%'
"""


async def all_delivered(conn) -> bool:
    return not await rows(conn, "SELECT 1 FROM webhook_deliveries WHERE state <> 'delivered'")


async def test_jobs_that_maintenance_ends_have_deliveries(conn, database_url, tmp_path):
    """An import and an export whose last worker died before it ended them, and an import that waited for a failed one."""
    unfinished = await queued(conn, users(1))
    await perform(conn, await claim(conn))
    await create(conn, "users")
    await claim(conn)
    await conn.execute(
        """
        UPDATE chunks
        SET state = 'failed', finished_at = now(), last_error = 'disk full'
        WHERE kind = 'export'
        """
    )
    stopped = await queued(conn, users(1, first=2))
    await queued(conn, users(1, first=3), after_id=stopped)
    await conn.execute("UPDATE import_jobs SET cancel_requested_at = now() WHERE id = %(id)s", {"id": stopped})
    settings = Settings(database_url=database_url, webhooks=setting(UNREACHABLE), export_dir=str(tmp_path))
    await maintenance.run_once(conn, settings)
    events = await rows(conn, "SELECT event FROM webhook_deliveries ORDER BY event")
    assert [event for (event,) in events] == ["export.failed", "import.cancelled", "import.completed", "import.failed"]
    [(job,)] = await rows(conn, "SELECT import_id FROM webhook_deliveries WHERE event = 'import.completed'")
    assert job == unfinished
