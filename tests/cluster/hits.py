"""What happens to the cluster. Each hit returns when it is over; that the cluster is whole again is waited for afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeAlias

from tests.cluster import network
from tests.cluster.network import APPS
from tests.cluster.stage import Stage
from tests.support.eventually import eventually

Hit: TypeAlias = Callable[[Stage, Random], Awaitable[None]]

# longer than a failover takes with the recommended settings
CUT_SECONDS = 40
DEAD_SECONDS = 30
FROZEN_SECONDS = 25


async def kill_primary(stage: Stage, random: Random) -> None:
    """SIGKILL to Patroni and PostgreSQL of the primary, which are started again after the failover."""
    primary = await stage.cluster.primary()
    primary.kill()
    await asyncio.sleep(DEAD_SECONDS)
    primary.start_patroni()


async def kill_postgres(stage: Stage, random: Random) -> None:
    """SIGKILL to PostgreSQL of the primary. Its Patroni starts it again."""
    primary = await stage.cluster.primary()
    primary.kill_postgres()
    await eventually(lambda: not primary.postgres())
    await eventually(primary.postgres)


async def cut(stage: Stage, random: Random) -> None:
    """The primary is cut off with one host of the service, whose clients and workers go on, and comes back."""
    names = [(await stage.cluster.primary()).name, APPS[0]]
    network.cut(names)
    try:
        await asyncio.sleep(CUT_SECONDS)
    finally:
        network.heal(names)


async def freeze_standby(stage: Stage, random: Random) -> None:
    """SIGSTOP to a standby. The other one acknowledges the commits."""
    standby = random.choice(await stage.cluster.standbys())
    pids = standby.freeze()
    try:
        await asyncio.sleep(FROZEN_SECONDS)
    finally:
        standby.thaw(pids)


async def switch_over(stage: Stage, random: Random) -> None:
    """The planned change of the primary."""
    await stage.cluster.switch_over(random.choice(await stage.cluster.standbys()))


async def restart_all(stage: Stage, random: Random) -> None:
    """All three nodes are stopped and started one after the other, as for an upgrade: the primary last, after a switchover."""
    primary = await stage.cluster.primary()
    standbys = await stage.cluster.standbys()
    random.shuffle(standbys)
    for node in standbys:
        await node.stop()
        node.start_patroni()
        await stage.cluster.whole()
    await stage.cluster.switch_over(standbys[0])
    await stage.cluster.whole()
    await primary.stop()
    primary.start_patroni()
