"""The longest pause of the event loop."""

import asyncio
import time

from monitoring.event_loop import PauseMeter
from tests.support.eventually import eventually


async def test_a_blocked_loop_is_measured():
    """The length of the longest pause is still known when the loop runs again."""
    meter = PauseMeter()
    running = asyncio.create_task(meter.run())
    await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251  the pause
    await eventually(lambda: meter.longest_seconds() > 0)
    assert meter.longest_seconds() >= 0.2
    running.cancel()
