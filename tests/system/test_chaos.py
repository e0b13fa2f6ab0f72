"""A short form of `make chaos`: workers, sessions and PostgreSQL are killed during imports and exports."""

import pytest

from tests.chaos import scenarios, server
from tests.chaos.load import Size
from tests.chaos.scenarios import Scenario
from tests.support import postgres

# small files and chunks, and a short grace: the faults are the same, and the recovery is faster
SIZE = Size(records=2_000, articles=2_000, lanes=2)
SETTINGS = {"worker_pool_size": 3, "batch_size": 100, "claim_grace_seconds": 1, "poll_seconds": 0.2}


@pytest.fixture(scope="module")
def own_server():
    """A server for this test only, because it is killed."""
    with postgres.open_folder(in_memory=True) as folder, server.running(folder, options=postgres.FAST) as started:
        yield folder, started


async def test_no_record_is_lost_or_stored_twice(own_server):
    """Each record counts once, each job becomes final, and each export is complete."""
    folder, started = own_server
    scenario = Scenario(name="storm", action=scenarios.each_twice, recovery_is_bounded=False)
    result = await scenarios.perform(scenario, started, folder / "storm", size=SIZE, seed="1", log=print, **SETTINGS)
    assert result.wrong == []
    assert {"KILL", "TERM", "pg_terminate_backend", "PostgreSQL restarts"} <= set(result.fault_counts)
    assert result.samples
    assert result.work["background exports"]
    assert result.work["complete streams"]
