"""`python -m monitoring start` and `stop`: Prometheus and Grafana in containers, or only Prometheus if Docker does not work."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from db import settings
from db.settings import Settings, SettingsError
from monitoring import multiprocess, prometheus

HERE = Path(__file__).parent
COMPOSE = ("compose", "--file", str(HERE / "docker-compose.yml"))
# the content of the file `running` if containers run; otherwise it has the identity of a process, or it does not exist
CONTAINERS = "containers"
DOCKER_SECONDS = 10


class Failed(Exception):
    """Monitoring cannot be started or stopped; the message gives the reason."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m monitoring", description="Prometheus and Grafana for this machine")
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("--port", type=int, default=9090, help="of Prometheus, when it does not run in a container")
    arguments = parser.parse_args()
    try:
        config = settings.load()
        folder = config.data_path / "monitoring"
        print(start(config, folder, arguments.port) if arguments.action == "start" else stop(folder))  # noqa: T201
    except (Failed, SettingsError) as error:
        sys.exit(str(error))


def start(config: Settings, folder: Path, port: int) -> str:
    """Starts both, or only Prometheus on `port`. Returns the message for the user. Raises `Failed`."""
    if _running(folder):
        raise Failed("monitoring is started already: `make monitoring-stop` stops it")
    prometheus.configure(config, folder / "config")
    try:
        _docker(folder, "info", timeout=DOCKER_SECONDS)
        _docker(folder, *COMPOSE, "up", "--detach")
    except Failed as fault:
        binary = shutil.which("prometheus")
        if binary is None:
            no_binary = "there is no `prometheus` on PATH (Debian: apt install prometheus)"
            raise Failed(f"nothing was started: {fault}, and {no_binary}") from None
        identity = prometheus.start(binary, folder, port)
        if identity is None:
            raise Failed(
                f"nothing was started: Prometheus does not start on port {port}, see {folder / prometheus.LOG}"
            ) from None
        (folder / "running").write_text(identity)
        return (
            f"Prometheus: http://127.0.0.1:{port}, with the alerts.\nGrafana is not started: it runs in a container, and {fault}."
            " Its dashboards are in monitoring/grafana/dashboards."
        )
    (folder / "running").write_text(CONTAINERS)
    return "Grafana: http://127.0.0.1:3000, Prometheus: http://127.0.0.1:9090"


def stop(folder: Path) -> str:
    """Stops what `start` has started. Returns the message for the user. Raises `Failed`."""
    running = _running(folder)
    if not running:
        return "monitoring is not started"
    if running == CONTAINERS:
        _docker(folder, *COMPOSE, "down")
    else:
        prometheus.stop(running)
    (folder / "running").unlink()
    return "monitoring is stopped"


def _running(folder: Path) -> str:
    """The content of the file `running`; empty if nothing runs."""
    file = folder / "running"
    content = file.read_text() if file.exists() else ""
    return content if content in ("", CONTAINERS) or multiprocess.is_alive(content) else ""


def _docker(folder: Path, *arguments: str, timeout: float | None = None) -> None:
    """Runs docker. Raises `Failed`."""
    data = folder / "containers"
    # otherwise docker creates it, as root
    data.mkdir(exist_ok=True)
    environment = {
        "BULK_UID": str(os.getuid()),
        "BULK_PROMETHEUS_CONFIG": str(folder / "config"),
        "BULK_PROMETHEUS_DATA": str(data),
    }
    try:
        subprocess.run(
            ["docker", *arguments], env=os.environ | environment, capture_output=True, timeout=timeout, check=True
        )
    except FileNotFoundError:
        raise Failed("there is no docker") from None
    except subprocess.TimeoutExpired:
        raise Failed("the Docker daemon does not answer") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {error.returncode}"]
        raise Failed(f"docker {' '.join(arguments)} failed ({reason[-1]})") from None


if __name__ == "__main__":
    main()
