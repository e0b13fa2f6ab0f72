"""Answers whose body is made while it is sent: whole or visibly broken, and at no cost when the client is slow or leaves."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import HTTPResponseBodyEvent, Receive, Scope, Send


class BlockStream(ASGIStreamingResponse):
    """Sends `blocks`, then lets go of what is `held`; at once too when the client leaves or a block cannot be had.

    What is raised half way is raised on: the server then closes the connection without the end of the body.
    """

    def __init__(
        self,
        blocks: AsyncIterator[bytes],
        *,
        held: AsyncExitStack,
        media_type: str,
        headers: Mapping[str, str],
        status_code: int,
    ) -> None:
        # as a header, because the framework adds a second charset to any text
        super().__init__(iterator=blocks, headers={**headers, "Content-Type": media_type}, status_code=status_code)
        self.blocks = blocks
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.held:
            await super().__call__(scope, receive, send)

    async def send_body(self, send: Send, receive: Receive) -> None:
        """In place of the framework's own, which cancels again and again what is just cleaning up after a first time."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.wait({sending, leaving})
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        async for block in self.blocks:
            # a client that takes nothing is cut off by api.protocol, and has then left
            await send(_body(block, more=True))
        await send(_body(b"", more=False))


async def _left(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(block: bytes, *, more: bool) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": block, "more_body": more}
