"""Imports over HTTP, for tests: a service with a database of its own, requests of a client, and checks of its counters."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Literal

from db import audit, migrate
from db.imports.jobs import FINAL
from tests.support import postgres
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.service import Service, running_service

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
        """The final job of an accepted upload, its counters checked."""
        assert posted.status_code == 202, posted.text
        address = posted.headers["location"]

        async def final() -> dict[str, Any] | None:
            job = (await self.client.get(address)).json()
            return job if job["status"] in FINAL else None

        job = await eventually(final)
        await self.check_books(job)
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
        """Whether no job, chunk or payload is stored."""
        return not await self.value(
            """
            SELECT (SELECT count(*) FROM import_jobs)
                + (SELECT count(*) FROM chunks)
                + (SELECT count(*) FROM import_payloads)
            """
        )

    async def is_idle(self) -> bool:
        """Whether all jobs are final."""
        return not await self.value("SELECT count(*) FROM import_jobs WHERE status IN ('pending', 'processing')")

    async def check_books(self, job: dict[str, Any]) -> None:
        """Checks that each record has either a row or errors, and that the counters of the API agree."""
        assert sum(job["counts"].values()) == job["total_records"]
        assert job["processed_records"] == job["total_records"] - job["counts"]["unprocessed"]
        assert await audit.violations(self.conn, import_id=job["id"], strict=True) == []


@asynccontextmanager
async def service(server_url: str, folder: Path, **arguments: Any) -> AsyncIterator[Service]:
    """A service on a database of its own, shared by the tests of a module; `arguments` as for `running_service`."""
    name = postgres.create_database(server_url)
    url = postgres.database_url(server_url, name)
    try:
        migrate.up(url)
        async with running_service(folder, url, **arguments) as started:
            yield started
    finally:
        postgres.drop_database(server_url, name)


@asynccontextmanager
async def connected(service: Service, *, timeout: float = PATIENCE_SECONDS) -> AsyncIterator[Api]:  # noqa: ASYNC109  httpx's
    """A client of the service, whose tables are emptied first."""
    async with (
        await psycopg.AsyncConnection.connect(service.environment["DATABASE_URL"], autocommit=True) as conn,
        httpx.AsyncClient(base_url=service.url, timeout=timeout) as client,
    ):
        api = Api(service, client, conn)
        if service.workers:
            await eventually(api.is_idle)
        await conn.execute("DELETE FROM import_jobs")
        await conn.execute("TRUNCATE users CASCADE")
        yield api


@asynccontextmanager
async def stopped_at_users(api: Api, pattern: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Until the end of the block, sessions that store a user whose e-mail is LIKE `pattern` wait.

    Yields a function that counts these sessions.
    """
    lock = 4711
    await api.conn.execute(
        SQL(
            """
            CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock_shared({lock}); RETURN new; END $$;
            CREATE TRIGGER wait_for_test BEFORE INSERT ON users FOR EACH ROW WHEN (new.email LIKE {pattern})
            EXECUTE FUNCTION wait_for_test();
            SELECT pg_advisory_lock({lock});
            """
        ).format(lock=Literal(lock), pattern=Literal(pattern))
    )
    try:
        yield lambda: api.value("SELECT count(*) FROM pg_locks WHERE objid = %s AND NOT granted", lock)
    finally:
        await api.conn.execute("SELECT pg_advisory_unlock(%s)", (lock,))
        await eventually(api.is_idle)
        await api.conn.execute("DROP TRIGGER wait_for_test ON users; DROP FUNCTION wait_for_test()")


async def post_users(api: Api, content: Any, *, type: str = "text/csv", **options: Any) -> httpx.Response:
    """Posts a file of users; `options` as for `Api.post`."""
    params = {"resource": "users"} | options.pop("params", {})
    return await api.post(content, type=type, params=params, **options)


async def post_one(client: httpx.AsyncClient, **options: Any) -> httpx.Response:
    """Posts an import of one user; `options` are httpx's."""
    return await client.post(PATH, json={"resource": "users", "records": [json.loads(user_object(1))]}, **options)


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """Checks that the response is this problem, and returns it."""
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{slug}"), response.text
    return response.json()


def user_row(n: int) -> bytes:
    """A valid line for `USERS_HEADER`."""
    return b"user%d@example.org,User %d,reader,true\n" % (n, n)


def user_object(n: int) -> bytes:
    """A valid user as a JSON object."""
    return b'{"email":"user%d@example.org","name":"User %d","role":"reader","active":true}' % (n, n)
