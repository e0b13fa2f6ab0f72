r"""`python -m tests.bench.stages`: where a worker's time goes, in microseconds a record by stage.

One worker in this process with one connection works through files that were uploaded before. The functions of the service are
called as they are, each with a clock around it. A stage's time is its own: what a stage within it takes counts there.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import iscoroutinefunction
from time import perf_counter, process_time
from typing import Any, NamedTuple

import msgspec
import psycopg
import structlog
import uvloop
from rich import box
from rich.console import Console
from rich.table import Table

import workers.imports
from db import merge, queue, settings
from db.connections import pool
from db.imports import errors
from db.merge import apply, conflicts, duplicates, match, staging
from tests.bench import environment, files, timed_import
from tests.bench.environment import Environment
from tests.bench.files import FAULT_RATE, File
from tests.support import api_client
from tests.support.api_client import Api
from workers import completion
from workers.parsing import csv_reader, json_reader
from workers.pool import tune_gc
from workers.worker import Worker

WIDTH = 180

# the stage, the module in which the service looks the function up, and its name there; in the order of the work
STAGES: tuple[tuple[str, Any, str], ...] = (
    ("reclaim", queue, "reclaim"),
    ("claim", queue, "claim"),
    ("begin, savepoint", psycopg.AsyncTransaction, "__aenter__"),
    ("fence", queue, "fence"),
    ("fetch the payload", workers.imports, "load_claimed"),
    ("read and check types", csv_reader.Reader, "read"),
    ("read and check types", json_reader.Reader, "read"),
    ("rules, and the flawed one by one", workers.imports, "parse"),
    ("straight: order, COPY's rows", merge, "merge"),
    ("what is in the way", conflicts, "conflicting_rows"),
    ("end of a COPY", psycopg.AsyncCopy, "__aexit__"),
    ("staged: COPY's rows", staging, "fill"),
    ("staged: missing parents", match, "_mark_orphans"),
    ("staged: match", match, "_match"),
    ("staged: refuse", match, "_refuse"),
    ("staged: defer", apply, "defer"),
    ("staged: update", apply, "update_unmoved"),
    ("staged: update", apply, "_update"),
    ("staged: insert", apply, "_insert"),
    ("staged: is anything left", staging, "remaining"),
    ("settle", duplicates, "settle"),
    ("write the errors", errors, "insert"),
    ("finish", queue, "finish"),
    ("commit, savepoint's end", psycopg.AsyncTransaction, "__aexit__"),
    ("is the job done", completion, "end_job"),
    ("the loop, and all else", Worker, "run_once"),
)
LABELS = tuple(dict.fromkeys(label for label, _, _ in STAGES))


class Spent(NamedTuple):
    """Seconds: elapsed, CPU time of this process, and CPU time of the connection's server process."""

    wall: float = 0.0
    ours: float = 0.0
    server: float = 0.0

    def plus(self, end: "Spent", start: "Spent") -> "Spent":
        return Spent(*(mine + late - early for mine, late, early in zip(self, end, start, strict=True)))


