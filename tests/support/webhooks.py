"""A receiver of webhooks on a port of its own, and the setting WEBHOOKS that names it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook

from db.imports import completion
from db.settings import Settings
from tests.support.eventually import eventually, in_time
from tests.support.factories import claim, perform, queued, rows, user
from workers.webhooks.deliverer import Deliverer

SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS1maXJzdC1lbmRwb2ludA=="
OTHER_SECRET = "whsec_" + "YW5vdGhlci1zZWNyZXQtb2YtYW4tZW5kcG9pbnQ="
# an endpoint on a port that no process listens on
UNREACHABLE = {"name": "unreachable", "url": "http://127.0.0.1:1/", "secrets": [SECRET]}
# longer than any test lasts
LONG_SECONDS = 300
# a reply that never comes
HANG = b"hang"
CLOSE = b""


def response(status: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} Status", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass(frozen=True)
class Request:
    """A request as it was received. `event` verifies it by another implementation of the specification, and is its body."""

    line: str
    headers: dict[str, str]
    body: bytes

    def event(self, secret: str = SECRET) -> dict[str, Any]:
        """Raises `WebhookVerificationError`."""
        return Webhook(secret).verify(self.body, self.headers)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """Replies to each request with the next of `replies`, and with 204 when there is none left."""

    port: int = 0
    replies: list[bytes] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    # requests that have no reply yet
    held: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=t0ken"

    def endpoint(self, name: str = "crm", **members: Any) -> dict[str, Any]:
        return {"name": name, "url": self.url, "secrets": [SECRET], **members}

    async def received(self, count: int) -> list[Request]:
        """Waits for so many requests in all."""
        await eventually(lambda: len(self.requests) >= count)
        assert len(self.requests) == count
        return self.requests

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.splitlines()
            headers = {
                name.lower(): value.strip() for name, _, value in (part.partition(":") for part in lines if part)
            }
            body = await reader.readexactly(int(headers["content-length"]))
            reply = self.replies.pop(0) if self.replies else response(204)
            self.held += 1
            self.requests.append(Request(line, headers, body))
            if reply == HANG:
                # until the sender closes the connection
                await reader.read()
            self.held -= 1
            writer.write(b"" if reply == HANG else reply)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(*replies: bytes) -> AsyncIterator[Receiver]:
    receiver = Receiver(replies=list(replies))
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


def setting(*endpoints: dict[str, Any]) -> str:
    return json.dumps(endpoints)


@asynccontextmanager
async def delivering(database_url: str, *endpoints: dict[str, Any], **settings: Any) -> AsyncIterator[Deliverer]:
    """The process that delivers, as a task of the test; it is stopped at the end."""
    given = Settings(database_url=database_url, webhooks=setting(*endpoints), **{"poll_seconds": 0.1, **settings})
    stopping = asyncio.Event()
    deliverer = Deliverer(given, name="h:1:0", stopping=stopping)
    running = asyncio.create_task(deliverer.run())
    try:
        yield deliverer
    finally:
        stopping.set()
        await in_time(running)


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
