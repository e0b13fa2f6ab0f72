"""Notifications: when they are sent, and that one look for work follows any number of them."""

from db import queue
from tests.support.claims import finished
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.factories import claim, perform, queued, users


async def received(conn) -> int:
    """How many notifications have arrived."""
    return len([notify async for notify in conn.notifies(timeout=0)])


async def test_a_wait_takes_all_that_have_arrived(conn, other):
    """A busy worker receives a notification for each new job, and looks for work once when it has none."""
    await queue.listen(conn)
    for _ in range(3):
        await queue.notify(other)
    # they arrive with the answer of a statement
    await conn.execute("SELECT")
    await queue.wait(conn, PATIENCE_SECONDS)
    assert await received(conn) == 0


async def test_the_end_of_an_import_notifies_if_another_one_waits_for_it(conn, other):
    await queue.listen(other)
    first = await queued(conn, users(1))
    second = await queued(conn, users(1, first=2), after_id=first)
    assert await received(other) == 2
    await perform(conn, await claim(conn))
    assert (await finished(conn, first)).status == "completed"
    assert await received(other) == 1
    await perform(conn, await claim(conn))
    assert (await finished(conn, second)).status == "completed"
    assert await received(other) == 0
