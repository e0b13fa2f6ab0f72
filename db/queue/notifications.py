"""LISTEN and NOTIFY: idle workers look for work at once. A lost notification only costs the time until the next poll."""

from db.connections.pool import Connection

CHANNEL = "bulk_work"


async def notify(conn: Connection) -> None:
    """Wakes idle workers when the transaction commits."""
    await conn.execute("SELECT pg_notify(%(channel)s, '')", {"channel": CHANNEL})


async def listen(conn: Connection) -> None:
    await conn.execute(f"LISTEN {CHANNEL}")


async def wait(conn: Connection, seconds: float) -> None:
    """Returns at the next notification, or after `seconds`.

    Takes all notifications that have arrived: one look for work is enough for them.
    """
    async for _ in conn.notifies(timeout=seconds, stop_after=1):
        pass
