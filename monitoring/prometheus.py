"""Prometheus as a process of this machine, which goes on when the terminal is closed."""

import os
import signal
import subprocess
import time
from pathlib import Path

from monitoring import multiprocess

LOG = "prometheus.log"
TIMEOUT_SECONDS = 15


def start(binary: str, folder: Path, port: int) -> str | None:
    """Starts it on 127.0.0.1, with its configuration in `folder / "config"`. Returns its identity; None if it does not start."""
    command = [
        binary,
        f"--config.file={folder / 'config' / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = folder / LOG
    with log.open("wb") as output:
        # a new session, because the process shall not end with this terminal
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    identity = multiprocess.identity_of(process.pid)
    is_ready = False
    try:
        is_ready = _becomes_ready(process, log)
    finally:
        if not is_ready:
            stop(identity)
    return identity if is_ready else None


def _becomes_ready(process: subprocess.Popen[bytes], log: Path) -> bool:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while "Server is ready to receive web requests" not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def stop(identity: str) -> None:
    """Stops the process with this identity, if it still runs."""
    pid = int(identity.partition("-")[0])
    for signum in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while multiprocess.is_alive(identity) and time.monotonic() < deadline:
            os.kill(pid, signum)
            time.sleep(0.05)
