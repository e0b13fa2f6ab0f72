"""A well-behaved client: it repeats a request that got no response, 429 or 503, with the same idempotency key."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx

from db.imports.jobs import FINAL
from tests.support.api_client import PATH

# a request that has failed for so long will not succeed
PATIENCE_SECONDS = 120
RETRY_SECONDS = 0.4
POLL_SECONDS = 0.2
TEMPORARY = {"/problems/idempotency-in-progress", "/problems/export-not-ready"}

# bytes, or a function that returns them for each attempt
Content = bytes | Callable[[], AsyncIterator[bytes]] | None


class Unexpected(Exception):
    """The service responded in a way that the API does not allow."""


class Client:
    """`answers` counts the responses by status; `no response` stands for connections that were refused or broke.

    `slowest_seconds` is the longest time that a request has taken, with or without a response; it may be reset. `refused` counts
    the requests that are repeated.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.answers: Counter[str] = Counter()
        self.slowest_seconds = 0.0
        self.refused: Counter[str] = Counter()

    async def ask(self, method: str, path: str, *, content: Content = None, **options: Any) -> httpx.Response:
        """Repeats a request while the error is temporary. Raises `Unexpected` for an internal error or a timeout."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            began = time.monotonic()
            try:
                body = content() if callable(content) else content
                response = await self.http.request(method, path, content=body, **options)
            except httpx.TransportError:
                self.answers["no response"] += 1
            else:
                self.answers[str(response.status_code)] += 1
                if not _is_temporary(response):
                    return response
            finally:
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            self.refused[f"{method} {path.rpartition('/')[0] if method == 'GET' else path}"] += 1
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))
        raise Unexpected(f"{method} {path} got no response within {PATIENCE_SECONDS} s")

    async def post(self, content: Content, *, type: str, key: str, params: Mapping[str, str]) -> dict[str, Any]:
        """The job of an upload, which is repeated until it is accepted."""
        headers = {"Content-Type": type, "Idempotency-Key": key}
        posted = await self.ask("POST", PATH, content=content, headers=headers, params=params)
        if posted.status_code not in (200, 202):
            raise Unexpected(f"an upload was answered {posted.status_code}: {posted.text}")
        return posted.json()

    async def export(self, *, key: str, **body: Any) -> dict[str, Any]:
        """The job of a background export."""
        posted = await self.ask("POST", "/api/v1/exports", json=body, headers={"Idempotency-Key": key})
        if posted.status_code not in (200, 202):
            raise Unexpected(f"the request for an export was answered {posted.status_code}: {posted.text}")
        return posted.json()

    async def final(self, job: dict[str, Any], *, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The job when it is final. Raises `Unexpected` when it is not within `seconds`."""
        deadline = time.monotonic() + seconds
        while job["status"] not in FINAL:
            if time.monotonic() > deadline:
                raise Unexpected(f"{job['kind']} {job['id']} is still {job['status']} after {seconds} s")
            await asyncio.sleep(POLL_SECONDS)
            answer = await self.ask("GET", job["links"]["self"])
            if answer.status_code != 200:
                raise Unexpected(f"{job['links']['self']} was answered {answer.status_code}: {answer.text}")
            job = answer.json()
        return job


def _is_temporary(response: httpx.Response) -> bool:
    """Whether the request is to be repeated. Raises `Unexpected` if Retry-After is missing, or for an internal error."""
    if response.status_code in (429, 503) or (response.status_code == 409 and response.json()["type"] in TEMPORARY):
        if "retry-after" not in response.headers:
            raise Unexpected(f"{response.status_code} without Retry-After: {response.text}")
        return True
    if response.status_code >= 500:
        raise Unexpected(
            f"{response.request.method} {response.url} was answered {response.status_code}: {response.text}"
        )
    return False
