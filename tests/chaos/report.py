"""The report of a run: a line for each scenario, the recovery times, the matrix; and all of it as JSON."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from tests.chaos import recovery
from tests.chaos.matrix import Row
from tests.chaos.recovery import Sample
from tests.chaos.scenarios import Result


def show(console: Console, result: Result) -> None:
    """One scenario."""
    outcome = "[red]wrong[/]" if result.wrong else "[green]correct[/]"
    console.print(f"  {outcome} after {result.seconds:.0f} s: {result.imports} imports, {result.records:,} records")
    console.print(f"  done: {_counted(result.work)}", style="dim")
    console.print(f"  faults: {_counted(result.fault_counts)}", style="dim")
    console.print(f"  responses: {_counted(result.answers)}", style="dim")
    for line in result.wrong:
        console.print(f"  {line}", style="red", markup=False)


def recoveries(samples: Sequence[Sample]) -> Table:
    shown = _table("recovery, seconds", "count", "mean", "p95", "max")
    for spread in recovery.spreads(samples):
        shown.add_row(spread.what, str(spread.count), f"{spread.mean:.2f}", f"{spread.p95:.2f}", f"{spread.max:.2f}")
    return shown


def matrix(rows: Sequence[Row]) -> Table:
    """The completion rates of others are those of a public chaos matrix; see `tests.chaos.matrix`."""
    others = list(rows[0].others)
    shown = _table("completion rate", "ours", *others)
    for row in rows:
        shown.add_row(row.name, f"{row.rate:.0%}", *(_percent(row.others[name]) for name in others))
    return shown


def write(path: Path, head: dict[str, Any], results: Iterable[Result], rows: Iterable[Row]) -> None:
    """Writes all samples and the figures of the tables."""
    results = list(results)
    samples = [sample for result in results for sample in result.samples]
    document = head | {"scenarios": results, "recovery": recovery.spreads(samples), "matrix": list(rows)}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def _table(*columns: str) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    first, *rest = columns
    shown.add_column(first, style="bold")
    for column in rest:
        shown.add_column(column, justify="right")
    return shown


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common()) or "none"


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.0%}"
