"""A PostgreSQL that a test stops and starts, with a service on it."""

from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg

from db import embedded
from tests.support import postgres
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.service import running_service


@dataclass(frozen=True)
class Server:
    """A PostgreSQL that can be stopped and started at the same address."""

    folder: Path
    url: str

    def start(self) -> None:
        assert embedded.start(self.folder, options=postgres.FAST, bin_dir=postgres.bin_dir()) == self.url

    def stop(self) -> None:
        embedded.stop(self.folder)

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())


@contextmanager
def server() -> Iterator[Server]:
    with postgres.open_folder(in_memory=True) as folder:
        url = embedded.start(folder, options=postgres.FAST, bin_dir=postgres.bin_dir())
        try:
            yield Server(folder, url)
        finally:
            embedded.stop(folder)


@asynccontextmanager
async def running(folder: Path, url: str, **settings):
    """A service on the database of `url`, and a client of it."""
    given = {"worker_pool_size": 2, "poll_seconds": 0.2, **settings}
    async with (
        running_service(folder, url, **given) as service,
        httpx.AsyncClient(
            base_url=service.url, timeout=PATIENCE_SECONDS, headers={"Accept-Encoding": "identity"}
        ) as client,
    ):
        yield service, client


async def is_ready(client: httpx.AsyncClient) -> bool:
    """Whether the service is ready and has workers; a service without workers is ready too."""
    answer = await client.get("/ready")
    return answer.status_code == 200 and answer.json()["checks"]["workers"]["status"] == "ok"


async def finished(client: httpx.AsyncClient, posted: httpx.Response) -> dict:
    """The final job."""
    assert posted.status_code == 202, posted.text

    async def final() -> dict | None:
        answer = await client.get(posted.headers["location"])
        return answer.json() if answer.status_code == 200 and answer.json()["finished_at"] else None

    return await eventually(final)
