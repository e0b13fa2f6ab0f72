"""The service's own processes."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from db import embedded
from tests.support import ROOT
from tests.support.eventually import PATIENCE_SECONDS, eventually

# the variables that the processes inherit from the test run; all others are set by the test
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG")
LISTENING = re.compile(r"http://\d+\.\d+\.\d+\.\d+:\d+")


_die_with_parent = embedded.die_with_parent(signal.SIGTERM)


def _prepare_child() -> None:
    """Runs in the child before the program: the child ends with the test run, and SIGHUP is not ignored, as under `nohup`."""
    if _die_with_parent:
        _die_with_parent()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Process:
    """One process of the service. Its output goes to the file `log`. `prefix` is that of its command line."""

    def __init__(self, module: str, environment: dict[str, str], log: Path, *, prefix: Sequence[str] = ()) -> None:
        self.module = module
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [*prefix, sys.executable, "-m", module],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_prepare_child,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """The complete lines that it has logged so far. The last line may be incomplete; all others must be JSON."""
        return [json.loads(line) for line in self.output.splitlines(keepends=True) if line.endswith("\n")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of this event."""
        return [line for line in self.log_lines() if line["event"] == event]

    @property
    def exit_code(self) -> int | None:
        """The exit code: None while the process runs, negative if a signal ended it."""
        return self.popen.poll()

    def children(self) -> list[int]:
        """The pids of its children: the workers of a pool, or the processes of an API that has several."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def send(self, signum: signal.Signals) -> None:
        self.popen.send_signal(signum)

    async def stop(self) -> int:
        """Sends SIGTERM and returns the exit code. The remaining processes of its group are killed."""
        self.send(signal.SIGTERM)
        try:
            await eventually(lambda: self.exit_code is not None)
        finally:
            # the process is the leader of its group: this ends the children that it may have left
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.popen.wait(PATIENCE_SECONDS)
        return self.popen.returncode


@dataclass(frozen=True)
class Service:
    """An API process and a worker pool on one database; either may be None."""

    url: str
    folder: Path
    environment: dict[str, str]
    api: Process | None
    workers: Process | None


@asynccontextmanager
async def running_service(
    folder: Path,
    database: str,
    *,
    run: Sequence[str] = ("api", "workers"),
    prefix: Sequence[str] = (),
    **settings: object,
) -> AsyncIterator[Service]:
    """Starts what `run` names, with `prefix` before the command lines, waits until the API is live, and stops it all at the end.

    `settings` are fields of `Settings`: `running_service(folder, url, worker_pool_size=4, batch_size=100)`. The environment
    of the test run has no effect on them. The kernel chooses the port unless `http_port` is given; HTTP_PORT in
    `environment` is the chosen one, so that a process that is started again takes the same.
    """
    defaults = {
        "database_url": database,
        "data_dir": folder / "data",
        "export_dir": folder / "exports",
        "log_format": "json",
        "http_port": 0,
    }
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment |= {name.upper(): str(value) for name, value in (defaults | settings).items()}
    processes = {module: Process(module, environment, folder / f"{module}.log", prefix=prefix) for module in run}
    try:
        api, workers = processes.get("api"), processes.get("workers")
        url = await eventually(lambda: live_url(api)) if api else ""
        if api:
            environment["HTTP_PORT"] = url.rpartition(":")[2]
        yield Service(url, folder, environment, api, workers)
    finally:
        for process in processes.values():
            await process.stop()


async def live_url(api: Process) -> str | None:
    """The URL of the API, once it responds."""
    assert api.exit_code is None, f"the API ended with {api.exit_code}:\n{api.output}"
    if not (listening := LISTENING.search(api.output)):
        return None
    try:
        async with httpx.AsyncClient(base_url=listening[0], timeout=PATIENCE_SECONDS) as client:
            return listening[0] if (await client.get("/live")).status_code == 200 else None
    except httpx.TransportError:
        return None


def backlog(service: Service) -> int:
    """How many connections wait to be accepted, as the kernel shows it for a listening socket."""
    port = f"{httpx.URL(service.url).port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return next(
        int(line[4].partition(":")[2], 16) for line in lines if line[1].endswith(f":{port}") and line[3] == "0A"
    )


def unused_port() -> int:
    """A port for a program that cannot be given port 0.

    It lies below the range from which the kernel chooses, so that no other process is given it by chance.
    """
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe:
            # as servers do: connections in TIME_WAIT do not occupy the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
