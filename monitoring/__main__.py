"""`python -m monitoring start` and `stop`: Prometheus and Grafana in containers, or else the machine's own Prometheus."""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from db import settings
from db.settings import Settings, SettingsError
from monitoring import multiprocess

HERE = Path(__file__).parent
COMPOSE = ["docker", "compose", "--file", str(HERE / "docker-compose.yml")]
IN_CONTAINERS = "containers"
# an engine that hangs is as good as none
ASK_SECONDS = 10
READY_SECONDS = 15
STOP_SECONDS = 10


class Failed(Exception):
    """Monitoring cannot be started or stopped; the message says why."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m monitoring", description="Prometheus and Grafana for this machine")
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("--port", type=int, default=9090, help="of Prometheus, when it does not run in a container")
    arguments = parser.parse_args()
    try:
        given = settings.load()
        message = start(given, port=arguments.port) if arguments.action == "start" else stop(given)
    except (Failed, SettingsError) as error:
        sys.exit(str(error))
    print(message)  # noqa: T201


def start(given: Settings, *, port: int) -> str:
    """Starts what can be started here, and returns what to tell. `port` is that of a Prometheus outside of containers."""
    folder = _folder(given)
    if _running(folder) is not None:
        raise Failed("monitoring is started already: `make monitoring-stop` stops it")
    config = configure(given, folder / "config")
    fault = _containers_fault()
    if fault is None:
        fault = _start_containers(folder, config)
        if fault is None:
            return "Grafana: http://127.0.0.1:3000, Prometheus: http://127.0.0.1:9090"
    binary = shutil.which("prometheus")
    if binary is None:
        raise Failed(
            f"nothing was started: {fault}, and there is no `prometheus` on PATH (Debian: apt install prometheus)"
        )
    _start_binary(binary, folder, config, port)
    return (
        f"Prometheus: http://127.0.0.1:{port}, with the alerts.\n"
        f"Grafana is left out: it comes in a container, and {fault}. Its dashboards lie in monitoring/grafana/dashboards."
    )


def stop(given: Settings) -> str:
    """Stops what `start` has started, and returns what to tell."""
    folder = _folder(given)
    running = _running(folder)
    if running is None:
        return "monitoring is not started"
    if running == IN_CONTAINERS:
        if error := _run([*COMPOSE, "down"], timeout=None):
            raise Failed(f"docker compose: {error}")
    else:
        _stop_process(running)
    (folder / "running").unlink()
    return "monitoring is stopped"


def configure(given: Settings, folder: Path) -> Path:
    """Writes Prometheus's configuration for these settings into `folder`: our port, and a key if /metrics asks for one."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "alerts.yml", folder / "alerts.yml")
    text = (HERE / "prometheus.yml").read_text().replace("127.0.0.1:8080", f"127.0.0.1:{given.http_port}")
    key = folder / "api_key"
    key.unlink(missing_ok=True)
    if given.keys and not given.metrics_public:
        key.touch(mode=0o600)
        key.write_text(given.keys[0].key)
        # a relative name, since the folder has another one in the container
        text = text.replace(
            "    static_configs:", "    authorization: {credentials_file: api_key}\n    static_configs:"
        )
    (folder / "prometheus.yml").write_text(text)
    return folder


def _folder(given: Settings) -> Path:
    return given.data_path / "monitoring"


def _running(folder: Path) -> str | None:
    """What runs: `IN_CONTAINERS`, or the identity of a process."""
    with suppress(FileNotFoundError):
        running = (folder / "running").read_text()
        if running == IN_CONTAINERS or multiprocess.is_alive(running):
            return running
    return None


def _containers_fault() -> str | None:
    """Why no container can be started; None when one can."""
    if shutil.which("docker") is None:
        return "there is no docker"
    if _run(["docker", "compose", "version"], timeout=ASK_SECONDS):
        return "docker has no `compose`"
    if _run(["docker", "info"], timeout=ASK_SECONDS):
        return "the Docker daemon does not answer"
    return None


def _start_containers(folder: Path, config: Path) -> str | None:
    """Returns why that failed."""
    data = folder / "containers"
    data.mkdir(exist_ok=True)
    environment = {
        "BULK_UID": str(os.getuid()),
        "BULK_PROMETHEUS_CONFIG": str(config),
        "BULK_PROMETHEUS_DATA": str(data),
    }
    if error := _run([*COMPOSE, "up", "--detach"], timeout=None, **environment):
        _run([*COMPOSE, "down"], timeout=None)
        return f"docker compose failed ({error})"
    (folder / "running").write_text(IN_CONTAINERS)
    return None


def _run(command: list[str], *, timeout: float | None, **environment: str) -> str:
    """Runs a command; the last line of its complaint, or nothing when all went well."""
    try:
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return "no answer"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _start_binary(binary: str, folder: Path, config: Path, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Failed(f"nothing was started: port {port}: {error.strerror}") from None
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={config / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                "--storage.tsdb.retention.time=15d",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # it outlives us, and the terminal
            start_new_session=True,
        )
    identity = multiprocess.identity_of(process.pid)
    (folder / "running").write_text(identity)
    deadline = time.monotonic() + READY_SECONDS
    while not _is_ready(port):
        if process.poll() is not None or time.monotonic() > deadline:
            _stop_process(identity)
            raise Failed(f"Prometheus did not start, see {log}")
        time.sleep(0.1)


def _is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1) as answer:  # our own address
            return answer.status == 200
    except (URLError, TimeoutError):
        return False


def _stop_process(identity: str) -> None:
    pid = int(identity.partition("-")[0])
    for signum in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS
        if multiprocess.is_alive(identity):
            os.kill(pid, signum)
        while multiprocess.is_alive(identity) and time.monotonic() < deadline:
            time.sleep(0.05)


if __name__ == "__main__":
    main()
