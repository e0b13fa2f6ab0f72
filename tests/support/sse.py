"""Reading server-sent events."""

import asyncio
import json

import httpx

from tests.support.eventually import PATIENCE_SECONDS


class Events:
    """The events of one stream, in order."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> dict | None:
        """The next event's fields, its data decoded; None at the end of the stream."""
        fields: dict = {}
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for line in self._lines:
                if not line and "data" in fields:
                    return fields | {"data": json.loads(fields["data"])}
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value
        return None
