"""Repeating a command after it was killed at any point imports nothing twice."""

import asyncio
import os
import random
import signal

import pytest

from tests.client.conftest import Bulk
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.eventually import eventually, in_time
from tests.support.fault_proxy import Budget, fault_proxy

# another one kills at other points
SEED = int(os.environ.get("SEED", "5"))
RECORDS = 3_000
FILE = USERS_HEADER + b"".join(map(user_row, range(RECORDS)))
KILLS_DURING_THE_UPLOAD = 15
KILLS_AFTER_THE_UPLOAD = 5
# larger than the head of the request, and smaller than the replies that follow
HEAD_BYTES_MAX = 1_000
REPLY_BYTES_MIN = 1_500


def kill_points(lots: random.Random) -> list[int]:
    """The numbers of bytes of a connection after which the command is killed: none, a part of the file, the file and more."""
    during = lots.sample(range(1, len(FILE)), KILLS_DURING_THE_UPLOAD - 1)
    after = lots.sample(range(REPLY_BYTES_MIN), KILLS_AFTER_THE_UPLOAD)
    points = [0, *during, *(len(FILE) + HEAD_BYTES_MAX + reply_bytes for reply_bytes in after)]
    lots.shuffle(points)
    return points


@pytest.mark.slow
async def test_killed_twenty_times(api, environment, tmp_path):
    """The command is killed at twenty points, then it completes: there is one job, and each record is stored once.

    The points are numbers of bytes, so they do not depend on the speed of the machine.
    """
    print(f"SEED={SEED}")
    path = tmp_path / "users.csv"
    path.write_bytes(FILE)
    async with fault_proxy(api.service.url) as proxy:
        bulk = Bulk(environment(f"http://127.0.0.1:{proxy.port}"))
        for point in kill_points(random.Random(SEED)):
            budget = proxy.budget = Budget(point)
            process = await bulk.start(
                *("import", str(path), "-r", "users", "-q"),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            await in_time(budget.is_spent.wait())
            process.kill()
            assert await in_time(process.wait()) == -signal.SIGKILL
            # the key can be used again once the API has removed the upload
            await eventually(lambda: has_no_upload(api))
        proxy.budget = Budget(None)
        result = await bulk("import", str(path), "-r", "users")
    assert result.code == 0, result
    assert await api.value("SELECT count(*) FROM users") == RECORDS
    assert await api.value("SELECT count(*) FROM import_jobs WHERE status = 'completed'") == 1
    assert await api.value("SELECT sum(created) FROM import_jobs") == RECORDS


async def has_no_upload(api) -> bool:
    return not await api.value("SELECT count(*) FROM import_jobs WHERE status = 'uploading'")
