"""A suspended worker sends nothing: wherever it is in its transaction, the server ends its session and releases its locks."""

import asyncio

import pytest

from db.connections.pool import Connection
from db.errors import UNAVAILABLE
from db.settings import Settings
from tests.support.claims import queued_singles
from tests.support.eventually import eventually
from tests.support.factories import ended, queued, users
from tests.support.workers import session_has_ended
from workers.worker import Worker

# of the session; 6 s in `pool.SESSION`
IDLE_MILLISECONDS = 500


@pytest.mark.parametrize(
    ("is_small", "point"),
    [
        (False, "after_fence"),
        (False, "after_load"),
        (False, "mid_merge"),
        (False, "before_commit"),
        # loaded, and at the end
        (True, "after_fence"),
        (True, "mid_merge"),
        (True, "before_commit"),
    ],
)
async def test_the_server_ends_the_session(conn, other, at_point, is_small, point):
    """PostgreSQL starts the timeout at the end of an exchange, but not after the Flush with which psycopg ends a pipeline."""

    async def suspend(of: Connection) -> None:
        pid = of.info.backend_pid
        await eventually(lambda: session_has_ended(other, pid))

    ids = await queued_singles(conn, 3) if is_small else [await queued(conn, users(3), on_error="stop")]
    await conn.execute(f"SET idle_in_transaction_session_timeout = {IDLE_MILLISECONDS}")
    at_point(point, suspend)
    with pytest.raises(UNAVAILABLE):
        await Worker(Settings(), name="suspended", stopping=asyncio.Event()).run_once(conn)
    await other.execute("UPDATE chunks SET claimed_at = claimed_at - interval '1 minute'")
    for _ in ids:
        assert await Worker(Settings(), name="next", stopping=asyncio.Event()).run_once(other) is not None
    assert [(await ended(other, id)).outcome for id in ids] == ["success"] * len(ids)
