"""`make demo`: imports and exports on a temporary server, with the command `bulk`. Everything is removed at the end."""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from db import embedded, migrate
from db.embedded import EmbeddedError
from db.migrate import MigrateError
from tests.support import ROOT, make_data, postgres
from tests.support.make_data import Made
from tests.support.service import running_service

USERS, ARTICLES, COMMENTS = 50_000, 20_000, 50_000
FAULT_RATE = 0.02
SEED = 2024
WORKERS = 2
LINES_SHOWN = 5
# exit codes of `bulk`: all records accepted, some refused
TAKEN, REFUSED = 0, 3

console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)


class Unexpected(Exception):
    """A command did not have the expected result."""


def main() -> None:
    began = time.monotonic()
    try:
        with postgres.open_folder() as folder, _postgres(folder) as database_url:
            asyncio.run(_show(folder, database_url))
    except KeyboardInterrupt:
        console.print("\nstopped and cleaned up")
        sys.exit(130)
    except (Unexpected, EmbeddedError, MigrateError) as error:
        sys.exit(f"the demo failed: {error}")
    console.print(f"\nDone in {time.monotonic() - began:.0f} s. `make run` starts a service that stays.", style="dim")


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """A server of the demo's own; DATABASE_URL is ignored."""
    _title("Starting PostgreSQL, the API and the workers", "in a temporary folder, on free ports")
    try:
        yield embedded.start(folder)
    finally:
        with suppress(embedded.NotRunning):
            embedded.stop(folder)


async def _show(folder: Path, database_url: str) -> None:
    migrate.up(database_url)
    async with running_service(folder, database_url, worker_pool_size=WORKERS) as service:
        console.print(f"The API and its pages are at {service.url}, with {WORKERS} workers.")
        bulk = Bulk(folder, service.url)
        users = make_data.users(USERS, seed=SEED, fault_rate=FAULT_RATE)
        await _import(bulk, "users", "users.csv", users)
        articles = make_data.articles(ARTICLES, authors=users.ids, seed=SEED, fault_rate=FAULT_RATE)
        await _import(bulk, "articles", "articles.ndjson", articles)
        comments = make_data.comments(
            COMMENTS, articles=articles.ids, users=users.ids, seed=SEED, fault_rate=FAULT_RATE
        )
        await _import(bulk, "comments", "comments.ndjson", comments)
        await _export(bulk, folder, USERS - users.faults.total())


class Bulk:
    """Runs `bulk` in a folder, against a service."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "BULK_URL": url,
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_STATE_HOME": str(folder / "state"),
        }

    async def run(self, *arguments: str, expected: int) -> None:
        """Shows the command and its output. Raises `Unexpected` for another exit code."""
        console.print(Text(f"$ bulk {' '.join(arguments)}", style="bold blue"), soft_wrap=True)
        code, _ = await self._run(arguments, stdout=None)
        if code != expected:
            raise Unexpected(f"`bulk {' '.join(arguments)}` exited with {code}, not {expected}")

    async def json(self, *arguments: str) -> dict[str, Any]:
        """The output of the command with --json."""
        _, output = await self._run((*arguments, "--json"), stdout=asyncio.subprocess.PIPE)
        return json.loads(output)

    async def _run(self, arguments: tuple[str, ...], *, stdout: int | None) -> tuple[int, bytes]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "api.client", *arguments, cwd=self.folder, env=self.environment, stdout=stdout
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output or b""


async def _import(bulk: Bulk, resource: str, name: str, made: Made) -> None:
    """Imports a file with planted errors, and compares the reported errors with them."""
    _title(
        f"Importing {made.records:,} {resource}",
        f"{name}, {len(made.data) / 1e6:.1f} MB, with {made.faults.total():,} errors in it",
    )
    await asyncio.to_thread((bulk.folder / name).write_bytes, made.data)
    await bulk.run("import", name, "-r", resource, expected=REFUSED)
    job = await bulk.json("show", "last")
    found = Counter({(group["field"], group["code"]): group["count"] for group in job["error_summary"]})
    if job["status"] != "completed" or found != made.faults:
        raise Unexpected(f"the import is {job['status']}; in the file were {dict(made.faults)}, found {dict(found)}")
    if sum(job["counts"].values()) != job["total_records"] or job["counts"]["failed"] != made.faults.total():
        raise Unexpected(f"the counters do not add up: {job['counts']} of {job['total_records']} records")
    console.print(f"[green]✓[/] every error was found, nothing else was refused: {found.total():,}")


async def _export(bulk: Bulk, folder: Path, stored: int) -> None:
    _title("Exporting the users", "as CSV, streamed from one snapshot")
    await bulk.run("export", "users", "-o", "all-users.csv", expected=TAKEN)
    lines = (await asyncio.to_thread((folder / "all-users.csv").read_text)).splitlines()
    if len(lines) - 1 != stored:
        raise Unexpected(f"{stored} users were stored, the export has {len(lines) - 1}")
    for line in lines[:LINES_SHOWN]:
        console.print(Text(line, style="dim"), no_wrap=True, overflow="ellipsis")
    console.print(f"… {stored:,} users")


def _title(what: str, detail: str) -> None:
    console.print()
    console.rule(f"[bold]{what}[/]", align="left", style="dim")
    console.print(detail, style="dim")


if __name__ == "__main__":
    main()
