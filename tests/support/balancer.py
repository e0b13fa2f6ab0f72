"""A minimal TCP balancer: it probes `/ready` and sends new connections to the backends that passed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count

import httpx

PROBE_SECONDS = 0.1


class Balancer:
    def __init__(self) -> None:
        self.url = ""
        # by URL, with the result of the last probe
        self.backends: dict[str, bool] = {}
        self.carrying: set[asyncio.Task[None]] = set()
        self._turn = count()

    @property
    def ready(self) -> list[str]:
        return [url for url, is_ready in self.backends.items() if is_ready]

    async def probe(self) -> None:
        async with httpx.AsyncClient(timeout=5) as client:
            while True:
                for url in list(self.backends):
                    self.backends[url] = await _is_ready(client, url)
                await asyncio.sleep(PROBE_SECONDS)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self.carrying.add(task)
        task.add_done_callback(self.carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # no second attempt with another backend: a refused connection is a failure that the client sees
        ready = self.ready
        host, _, port = ready[next(self._turn) % len(ready)].removeprefix("http://").rpartition(":")
        try:
            backend_reader, backend_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_forward(reader, backend_writer), _forward(backend_reader, writer))
        finally:
            writer.close()
            backend_writer.close()


@asynccontextmanager
async def balancer() -> AsyncIterator[Balancer]:
    """A running balancer; add URLs to `backends`."""
    instance = Balancer()
    server = await asyncio.start_server(instance.accept, "127.0.0.1", 0)
    instance.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    probing = asyncio.create_task(instance.probe())
    try:
        yield instance
    finally:
        server.close()
        for task in (probing, *instance.carrying):
            task.cancel()


async def _is_ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def _forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Forwards bytes, then the end; a reset is forwarded as a reset."""
    try:
        while block := await source.read(65536):
            target.write(block)
            await target.drain()
    except ConnectionError:
        target.transport.abort()
    else:
        with suppress(OSError, RuntimeError):
            target.write_eof()
