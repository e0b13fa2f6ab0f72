"""Edge cases of CSV and JSON through the whole service: imported, exported and imported again."""

import csv
import io
import json

import pytest

from tests.support.corpora import AUTHOR, RECORD_MAX_BYTES, Rejected, Valid, corpus

SERVICE = {"worker_pool_size": 2, "batch_size": 7}


@pytest.fixture
async def api(api):
    """A client of a service that has the author of the articles."""
    author = {"id": AUTHOR, "email": "a@example.org", "name": "A", "role": "author", "active": True}
    await api.finished(await api.post(json={"resource": "users", "records": [author]}))
    return api


@pytest.mark.parametrize(
    ("format", "media_type"), [("csv", "text/csv"), ("ndjson", "application/x-ndjson"), ("json", "application/json")]
)
async def test_all_cases_in_one_file(api, format, media_type):
    """One file of all cases: the export has each valid value byte for byte, and importing it again changes nothing."""
    file, outcomes = corpus(format)
    job = await api.finished(await api.post(file, type=media_type, params={"resource": "articles"}))
    expected = {f"c-{n}": outcome.body for n, outcome in enumerate(outcomes) if isinstance(outcome, Valid)}
    assert (job["status"], job["total_records"]) == ("completed", len(outcomes))
    assert (job["counts"]["created"], job["counts"]["failed"]) == (len(expected), len(outcomes) - len(expected))

    first_errors = {error["record"]: error["code"] for error in reversed(await api.errors(job["id"]))}
    assert first_errors == {n: outcome.code for n, outcome in enumerate(outcomes, 1) if isinstance(outcome, Rejected)}

    for export in ("ndjson", "json", "csv"):
        given = await api.client.get("/api/v1/exports/articles/stream", params={"format": export})
        assert bodies_of(export, given.content) == expected
        again = await api.post(given.content, params={"resource": "articles", "mode": "upsert", "format": export})
        counts = (await api.finished(again))["counts"]
        assert counts == dict.fromkeys(counts, 0) | {"unchanged": len(expected)}


def bodies_of(format: str, data: bytes) -> dict[str, str]:
    """The contents of an export, read by other readers than those of the service."""
    if format == "csv":
        limit = csv.field_size_limit(RECORD_MAX_BYTES)
        records = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
        csv.field_size_limit(limit)
    else:
        records = json.loads(data) if format == "json" else [json.loads(line) for line in data.split(b"\n") if line]
    return {record["slug"]: record["body"] for record in records}
