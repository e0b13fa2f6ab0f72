"""`make demo`: the main job, to be watched, on a scratch server of its own. Nothing of it stays."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from db import embedded, migrate
from db.embedded import EmbeddedError
from db.imports.jobs import FINAL
from db.migrate import MigrateError
from tests.support import make_data, postgres
from tests.support.make_data import Fault, Made
from tests.support.service import running_service

USERS, ARTICLES, COMMENTS = 50_000, 20_000, 50_000
FAULT_RATE = 0.02
SEED = 2024
WORKERS = 2
LINES_SHOWN = 5
VALUE_CHARACTERS_MAX = 20
# what a pipe or a file gets; a terminal has a width of its own
WIDTH = 150

console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


class Unexpected(Exception):
    """The service did not do what was announced."""


def main() -> None:
    began = time.monotonic()
    try:
        with postgres.open_folder() as folder, _postgres(folder) as database_url:
            asyncio.run(_show(folder, database_url))
            console.print("stopping all of it …", style="dim")
    except KeyboardInterrupt:
        console.print("\nstopped, and cleaned up")
        sys.exit(130)
    except (Unexpected, AssertionError, EmbeddedError, MigrateError, httpx.HTTPError) as error:
        sys.exit(f"the demo went wrong: {error}")
    console.print(f"done in {time.monotonic() - began:.0f} s", style="dim")


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """A server of the demo's own, whatever DATABASE_URL says."""
    _title("Starting PostgreSQL, the API and the workers", "in a scratch folder, on free ports")
    try:
        yield embedded.start(folder)
    finally:
        with suppress(embedded.NotRunning):
            embedded.stop(folder)


async def _show(folder: Path, database_url: str) -> None:
    migrate.up(database_url)
    async with (
        running_service(folder, database_url, worker_pool_size=WORKERS) as service,
        httpx.AsyncClient(base_url=service.url, timeout=30) as client,
    ):
        console.print(f"The API is at {service.url}, with {WORKERS} workers behind it.")
        users = make_data.users(USERS, seed=SEED, fault_rate=FAULT_RATE)
        await _import(client, "users", "users.csv", "text/csv", users)
        articles = make_data.articles(ARTICLES, authors=users.ids, seed=SEED, fault_rate=FAULT_RATE)
        await _import(client, "articles", "articles.ndjson", "application/x-ndjson", articles)
        comments = make_data.comments(
            COMMENTS, articles=articles.ids, users=users.ids, seed=SEED, fault_rate=FAULT_RATE
        )
        await _import(client, "comments", "comments.ndjson", "application/x-ndjson", comments)
        await _export(client, USERS - users.faults.total())
    _tell_more()


# ── imports ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _import(client: httpx.AsyncClient, resource: str, name: str, media_type: str, made: Made) -> None:
    _title(
        f"Importing {made.records:,} {resource}",
        f"{name}, {len(made.data) / 1e6:.1f} MB, with {made.faults.total():,} faults planted",
    )
    _command(f"curl -F resource={resource} -F file=@{name} {client.base_url}/api/v1/imports")
    posted = await client.post(
        "/api/v1/imports", data={"resource": resource}, files={"file": (name, made.data, media_type)}
    )
    job = await _watch(client, _expect(posted, 202))
    counts = job["counts"]
    console.print(
        f"{job['status']}: {job['total_records']:,} records = [green]{counts['created']:,} stored[/]"
        f" + [red]{counts['failed']:,} refused[/]"
    )
    console.print(await _refused(client, job))
    _check(job, made.faults)


async def _watch(client: httpx.AsyncClient, job: dict[str, Any]) -> dict[str, Any]:
    """The job when it is final; until then, its progress."""
    with Progress(
        TaskProgressColumn(),
        BarColumn(bar_width=50),
        MofNCompleteColumn(),
        TextColumn("records  {task.fields[rate]}"),
        console=console,
    ) as progress:
        bar = progress.add_task("", total=job["total_records"], rate="")
        while True:
            rate = job["progress"]["records_per_second"]
            progress.update(bar, completed=job["processed_records"], rate=f"{rate:,.0f}/s" if rate else "")
            if job["status"] in FINAL:
                return job
            await asyncio.sleep(0.05)
            job = _expect(await client.get(job["links"]["self"]), 200)


