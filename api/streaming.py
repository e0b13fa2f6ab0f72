"""Answers whose body is made while it is sent: whole or visibly broken, and at no cost when the client is slow or leaves."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import Message, Receive, Scope, Send

# a client that takes nothing for so long is given up: what is held for it is needed by others
STALL_SECONDS_MAX = 60


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
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_or_give_up(message: Message) -> None:
            async with asyncio.timeout(STALL_SECONDS_MAX):
                await send(message)

        async with self.held:
            await super().__call__(scope, receive, send_or_give_up)
