"""How long the event loop of this process was held up: while it is, no request is answered, not even a probe."""

import asyncio

TICK_SECONDS = 0.05
# at least as long as Prometheus scrapes apart, so that no pause falls between two scrapes
WINDOW_SECONDS = 60.0


class PauseMeter:
    """Measures how late a timer fires. `run` it as a task for as long as the loop runs."""

    def __init__(self) -> None:
        self._current_seconds = 0.0
        self._previous_seconds = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        window_ends = loop.time() + WINDOW_SECONDS
        while True:
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            now = loop.time()
            self._current_seconds = max(self._current_seconds, now - due)
            if now >= window_ends:
                self._previous_seconds, self._current_seconds = self._current_seconds, 0.0
                window_ends = now + WINDOW_SECONDS

    def longest_seconds(self) -> float:
        """The longest pause of the last one to two windows."""
        return max(self._current_seconds, self._previous_seconds)
