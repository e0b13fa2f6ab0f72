"""`make cluster`: three nodes of Patroni, etcd and PostgreSQL, the service on two hosts, and what happens to them under load.

The primary and its PostgreSQL are killed, its network is cut and healed with an API, workers and clients on its side, a standby
is frozen, the primary is changed and all nodes are restarted by plan, while imports, background exports and streams go on. It
fails when an acknowledged upload is lost or final twice, when a record is lost or counted twice, when a failover counts as a
crash of a chunk, when an export is incomplete, when a planned change refuses a request, when an answer takes more than 5 s in a
switchover, or when no chunk is done within 5 s after the cluster has a primary. It takes about ten minutes.

It needs root, `unshare`, `ip`, etcd (Debian: etcd-server), and Patroni, which it installs into a folder of its own.
"""

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.chaos.load import Size
from tests.cluster import isolation, network, patroni, probe, report, scenarios
from tests.cluster.nodes import Cluster
from tests.cluster.scenarios import SCENARIOS
from tests.support import programs

RESULTS = Path("cluster-results.json")
# for each of the two hosts
SIZE = Size(records=4_000, articles=5_000, lanes=2)
SHORT_SIZE = Size(records=1_000, articles=1_000, lanes=1)
SETTINGS: dict[str, Any] = {"worker_pool_size": 2}
# small chunks, so that many are interrupted
SHORT_SETTINGS = SETTINGS | {"batch_size": 100, "poll_seconds": 0.2}
WIDTH = 150


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--seed", default="1", help="the same seed makes the same files and draws the same lots")
    parser.add_argument("--rounds", type=int, default=1, help="hits in each scenario")
    names = {str(number): one for number, one in enumerate(SCENARIOS, 1)}
    choices = ", ".join(f"{number} {one.name}" for number, one in names.items())
    parser.add_argument("--short", action="store_true", help="little load, and no limits of durations")
    parser.add_argument("--only", nargs="*", choices=names, metavar="N", help=choices)
    arguments = parser.parse_args()
    if not isolation.is_inside():
        sys.exit(_isolated())
    chosen = [one for number, one in names.items() if number in (arguments.only or names)]
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    try:
        is_right = asyncio.run(
            _run(console, chosen, seed=arguments.seed, rounds=arguments.rounds, is_short=arguments.short)
        )
    except KeyboardInterrupt:
        console.print("\nstopped, and cleaned up")
        sys.exit(130)
    sys.exit(0 if is_right else 1)


def _isolated() -> int:
    """Runs this command inside namespaces. Returns its exit code."""
    missing = [name for name in ("ip", "nsenter", "etcd") if not programs.find(name)]
    if obstacle := isolation.obstacle() or ", ".join(missing):
        print(f"the cluster needs {obstacle}; on Debian, as root: apt install etcd-server iproute2", file=sys.stderr)
        return 2
    patroni.find()
    try:
        return isolation.run("tests.cluster", sys.argv[1:])
    except KeyboardInterrupt:
        return 130


async def _run(console: Console, chosen: list[scenarios.Scenario], *, seed: str, rounds: int, is_short: bool) -> bool:
    """Whether all checks passed."""
    began = time.monotonic()
    started_at = datetime.now(UTC)
    results: list[scenarios.Result] = []

    def log(line: str) -> None:
        console.print(f"  {line}", style="dim", markup=False)

    isolation.enter()
    network.build()
    # removed with the namespaces
    folder = isolation.SCRATCH / "cluster"
    folder.mkdir(mode=0o755)
    cluster = Cluster(folder, program=patroni.find())
    await cluster.start()
    async with probe.running(cluster) as probing:
        for number, scenario in enumerate(chosen):
            console.print(scenario.name, style="bold")
            results.append(
                await scenarios.perform(
                    scenario,
                    cluster,
                    probing,
                    folder,
                    name=f"scenario_{number}",
                    size=SHORT_SIZE if is_short else SIZE,
                    rounds=rounds,
                    seed=seed,
                    log=log,
                    has_limits=not is_short,
                    **(SHORT_SETTINGS if is_short else SETTINGS),
                )
            )
            report.show(console, results[-1])
    console.print(report.table(results))
    seconds = round(time.monotonic() - began)
    if not is_short:
        report.write(RESULTS, {"seed": seed, "rounds": rounds, "started_at": started_at, "seconds": seconds}, results)
    wrong = [line for result in results for line in result.wrong]
    hits = sum(len(result.samples) for result in results)
    console.print(f"{seconds} s, seed {seed}, {hits} hits; {len(wrong)} errors")
    return not wrong


if __name__ == "__main__":
    main()
