"""Responses to HTTP/1.0 requests."""

from typing import Any

from litestar.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def close_delimited(cycle: RequestResponseCycle, app: Any) -> Any:
    """`app`, whose responses of unknown length end with the connection: HTTP/1.0 has no chunks, which uvicorn would send."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        is_delimited = False

        async def send_delimited(message: Message) -> None:
            nonlocal is_delimited
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                is_delimited = b"content-length" not in names
                if is_delimited:
                    # not None, which is where uvicorn decides for chunks
                    cycle.chunked_encoding = False
            elif message["type"] == "http.response.body" and is_delimited:
                # uvicorn compares each piece with what is left of the announced length
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_delimited)

    return call
