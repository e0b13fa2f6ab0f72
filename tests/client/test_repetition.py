"""Repeating a command after it was killed at any point imports nothing twice."""

import asyncio
import random

from tests.client.conftest import Bulk
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.fault_proxy import fault_proxy

KILLS = 20
RECORDS = 3_000


async def test_killed_twenty_times(api, environment, tmp_path):
    """The command is killed at twenty random points, then it completes: there is one job, and each record is stored once."""
    path = tmp_path / "users.csv"
    path.write_bytes(USERS_HEADER + b"".join(map(user_row, range(RECORDS))))
    lots = random.Random(5)
    points: list[int] = []
    async with fault_proxy(api.service.url) as proxy:
        bulk = Bulk(environment(f"http://127.0.0.1:{proxy.port}"))
        for _ in range(KILLS):
            process = await bulk.start(
                *("import", str(path), "-r", "users", "-q"),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            # a command takes about half a second; some are killed before they have sent a byte, some at their end
            await asyncio.sleep(lots.uniform(0.1, 0.8))
            if process.returncode is None:
                process.kill()
            points.append(await process.wait())
        result = await bulk("import", str(path), "-r", "users")
    assert result.code == 0, result
    assert -9 in points
    assert await api.value("SELECT count(*) FROM users") == RECORDS
    assert await api.value("SELECT count(*) FROM import_jobs WHERE status = 'completed'") == 1
    assert await api.value("SELECT sum(created) FROM import_jobs") == RECORDS
