"""The page of one import, for tests: an import in small steps, and the numbers of the page."""

import json
from uuid import UUID

import httpx
from playwright.async_api import Page

from tests.support.api_client import PATH

# one worker that takes one chunk of two records at a time
STEPWISE = {"worker_pool_size": 1, "batch_size": 2, "claim_chunks_max": 1, "poll_seconds": 0.2}


async def post(url: str, content: bytes, *, name: str = "users.csv", key: str = "", **parameters: str) -> UUID:
    """Posts a form with this file; the id of the import."""
    async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": key} if key else {}) as client:
        form = {"resource": "users", **parameters}
        posted = await client.post(PATH, data=form, files={"file": (name, content)}, headers={"Prefer": "wait=0"})
        # 200 if the import is final already
    assert posted.status_code in (200, 202), posted.text
    return UUID(posted.json()["id"])


def ndjson(records: list[dict]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


async def counts(page: Page) -> dict[str, int]:
    """The numbers of the legend below the bar."""
    lines = await page.locator(".legend").first.locator("li").all_inner_texts()
    return {line.rsplit(maxsplit=1)[0]: int(line.rsplit(maxsplit=1)[1].replace(",", "")) for line in lines}
