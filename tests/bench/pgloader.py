"""The same files by pgloader, which also continues after a bad record. Skipped where it is not installed.

Its dirty file has no malformed CSV: after such a line pgloader stops reading and drops the remaining records without an error.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from db.resources.users import USERS
from tests.bench import files, timed_import
from tests.bench.environment import Environment
from tests.bench.files import FAULT_RATE, File
from tests.bench.report import Figure, at_least
from tests.support.api_client import Api
from tests.support.make_data import Fault

UNREADABLE: tuple[Fault, ...] = ((None, "malformed_row"),)
ROUNDS = 1


async def run(env: Environment) -> list[Figure]:
    if shutil.which("pgloader") is None:
        env.log("skipped: pgloader is not installed")
        return []
    records = env.size.pgloader_records
    clean = files.users(env, records)
    dirty = files.users(env, records, fault_rate=FAULT_RATE, without=UNREADABLE)
    folder = env.subfolder("pgloader")
    async with timed_import.opened(env, "beside-pgloader") as api:

        async def measure(file: File, load: Callable[[], float]) -> float:
            await timed_import.emptied(api, "users")
            seconds = load()
            stored = await api.value("SELECT count(*) FROM users")
            assert stored >= records - file.faults.total(), f"pgloader stored {stored:,} of {records:,} records"
            return records / seconds

        async def import_(file: File) -> float:
            await timed_import.emptied(api, "users")
            return records / await timed_import.imported(api, file)

        contenders = {}
        for name, file in (("clean", clean), ("dirty", dirty)):
            contenders[name] = partial(import_, file)
            contenders[f"pgloader {name}"] = partial(measure, file, partial(_load, api, file, folder))
        rates = await timed_import.rounds(env, "pgloader", "records/s", contenders, ROUNDS)
    return [
        Figure(
            name=f"import of {records:,} users ({name}), rates of so small a file",
            unit="records/s",
            samples=rates[name],
            yardstick="pgloader, the same file",
            yardstick_samples=rates[f"pgloader {name}"],
            target=at_least(40) if name == "dirty" else None,
        )
        for name in ("clean", "dirty")
    ]


def _load(api: Api, file: File, folder: Path) -> float:
    """Seconds."""
    given = conninfo_to_dict(api.service.environment["DATABASE_URL"])
    password = {"PGPASSWORD": str(given["password"])} if given.get("password") else {}
    columns = ", ".join(USERS.columns)
    commands = folder / "users.load"
    commands.write_text(
        f"""
        LOAD CSV FROM '{file.path}' ({columns})
        INTO postgresql://{given["user"]}@{given["host"]}:{given["port"]}/{given["dbname"]}
        TARGET TABLE public.users ({columns})
        WITH skip header = 1, fields optionally enclosed by '"', fields terminated by ',',
            batch rows = 1000, workers = 4, concurrency = 1
        SET timezone TO 'UTC';
        """
    )
    began = time.monotonic()
    with (folder / "pgloader.log").open("wb") as log:
        subprocess.run(
            ["pgloader", "--root-dir", folder, commands],
            env={**os.environ, **password},
            stdout=log,
            stderr=log,
            check=True,
        )
    return time.monotonic() - began
