"""A small import during a large one: from its POST until it is completed, compared with the same alone."""

import time
from datetime import datetime
from pathlib import Path
from statistics import quantiles

from db import audit
from db.imports.jobs import FINAL
from tests.bench import files, timed_import
from tests.bench.environment import Environment
from tests.bench.files import File
from tests.bench.report import Figure, number
from tests.support import make_data
from tests.support.api_client import Api

RECORDS = 1_000
POLL_SECONDS = 0.02


async def run(env: Environment) -> list[Figure]:
    large = files.users(env, env.size.large_records)
    smalls = _smalls(env.subfolder("small"), 2 * env.size.smalls + 1)
    first, alone, beside = smalls[0], smalls[1 : env.size.smalls + 1], smalls[env.size.smalls + 1 :]
    async with timed_import.opened(env, "small") as api:
        # it has to open connections and plan statements
        await _import(api, first)
        alone_ms = [await _import(api, file) for file in alone]
        beside_ms = await _beside(api, large, beside)
        assert await audit.violations(api.conn, strict=True) == []
    env.log(f"{RECORDS:,} records: {len(alone_ms)} imports alone, {len(beside_ms)} beside a large one")
    if len(beside_ms) < 2:
        env.log("skipped: the large import ended too soon")
        return []
    ours, yardstick = (quantiles(samples, n=100, method="inclusive") for samples in (beside_ms, alone_ms))
    return [
        Figure(
            name=f"import of {RECORDS:,} users beside one of {number(large.records)}, p{percent}",
            unit="ms",
            samples=[ours[percent - 1]],
            yardstick=f"the same alone, p{percent}",
            yardstick_samples=[yardstick[percent - 1]],
        )
        for percent in (50, 95)
    ]


async def _beside(api: Api, large: File, smalls: list[File]) -> list[float]:
    """Milliseconds of each small import that was completed before the large one."""
    posted = await timed_import.post(api, large)
    samples: list[float] = []
    for file in smalls:
        taken = await _import(api, file)
        if (await api.client.get(posted.headers["location"])).json()["status"] in FINAL:
            break
        samples.append(taken)
    await timed_import.check(api, await timed_import.final(api, posted), large)
    return samples


async def _import(api: Api, file: File) -> float:
    """Milliseconds."""
    began = time.time()
    posted = await timed_import.post(api, file)
    job = await timed_import.final(api, posted, poll_seconds=POLL_SECONDS)
    return 1000 * (datetime.fromisoformat(job["finished_at"]).timestamp() - began)


def _smalls(folder: Path, count: int) -> list[File]:
    """Files whose users are in no other file."""
    made: list[File] = []
    for n in range(count):
        users = make_data.users(RECORDS, seed=1000 + n)
        path = folder / f"{n}.csv"
        path.write_bytes(users.data.replace(b",user", b",small%d-" % n))
        made.append(File(path, "users", users.records, users.faults, []))
    return made
