"""A TCP proxy in front of PostgreSQL or of the API that simulates failures of a network."""

import asyncio
import re
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

BLOCK_BYTES = 64 * 1024

# BackendKeyData: the first four bytes are the pid of the session
SESSION_NUMBER = re.compile(rb"(?<=K\x00\x00\x00\x0c).{4}", re.DOTALL)
WRONG_NUMBER = b"\x7f\xff\xff\xff"


class Budget:
    """The number of bytes that all connections together may forward, in both directions; None means any number."""

    def __init__(self, bytes_max: int | None) -> None:
        self.remaining = bytes_max
        # set when no more is forwarded
        self.is_spent = asyncio.Event()

    def take(self, data: bytes) -> bytes:
        """The part of the data that is forwarded; the rest is discarded."""
        if self.remaining is None:
            return data
        part = data[: self.remaining]
        self.remaining -= len(part)
        if not self.remaining:
            self.is_spent.set()
        return part


class Link:
    """One connection through the proxy. Data for a side that is black-holed is read and discarded; both sides stay open."""

    def __init__(
        self,
        client: StreamWriter,
        server: StreamWriter,
        *,
        budget: Budget,
        gives_numbers: bool,
        answer_bytes_max: int | None,
    ) -> None:
        self.budget = budget
        # the connection is reset when the server sends more bytes
        self.answer_bytes_max = answer_bytes_max
        self.client = client
        self.server = server
        self.is_deaf = dict.fromkeys((client, server), False)
        self.gives_numbers = gives_numbers
        self.is_open = asyncio.Event()
        self.is_open.set()
        # whether the client has closed the connection, which a black-holed server does not notice
        self.is_left = False

    async def carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        while data := await reader.read(BLOCK_BYTES):
            await self.is_open.wait()
            if self.gives_numbers and writer is self.client:
                data = SESSION_NUMBER.sub(WRONG_NUMBER, data, count=1)
            if self.answer_bytes_max is not None and writer is self.client:
                self.answer_bytes_max -= len(data)
                if self.answer_bytes_max < 0:
                    self.reset()
                    return
            data = self.budget.take(data)
            if not self.is_deaf[writer]:
                writer.write(data)
                await writer.drain()
        # the end of the connection is not forwarded to a black-holed side either
        if not self.is_deaf[writer]:
            writer.close()

    async def carry_on(self, reader: StreamReader) -> None:
        """Forwards the client's data until it disconnects."""
        try:
            await self.carry(reader, self.server)
        finally:
            self.is_left = True

    def reset(self) -> None:
        for writer in (self.client, self.server):
            if not writer.is_closing():
                # a linger time of 0 makes close() send RST
                line = writer.get_extra_info("socket")
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class FaultProxy:
    """Forwards every connection to the server, until a test calls one of the methods that fail."""

    def __init__(self, url: str) -> None:
        self.target = urlsplit(url)
        self.links: set[Link] = set()
        # the number of connections so far
        self.carried = 0
        self.is_black_hole = False
        # replaced by a test that stops the next connections after a number of bytes
        self.budget = Budget(None)
        # for each of the next connections, the bytes of replies after which it is reset
        self.answer_bytes_max: list[int] = []
        # whether clients get a wrong pid of their session, as from a pooler
        self.gives_numbers = False
        self.port = 0

    @property
    def url(self) -> str:
        """The database through the proxy."""
        credentials = self.target.netloc.rpartition("@")[0]
        return self.target._replace(netloc=f"{credentials}@127.0.0.1:{self.port}").geturl()

    @property
    def is_left(self) -> bool:
        """Whether the clients have closed all connections."""
        return all(link.is_left for link in self.links)

    def drop(self) -> None:
        """Resets all connections; new ones are forwarded."""
        for link in self.links:
            link.reset()

    def swallow_answers(self) -> None:
        """From now on the server's data is discarded on the existing connections."""
        for link in self.links:
            link.is_deaf[link.client] = True

    def black_hole(self) -> None:
        """From now on data is discarded in both directions without closing; new connections are accepted and get no reply."""
        self.is_black_hole = True
        for link in self.links:
            link.is_deaf.update(dict.fromkeys(link.is_deaf, True))

    def stall(self) -> None:
        """Stops reading from the existing connections until `resume`, like a network that is far too slow."""
        for link in self.links:
            link.is_open.clear()

    def resume(self) -> None:
        for link in self.links:
            link.is_open.set()

    def heal(self) -> None:
        """New connections are forwarded again. Black-holed ones stay open and get no more data."""
        self.is_black_hole = False

    async def serve(self, client_reader: StreamReader, client: StreamWriter) -> None:
        if self.is_black_hole:
            while await client_reader.read(BLOCK_BYTES):
                pass
            client.close()
            return
        server_reader, server = await asyncio.open_connection(self.target.hostname, self.target.port)
        answer_bytes_max = self.answer_bytes_max.pop(0) if self.answer_bytes_max else None
        link = Link(
            client, server, budget=self.budget, gives_numbers=self.gives_numbers, answer_bytes_max=answer_bytes_max
        )
        self.links.add(link)
        self.carried += 1
        with suppress(ConnectionError):
            await asyncio.gather(link.carry_on(client_reader), link.carry(server_reader, client))
        self.links.discard(link)
        for writer in (client, server):
            writer.close()


@asynccontextmanager
async def fault_proxy(url: str) -> AsyncIterator[FaultProxy]:
    """A proxy on a port of its own, in front of the server of `url`."""
    proxy = FaultProxy(url)
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.drop()
        for task in list(serving):
            task.cancel()
