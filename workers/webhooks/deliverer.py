"""The process that delivers webhooks: one for each pool of workers, so that no receiver can slow down an import."""

import asyncio
import random

import httpx
import structlog

from db import health, queue
from db.connections.pool import Connection
from db.queue import failpoints
from db.settings import Settings
from db.webhooks import deliveries
from db.webhooks.deliveries import Delivery
from monitoring import metrics, throttle, tracing
from monitoring.outage import Outage
from monitoring.tracing import Span
from workers import session
from workers.webhooks import payload, request, schedule
from workers.webhooks.request import Reply

log = structlog.get_logger(__name__)


class Deliverer:
    """The loop of the process, on one connection. `stopping` is set by the caller to stop it.

    Only the loop uses the connection, between the requests, which are tasks: no transaction is open while a receiver is waited
    for. Each endpoint has its own WEBHOOK_REQUESTS_MAX, so that a slow one does not delay the others.
    """

    def __init__(self, settings: Settings, *, name: str, stopping: asyncio.Event) -> None:
        self.settings = settings
        self.name = name
        self.stopping = stopping
        self.outage = Outage(worker=name)
        self._endpoints = {endpoint.name: endpoint for endpoint in settings.webhook_endpoints}
        # the requests whose result is not stored yet; they outlive a lost connection to the database
        self._sending: dict[asyncio.Task[Reply], Delivery] = {}

    async def run(self) -> None:
        """Runs until stopped. While the database is unavailable, reconnects with growing delays."""
        async with request.client() as client:

            async def serve(conn: Connection) -> None:
                await self._serve(conn, client)

            try:
                await session.serve(
                    self.settings,
                    serve,
                    name=f"bulk webhooks {self.name}",
                    worker=self.name,
                    stopping=self.stopping,
                    outage=self.outage,
                )
            finally:
                await self._cancel()

    async def _serve(self, conn: Connection, client: httpx.AsyncClient) -> None:
        await health.require_supported(conn)
        await health.require_schema(conn)
        if self.settings.database_pooler == "none":
            await deliveries.listen(conn)
        while not self.stopping.is_set():
            await self.run_once(conn, client)
            await self._wait(conn)
        await self._end(conn)

    async def run_once(self, conn: Connection, client: httpx.AsyncClient) -> None:
        """Stores the results of the requests that have ended, and starts the requests that are due."""
        await self._store_results(conn)
        slots = {name: self._free_slots(name) for name in self._endpoints}
        claimed = await deliveries.claim(
            conn, slots, lease_seconds=self.settings.webhook_timeout_seconds + self.settings.claim_grace_seconds
        )
        self.outage.succeeded()
        for delivery in claimed:
            body = await payload.load(conn, delivery)
            if body is not None:
                self._sending[asyncio.create_task(self._send(client, delivery, body))] = delivery

    def _free_slots(self, endpoint: str) -> int:
        busy = sum(delivery.endpoint == endpoint for delivery in self._sending.values())
        return self.settings.webhook_requests_max - busy

    async def _send(self, client: httpx.AsyncClient, delivery: Delivery, body: bytes) -> Reply:
        with _span(delivery) as span:
            reply = await request.send(
                client,
                self._endpoints[delivery.endpoint],
                delivery,
                body,
                timeout_seconds=self.settings.webhook_timeout_seconds,
            )
            span.set({"http.response.status_code": reply.status})
            if reply.error is not None:
                span.fail("no_response" if reply.status is None else str(reply.status))
        return reply

    async def _wait(self, conn: Connection) -> None:
        """Until a delivery was queued, a request has ended, the process is to stop, or POLL_SECONDS have passed."""
        poll_seconds = self.settings.poll_seconds * random.uniform(0.8, 1.2)  # noqa: S311
        queued = asyncio.create_task(queue.wait(conn, poll_seconds))
        stop = asyncio.create_task(self.stopping.wait())
        await asyncio.wait({queued, stop, *self._sending}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        queued.cancel()
        await asyncio.wait({queued})
        if not queued.cancelled():
            # raises its error
            queued.result()

    async def _store_results(self, conn: Connection) -> None:
        for task in [task for task in self._sending if task.done()]:
            await failpoints.reach("mid_delivery", conn)
            await self._store(conn, self._sending[task], task.result())
            del self._sending[task]

    async def _store(self, conn: Connection, delivery: Delivery, reply: Reply) -> None:
        delay_seconds = None
        if reply.error is None and reply.status is not None:
            result = "delivered"
            is_stored = await deliveries.finish(conn, delivery, response_status=reply.status)
        else:
            delay_seconds = schedule.next_delay_seconds(
                delivery,
                reply,
                retry_seconds=self.settings.webhook_retry_seconds,
                chance=random.random(),  # noqa: S311
            )
            result = "failed" if delay_seconds is None else "retried"
            is_stored = await deliveries.retry(
                conn,
                delivery,
                response_status=reply.status,
                error=reply.error or "",
                delay_seconds=delay_seconds,
            )
        # otherwise it was claimed again, or its result was stored before the connection was lost
        if is_stored:
            metrics.webhook_attempted(delivery.endpoint, result)
            _log(delivery, reply, result)

    async def _end(self, conn: Connection) -> None:
        """Waits for the requests for half of STOP_SECONDS, and gives back the deliveries of the others."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=self.settings.stop_seconds / 2)
        await self._store_results(conn)
        interrupted = list(self._sending.values())
        await self._cancel()
        for delivery in interrupted:
            await deliveries.give_back(conn, delivery)

    async def _cancel(self) -> None:
        for task in self._sending:
            task.cancel()
        if self._sending:
            await asyncio.wait(self._sending)
        self._sending.clear()


def _span(delivery: Delivery) -> Span:
    """The span of one attempt. The request has no `traceparent`: the receiver is another organisation's, perhaps."""
    return tracing.span(
        "webhook delivery",
        delivery.traceparent,
        {
            "bulk.job.id": str(delivery.job_id),
            "bulk.job.kind": delivery.kind,
            "bulk.webhook.endpoint": delivery.endpoint,
            "bulk.attempt": delivery.attempts,
            "http.request.method": "POST",
        },
        kind="client",
    )


def _log(delivery: Delivery, reply: Reply, result: str) -> None:
    fields = {"endpoint": delivery.endpoint, "type": delivery.event, "job_id": str(delivery.job_id)}
    if result == "delivered":
        log.info("webhook delivered", **fields, status=reply.status, attempts=delivery.attempts)
    elif result == "failed":
        log.error("webhook failed", **fields, error=reply.error, attempts=delivery.attempts)
    else:
        # without the job, so that a receiver that is down is logged once a minute
        throttle.warning(log, "webhook not delivered", endpoint=delivery.endpoint, error=reply.error)
