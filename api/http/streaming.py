"""Streamed responses: complete or visibly broken, and stopped when the client leaves."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import HTTPResponseBodyEvent, Receive, Scope, Send


class BlockStream(ASGIStreamingResponse):
    """Sends `blocks`, then closes `held`, also when the client leaves or a block raises.

    An exception of a block is raised on: the server then closes the connection without the end of the body.
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
        # a header, because the framework adds a second charset to a media type of text
        super().__init__(iterator=blocks, headers={**headers, "Content-Type": media_type}, status_code=status_code)
        self.blocks = blocks
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # a HEAD request needs no block
        self.is_head_response = bool(scope["state"].get("is_head"))
        async with self.held:
            await super().__call__(scope, receive, send)

    async def send_body(self, send: Send, receive: Receive) -> None:
        """Replaces Litestar's, which keeps cancelling a task that is already cleaning up."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_client_left(receive))
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
            # waits for a slow client; api.http.protocol disconnects one that does not read at all
            await send(_body(block, more=True))
        await send(_body(b"", more=False))


async def _client_left(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(block: bytes, *, more: bool) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": block, "more_body": more}
