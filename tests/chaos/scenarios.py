"""The scenarios. Each runs on a database of its own, under load."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tests.chaos import checks, connections_exhausted, disk_full, environment, faults, poison, uploads
from tests.chaos.client import Unexpected
from tests.chaos.environment import Environment
from tests.chaos.load import Load, Size
from tests.chaos.recovery import Sample
from tests.chaos.server import Server
from tests.support.eventually import eventually

# what a scenario does during the load. It returns the ids of the jobs whose chunks may fail
Action = Callable[[Environment, Load], Awaitable[list[str]]]


# between two faults of `each_twice`
PAUSE_SECONDS = 0.5


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """`settings` are those that differ from the defaults."""

    name: str
    action: Action
    settings: Mapping[str, Any] = {}
    exporting: bool = True
    # between two imports of a client, where more load would only prolong the audit
    pause_seconds: float = 0.0
    # whether a recovery that takes too long is a failure; else it is only reported
    recovery_is_bounded: bool = True


class Result(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    seconds: float
    imports: int
    records: int
    work: Counter[str]
    fault_counts: Counter[str]
    answers: Counter[str]
    samples: list[Sample]
    wrong: list[str]


async def perform(
    scenario: Scenario,
    server: Server,
    folder: Path,
    *,
    size: Size,
    seed: str,
    log: Callable[[str], None],
    **settings: Any,
) -> Result:
    """Runs a scenario and audits the result. `settings` are the service's for all scenarios."""
    began = asyncio.get_running_loop().time()
    async with environment.opened(
        server, folder, seed=f"{seed} {scenario.name}", log=log, **{**settings, **scenario.settings}
    ) as env:
        load = Load(env, size)
        await load.prepare()
        async with load.running(exporting=scenario.exporting, pause_seconds=scenario.pause_seconds):
            await eventually(env.has_pending, within=60)
            try:
                broken = await scenario.action(env, load)
            except Unexpected as error:
                load.wrong.append(str(error))
                broken = []
        wrong = await checks.found(env, load, broken=broken)
        async with await env.connect() as conn:
            samples = await env.recoveries.samples(conn)
        if wrong:
            wrong += await asyncio.to_thread(env.warnings)
    wrong += [
        f"recovered after {sample.seconds:.1f} s, more than {sample.seconds_max:.0f}: {sample}"
        for sample in samples
        if scenario.recovery_is_bounded and sample.seconds > sample.seconds_max
    ]
    return Result(
        name=scenario.name,
        seconds=asyncio.get_running_loop().time() - began,
        imports=len(load.jobs),
        records=load.records,
        work=load.done,
        fault_counts=env.fault_counts,
        answers=env.client.answers,
        samples=samples,
        wrong=wrong,
    )


# ── the faults ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _series(*choices: faults.Fault, seconds: float, pause_seconds: float) -> Action:
    async def act(env: Environment, load: Load) -> list[str]:
        await faults.series(env, list(choices), seconds=seconds, pause_seconds=pause_seconds)
        return []

    return act


def storm(*, seconds: float) -> Action:
    """All faults at once, and an immediate restart of PostgreSQL in the middle."""

    async def act(env: Environment, load: Load) -> list[str]:
        choices = [faults.kill, faults.terminate, faults.end_session]
        await faults.series(env, choices, seconds=seconds / 2, pause_seconds=0.5)
        await faults.restart_postgres(env)
        await faults.series(env, choices, seconds=seconds / 2, pause_seconds=0.5)
        return []

    return act


async def each_twice(env: Environment, load: Load) -> list[str]:
    """Every kind of fault twice, with an immediate restart of PostgreSQL between the two rounds."""
    choices = [faults.kill, faults.terminate, faults.end_session]
    for fault in [*choices, faults.restart_postgres, *choices]:
        await fault(env)
        await asyncio.sleep(PAUSE_SECONDS)
    return []


SCENARIOS = [
    Scenario(
        name="workers get KILL, TERM, STOP and CONT",
        action=_series(faults.kill, faults.terminate, faults.freeze, seconds=25, pause_seconds=1.0),
    ),
    Scenario(
        name="sessions are terminated",
        action=_series(faults.end_session, seconds=20, pause_seconds=0.3),
    ),
    Scenario(
        name="PostgreSQL restarts immediately",
        action=_series(faults.restart_postgres, seconds=20, pause_seconds=6.0),
    ),
    Scenario(
        name="PostgreSQL is away for 20 s",
        action=_series(partial(faults.away, seconds=20.0), seconds=1, pause_seconds=8.0),
    ),
    Scenario(name="all of it at once", action=storm(seconds=20)),
    Scenario(name="a chunk is poison", action=poison.run, pause_seconds=4.0),
    Scenario(
        name="the API is killed under uploads",
        action=uploads.run,
        # an incomplete upload keeps its key until it is swept; with the default the clients would wait for a minute
        settings={"upload_grace_seconds": 5},
    ),
    Scenario(
        name="the disk of EXPORT_DIR is full",
        action=disk_full.run,
        # fewer than the default, so that an export fails after seconds, not minutes
        settings={"attempts_max": 4},
        exporting=False,
    ),
    Scenario(name="the connection limit is reached", action=connections_exhausted.run),
]
