"""The disk of EXPORT_DIR is full: an export fails with the reason, the next one waits until there is room; imports continue."""

import asyncio
import time

from tests.chaos import disk
from tests.chaos.client import Unexpected
from tests.chaos.environment import Environment
from tests.chaos.load import Load

REASONS = ("No space left on device", "File too large")
WAIT_SECONDS = 30


async def run(env: Environment, load: Load) -> list[str]:
    """The id of the export that has failed, in a list."""

    def pids() -> list[int]:
        return [env.workers.pid, *env.workers.children()]

    with disk.full(env.exports, pids) as make_room:
        env.fault_counts["disk full"] += 1
        failed = await env.client.final(await _export(env, "too large"))
        if failed["status"] != "failed" or not any(reason in failed["problem"]["detail"] for reason in REASONS):
            raise Unexpected(f"an export to a full disk is {failed['status']}: {failed['problem']}")
        env.log(f"to a full disk: {failed['problem']['detail']}")
        second = await _export(env, "second")
        await _until_refused(env, second["id"])
        make_room()
        second = await env.client.final(second)
        if second["status"] != "completed":
            raise Unexpected(f"an export is {second['status']} though there was room: {second['problem']}")
        load.wrong += await load.references.check_download(second)
        load.wrong += await _leftovers(env, second["id"])
        # the folder disappears with the disk
        await env.client.ask("DELETE", second["links"]["self"])
    return [failed["id"]]


async def _export(env: Environment, key: str) -> dict:
    return await env.client.export(key=key, resource="articles", format="ndjson")


async def _until_refused(env: Environment, id: str) -> None:
    """Waits until an attempt of the export has failed."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not await env.value("SELECT last_error FROM chunks WHERE job_id = %(id)s::uuid", id=id):
        if time.monotonic() > deadline:
            raise Unexpected("the export to a full disk was not refused")
        await asyncio.sleep(0.05)


async def _leftovers(env: Environment, id: str) -> list[str]:
    """The files other than the one complete export."""
    names = [path.name for path in env.exports.iterdir() if id not in path.name]
    return [f"EXPORT_DIR holds what it should not: {names}"] if names else []
