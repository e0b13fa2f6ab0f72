"""A chunk that kills every worker that processes it, as one that makes a process run out of memory."""

import asyncio
import os
import signal
import time
from contextlib import suppress

from tests.chaos import files
from tests.chaos.client import Unexpected
from tests.chaos.environment import Environment
from tests.chaos.load import Load

NAME = "Poison"
SECONDS_MAX = 150
LOOK_SECONDS = 0.05


async def run(env: Environment, load: Load) -> list[str]:
    """Posts a file with a poisoned record, whose chunk is the only one that may fail; returns the id of its job, in a list."""
    async with await env.connect() as conn:
        # a worker that reaches the record waits for the lock, which makes its pid known
        await conn.execute("SELECT pg_advisory_lock(1)")
        await conn.execute(
            """
            CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_advisory_xact_lock_shared(1);
                RETURN NEW;
            END $$
            """
        )
        await conn.execute(
            """
            CREATE TRIGGER poison BEFORE INSERT OR UPDATE ON users
            FOR EACH ROW WHEN (NEW.name = 'Poison') EXECUTE FUNCTION poison()
            """
        )
        file = files.poisoned(load.size.records, 2**20, name=NAME)
        job = await load.post(file, key="poisoned")
        watching = asyncio.create_task(_kill_workers_at_the_record(env))
        try:
            job = await env.client.final(job, seconds=SECONDS_MAX)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
    (chunk,) = await env.rows(
        "SELECT records, crashes FROM chunks WHERE job_id = %(id)s::uuid AND state = 'failed'", id=job["id"]
    )
    problem, counts = job["problem"] or {}, job["counts"]
    if (job["status"], problem.get("type")) != ("failed", "/problems/chunk-failed"):
        raise Unexpected(f"the poisoned import is {job['status']}: {problem}")
    if (counts["created"], counts["unprocessed"]) != (file.records - chunk["records"], chunk["records"]):
        raise Unexpected(f"the poisoned import has {counts}, and its poisoned chunk {chunk['records']} records")
    env.log(f"the poisoned chunk failed after {chunk['crashes']} dead workers: {problem['detail']}")
    return [job["id"]]


async def _kill_workers_at_the_record(env: Environment) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        rows = await env.rows(
            """
            SELECT split_part(application_name, ':', 2)::integer AS pid
            FROM pg_stat_activity
            WHERE wait_event = 'advisory' AND application_name LIKE 'bulk worker %%' AND datname = current_database()
            """
        )
        for pid in {row["pid"] for row in rows} & set(env.workers.children()):
            env.fault_counts["KILL over the poisoned chunk"] += 1
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(LOOK_SECONDS)
