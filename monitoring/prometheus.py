"""Prometheus: its configuration for this service, and its process, which goes on when the terminal is closed."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from db.settings import Settings
from monitoring import multiprocess

HERE = Path(__file__).parent
LOG = "prometheus.log"
TIMEOUT_SECONDS = 15


def configure(config: Settings, folder: Path) -> Path:
    """Writes the configuration of Prometheus to `folder`, with the API's port and, if /metrics requires one, an API key."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "alerts.yml", folder / "alerts.yml")
    text = (HERE / "prometheus.yml").read_text().replace("127.0.0.1:8080", f"127.0.0.1:{config.http_port}")
    key = folder / "api_key"
    key.unlink(missing_ok=True)
    if config.keys and not config.metrics_public:
        key.touch(mode=0o600)
        key.write_text(config.keys[0].key)
        # a relative name, because the folder has another path in the container
        authorization = "    authorization: {credentials_file: api_key}\n"
        text = text.replace("    static_configs:", f"{authorization}    static_configs:")
    (folder / "prometheus.yml").write_text(text)
    return folder


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
