"""Requests of probes and metrics, for tests."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.eventually import PATIENCE_SECONDS, eventually

COUNTED = {
    *("http_requests", "http_request_duration_seconds", "http_requests_in_progress", "http_wrong_api_keys"),
    *("bulk_chunks_reclaimed", "bulk_claims_lost", "bulk_export_streams_aborted", "bulk_workers"),
    *("db_pool_size", "db_pool_idle", "db_pool_waiting", "db_pool_wait_seconds"),
    "bulk_api_event_loop_longest_pause_seconds",
}


async def get(url: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        return await client.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})


async def ready(url: str, **checks: dict[str, str]) -> httpx.Response:
    """The answer of `/ready` once these checks have these results. A busy machine may miss a check's deadline now and then."""

    async def answer() -> httpx.Response | None:
        response = await get(f"{url}/ready")
        return response if response.json()["checks"].items() >= checks.items() else None

    return await eventually(answer)


def families(text: str) -> set[str]:
    return {family.name for family in text_string_to_metric_families(text)}


async def has_value(value, expected: float) -> bool:
    return await value() == expected
