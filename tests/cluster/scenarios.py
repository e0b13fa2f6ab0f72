"""The scenarios, each with a database of its own, and what is measured of each hit."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from tests.chaos.client import Unexpected
from tests.chaos.load import Size
from tests.cluster import hits, stage
from tests.cluster.hits import Hit
from tests.cluster.network import APPS
from tests.cluster.nodes import Cluster
from tests.cluster.probe import Probe
from tests.cluster.stage import Stage
from tests.support.eventually import eventually

PROGRESS_SECONDS_MAX = 5.0
# between two imports of a client: all nodes, whose standbys must keep up, share one machine
LOAD_PAUSE_SECONDS = 0.5
# until each Patroni has reported its state again, and the load has recovered
PAUSE_SECONDS = 5.0


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """`is_planned`: no request may be refused. `answer_seconds_max`: no client may wait for longer."""

    name: str
    hit: Hit
    is_planned: bool = False
    answer_seconds_max: float | None = None


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One hit, in seconds.

    `without_primary`: the longest time without a synchronous commit. `progress`: from its end to the next chunk that is done.
    `slowest`: the longest answer. `errors`: answers other than 2xx, and requests without one. `refused`: the requests that had to
    be repeated.
    """

    without_primary: float
    progress: float
    slowest: float
    errors: int
    refused: Counter[str]
    whole_after: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`interrupted` are the chunks that were claimed again, `answers` those of both APIs, `repeated` the requests that failed."""

    name: str
    seconds: float
    samples: list[Sample]
    imports: int
    records: int
    work: Counter[str]
    answers: dict[str, int]
    repeated: Counter[str]
    interrupted: int
    wrong: list[str]


SCENARIOS = [
    Scenario(name="kill -9 of the primary", hit=hits.kill_primary),
    Scenario(name="kill -9 of PostgreSQL alone", hit=hits.kill_postgres),
    Scenario(name="primary, API and workers cut off", hit=hits.cut),
    Scenario(name="frozen standby", hit=hits.freeze_standby),
    Scenario(name="planned switchover", hit=hits.switch_over, is_planned=True, answer_seconds_max=5.0),
    Scenario(name="rolling restart of all three", hit=hits.restart_all, is_planned=True),
]


async def perform(
    scenario: Scenario,
    cluster: Cluster,
    probe: Probe,
    folder: Path,
    *,
    name: str,
    size: Size,
    rounds: int,
    seed: str,
    log: Callable[[str], None],
    has_limits: bool = True,
    **settings: Any,
) -> Result:
    """Runs a scenario with `rounds` hits and checks the result. `settings` are the service's."""
    began = time.monotonic()
    random = Random(f"{seed} {scenario.name}")
    samples: list[Sample] = []
    await cluster.whole()
    async with stage.opened(
        cluster, probe, folder, name=name, size=size, seed=f"{seed} {scenario.name}", log=log, **settings
    ) as opened:
        async with AsyncExitStack() as loads:
            for side in opened.sides.values():
                await loads.enter_async_context(side.running(exporting=True, pause_seconds=LOAD_PAUSE_SECONDS))
            await eventually(opened.env.has_pending)
            try:
                for _ in range(rounds):
                    samples.append(await _hit(scenario, opened, random))
                    log(f"{scenario.name}: {_shown(samples[-1])}")
            except (Unexpected, AssertionError) as error:
                opened.sides[APPS[1]].wrong.append(f"the hit ended with {error!r}")
                for line in (line for node in cluster.nodes.values() for line in node.log_tail()):
                    log(line)
        wrong = await opened.problems()
        interrupted = await opened.env.value("SELECT count(*) FROM chunks WHERE lease > 1 OR attempt > 1")
        if wrong:
            for side in opened.sides.values():
                wrong += await asyncio.to_thread(side.env.warnings)
        main = opened.sides[APPS[1]]
        answers = sum((client.answers for client in opened.clients), Counter[str]())
    return Result(
        name=scenario.name,
        seconds=time.monotonic() - began,
        samples=samples,
        imports=len(main.jobs),
        records=sum(side.records for side in opened.sides.values()),
        work=main.done,
        answers=dict(answers),
        repeated=sum((client.refused for client in opened.clients), Counter[str]()),
        interrupted=interrupted,
        wrong=wrong + (_over_limit(scenario, samples) if has_limits else []),
    )


async def _hit(scenario: Scenario, opened: Stage, random: Random) -> Sample:
    before = sum((client.answers for client in opened.clients), Counter[str]())
    refused_before = sum((client.refused for client in opened.clients), Counter[str]())
    for client in opened.clients:
        client.slowest_seconds = 0.0
    since = time.time()
    await scenario.hit(opened, random)
    await asyncio.sleep(PAUSE_SECONDS)
    await opened.cluster.whole()
    whole_after = time.time() - since
    answers = sum((client.answers for client in opened.clients), Counter[str]()) - before
    last, primary_at = opened.probe.outage(since)
    return Sample(
        without_primary=primary_at - last,
        progress=await _progress(opened, last, primary_at),
        slowest=max(client.slowest_seconds for client in opened.clients),
        errors=sum(count for answer, count in answers.items() if not answer.startswith("2")),
        refused=sum((client.refused for client in opened.clients), Counter[str]()) - refused_before,
        whole_after=whole_after,
    )


async def _progress(opened: Stage, last: float, primary_at: float) -> float:
    """Seconds from the cluster's first commit to the end of the first chunk after `last`; 0 if that was earlier."""

    async def first() -> float | None:
        return await opened.env.value(
            """
            SELECT extract(epoch FROM min(finished_at))::float8
            FROM chunks
            WHERE state = 'done' AND finished_at > to_timestamp(%(last)s)
            """,
            last=last,
        )

    return max(0.0, await eventually(first) - primary_at)


def _over_limit(scenario: Scenario, samples: list[Sample]) -> list[str]:
    wrong: list[str] = []
    for sample in samples:
        if sample.progress > PROGRESS_SECONDS_MAX:
            wrong.append(f"no chunk was done for {sample.progress:.1f} s after the cluster had a primary")
        if scenario.is_planned:
            wrong += [f"{request} was refused" for request in sample.refused]
        if scenario.answer_seconds_max and sample.slowest > scenario.answer_seconds_max:
            wrong.append(f"a request took {sample.slowest:.1f} s")
    return wrong


def _shown(sample: Sample) -> str:
    return (
        f"{sample.without_primary:.1f} s without a primary, progress {sample.progress:.1f} s later, "
        f"slowest answer {sample.slowest:.1f} s, {sample.errors} errors, whole after {sample.whole_after:.0f} s"
    )