class Clock:
    """Adds the time between two readings to the stage that was running."""

    def __init__(self, backend_pid: int) -> None:
        self.spent = dict.fromkeys(LABELS, Spent())
        self._running: list[str] = []
        self._last = Spent()
        self._server = environment.ServerCpu(backend_pid)

    def close(self) -> None:
        self._server.close()

    @contextmanager
    def stage(self, label: str) -> Iterator[None]:
        self._turn()
        self._running.append(label)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()

    def _turn(self) -> None:
        now = Spent(perf_counter(), process_time(), self._server.seconds())
        if self._running:
            label = self._running[-1]
            self.spent[label] = self.spent[label].plus(now, self._last)
        self._last = now


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """The service's functions, wrapped to measure their time."""
    originals = [(owner, name, vars(owner)[name]) for _, owner, name in STAGES]
    for (label, owner, name), (_, _, function) in zip(STAGES, originals, strict=True):
        setattr(owner, name, _timed(clock, label, function))
    try:
        yield
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def _timed(clock: Clock, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if iscoroutinefunction(function):

        async def timed_async(*arguments: Any, **named: Any) -> Any:
            with clock.stage(label):
                return await function(*arguments, **named)

        return timed_async

    def timed(*arguments: Any, **named: Any) -> Any:
        with clock.stage(label):
            return function(*arguments, **named)

    return timed


async def _measure(opened: Environment) -> dict[str, dict[str, Spent]]:
    """Microseconds a record by case and stage; for the yardstick only elapsed time."""
    records = opened.size.records
    clean = {
        "users": files.users(opened, records),
        "articles": files.articles(opened, records),
        "comments": files.comments(opened, records),
    }
    dirty = {
        "users": files.users(opened, records, fault_rate=FAULT_RATE),
        "articles": files.articles(opened, records, fault_rate=FAULT_RATE),
        "comments": files.comments(opened, records, fault_rate=FAULT_RATE),
    }
    found: dict[str, dict[str, Spent]] = {}
    async with timed_import.opened(opened, "stages", run=["api"]) as api:
        # psql has loaded the tables before that of the case: they hold the parents of its records
        for resource, file in clean.items():
            as_posted = file if resource == "users" else files.as_ndjson(file)
            for title, posted in ((f"{resource}, clean", as_posted), (f"{resource}, dirty", dirty[resource])):
                await timed_import.emptied(api, resource)
                found[title] = await _work_through(api, posted)
                opened.log(f"{title} ({posted.format}): {_total(found[title]).wall:.1f} µs a record")
            await timed_import.emptied(api, resource)
            seconds = timed_import.copied(api, file)
            found[f"{resource}, clean"][r"psql \copy"] = Spent(1e6 * seconds / file.records)
            await timed_import.settled(api, resource)
    return found


async def _work_through(api: Api, file: File) -> dict[str, Spent]:
    # the only worker, so it claims as many chunks at once as the limit allows
    given = msgspec.structs.replace(settings.read(api.service.environment), worker_pool_size=1)
    posted = await timed_import.post(api, file)
    worker = Worker(given, name="stages", stopping=asyncio.Event())
    async with await pool.connect(given, name="bulk worker stages") as conn:
        clock = Clock(conn.info.backend_pid)
        with watched(clock):
            while await worker.run_once(conn):
                pass
        clock.close()
    job = (await api.get(posted.headers["location"].removeprefix(api_client.PATH))).json()
    await timed_import.check(api, job, file)
    return {label: Spent(*(1e6 * part / file.records for part in spent)) for label, spent in clock.spent.items()}


def _total(spent: dict[str, Spent]) -> Spent:
    return Spent(*(sum(parts) for parts in zip(*(spent[label] for label in LABELS), strict=True)))


def _table(found: dict[str, dict[str, Spent]]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_footer=True)
    shown.add_column("stage", style="bold", no_wrap=True, footer="sum")
    for title, spent in found.items():
        shown.add_column(title, justify="right", no_wrap=True, footer=_cell(_total(spent)))
    for label in LABELS:
        if any(spent[label].wall >= 0.005 for spent in found.values()):
            shown.add_row(label, *(_cell(spent[label]) for spent in found.values()))
    yardsticks = [spent.get(r"psql \copy") for spent in found.values()]
    shown.add_section()
    shown.add_row(r"psql \copy of the clean file", *(f"{one.wall:.2f}" if one else "" for one in yardsticks))
    return shown


def _cell(spent: Spent) -> str:
    return " · ".join(f"{part:.2f}" if part < 10 else f"{part:.1f}" for part in spent) if spent.wall >= 0.005 else ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.stages", description="a worker's time by stage")
    parser.add_argument("--records", type=int, default=100_000, help="of each file")
    size = msgspec.structs.replace(environment.SIZES["quick"], records=parser.parse_args().records)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    with environment.opened(size, console) as opened:
        tune_gc()
        table = _table(uvloop.run(_measure(opened)))
        console.print("\nµs a record: by the clock · of the worker's CPU · of its PostgreSQL process' CPU")
        console.print(table)
        console.print("by the clock less both: waiting for the disk, for another process, or for each other")


if __name__ == "__main__":
    main()
