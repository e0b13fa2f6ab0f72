"""The delivery of webhooks to a real receiver: what is sent, receivers that fail, processes that die."""

import asyncio
import os
import signal
import ssl
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from db.exports import completion as export_completion
from db.imports import completion
from db.settings import Settings
from tests.support import api_client
from tests.support.api_client import USERS_HEADER, post_users, user_row
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.exports import EXPORTS, completed, create
from tests.support.factories import claim, perform, queued, rows, user, users
from tests.support.service import Process
from tests.support.webhooks import (
    CLOSE,
    HANG,
    OTHER_SECRET,
    SECRET,
    UNREACHABLE,
    delivering,
    receiving,
    response,
    setting,
)
from tests.support.workers import is_running
from workers import maintenance

# longer than any test lasts
LONG_SECONDS = 300


def decoded(*receivers: dict[str, Any]):
    """The endpoints as a process reads them."""
    return Settings(webhooks=setting(*receivers)).webhook_endpoints


async def ended(conn, *receivers: dict[str, Any], number: int = 1, **parameters: Any):
    """An import that is completed, with its deliveries; returns its id."""
    id = await queued(conn, [user(number), {"email": "none"}], **parameters)
    await perform(conn, await claim(conn))
    [end] = await completion.finish(conn, id, endpoints=decoded(*receivers))
    assert end.status == "completed"
    return id


async def delivery(conn, state: str, *, attempts: int) -> tuple[int | None, str | None]:
    """Waits until a delivery is in this state after so many attempts. Returns status and error of the last one."""

    async def found():
        return await rows(
            conn,
            """
            SELECT response_status, error
            FROM webhook_deliveries
            WHERE state = %(state)s AND attempts = %(attempts)s
            """,
            state=state,
            attempts=attempts,
        )

    [result] = await eventually(found)
    return result


async def make_due(conn) -> None:
    """The next attempts are due, and claims without a result are over."""
    await conn.execute("UPDATE webhook_deliveries SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")


# ── what is sent ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_end_of_an_import_is_sent(conn, database_url):
    """The body has the type, the time and the short view of the job; its signature is accepted by another implementation."""
    async with receiving() as receiver, delivering(database_url, receiver.endpoint()):
        id = await ended(conn, receiver.endpoint(), file_name="private.csv", created_by="ada")
        [request] = await receiver.received(1)
        assert await delivery(conn, "delivered", attempts=1) == (204, None)
    assert request.line == "POST /hook?token=t0ken HTTP/1.1"
    assert (request.headers["content-type"], "cookie" in request.headers) == ("application/json", False)
    event = request.event()
    [(delivery_id,)] = await rows(conn, "SELECT id::text FROM webhook_deliveries")
    assert request.id == delivery_id
    data = event.pop("data")
    assert event == {"type": "import.completed", "timestamp": data["finished_at"]}
    assert [data.pop(name) is None for name in ("created_at", "started_at", "finished_at")] == [False] * 3
    path = f"/api/v1/imports/{id}"
    assert data == {
        "id": str(id),
        "kind": "import",
        "resource": "users",
        "status": "completed",
        "outcome": "partial",
        "mode": "insert",
        "dry_run": False,
        "parent_id": None,
        "total_records": 2,
        "counts": {"created": 1, "updated": 0, "unchanged": 0, "skipped": 0, "failed": 1, "unprocessed": 0},
        "error_count": data["error_count"],
        "problem": None,
        "links": {"self": path, "errors": f"{path}/errors", "failed_records": f"{path}/failed-records"},
    }
    assert data["error_count"] > 0
    assert not [word for word in (b"private", b"ada", b"example.com", b"none") if word in request.body]


async def test_the_process_is_notified(conn, database_url):
    """It sends a delivery when the job ends, not at its next poll."""
    async with receiving() as receiver, delivering(database_url, receiver.endpoint(), poll_seconds=4 * LONG_SECONDS):
        # it has looked for deliveries, and waits
        await eventually(lambda: rows(conn, IDLE))
        await ended(conn, receiver.endpoint())
        await receiver.received(1)


IDLE = """
    SELECT 1
    FROM pg_stat_activity
    WHERE datname = current_database()
        AND application_name LIKE 'bulk webhooks %%'
        AND state = 'idle'
        AND query LIKE '%%UPDATE webhook_deliveries%%'
"""


async def test_while_a_secret_is_replaced_both_sign(conn, database_url):
    """A request has a signature of each secret, so that a receiver may know either of them."""
    async with receiving() as receiver:
        crm = receiver.endpoint(secrets=[SECRET, OTHER_SECRET])
        async with delivering(database_url, crm):
            await ended(conn, crm)
            [request] = await receiver.received(1)
    assert request.event(SECRET) == request.event(OTHER_SECRET)


async def test_a_failed_export_names_its_problem_without_detail(conn, database_url):
    """The detail may quote values. The status is that of the end, and there is no link to a file."""
    async with receiving() as receiver, delivering(database_url, receiver.endpoint()):
        id = await create(conn, "users")
        await claim(conn)
        await conn.execute("UPDATE chunks SET state = 'failed', finished_at = now(), last_error = 'ada@example.org'")
        await export_completion.finish(conn, id, endpoints=decoded(receiver.endpoint()))
        [request] = await receiver.received(1)
    data = request.event()["data"]
    assert (data["kind"], data["status"], data["records"], data["bytes"]) == ("export", "failed", None, None)
    assert data["problem"] == {"type": "/problems/export-failed", "title": "The export could not be written"}
    assert data["links"] == {"self": f"/api/v1/exports/{id}"}
    assert b"ada@example.org" not in request.body


