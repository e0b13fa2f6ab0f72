"""Figures: samples of the service and of a yardstick from the same rounds, and their targets, as a table and as JSON."""

from pathlib import Path
from statistics import median
from typing import Any, Literal

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The target for the median of a figure's ratios, or of its samples."""

    sign: Literal["≥", "≤"]
    bound: float
    of: Literal["ratio", "samples"]

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.sign == "≥" else value <= self.bound


def at_least(bound: float, *, of: Literal["ratio", "samples"] = "ratio") -> Target:
    return Target(sign="≥", bound=bound, of=of)


def at_most(bound: float, *, of: Literal["ratio", "samples"] = "ratio") -> Target:
    return Target(sign="≤", bound=bound, of=of)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement. Without a yardstick the machine has no tool to compare it with.

    `samples` and `yardstick_samples` have one number a round, in the same order.
    """

    name: str
    unit: str
    samples: list[float]
    yardstick: str | None = None
    yardstick_samples: list[float] = []
    target: Target | None = None

    @property
    def ratios(self) -> list[float]:
        """The samples divided by the yardstick's, round by round."""
        pairs = zip(self.samples, self.yardstick_samples, strict=bool(self.yardstick_samples))
        return [ours / yardstick for ours, yardstick in pairs]

    @property
    def is_met(self) -> bool | None:
        """Whether the target was met; None without one. It is only reported and makes nothing fail."""
        if self.target is None:
            return None
        return self.target.is_met(median(self.ratios if self.target.of == "ratio" else self.samples))


class Spread(msgspec.Struct, frozen=True):
    median: float
    min: float
    max: float


def write(path: Path, head: dict[str, Any], figures: list[Figure]) -> None:
    """Writes all samples and the figures of the table."""
    told = [
        msgspec.structs.asdict(figure)
        | {
            "ours": spread(figure.samples),
            "yardsticks": spread(figure.yardstick_samples),
            "ratio": spread(figure.ratios),
            "is_met": figure.is_met,
        }
        for figure in figures
    ]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(head | {"figures": told}), indent=2) + b"\n")


def table(figures: list[Figure]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("figure", style="bold")
    shown.add_column("median", justify="right", style="green")
    shown.add_column("spread", justify="right", style="dim")
    shown.add_column("unit")
    shown.add_column("ratio", justify="right", style="bold cyan")
    shown.add_column("spread", justify="right", style="dim")
    shown.add_column("target", no_wrap=True)
    shown.add_column("yardstick")
    shown.add_column("median", justify="right")
    for figure in figures:
        ours, theirs, ratio = map(spread, (figure.samples, figure.yardstick_samples, figure.ratios))
        shown.add_row(
            figure.name,
            number(ours.median) if ours else "",
            _range(ours),
            figure.unit,
            f"{ratio.median:.2f}" if ratio else "",
            f"{ratio.min:.2f}-{ratio.max:.2f}" if ratio and len(figure.samples) > 1 else "",
            _judged(figure),
            figure.yardstick or "",
            number(theirs.median) if theirs else "",
        )
    return shown


def spread(samples: list[float]) -> Spread | None:
    return Spread(median(samples), min(samples), max(samples)) if samples else None


def number(value: float) -> str:
    """With three significant digits, or all digits before the point if these are more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show(console: Console, head: dict[str, Any], figures: list[Figure]) -> None:
    facts = head["machine"]
    postgresql = facts["postgresql"]
    console.print()
    console.print(
        f"{head['size']['name']}: {facts['cores']} cores ({facts['processor']}), {facts['workers']} workers,"
        f" PostgreSQL {postgresql['server_version']} (fsync {postgresql['fsync']}), Python {facts['python']},"
        f" load {facts['load']} at the start"
    )
    console.print(table(figures))
    console.print("ratio: ours by the yardstick's of the same round; above 1 is faster for rates, slower for times")
    console.print("target: what the median of the ratio, or of the figure if a unit follows, is meant to be")


def _range(of: Spread | None) -> str:
    return f"{number(of.min)}-{number(of.max)}" if of and of.min != of.max else ""


def _judged(figure: Figure) -> str:
    if figure.target is None:
        return ""
    unit = f" {figure.unit}" if figure.target.of == "samples" else ""
    outcome = "[green]met[/]" if figure.is_met else "[red]missed[/]"
    return f"{figure.target.sign} {figure.target.bound:g}{unit} {outcome}"
