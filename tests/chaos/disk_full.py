"""The disk of EXPORT_DIR is full: an export fails and says why, the next one waits until there is room; imports go on."""

import asyncio
import time

from tests.chaos import disk
from tests.chaos.client import Unexpected
from tests.chaos.environment import Stage
from tests.chaos.load import Load

REASONS = ("No space left on device", "File too large")
WAIT_SECONDS = 30


async def happen(stage: Stage, load: Load) -> list[str]:
    """The id of the export that has failed, in a list."""

    def pids() -> list[int]:
        return [stage.workers.pid, *stage.workers.children()]

    with disk.full(stage.exports, pids) as make_room:
        stage.disturbances["disk full"] += 1
        failed = await stage.client.final(await _order(stage, "too large"))
        if failed["status"] != "failed" or not any(reason in failed["problem"]["detail"] for reason in REASONS):
            raise Unexpected(f"an export to a full disk is {failed['status']}: {failed['problem']}")
        stage.tell(f"to a full disk: {failed['problem']['detail']}")
        patient = await _order(stage, "patient")
        await _until_refused(stage, patient["id"])
        make_room()
        patient = await stage.client.final(patient)
        if patient["status"] != "completed":
            raise Unexpected(f"an export is {patient['status']} though there was room: {patient['problem']}")
        load.wrong += await load.references.check_download(patient)
        load.wrong += await _leftovers(stage, patient["id"])
        # the folder goes with the disk
        await stage.client.ask("DELETE", patient["links"]["self"])
    return [failed["id"]]


async def _order(stage: Stage, key: str) -> dict:
    return await stage.client.order(key=key, resource="articles", format="ndjson")


async def _until_refused(stage: Stage, id: str) -> None:
    """Waits until the export was tried in vain."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not await stage.value("SELECT last_error FROM chunks WHERE job_id = %(id)s::uuid", id=id):
        if time.monotonic() > deadline:
            raise Unexpected("the export to a full disk was not refused")
        await asyncio.sleep(0.05)


async def _leftovers(stage: Stage, id: str) -> list[str]:
    """What lies beside the one whole file."""
    names = [path.name for path in stage.exports.iterdir() if id not in path.name]
    return [f"EXPORT_DIR holds what it should not: {names}"] if names else []
