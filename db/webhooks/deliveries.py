"""The queue of webhook deliveries: one row for each end of a job and endpoint that gets it. db/README.md describes the states.

A claim is one statement. It counts the attempt, and makes the delivery due again at the end of the claim's time, so that the
delivery of a dead process is claimed again. The request is sent outside of any transaction. Its result is stored only if the
lease is still that of the claim.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, LiteralString
from uuid import UUID

import msgspec
from psycopg import sql
from psycopg.rows import class_row

from db.connections.pool import Connection
from db.jobs import Kind
from db.webhooks.endpoints import Endpoint, subscriptions

CHANNEL = "bulk_webhooks"

State = Literal["pending", "sending", "delivered", "failed"]


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed delivery. `id` is the same in all attempts; `attempted_at` is the time of this one, which `attempts` counts."""

    id: UUID
    endpoint: str
    event: str
    kind: Kind
    job_id: UUID
    lease: int
    attempts: int
    attempted_at: datetime
    created_at: datetime
    # of the request that created the job, or of its span
    traceparent: str | None


class DeliveryState(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery of a job's end. `id` is the header `webhook-id`. `response_status` and `error` are of the last attempt.

    `next_attempt_at` is null if the state is delivered or failed. In the state sending it is when the attempt is given up.
    """

    id: UUID
    endpoint: str
    event: str
    state: State
    attempts: int
    response_status: int | None
    error: str | None
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """The deliveries to one endpoint that are not final, and the age of the oldest one; 0 if there is none."""

    endpoint: str
    deliveries: int
    oldest_seconds: float


def with_deliveries(
    end: LiteralString, kind: Kind, endpoints: Sequence[Endpoint]
) -> tuple[LiteralString, dict[str, Any]]:
    """The statement `end`, which makes a job final and returns its `id` and `status`, extended by the insert of its deliveries.

    One statement, so that there is no end without its deliveries, and no second round trip. The processes that deliver are
    notified at the commit. Returns the statement and the parameters to add; without endpoints `end` itself.
    """
    if not endpoints:
        return end, {}
    pairs = subscriptions(endpoints)
    statement: LiteralString = f"""
        WITH ended AS (
            {end}
        ), delivery AS (
            INSERT INTO webhook_deliveries ({kind}_id, endpoint, event)
            SELECT ended.id, subscription.endpoint, subscription.event
            FROM ended
            JOIN unnest(%(endpoints)s::text[], %(events)s::text[]) AS subscription (endpoint, event)
                ON subscription.event = '{kind}.' || ended.status
            RETURNING pg_notify('{CHANNEL}', '')
        )
        SELECT * FROM ended
    """  # noqa: S608  of literals only
    return statement, {"endpoints": [name for name, _ in pairs], "events": [event for _, event in pairs]}


async def listen(conn: Connection) -> None:
    """Afterwards `queue.wait` returns when a delivery was inserted."""
    await conn.execute(f"LISTEN {CHANNEL}")


async def claim(conn: Connection, slots: Mapping[str, int], *, lease_seconds: float) -> list[Delivery]:
    """Claims due deliveries: for each endpoint of `slots` at most so many, the longest due first.

    After `lease_seconds` without a result they are claimed again. Uses the index webhook_deliveries_due.
    """
    cursor = conn.cursor(row_factory=class_row(Delivery))
    await cursor.execute(
        """
        WITH next AS MATERIALIZED (
            SELECT due.id
            FROM unnest(%(endpoints)s::text[], %(slots)s::int[]) AS free (endpoint, slots)
            CROSS JOIN LATERAL (
                SELECT id
                FROM webhook_deliveries
                WHERE endpoint = free.endpoint
                    AND state IN ('pending', 'sending')
                    AND next_attempt_at <= statement_timestamp()
                ORDER BY next_attempt_at
                LIMIT free.slots
                FOR NO KEY UPDATE SKIP LOCKED
            ) AS due
        )
        UPDATE webhook_deliveries AS delivery
        SET state = 'sending',
            lease = lease + 1,
            attempts = attempts + 1,
            attempted_at = clock_timestamp(),
            next_attempt_at = clock_timestamp() + %(seconds)s * interval '1 second'
        FROM next
        WHERE delivery.id = next.id
        RETURNING delivery.id, endpoint, event, lease, attempts, attempted_at, created_at,
            CASE WHEN import_id IS NULL THEN 'export' ELSE 'import' END AS kind,
            coalesce(import_id, export_id) AS job_id,
            coalesce(
                (SELECT traceparent FROM import_jobs WHERE id = delivery.import_id),
                (SELECT traceparent FROM export_jobs WHERE id = delivery.export_id)
            ) AS traceparent
        """,
        {"endpoints": list(slots), "slots": list(slots.values()), "seconds": lease_seconds},
    )
    return await cursor.fetchall()


async def finish(conn: Connection, delivery: Delivery, *, response_status: int) -> bool:
    """Marks the delivery as delivered. False: the claim was lost."""
    cursor = await conn.execute(
        """
        UPDATE webhook_deliveries
        SET state = 'delivered',
            response_status = %(response_status)s,
            error = NULL,
            next_attempt_at = NULL,
            finished_at = clock_timestamp()
        WHERE id = %(id)s AND lease = %(lease)s AND state = 'sending'
        """,
        {"id": delivery.id, "lease": delivery.lease, "response_status": response_status},
    )
    return cursor.rowcount == 1


async def retry(
    conn: Connection, delivery: Delivery, *, response_status: int | None, error: str, delay_seconds: float | None
) -> bool:
    """Stores a failed attempt. The next one is due after `delay_seconds`; None: there is none. False: the claim was lost."""
    cursor = await conn.execute(
        """
        UPDATE webhook_deliveries
        SET state = CASE WHEN %(delay)s::float8 IS NULL THEN 'failed' ELSE 'pending' END,
            response_status = %(response_status)s,
            error = %(error)s,
            next_attempt_at = clock_timestamp() + %(delay)s::float8 * interval '1 second',
            finished_at = CASE WHEN %(delay)s::float8 IS NULL THEN clock_timestamp() END
        WHERE id = %(id)s AND lease = %(lease)s AND state = 'sending'
        """,
        {
            "id": delivery.id,
            "lease": delivery.lease,
            "response_status": response_status,
            "error": error,
            "delay": delay_seconds,
        },
    )
    return cursor.rowcount == 1


async def give_back(conn: Connection, delivery: Delivery) -> None:
    """Returns a delivery whose attempt was interrupted because the process stops. The attempt is not counted."""
    await conn.execute(
        """
        UPDATE webhook_deliveries
        SET state = 'pending', attempts = attempts - 1, next_attempt_at = clock_timestamp()
        WHERE id = %(id)s AND lease = %(lease)s AND state = 'sending'
        """,
        {"id": delivery.id, "lease": delivery.lease},
    )


async def of_job(conn: Connection, kind: Kind, id: UUID) -> list[DeliveryState]:
    """The deliveries of a job's end, by endpoint."""
    cursor = conn.cursor(row_factory=class_row(DeliveryState))
    await cursor.execute(
        sql.SQL(
            """
            SELECT id, endpoint, event, state, attempts, response_status, error, next_attempt_at, created_at, finished_at
            FROM webhook_deliveries
            WHERE {job} = %(id)s
            ORDER BY endpoint
            """
        ).format(job=sql.Identifier(f"{kind}_id")),
        {"id": id},
    )
    return await cursor.fetchall()


async def waiting(conn: Connection, endpoints: Sequence[Endpoint]) -> list[Waiting]:
    """The deliveries that are not final, for each of the endpoints."""
    cursor = conn.cursor(row_factory=class_row(Waiting))
    await cursor.execute(
        """
        SELECT wanted.endpoint,
            count(delivery.id) AS deliveries,
            coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_seconds
        FROM unnest(%(endpoints)s::text[]) AS wanted (endpoint)
        LEFT JOIN webhook_deliveries AS delivery
            ON delivery.endpoint = wanted.endpoint AND delivery.state IN ('pending', 'sending')
        GROUP BY wanted.endpoint
        """,
        {"endpoints": [endpoint.name for endpoint in endpoints]},
    )
    return await cursor.fetchall()
