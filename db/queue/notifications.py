"""LISTEN and NOTIFY: idle workers look for work at once. A lost notification only costs the time until the next poll."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from db.connections.pool import Connection, Pool, repeatable

T = TypeVar("T")

CHANNEL = "bulk_work"
# the payload of a notification of a small import, which needs one worker; others have none
SMALL = "small"


async def submit(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """As `db.connections.pool.in_transaction`, for `work` that adds to the queue: wakes idle workers after its commit.

    Not in the same transaction, which would hold PostgreSQL's lock for NOTIFY until its commit is durable: only one job could be
    added per flush of the WAL. If the process ends in between, workers find the job at their next poll.
    """

    async def transaction(conn: Connection) -> T:
        async with conn.transaction():
            done = await work(conn)
        await notify(conn)
        return done

    return await repeatable(pool, transaction)


async def notify(conn: Connection, payload: str = "") -> None:
    """Wakes idle workers. The statement is a transaction of its own, which does not wait for the disk."""
    await conn.execute(
        "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%(channel)s, %(payload)s)",
        {"channel": CHANNEL, "payload": payload},
    )


async def listen(conn: Connection) -> None:
    await conn.execute(f"LISTEN {CHANNEL}")


async def wait(conn: Connection, seconds: float) -> set[str]:
    """Returns at the next notification, or after `seconds`.

    Takes all notifications that have arrived: one look for work is enough for them. Returns their payloads.
    """
    return {notification.payload async for notification in conn.notifies(timeout=seconds, stop_after=1)}
