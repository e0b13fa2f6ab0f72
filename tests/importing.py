"""Imports by HTTP, for tests: a service with a database of its own, what clients do with it, and its books."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from db import migrate
from db.imports import FINAL
from tests import servers
from tests.servers import Service, eventually

PATH = "/api/v1/imports"
USERS_HEADER = b"email,name,role,active\n"


@dataclass(frozen=True)
class Api:
    """One client of a service, and a connection to the database behind it."""

    service: Service
    client: httpx.AsyncClient
    conn: psycopg.AsyncConnection[TupleRow]

    async def post(self, content: Any = None, *, type: str | None = None, **options: Any) -> httpx.Response:
        """Posts a raw body of the media type `type`; `options` are httpx's: params, headers, files, data."""
        headers = options.pop("headers", {}) | ({"Content-Type": type} if type else {})
        return await self.client.post(PATH, content=content, headers=headers, **options)

    async def get(self, path: str = "", **options: Any) -> httpx.Response:
        return await self.client.get(f"{PATH}{path}", **options)

    async def finished(self, posted: httpx.Response) -> dict[str, Any]:
        """The final job of an upload that was taken in, its books checked."""
        assert posted.status_code == 202, posted.text
        address = posted.headers["location"]

        async def final() -> dict[str, Any] | None:
            job = (await self.client.get(address)).json()
            return job if job["status"] in FINAL else None

        job = await eventually(final, timeout=30)
        await self._check_books(job)
        return job

    async def errors(self, id: str) -> list[dict[str, Any]]:
        """All errors of an import, page by page."""
        errors: list[dict[str, Any]] = []
        query = {"limit": "1000"}
        while True:
            page = (await self.get(f"/{id}/errors", params=query)).json()
            errors += page["errors"]
            if page["next_cursor"] is None:
                assert len(errors) == page["total"]
                return errors
            query["cursor"] = page["next_cursor"]

    async def value(self, query: str, *parameters: Any) -> Any:
        """The first column of the first row."""
        row = await (await self.conn.execute(query, parameters)).fetchone()
        return row and row[0]

    async def has_nothing(self) -> bool:
        """Whether neither a job nor a chunk nor a payload is stored."""
        return not await self.value(
            """
            SELECT (SELECT count(*) FROM import_jobs)
                + (SELECT count(*) FROM chunks)
                + (SELECT count(*) FROM import_payloads)
            """
        )

    async def _check_books(self, job: dict[str, Any]) -> None:
        """Each record has either its row or its errors, and the counters say so."""
        counts, id = job["counts"], job["id"]
        assert sum(counts.values()) == job["total_records"]
        assert job["processed_records"] == job["total_records"] - counts["unprocessed"]
        query = sql.SQL(
            """
            WITH stored AS (
                SELECT import_record FROM {} WHERE import_id = %(id)s
            ), refused AS (
                SELECT DISTINCT record FROM import_errors WHERE import_id = %(id)s
            )
            SELECT
                (SELECT count(*) FROM stored),
                (SELECT count(*) FROM refused),
                (SELECT count(*) FROM (SELECT * FROM stored UNION SELECT * FROM refused) AS either),
                (SELECT count(*) FROM import_errors WHERE import_id = %(id)s),
                (SELECT count(*) FROM import_deferred WHERE import_id = %(id)s),
                (SELECT count(*) FROM chunks WHERE job_id = %(id)s AND state <> 'done'),
                (SELECT (sum(created), sum(failed), sum(errors))::text FROM chunks WHERE job_id = %(id)s)
            """
        ).format(sql.Identifier(job["resource"]))
        row = await (await self.conn.execute(query, {"id": id})).fetchone()
        chunks = f"({counts['created']},{counts['failed']},{job['error_count']})" if job["total_records"] else "(,,)"
        assert row == (
            counts["created"],
            counts["failed"],
            job["total_records"] - counts["unprocessed"],
            job["error_count"],
            0,
            0,
            chunks,
        )


@asynccontextmanager
async def service(server_url: str, folder: Path, **arguments: Any) -> AsyncIterator[Service]:
    """A service on a database of its own, for the tests of a module to share; `arguments` as for `servers.service`."""
    name = servers.create_database(server_url)
    url = servers.database_url(server_url, name)
    try:
        migrate.up(url)
        async with servers.service(folder, url, **arguments) as started:
            yield started
    finally:
        servers.drop_database(server_url, name)


@asynccontextmanager
async def connected(service: Service, *, timeout: float = 30) -> AsyncIterator[Api]:  # noqa: ASYNC109  httpx's
    """A client of the service, which has no job and no record to begin with."""
    async with (
        await psycopg.AsyncConnection.connect(service.environment["DATABASE_URL"], autocommit=True) as conn,
        httpx.AsyncClient(base_url=service.url, timeout=timeout) as client,
    ):
        await conn.execute("DELETE FROM import_jobs")
        await conn.execute("TRUNCATE users, articles, comments")
        yield Api(service, client, conn)


def user_row(n: int) -> bytes:
    """A sound line below `USERS_HEADER`."""
    return b"user%d@example.org,User %d,reader,true\n" % (n, n)


def user_object(n: int) -> bytes:
    """A sound user as a JSON object."""
    return b'{"email":"user%d@example.org","name":"User %d","role":"reader","active":true}' % (n, n)