async def _refused(client: httpx.AsyncClient, job: dict[str, Any]) -> Table:
    """What was refused and why, a line for each kind of fault, each with the first record that has it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("refused", justify="right", style="red")
    table.add_column("field", style="cyan", no_wrap=True)
    table.add_column("code", no_wrap=True)
    table.add_column("first at", justify="right")
    table.add_column("its value", style="yellow")
    table.add_column("why", style="dim", ratio=1)
    for group in job["error_summary"]:
        query = {"code": group["code"], "limit": "1"} | ({"field": group["field"]} if group["field"] else {})
        example = _expect(await client.get(job["links"]["errors"], params=query), 200)["errors"][0]
        table.add_row(
            str(group["count"]),
            Text(group["field"] or "the record"),
            Text(group["code"]),
            f"line {group['first_line']}",
            Text(_short(example["value"])),
            Text(example["message"]),
        )
    return table


def _check(job: dict[str, Any], planted: Counter[Fault]) -> None:
    """The faults that were found are the ones that were planted, and the books balance."""
    found = Counter({(group["field"], group["code"]): group["count"] for group in job["error_summary"]})
    if job["status"] != "completed" or found != planted:
        raise Unexpected(f"the import is {job['status']}; planted were {dict(planted)}, found {dict(found)}")
    if sum(job["counts"].values()) != job["total_records"] or job["counts"]["failed"] != planted.total():
        raise Unexpected(f"the counters do not add up: {job['counts']} of {job['total_records']} records")
    console.print(
        f"[green]✓[/] every planted fault was found, nothing else was refused: {found.total():,} of {planted.total():,}"
    )


# ── the export, and the end ───────────────────────────────────────────────────────────────────────────────────────────


async def _export(client: httpx.AsyncClient, stored: int) -> None:
    address = "/api/v1/exports/users/stream?format=csv"
    _title("Exporting the users", "as CSV, streamed from one snapshot")
    _command(f"curl '{client.base_url}{address}'")
    began = time.monotonic()
    first, lines, size = [], 0, 0
    async with client.stream("GET", address) as response:
        if response.status_code != 200:
            await response.aread()
            _expect(response, 200)
        async for line in response.aiter_lines():
            if lines < LINES_SHOWN:
                first.append(line)
            lines += 1
            size += len(line.encode()) + 1
    seconds = time.monotonic() - began
    if lines - 1 != stored:
        raise Unexpected(f"{stored} users were stored, the export has {lines - 1}")
    for line in first:
        console.print(Text(line, style="dim"), no_wrap=True, overflow="ellipsis")
    console.print(f"… {stored:,} users, {size / 1e6:.1f} MB in {seconds:.2f} s")


def _tell_more() -> None:
    _title("By yourself", "this was a scratch server; `make run` starts one that stays, at port 8080")
    for line in (
        "make run",
        "printf 'email,name,role,active\\nada@example.org,Ada,admin,true\\nfoo@bar,Bo,boss,true\\n' > users.csv",
        "curl -F resource=users -F file=@users.csv http://127.0.0.1:8080/api/v1/imports",
        "curl http://127.0.0.1:8080/api/v1/imports",
        "curl 'http://127.0.0.1:8080/api/v1/exports/users/stream?format=csv'",
    ):
        _command(line)
    console.print()


def _expect(response: httpx.Response, status: int) -> dict[str, Any]:
    if response.status_code != status:
        raise Unexpected(
            f"{response.request.method} {response.request.url} answered {response.status_code}: {response.text}"
        )
    return response.json()


def _title(what: str, detail: str) -> None:
    console.print()
    console.rule(f"[bold]{what}[/]", align="left", style="dim")
    console.print(detail, style="dim")


def _command(line: str) -> None:
    console.print(Text(f"$ {line}", style="bold blue"), soft_wrap=True)


def _short(value: str | None) -> str:
    if value is None:
        return "—"
    if not value.strip():
        return f'"{value}"'
    return value if len(value) <= VALUE_CHARACTERS_MAX else value[: VALUE_CHARACTERS_MAX - 1] + "…"


if __name__ == "__main__":
    main()
