"""Measures from when to when the cluster has no primary: a small synchronous commit on each node, ten times a second."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import psycopg

from tests.cluster.nodes import Cluster, Node

DATABASE = "probe"
PAUSE_SECONDS = 0.1
# a node that has vanished is noticed soon
LIMITS = {
    "connect_timeout": 2,
    "tcp_user_timeout": 2000,
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 2,
}


class Probe:
    """`commits` are the times of the commits that some node has acknowledged, in order."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.commits: list[float] = []

    def outage(self, since: float) -> tuple[float, float]:
        """Begin and end of the longest time without a commit from `since` on."""
        times = [since, *(at for at in self.commits if at > since)]
        return max(pairwise(times), key=lambda pair: pair[1] - pair[0], default=(since, since))

    async def _watch(self, node: Node) -> None:
        while True:
            try:
                url = self.cluster.url(DATABASE, user="postgres", only=node)
                async with await psycopg.AsyncConnection.connect(url, autocommit=True, **LIMITS) as conn:
                    while True:
                        await conn.execute("INSERT INTO commits VALUES (1)")
                        self.commits.append(time.time())
                        await asyncio.sleep(PAUSE_SECONDS)
            except psycopg.Error:
                await asyncio.sleep(PAUSE_SECONDS)


@asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[Probe]:
    with psycopg.connect(cluster.create_database(DATABASE, owner="postgres"), autocommit=True) as conn:
        conn.execute("CREATE TABLE commits (number integer)")
    probe = Probe(cluster)
    tasks = [asyncio.create_task(probe._watch(node)) for node in cluster.nodes.values()]
    try:
        yield probe
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
