"""The completion rate under faults: records done at the end of a window, divided by those of a run without faults.

Imports arrive at a steady rate that leaves the service room to catch up, through the API, which is subject to the faults too. The
rates of others are those of a public chaos matrix (PostgreSQL 18, their rescue of lost jobs tuned to about 15 s; by default most
take minutes to hours); a cell is empty where it has no figure. This service runs with its default settings.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tests.chaos import checks, connections_exhausted, environment, faults, files
from tests.chaos.environment import Environment
from tests.chaos.files import File
from tests.chaos.load import Load, Size
from tests.chaos.server import Server

OTHERS: dict[str, dict[str, float]] = {
    "PostgreSQL restart": {"Procrastinate": 0.0, "Oban": 0.0, "River": 1.01, "pgmq": 0.0},
    "terminated backends": {"Procrastinate": 0.0},
    "repeated SIGKILL": {"Procrastinate": 0.18, "Oban": 0.88, "pgmq": 0.26},
}
NAMES = ("Procrastinate", "Oban", "River", "pgmq")
IDLE_CONNECTIONS = 300
# imports in the window, one every half a second
FILES = 40
RECORDS = 4_000
FILE_SECONDS = 0.5
WINDOW_SECONDS = FILES * FILE_SECONDS
# when a fault that occurs once occurs
EARLY_SECONDS = 5.0
SESSION_PAUSE_SECONDS = 0.25
KILL_PAUSE_SECONDS = 0.5
POOL_AWAY_SECONDS = 1.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """`done`: records at the end of the window; `rate`: these divided by those of the run without faults."""

    name: str
    done: int
    rate: float
    fault_counts: dict[str, int]
    others: dict[str, float | None]
    wrong: list[str]


async def run(server: Server, folder: Path, *, seed: str, log: Callable[[str], None], **settings: Any) -> list[Row]:
    """A run without faults, then one for each kind of fault."""
    load = await asyncio.to_thread(lambda: [files.clean(RECORDS, number) for number in range(FILES)])
    rows: list[Row] = []
    for number, (name, fault) in enumerate(FAULTS.items()):
        async with AsyncExitStack() as held:
            if name == IDLE:
                await held.enter_async_context(connections_exhausted.idle(server.url, IDLE_CONNECTIONS))
            place = folder / f"row-{number}"
            env = await held.enter_async_context(
                environment.opened(server, place, seed=f"{seed} {name}", log=log, **settings)
            )
            done, wrong = await _perform(env, fault, load)
        rows.append(
            Row(
                name=name,
                done=done,
                rate=done / (rows[0].done if rows else done),
                fault_counts=dict(env.fault_counts),
                others={other: OTHERS.get(name, {}).get(other) for other in NAMES},
                wrong=wrong,
            )
        )
        log(f"{name}: {done:,} of {FILES * RECORDS:,} records within {WINDOW_SECONDS:.0f} s")
    return rows


async def _perform(env: Environment, fault: faults.Fault, load: list[File]) -> tuple[int, list[str]]:
    """The records that were done within the window, and the failed checks when all were done."""
    audited = Load(env, Size(records=0, articles=0, lanes=0))
    began = time.time()

    async def post(number: int, file: File) -> None:
        await asyncio.sleep(number * FILE_SECONDS)
        await audited.import_file(file, key=str(number))

    tasks = [asyncio.create_task(post(number, file)) for number, file in enumerate(load)]
    try:
        await fault(env)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
    audited.wrong += [f"a client ended with {end!r}" for end in ends if end is not None]
    done = await env.value(
        """
        SELECT coalesce(sum(records), 0)::bigint
        FROM chunks
        WHERE state = 'done' AND finished_at <= to_timestamp(%(end)s)
        """,
        end=began + WINDOW_SECONDS,
    )
    return done, await checks.found(env, audited)


# ── the faults ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _no_fault(env: Environment) -> None:
    del env


async def _once(env: Environment, *, fault: faults.Fault) -> None:
    await asyncio.sleep(EARLY_SECONDS)
    await fault(env)


async def _repeatedly(env: Environment, *, fault: faults.Fault, pause_seconds: float) -> None:
    await faults.series(env, [fault], seconds=WINDOW_SECONDS, pause_seconds=pause_seconds)


IDLE = f"{IDLE_CONNECTIONS} idle connections"
FAULTS: dict[str, faults.Fault] = {
    "no fault": _no_fault,
    "PostgreSQL restart": partial(_once, fault=faults.restart_postgres),
    "terminated backends": partial(_repeatedly, fault=faults.end_session, pause_seconds=SESSION_PAUSE_SECONDS),
    IDLE: _no_fault,
    "SIGKILL with restart": partial(_once, fault=partial(faults.kill_pool, away_seconds=POOL_AWAY_SECONDS)),
    "repeated SIGKILL": partial(_repeatedly, fault=faults.kill, pause_seconds=KILL_PAUSE_SECONDS),
}
