"""The load during the faults: imports and exports, each compared with its expected result."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import httpx
import msgspec

from tests.chaos import files
from tests.chaos.client import Unexpected
from tests.chaos.environment import Environment
from tests.chaos.export_checks import References
from tests.chaos.files import File, World
from tests.support import make_data

KINDS = {"clean": files.clean, "faulty": files.faulty, "duplicates": files.duplicates, "upsert": files.upsert}
AUTHORS = 500
SETTLE_SECONDS = 150
# more than a lane can do in any run
ROUNDS_MAX = 100_000


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """Records of a file, articles that are exported repeatedly, and concurrent importing clients."""

    records: int
    articles: int
    lanes: int


class Load:
    """Lanes, each of which runs one request after the other. `wrong` has one line for each unexpected result.

    `jobs` are the ids of all imports, `overwritten` those whose rows a later one has changed. `first_lane` is the number of the
    first importing client, from which its files and keys derive.
    """

    def __init__(self, env: Environment, size: Size, *, first_lane: int = 0) -> None:
        self.env = env
        self.size = size
        self.first_lane = first_lane
        self.jobs: set[str] = set()
        self.overwritten: set[str] = set()
        self.records = 0
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._stopping = asyncio.Event()

    async def prepare(self) -> None:
        """Users and articles that do not change afterwards, and the bytes that every export of the articles must have."""
        users = make_data.users(AUTHORS, seed=0)
        await self.import_file(File("users", "users", users.data, AUTHORS, {"created": AUTHORS}), key="users")
        articles = make_data.articles(self.size.articles, authors=users.ids, seed=0)
        expected = {"created": articles.records}
        file = File("articles", "articles", articles.data, articles.records, expected, type=files.NDJSON)
        await self.import_file(file, key="articles")
        self.world = World(users.ids, articles.ids)
        self.references = await References.take(self.env)

    @asynccontextmanager
    async def running(self, *, exporting: bool, pause_seconds: float) -> AsyncIterator[None]:
        """Keeps all lanes busy, with pauses; at the end each finishes its current task, within a generous limit."""
        first = self.first_lane
        lanes = [self._lane(f"import {first + n}", self._import, pause_seconds) for n in range(self.size.lanes)]
        if exporting:
            lanes += [
                self._lane(f"export {first}", self._export, pause_seconds),
                self._lane("stream", self._stream, 0.5),
            ]
        tasks = [asyncio.create_task(lane) for lane in lanes]
        try:
            yield
            self._stopping.set()
            done, late = await asyncio.wait(tasks, timeout=SETTLE_SECONDS)
            self.wrong += [f"a client ended with {error!r}" for task in done if (error := task.exception())]
            self.wrong += [f"a client is not done {SETTLE_SECONDS} s after the last fault"] * len(late)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def import_file(self, file: File, *, key: str, after: str | None = None) -> dict[str, Any]:
        """Imports a file, after its base, until the job is final; returns the job."""
        if file.base is not None:
            base = await self.import_file(file.base, key=f"{key} base")
            self.overwritten.add(base["id"])
            after = base["id"]
        job = await self.env.client.final(await self.post(file, key=key, after=after))
        self.check(job, file)
        return job

    async def post(self, file: File, *, key: str, after: str | None = None, content: Any = None) -> dict[str, Any]:
        """The job of a file; `content` is sent instead of its data, for instance slowly."""
        params = {"resource": file.resource, "mode": file.mode} | ({"after": after} if after else {})
        job = await self.env.client.post(content or file.data, type=file.type, key=key, params=params)
        self.jobs.add(job["id"])
        self.records += file.records
        self.done[file.kind] += 1
        return job

    def check(self, job: dict[str, Any], file: File) -> None:
        """Every record has its expected outcome."""
        counts = {name: count for name, count in job["counts"].items() if count}
        expected = {name: count for name, count in file.expected.items() if count}
        if job["status"] != "completed" or counts != expected or job["total_records"] != file.records:
            self.wrong.append(f"{file.kind} {job['id']} is {job['status']} with {counts}, should have {expected}")

    async def _lane(self, name: str, work: Callable[[Random, str], Awaitable[None]], pause_seconds: float) -> None:
        random = Random(f"{self.env.seed} {name}")
        for number in range(ROUNDS_MAX):
            if self._stopping.is_set():
                return
            try:
                await work(random, f"{name} {number}")
            except Unexpected as error:
                self.wrong.append(f"{name}: {error}")
                return
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1.5))

    async def _import(self, random: Random, key: str) -> None:
        kind = random.choice([*KINDS, "comments"])
        _, lane, number = key.split()
        # the same files in every run, whichever lane is faster
        seed = 1 + int(lane) * ROUNDS_MAX + int(number)
        if kind == "comments":
            make, arguments = files.comments, (self.size.records, seed, self.world)
        else:
            make, arguments = KINDS[kind], (self.size.records, seed)
        # in a thread, because generating a file takes a while and the other lanes must continue
        await self.import_file(await asyncio.to_thread(make, *arguments), key=key)

    async def _export(self, random: Random, key: str) -> None:
        format = random.choice(self.references.formats)
        job = await self.env.client.export(key=key, resource="articles", format=format)
        job = await self.env.client.final(job)
        if job["status"] != "completed":
            raise Unexpected(f"the export is {job['status']}: {job['problem']}")
        self.wrong += await self.references.check_download(job)
        self.done["background exports"] += 1

    async def _stream(self, random: Random, key: str) -> None:
        del key
        try:
            problem_lines = await self.references.check_stream(random.choice(self.references.formats))
        except httpx.TransportError:
            # the stream broke, which a client detects
            self.done["broken streams"] += 1
        else:
            self.wrong += problem_lines
            self.done["complete streams"] += 1
