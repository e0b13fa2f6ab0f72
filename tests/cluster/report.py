"""The report of a run: what is wrong, a table of the hits, and all samples as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from tests.cluster.scenarios import Result


def show(console: Console, result: Result) -> None:
    """One scenario."""
    outcome = "[red]wrong[/]" if result.wrong else "[green]correct[/]"
    console.print(
        f"  {outcome} after {result.seconds:.0f} s: {result.imports} uploads acknowledged, {result.records:,} records, "
        f"{result.interrupted} chunks interrupted"
    )
    work = ", ".join(f"{count} {name}" for name, count in result.work.most_common())
    answers = ", ".join(f"{count} {name}" for name, count in sorted(result.answers.items()))
    repeated = ", ".join(f"{count} {name}" for name, count in result.repeated.most_common()) or "none"
    console.print(f"  done: {work}; responses: {answers}; repeated: {repeated}", style="dim")
    for line in result.wrong:
        console.print(f"  {line}", style="red", markup=False)


def table(results: Sequence[Result]) -> Table:
    """A line for each scenario, with the worst of its hits."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("worst of each, seconds", style="bold")
    for column in (
        "hits",
        "without a primary",
        "then until a chunk is done",
        "slowest answer",
        "errors",
        "whole after",
    ):
        shown.add_column(column, justify="right")
    for result in results:
        samples = result.samples
        shown.add_row(
            result.name,
            str(len(samples)),
            f"{max((one.without_primary for one in samples), default=0):.1f}",
            f"{max((one.progress for one in samples), default=0):.1f}",
            f"{max((one.slowest for one in samples), default=0):.1f}",
            str(sum(one.errors for one in samples)),
            f"{max((one.whole_after for one in samples), default=0):.0f}",
        )
    return shown


def write(path: Path, head: dict[str, Any], results: Sequence[Result]) -> None:
    document = head | {"scenarios": list(results)}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
