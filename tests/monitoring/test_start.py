"""`make monitoring-start`: with Docker, with the machine's own Prometheus, and with neither."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support import ROOT, programs
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.monitoring import FOLDER
from tests.support.service import unused_port


def monitoring(action: str, folder: Path, *, path: Path, port: int = 9090) -> subprocess.CompletedProcess[str]:
    """Runs `python -m monitoring` on a machine that has only the programs in `path`."""
    return subprocess.run(
        [sys.executable, "-m", "monitoring", action, f"--port={port}"],
        cwd=ROOT,
        env={"PATH": str(path), "DATA_DIR": str(folder / "data")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


@pytest.mark.needs("prometheus")
def test_without_docker_the_machines_own_prometheus_is_started(tmp_path):
    """The message says that Grafana is not started, and why. A second start fails; a stop ends Prometheus."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "prometheus").symlink_to(programs.find("prometheus") or "")
    port = unused_port()
    options = {"path": tmp_path / "bin", "port": port}
    try:
        started = monitoring("start", tmp_path, **options)
        assert started.returncode == 0, started.stderr
        assert f"http://127.0.0.1:{port}" in started.stdout
        assert "Grafana is not started: it runs in a container, and there is no docker" in started.stdout
        assert httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=PATIENCE_SECONDS).status_code == 200
        again = monitoring("start", tmp_path, **options)
        assert (again.returncode, again.stderr) == (
            1,
            "monitoring is started already: `make monitoring-stop` stops it\n",
        )
    finally:
        stopped = monitoring("stop", tmp_path, **options)
    assert (stopped.returncode, stopped.stdout) == (0, "monitoring is stopped\n")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=PATIENCE_SECONDS)
    assert monitoring("stop", tmp_path, **options).stdout == "monitoring is not started\n"


def test_with_neither_nothing_is_started(tmp_path):
    """One line says what is missing."""
    done = monitoring("start", tmp_path, path=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("nothing was started: there is no docker, and there is no `prometheus` on PATH")


def test_with_docker_both_are_started(tmp_path):
    """`docker compose` gets the file, the configuration and the user, and `down` at the stop."""
    log = tmp_path / "log"
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$BULK_PROMETHEUS_CONFIG $BULK_UID $*" >> {log}\n')
    docker.chmod(0o755)
    started = monitoring("start", tmp_path, path=tmp_path)
    assert (started.returncode, started.stdout) == (
        0,
        "Grafana: http://127.0.0.1:3000, Prometheus: http://127.0.0.1:9090\n",
    )
    config = tmp_path / "data" / "monitoring" / "config"
    compose = f"compose --file {FOLDER / 'docker-compose.yml'}"
    assert f"{config} {os.getuid()} {compose} up --detach" in log.read_text()
    assert (config / "prometheus.yml").exists()
    assert monitoring("stop", tmp_path, path=tmp_path).stdout == "monitoring is stopped\n"
    assert log.read_text().endswith(f"{compose} down\n")
