"""The service on two hosts, each with an API, workers and clients of its own, on a database of the cluster."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from db import migrate
from tests.chaos import checks
from tests.chaos.client import Client
from tests.chaos.environment import REQUEST_SECONDS, Environment
from tests.chaos.export_checks import References
from tests.chaos.files import File
from tests.chaos.load import Load, Size
from tests.cluster import network
from tests.cluster.network import API_ADDRESSES, APPS
from tests.cluster.nodes import Cluster
from tests.cluster.probe import Probe
from tests.support.eventually import eventually
from tests.support.service import running_service

API_KEY = "cluster-clients-of-the-test"
# far from the first lane's of the first side
LANES_APART = 100


class Clients(Load):
    """The load of one side. `ends` has the end of each import, as its client saw it."""

    def __init__(self, env: Environment, size: Size, *, first_lane: int) -> None:
        super().__init__(env, size, first_lane=first_lane)
        self.ends: dict[str, tuple[str, str]] = {}

    def join(self, other: "Clients") -> None:
        """Shares the results of the other side, and its prepared records."""
        self.jobs, self.overwritten, self.wrong, self.ends = other.jobs, other.overwritten, other.wrong, other.ends
        self.done = other.done
        self.world = other.world
        self.references = References(self.env, other.references.contents)

    def check(self, job: dict[str, Any], file: File) -> None:
        super().check(job, file)
        self.ends[job["id"]] = (job["status"], job["finished_at"])


class Stage:
    """What a hit may use. `sides` are the clients of each host of the service, by its name."""

    def __init__(
        self, cluster: Cluster, probe: Probe, sides: dict[str, Clients], *, log: Callable[[str], None]
    ) -> None:
        self.cluster = cluster
        self.probe = probe
        self.sides = sides
        self.log = log

    @property
    def env(self) -> Environment:
        """Of the host that is never cut off."""
        return self.sides[APPS[1]].env

    @property
    def clients(self) -> list[Client]:
        return [side.env.client for side in self.sides.values()]

    async def problems(self) -> list[str]:
        """What is wrong when the load is over: of the load, the audit, and each end that a client has seen."""
        return [
            *await checks.found(self.env, self.sides[APPS[1]]),
            *await self._changed_ends(),
            *await self._crashes(),
        ]

    async def _changed_ends(self) -> list[str]:
        """An import is final once: it has the end that its client has seen."""
        problems: list[str] = []
        for id, end in self.sides[APPS[1]].ends.items():
            job = (await self.env.client.ask("GET", f"/api/v1/imports/{id}")).json()
            if (job.get("status"), job.get("finished_at")) != end:
                problems.append(f"import {id} was {end}, and is {job.get('status')}, {job.get('finished_at')}")
        return problems

    async def _crashes(self) -> list[str]:
        """No worker has died, so no chunk has a crash."""
        crashed = await self.env.value("SELECT count(*) FROM chunks WHERE crashes > 0")
        return [f"{crashed} chunks have crashes, though no worker died"] if crashed else []


@asynccontextmanager
async def opened(
    cluster: Cluster,
    probe: Probe,
    folder: Path,
    *,
    name: str,
    size: Size,
    seed: str,
    log: Callable[[str], None],
    **settings: Any,
) -> AsyncIterator[Stage]:
    """Starts the service and prepares the load. `name` is that of the new database and folder."""
    url = cluster.create_database(name)
    migrate.up(url)
    (folder / name).mkdir()
    async with AsyncExitStack() as held:
        sides: dict[str, Clients] = {}
        for number, host in enumerate(APPS):
            env = await held.enter_async_context(_environment(host, folder / name, url, seed=seed, log=log, **settings))
            sides[host] = Clients(env, size, first_lane=number * LANES_APART)
        first, second = sides.values()
        await second.prepare()
        first.join(second)
        yield Stage(cluster, probe, sides, log=log)
    # the nodes share the memory of one machine
    cluster.drop_database(name)


@asynccontextmanager
async def _environment(
    host: str, folder: Path, url: str, *, seed: str, log: Callable[[str], None], **settings: Any
) -> AsyncIterator[Environment]:
    place = folder / host
    place.mkdir()
    async with (
        running_service(
            place,
            url,
            prefix=network.inside(host),
            http_host=API_ADDRESSES[host],
            api_keys=API_KEY,
            # a storage that both hosts reach
            export_dir=folder / "exports",
            **settings,
        ) as service,
        httpx.AsyncClient(
            base_url=service.url, timeout=REQUEST_SECONDS, headers={"Authorization": f"Bearer {API_KEY}"}
        ) as http,
    ):
        env = Environment(None, service, Client(http), seed=f"{seed} {host}", log=log)
        env.exports = folder / "exports"
        await eventually(lambda: env.workers.children())
        yield env
