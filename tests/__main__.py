"""`python -m tests`: the whole suite, tier by tier, and one table at the end. See tests/README.md.

The tests of a tier run side by side. Those that break things around the service run few at a time, because each starts a
service of its own and waits for it; those that claim a duration run alone.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tests.support import ROOT, programs

NO_TESTS_COLLECTED = 5


@dataclass
class Tier:
    name: str
    arguments: list[str]
    # None: as many as TEST_PROCESSES says
    processes: int | None = None


@dataclass
class Outcome:
    tests: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0
    exit_code: int = 0


FAST = [
    # these compute more than they wait, and each further process takes seconds to start
    Tier(
        "fast",
        ["tests/unit", "tests/db", "-m", "not slow and not processes and not system and not timing"],
        processes=3,
    ),
]
ALL = [
    Tier("unit and db", ["tests/unit", "tests/db", "-m", "not system and not timing"]),
    Tier("service", ["tests", "--ignore=tests/unit", "--ignore=tests/db", "-m", "not system and not timing"]),
    Tier("system", ["tests", "-m", "system and not timing"], processes=2),
    Tier("timing", ["tests", "-m", "timing"], processes=0),
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests", description="Runs the tests, tier by tier.")
    parser.add_argument("tiers", choices=["all", "fast"], nargs="?", default="all")
    parser.add_argument("--processes", type=int, default=4, help="tests that run side by side (default: %(default)s)")
    parser.add_argument("--coverage", action="store_true", help="measure the branch coverage, child processes included")
    options = parser.parse_args()
    outcomes: dict[str, Outcome] = {}
    try:
        for tier in FAST if options.tiers == "fast" else ALL:
            print(f"── {tier.name} ──", flush=True)
            outcomes[tier.name] = run(tier, processes=options.processes, coverage=options.coverage)
    except KeyboardInterrupt:
        sys.exit(130)
    report(outcomes)
    if options.coverage:
        report_coverage()
    sys.exit(1 if any(outcome.exit_code for outcome in outcomes.values()) else 0)


def run(tier: Tier, *, processes: int, coverage: bool) -> Outcome:
    """Runs one tier in a pytest of its own."""
    count = min(processes, tier.processes) if tier.processes is not None else processes
    python = [sys.executable, "-m", *(["coverage", "run", "-m"] if coverage else [])]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [*python, "pytest", *tier.arguments, "-n", str(count), "--dist", "loadfile", f"--junitxml={results}"]
        exit_code = subprocess.run(command, cwd=ROOT, env=os.environ, check=False).returncode
        outcome = read(results) if results.exists() else Outcome()
    outcome.seconds = time.monotonic() - began
    outcome.exit_code = 0 if exit_code == NO_TESTS_COLLECTED else exit_code
    return outcome


def read(results: Path) -> Outcome:
    """Counts what pytest has written as JUnit XML."""
    suite = ElementTree.parse(results).getroot()[0]  # noqa: S314  pytest has just written it
    failed = int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
    skipped = [element.get("message", "") for element in suite.iter("skipped")]
    return Outcome(tests=int(suite.get("tests", "0")), failed=failed, skipped=skipped)


def report(outcomes: dict[str, Outcome]) -> None:
    print(f"\n{'':<14}{'tests':>7}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for name, outcome in outcomes.items():
        result = "" if outcome.exit_code == 0 else f"  exit code {outcome.exit_code}"
        counts = f"{outcome.tests:>7}{outcome.failed:>8}{len(outcome.skipped):>9}{outcome.seconds:>9.0f}"
        print(f"{name:<14}{counts}{result}")
    for line in programs.summary(reason for outcome in outcomes.values() for reason in outcome.skipped):
        print(line)


def report_coverage() -> None:
    for arguments in (["combine", "--quiet"], ["report", "--skip-covered"]):
        subprocess.run([sys.executable, "-m", "coverage", *arguments], cwd=ROOT, check=False)


if __name__ == "__main__":
    main()