# ── receivers that fail ───────────────────────────────────────────────────────────────────────────────────────────────


NO_RESPONSE = "RemoteProtocolError: Server disconnected without sending a response."


@pytest.mark.parametrize(
    ("reply", "status", "error"),
    [
        (response(500, "Set-Cookie: session=1"), 500, "HTTP 500"),
        (response(404, body=b"x" * 1_000_000), 404, "HTTP 404"),
        (response(302, "Location: /other"), 302, "HTTP 302, and redirects are not followed"),
        (CLOSE, None, NO_RESPONSE),
        (b"HTTP/1.1 200 OK\r\nContent-Le", None, NO_RESPONSE),
        (b"not HTTP\r\n\r\n", None, "RemoteProtocolError: illegal status line: bytearray(b'not HTTP')"),
    ],
)
async def test_a_failed_attempt_is_repeated_with_the_same_id(conn, database_url, reply, status, error):
    """The reason of the failed attempt is shown. The next one has a new signature of the same body, and no cookie."""
    async with receiving(reply) as receiver, delivering(database_url, receiver.endpoint()):
        await ended(conn, receiver.endpoint())
        assert await delivery(conn, "pending", attempts=1) == (status, error)
        await make_due(conn)
        first, second = await receiver.received(2)
        assert await delivery(conn, "delivered", attempts=2) == (204, None)
    assert (first.id, first.body) == (second.id, second.body)
    assert first.event() == second.event()
    assert "cookie" not in second.headers


async def test_a_request_has_a_time_limit(conn, database_url):
    """A receiver that does not reply within WEBHOOK_TIMEOUT_SECONDS has not received the event."""
    async with (
        receiving(HANG) as receiver,
        delivering(database_url, receiver.endpoint(), webhook_timeout_seconds=0.2),
    ):
        await ended(conn, receiver.endpoint())
        assert await delivery(conn, "pending", attempts=1) == (None, "no response within 0.2 s")


async def test_a_response_that_does_not_end_counts(conn, database_url):
    """The status is known when the head of the response is received; a body that hangs or is cut off does not matter."""
    async with (
        receiving(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab") as receiver,
        delivering(database_url, receiver.endpoint()),
    ):
        await ended(conn, receiver.endpoint())
        assert await delivery(conn, "delivered", attempts=1) == (200, None)


async def test_an_endpoint_that_cannot_be_reached_is_shown(conn, database_url):
    """The reason is in the table, without the URL."""
    unreachable = {**UNREACHABLE, "url": "http://127.0.0.1:1/t0ken"}
    async with delivering(database_url, unreachable):
        await ended(conn, unreachable)
        status, error = await delivery(conn, "pending", attempts=1)
    assert (status, (error or "").partition(":")[0]) == (None, "ConnectError")
    assert "t0ken" not in str(error)


@pytest.mark.needs("openssl")
async def test_a_certificate_is_verified(conn, database_url, unknown_certificate):
    """A receiver whose certificate is not signed by a known authority gets no request."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=unknown_certificate)
    crm = {"name": "crm", "url": f"https://localhost:{server.sockets[0].getsockname()[1]}/", "secrets": [SECRET]}
    async with delivering(database_url, crm):
        await ended(conn, crm)
        _, error = await delivery(conn, "pending", attempts=1)
    server.close()
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert requests == []


@pytest.fixture
def unknown_certificate(tmp_path) -> ssl.SSLContext:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    files = ["-keyout", key, "-out", certificate]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", *files],
        check=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.parametrize("is_old", [True, False])
async def test_endless_failures_end(conn, database_url, is_old):
    """After WEBHOOK_RETRY_SECONDS an attempt is the last one; so is any that is answered 410 Gone."""
    async with (
        receiving(response(503 if is_old else 410)) as receiver,
        delivering(database_url, receiver.endpoint(), webhook_retry_seconds=3600),
    ):
        crm = receiver.endpoint()
        # not due before its age is changed
        async with conn.transaction():
            await ended(conn, crm)
            if is_old:
                await conn.execute("UPDATE webhook_deliveries SET created_at = created_at - interval '1 hour'")
        status = 503 if is_old else 410
        assert await delivery(conn, "failed", attempts=1) == (status, f"HTTP {status}")
        assert len(receiver.requests) == 1


async def test_a_receiver_that_hangs_does_not_delay_another(conn, database_url):
    """Each endpoint has its own limit of concurrent requests; of the waiting ones the next is sent when one has ended."""
    async with (
        receiving(HANG, HANG) as slow,
        receiving() as quick,
        delivering(
            database_url,
            slow.endpoint("slow"),
            quick.endpoint("quick"),
            webhook_requests_max=2,
            webhook_timeout_seconds=LONG_SECONDS,
            stop_seconds=0.2,
        ),
    ):
        for number in range(1, 6):
            await ended(conn, slow.endpoint("slow"), quick.endpoint("quick"), number=number)
        await quick.received(5)
        await slow.received(2)
        assert slow.held == 2


async def test_an_endpoint_that_is_not_in_the_setting_gets_nothing(conn, database_url):
    """Its deliveries wait, as they do for a process that does not have the setting yet."""
    async with receiving() as receiver, delivering(database_url, receiver.endpoint()):
        await ended(conn, receiver.endpoint("removed"))
        await ended(conn, receiver.endpoint(), number=2)
        await delivery(conn, "delivered", attempts=1)
        assert await rows(conn, "SELECT endpoint, state, attempts FROM webhook_deliveries ORDER BY created_at") == [
            ("removed", "pending", 0),
            ("crm", "delivered", 1),
        ]


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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
