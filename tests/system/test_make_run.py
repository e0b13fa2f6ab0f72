"""`make run`: how it starts, how it ends, and what happens when one of its supervisors is killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from db import embedded
from tests.support import ROOT, postgres
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.service import unused_port

# `install` is taken as done: the tests have an environment of their own
COMMAND = ["make", "--no-print-directory", "--assume-old=install", "run", f"PYTHON={sys.executable}"]


@dataclass
class Run:
    process: subprocess.Popen[bytes]
    url: str
    data_path: Path
    log: Path

    async def is_ready(self) -> bool:
        """With its workers."""
        with suppress(httpx.TransportError):
            async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_SECONDS) as client:
                answer = await client.get("/ready")
                return answer.status_code == 200 and answer.json()["checks"]["workers"]["status"] == "ok"
        return False

    @property
    def postmaster(self) -> int | None:
        """None while there is none, or it has not written its number yet."""
        try:
            return int((self.data_path / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        except (FileNotFoundError, IndexError):
            return None


@pytest.fixture
def run() -> Iterator[Run]:
    with postgres.open_folder(in_memory=True) as folder:
        port = unused_port()
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        environment |= {
            "HTTP_PORT": str(port),
            "DATA_DIR": str(folder / "data"),
            "EXPORT_DIR": str(folder / "exports"),
            "WORKER_POOL_SIZE": "2",
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                COMMAND,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        yield Run(process, f"http://127.0.0.1:{port}", folder / "data", folder / "log")
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def family(pid: int) -> list[int]:
    """`pid` and all below it."""
    members = [pid]
    for member in members:
        members += children(member)
    return members


def command(pid: int) -> str:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


async def test_a_killed_process_is_restarted_or_ends_the_others(run):
    """A killed PostgreSQL is restarted at the same address; after a kill of honcho, API and workers stop."""
    await eventually(run.is_ready)
    url, killed = embedded.url(run.data_path), run.postmaster
    os.kill(killed, signal.SIGKILL)
    await eventually(lambda: run.postmaster not in (None, killed) and is_there(run))
    assert embedded.url(run.data_path) == url
    await eventually(run.is_ready)
    members = family(run.process.pid)
    honcho = next(pid for pid in members if "honcho --env" in command(pid) and "db.embedded" not in command(pid))
    ours = [pid for pid in family(honcho) if "-m api" in command(pid) or "-m workers" in command(pid)]
    # the API, the pool, and two workers; a worker may just have been replaced
    assert len(ours) >= 4
    os.kill(honcho, signal.SIGKILL)
    await eventually(lambda: not [pid for pid in ours if command(pid)])
    await eventually(lambda: run.process.poll() is not None)
    assert not is_there(run)


async def test_the_first_line_a_port_in_use_and_ctrl_c(run):
    """The first line has the address; a second copy names the setting and the first copy; Ctrl-C is no failure."""
    await eventually(run.is_ready)
    assert run.log.read_text().startswith(f"{run.url} ")
    environment = os.environ | {"HTTP_PORT": run.url.rpartition(":")[2]}
    second = await asyncio.to_thread(
        subprocess.run, COMMAND, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    address = run.url.removeprefix("http://")
    assert f"api: HTTP_PORT: {address} is in use by another copy of this service\n" in second.stderr
    assert second.stdout == ""
    # as the terminal does: to the whole foreground group
    os.killpg(run.process.pid, signal.SIGINT)
    await eventually(lambda: run.process.poll() is not None)
    assert "***" not in run.log.read_text()
    assert not is_there(run)


def is_there(run: Run) -> bool:
    with suppress(embedded.NotRunning, FileNotFoundError):
        return bool(embedded.url(run.data_path))
    return False
