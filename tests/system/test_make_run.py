"""`make run`, the whole of it: what it does when a part of it is killed that looks after the others."""

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
from tests.support.eventually import eventually
from tests.support.service import unused_port


@dataclass
class Run:
    process: subprocess.Popen[bytes]
    url: str
    data_path: Path

    async def is_ready(self) -> bool:
        """With its workers."""
        with suppress(httpx.TransportError):
            async with httpx.AsyncClient(base_url=self.url, timeout=20) as client:
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
    with postgres.open_folder() as folder:
        port = unused_port()
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        environment |= {
            "HTTP_PORT": str(port),
            "DATA_DIR": str(folder / "data"),
            "EXPORT_DIR": str(folder / "exports"),
            "WORKER_POOL_SIZE": "2",
        }
        with (folder / "log").open("wb") as log:
            # what is installed is the tests' own matter
            process = subprocess.Popen(
                ["make", "--no-print-directory", "--assume-old=install", "run", f"PYTHON={sys.executable}"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        yield Run(process, f"http://127.0.0.1:{port}", folder / "data")
        process.terminate()
        process.wait(timeout=30)


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


async def test_what_is_killed_comes_back_or_takes_the_rest_along(run):
    """PostgreSQL is started again where it was; without honcho, which cannot stop them, API and workers stop by themselves."""
    await eventually(run.is_ready)
    url, killed = embedded.url(run.data_path), run.postmaster
    os.kill(killed, signal.SIGKILL)
    await eventually(lambda: run.postmaster not in (None, killed) and is_there(run))
    assert embedded.url(run.data_path) == url
    await eventually(run.is_ready)
    members = family(run.process.pid)
    honcho = next(pid for pid in members if "honcho --env" in command(pid) and "db.embedded" not in command(pid))
    ours = [pid for pid in family(honcho) if "-m api" in command(pid) or "-m workers" in command(pid)]
    # the API, the pool, and two workers
    assert len(ours) == 4
    os.kill(honcho, signal.SIGKILL)
    await eventually(lambda: not [pid for pid in ours if command(pid)])
    await eventually(lambda: run.process.poll() is not None)
    assert not is_there(run)


def is_there(run: Run) -> bool:
    with suppress(embedded.NotRunning, FileNotFoundError):
        return bool(embedded.url(run.data_path))
    return False
