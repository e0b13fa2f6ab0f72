"""`python -m monitoring start` and `stop`: Prometheus and Grafana in containers, or only Prometheus if Docker does not work."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from db import settings
from db.settings import Settings, SettingsError
from monitoring import multiprocess

HERE = Path(__file__).parent
COMPOSE = ("compose", "--file", str(HERE / "docker-compose.yml"))
# the content of the file `running` if containers run; otherwise it has the identity of a process
IN_CONTAINERS = "containers"
DOCKER_SECONDS = 10
PROMETHEUS_SECONDS = 15
READY = "Server is ready to receive web requests"


class Failed(Exception):
    """Monitoring cannot be started or stopped; the message gives the reason."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m monitoring", description="Prometheus and Grafana for this machine")
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("--port", type=int, default=9090, help="of Prometheus, when it does not run in a container")
    arguments = parser.parse_args()
    try:
        config = settings.load()
        message = start(config, port=arguments.port) if arguments.action == "start" else stop(config)
    except (Failed, SettingsError) as error:
        sys.exit(str(error))
    print(message)  # noqa: T201


def start(config: Settings, *, port: int) -> str:
    """Starts both, or only Prometheus on `port`. Returns the message for the user. Raises `Failed`."""
    folder = config.data_path / "monitoring"
    if _running(folder) is not None:
        raise Failed("monitoring is started already: `make monitoring-stop` stops it")
    configure(config, folder / "config")
    fault = _start_containers(folder)
    if fault is None:
        return "Grafana: http://127.0.0.1:3000, Prometheus: http://127.0.0.1:9090"
    binary = shutil.which("prometheus")
    if binary is None:
        raise Failed(
            f"nothing was started: {fault}, and there is no `prometheus` on PATH (Debian: apt install prometheus)"
        )
    _start_prometheus(binary, folder, port)
    return (
        f"Prometheus: http://127.0.0.1:{port}, with the alerts.\n"
        f"Grafana is not started: it runs in a container, and {fault}. Its dashboards are in monitoring/grafana/dashboards."
    )


def stop(config: Settings) -> str:
    """Stops what `start` has started. Returns the message for the user. Raises `Failed`."""
    folder = config.data_path / "monitoring"
    running = _running(folder)
    if running is None:
        return "monitoring is not started"
    if running != IN_CONTAINERS:
        _stop_process(running)
    elif fault := _docker(*COMPOSE, "down"):
        raise Failed(fault)
    (folder / "running").unlink()
    return "monitoring is stopped"


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


def _running(folder: Path) -> str | None:
    """`IN_CONTAINERS`, or the identity of the running process; None if nothing runs."""
    with suppress(FileNotFoundError):
        running = (folder / "running").read_text()
        if running == IN_CONTAINERS or multiprocess.is_alive(running):
            return running
    return None


def _start_containers(folder: Path) -> str | None:
    """Returns None, or why no containers could be started."""
    data = folder / "containers"
    data.mkdir(exist_ok=True)
    environment = {
        "BULK_UID": str(os.getuid()),
        "BULK_PROMETHEUS_CONFIG": str(folder / "config"),
        "BULK_PROMETHEUS_DATA": str(data),
    }
    fault = _docker("info", timeout=DOCKER_SECONDS) or _docker(*COMPOSE, "up", "--detach", environment=environment)
    if fault is None:
        (folder / "running").write_text(IN_CONTAINERS)
    return fault


def _docker(*arguments: str, timeout: float | None = None, environment: Mapping[str, str] | None = None) -> str | None:
    """Runs docker. Returns None, or why it failed."""
    try:
        subprocess.run(
            ["docker", *arguments],
            env={**os.environ, **(environment or {})},
            capture_output=True,
            timeout=timeout,
            check=True,
        )
    except FileNotFoundError:
        return "there is no docker"
    except subprocess.TimeoutExpired:
        return "the Docker daemon does not answer"
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {error.returncode}"]
        return f"docker {' '.join(arguments)} failed ({reason[-1]})"
    return None


def _start_prometheus(binary: str, folder: Path, port: int) -> None:
    command = [
        binary,
        f"--config.file={folder / 'config' / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--storage.tsdb.retention.time=15d",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        # a new session, because the process shall not end with this terminal
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    identity = multiprocess.identity_of(process.pid)
    (folder / "running").write_text(identity)
    deadline = time.monotonic() + PROMETHEUS_SECONDS
    while READY not in log.read_text(errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline:
            _stop_process(identity)
            raise Failed(f"nothing was started: Prometheus does not start on port {port}, see {log}")
        time.sleep(0.1)


def _stop_process(identity: str) -> None:
    pid = int(identity.partition("-")[0])
    for signum in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + PROMETHEUS_SECONDS
        if multiprocess.is_alive(identity):
            os.kill(pid, signum)
        while multiprocess.is_alive(identity) and time.monotonic() < deadline:
            time.sleep(0.05)


if __name__ == "__main__":
    main()
