"""Receivers of webhooks that fail, hang, or are not in the setting."""

import asyncio
import ssl
import subprocess

import pytest

from tests.support.eventually import PATIENCE_SECONDS
from tests.support.factories import rows
from tests.support.webhooks import (
    CLOSE,
    HANG,
    LONG_SECONDS,
    SECRET,
    UNREACHABLE,
    delivering,
    delivery,
    ended,
    make_due,
    receiving,
    response,
)

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
