"""`waiting_for` of a small import that was just created: it waits for its turn or for a worker, as all of them do."""

import asyncio

import db.jobs
from api.http import responses
from db.connections.pool import Pool
from db.settings import Settings

# Imports that are created within this time have the same reason: counting the workers for each takes a fifth of its work.
SHARED_SECONDS = 0.25


class Turn:
    """Reads the reason at most every SHARED_SECONDS."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._lock = asyncio.Lock()
        self._reason: str | None = None
        self._read_at = float("-inf")

    async def waiting_for(self) -> str | None:
        """The reason, at most SHARED_SECONDS old. None as in `responses.reason`."""
        now = asyncio.get_running_loop().time
        async with self._lock:
            if now() >= self._read_at + SHARED_SECONDS:
                self._read_at = now()
                self._reason = await responses.reason(self._pool, self._settings, db.jobs.waiting_for_turn)
            return self._reason
