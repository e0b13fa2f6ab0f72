"""Notifications: when they are sent, and that one look for work follows any number of them."""

from contextlib import aclosing

from db import queue
from tests.support.claims import finished
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.factories import claim, perform, queued, users


async def received(listener, sender) -> int:
    """How many notifications `listener` has received and not read. They arrive in the order of their commits."""
    await sender.execute(f"NOTIFY {queue.CHANNEL}, 'last'")
    count = 0
    async with aclosing(listener.notifies(timeout=PATIENCE_SECONDS)) as notifications:
        async for notify in notifications:
            if notify.payload == "last":
                return count
            count += 1
    raise AssertionError("the last notification has not arrived")


async def test_a_wait_takes_all_that_have_arrived(conn, other):
    """A busy worker receives a notification for each new job, and looks for work once when it has none."""
    await queue.listen(conn)
    # in one transaction, so that they arrive together
    await other.execute("SELECT pg_notify(%s, n::text) FROM generate_series(1, 3) AS n", (queue.CHANNEL,))
    await queue.wait(conn, PATIENCE_SECONDS)
    assert await received(conn, other) == 0


async def test_the_end_of_an_import_notifies_if_another_one_waits_for_it(conn, other):
    await queue.listen(other)
    first = await queued(conn, users(1))
    second = await queued(conn, users(1, first=2), after_id=first)
    assert await received(other, conn) == 2
    await perform(conn, await claim(conn))
    assert (await finished(conn, first)).status == "completed"
    assert await received(other, conn) == 1
    await perform(conn, await claim(conn))
    assert (await finished(conn, second)).status == "completed"
    assert await received(other, conn) == 0
