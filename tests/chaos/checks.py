"""The audit after a scenario: invariants of the database and of EXPORT_DIR."""

import hashlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection

from db import audit
from tests.chaos.environment import Environment
from tests.chaos.load import Load
from tests.support.eventually import eventually

# until the sweep has removed what dead processes left behind
IDLE_SECONDS = 60
SHOWN_MAX = 5


async def found(env: Environment, load: Load, *, broken: Collection[str] = ()) -> list[str]:
    """The violated invariants, one line each. The chunks of the jobs in `broken` may have failed."""
    try:
        await eventually(env.is_idle, within=IDLE_SECONDS)
    except AssertionError:
        return [*load.wrong, *await _unfinished(env)]
    return [
        *load.wrong,
        *await _unknown(env, load),
        *await _counters(env, load),
        *await _effects(env, load),
        *await _failed(env, broken),
        *await _files(env),
    ][: SHOWN_MAX * 4]


async def _unfinished(env: Environment) -> list[str]:
    """The jobs that are not final, and why."""
    rows = await env.rows(
        """
        SELECT 'import' AS kind, id, status, waiting_for
        FROM import_progress
        WHERE finished_at IS NULL
        UNION ALL
        SELECT 'export', id, status, waiting_for
        FROM export_progress
        WHERE finished_at IS NULL
        """
    )
    return ["{kind} {id} is still {status}: {waiting_for}".format_map(row) for row in rows[:SHOWN_MAX]]


async def _unknown(env: Environment, load: Load) -> list[str]:
    """Each idempotency key has created one job, and an incomplete upload none."""
    rows = await env.rows("SELECT id::text FROM import_jobs")
    stored = {row["id"] for row in rows}
    lost, unexpected = load.jobs - stored, stored - load.jobs
    orphans = await env.value(
        """
        SELECT (SELECT count(*) FROM import_payloads WHERE import_id NOT IN (SELECT id FROM import_jobs))
            + (SELECT count(*) FROM chunks WHERE import_id NOT IN (SELECT id FROM import_jobs))
        """
    )
    return [
        *[f"import {id} was accepted and does not exist" for id in sorted(lost)[:SHOWN_MAX]],
        *[f"import {id} exists, but no client has created it" for id in sorted(unexpected)[:SHOWN_MAX]],
        *([f"{orphans} chunks and payloads belong to no import"] if orphans else []),
    ]


async def _counters(env: Environment, load: Load) -> list[str]:
    """Each stored record of an import that no later import has overwritten has its row."""
    async with _auditor(env) as conn:
        violations = await audit.violations(conn)
        for id in sorted(load.jobs - load.overwritten):
            violations += await audit.violations(conn, import_id=UUID(id), strict=True)
    return [
        f"the counters of {one.import_id}, {one.fact}: {one.counted}, should be {one.book}"
        for one in violations[:SHOWN_MAX]
    ]


async def _effects(env: Environment, load: Load) -> list[str]:
    """Each record of a done chunk has a row or an error, and no record of any other chunk has either."""
    rows = await env.rows(
        """
        WITH effect AS (
            SELECT import_id, import_record AS record FROM users
            UNION ALL
            SELECT import_id, import_record FROM articles
            UNION ALL
            SELECT import_id, import_record FROM comments
            UNION ALL
            SELECT DISTINCT import_id, record FROM import_errors
            UNION ALL
            SELECT import_id, record FROM import_deferred
        ), seen AS (
            SELECT chunks.id, count(effect.record) AS effects, count(DISTINCT effect.record) AS records
            FROM chunks
            LEFT JOIN effect ON effect.import_id = chunks.import_id
                AND record >= first_record AND record < first_record + chunks.records
            WHERE kind = 'records'
            GROUP BY chunks.id
        )
        SELECT import_id::text, seq, state, chunks.records, effects
        FROM chunks
        JOIN seen USING (id)
        WHERE import_id <> ALL (%(overwritten)s::uuid[])
            AND (
                effects <> CASE WHEN state = 'done' THEN chunks.records ELSE 0 END
                OR effects <> seen.records
            )
        ORDER BY import_id, seq
        """,
        overwritten=list(load.overwritten),
    )
    return [
        "chunk {seq} of {import_id} is {state} with {effects} effects of {records} records".format_map(row)
        for row in rows[:SHOWN_MAX]
    ]


async def _failed(env: Environment, broken: Collection[str]) -> list[str]:
    """No chunk has failed except those that killed their workers."""
    rows = await env.rows(
        """
        SELECT kind, job_id::text, seq, attempt, crashes, last_error
        FROM chunks
        WHERE state = 'failed' AND job_id <> ALL (%(broken)s::uuid[])
        """,
        broken=list(broken),
    )
    return [
        "{kind} chunk {seq} of {job_id} failed, attempt {attempt}, crashes {crashes}: {last_error}".format_map(row)
        for row in rows[:SHOWN_MAX]
    ]


async def _files(env: Environment) -> list[str]:
    """Each completed export has its complete file. Unfinished files of dead workers are removed."""
    rows = await env.rows(
        "SELECT file_name, file_bytes, file_sha256 FROM export_jobs WHERE status = 'completed'",
    )
    problems = [
        f"the file {row['file_name']} is not complete"
        for row in rows
        if not _is_whole(env.exports / row["file_name"], row["file_bytes"], row["file_sha256"])
    ]
    try:
        await eventually(lambda: not list(env.exports.glob(".*.part")), within=IDLE_SECONDS)
    except AssertionError:
        problems.append("a partial file was not removed")
    return problems[:SHOWN_MAX]


def _is_whole(path: Path, size: int, sha256: bytes) -> bool:
    if not path.is_file():
        return False
    data = path.read_bytes()
    return len(data) == size and hashlib.sha256(data).digest() == sha256


@asynccontextmanager
async def _auditor(env: Environment) -> AsyncIterator[AsyncConnection]:
    async with await AsyncConnection.connect(env.database_url, autocommit=True, application_name="chaos") as conn:
        yield conn
