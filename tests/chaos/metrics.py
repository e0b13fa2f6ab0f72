"""What a soak measures: memory of processes, sizes of tables, dead rows, the oldest transaction, the queue; and their trend."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import msgspec
from rich import box
from rich.table import Table

from tests.chaos.environment import Environment

SAMPLES_MIN = 6
# a third of the time
WARM_UP_SHARE = 0.34
# the allowed growth of a process of the service from the end of the warm-up to the end
GROWTH_MB_MAX = 20.0
# for anything else growth of a quarter counts as noise
GROWTH_SHARE_MAX = 0.25
GROWTH_MIN = 2.0
# the state at a moment is the median of this many samples
AROUND = 3


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """`at`: seconds since the start."""

    at: float
    values: dict[str, float]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report. `slope` is per hour, after the warm-up; `is_bounded`: the soak fails if it grows too much."""

    name: str
    start: float
    warm: float
    end: float
    slope: float
    is_bounded: bool
    is_flat: bool


async def sample(env: Environment) -> dict[str, float]:
    values = dict(_memory(env))
    (row,) = await env.rows(
        """
        SELECT
            (SELECT count(*) FROM chunks WHERE state = 'pending') AS "chunks pending",
            (SELECT count(*) FROM chunks WHERE state = 'running') AS "chunks running",
            (SELECT count(*) FROM chunks WHERE finished_at IS NOT NULL) AS "chunks final",
            (
                SELECT coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)), 0)::float8
                FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()
            ) AS "oldest transaction, s"
        """
    )
    values |= {name: float(value) for name, value in row.items()}
    tables = await env.rows(
        """
        SELECT relname, pg_table_size(relid) / 1e6 AS size, pg_indexes_size(relid) / 1e6 AS indexes, n_dead_tup
        FROM pg_stat_user_tables
        WHERE relname NOT LIKE '%%yoyo%%'
        ORDER BY relname
        """
    )
    for table in tables:
        values[f"{table['relname']}, MB"] = float(table["size"])
        values[f"{table['relname']}, indexes, MB"] = float(table["indexes"])
        values[f"{table['relname']}, dead rows"] = float(table["n_dead_tup"])
    return values


def summed_up(samples: Sequence[Sample]) -> list[Figure]:
    """One figure for each value that is in all samples."""
    warm = min(int(len(samples) * WARM_UP_SHARE), len(samples) - AROUND)
    names = [name for name in samples[0].values if all(name in sample.values for sample in samples)]
    return [_figure(name, [(one.at, one.values[name]) for one in samples], warm) for name in names]


def page(figures: Sequence[Figure]) -> Table:
    """The figures that are not 0 in all samples."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("figure", style="bold")
    for column in ("start", "after warm-up", "end", "slope an hour", ""):
        shown.add_column(column, justify="right")
    for figure in figures:
        if not (figure.start or figure.warm or figure.end):
            continue
        outcome = "[green]flat[/]" if figure.is_flat else "[red]grows[/]"
        cells = (figure.start, figure.warm, figure.end, figure.slope)
        shown.add_row(figure.name, *(f"{cell:,.1f}" for cell in cells), outcome)
    return shown


def write(path: Path, head: dict[str, Any], figures: Sequence[Figure], samples: Sequence[Sample]) -> None:
    document = head | {"figures": list(figures), "samples": list(samples)}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def _figure(name: str, points: list[tuple[float, float]], warm: int) -> Figure:
    values = [value for _, value in points]
    after = points[warm:]
    slope, _ = linear_regression([at for at, _ in after], [value for _, value in after])
    level, end = median(values[warm : warm + AROUND]), median(values[-AROUND:])
    is_bounded = name.startswith("memory of")
    growth_max = GROWTH_MB_MAX if is_bounded else max(GROWTH_MIN, GROWTH_SHARE_MAX * level)
    return Figure(
        name=name,
        start=values[0],
        warm=level,
        end=end,
        slope=slope * 3600,
        is_bounded=is_bounded,
        is_flat=end - level <= growth_max,
    )


def _memory(env: Environment) -> Iterator[tuple[str, float]]:
    """MB. The server's processes share most of their memory, so only their private memory counts."""
    yield "memory of the API, MB", _mb(env.api.pid, "VmRSS")
    yield "memory of the pool, MB", _mb(env.workers.pid, "VmRSS")
    for number, pid in enumerate(sorted(env.workers.children()), 1):
        yield f"memory of worker {number}, MB", _mb(pid, "VmRSS")
    postmaster = env.server.pid
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    yield "PostgreSQL, private, MB", sum(_mb(pid, "RssAnon") for pid in (postmaster, *map(int, children)))


def _mb(pid: int, line: str) -> float:
    """0 for a process that has ended meanwhile."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0.0
    found = [words for words in map(str.split, status.splitlines()) if words[:1] == [f"{line}:"]]
    return int(found[0][1]) * 1024 / 1e6 if found else 0.0
