"""Prometheus's configuration, its rules and the dashboards, with promtool and a real Prometheus where the machine has them."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from api import health
from db import embedded
from db.settings import Settings
from monitoring import metrics  # noqa: F401  defines what the registry tells
from monitoring.__main__ import configure
from tests.support import ROOT, api_client, programs
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.service import Service, unused_port

HERE = ROOT / "monitoring"
DASHBOARDS = sorted((HERE / "grafana" / "dashboards").glob("*.json"))
RULES = yaml.safe_load((HERE / "alerts.yml").read_text())["groups"][0]["rules"]
RULE_TESTS = yaml.safe_load((HERE / "alerts.test.yml").read_text())["tests"]


def promtool(*arguments: object, given: str | None = None) -> None:
    done = subprocess.run(["promtool", *map(str, arguments)], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ── the configuration and the rules ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("given", [{}, {"api_keys": "first, second"}, {"api_keys": "key", "metrics_public": True}])
def test_prometheus_takes_the_configuration(tmp_path, given):
    """As it lies there, and as it is written for the settings, which decide on the port and on the key."""
    promtool("check", "config", HERE / "prometheus.yml")
    config = configure(Settings(http_port=8123, **given), tmp_path)
    promtool("check", "config", config / "prometheus.yml")
    (job,) = yaml.safe_load((config / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8123"]}]
    needs_key = given == {"api_keys": "first, second"}
    assert job.get("authorization") == ({"credentials_file": "api_key"} if needs_key else None)
    assert (config / "api_key").exists() == needs_key


@pytest.mark.needs("promtool")
def test_each_alert_fires_when_it_should():
    """promtool runs the cases of alerts.test.yml against the rules."""
    promtool("test", "rules", HERE / "alerts.test.yml")


def test_each_alert_has_a_case_each_way():
    """One case of which the samples are there, one of which they are not; and each alert says what to do."""
    cases = Counter(
        (match[1], bool(case["exp_samples"]))
        for test in RULE_TESTS
        for case in test["promql_expr_test"]
        if (match := re.search(r'alertname="(\w+)"', case["expr"]))
    )
    names = [rule["alert"] for rule in RULES]
    assert cases == Counter((name, fires) for name in names for fires in (True, False))
    for rule in RULES:
        assert {"summary", "description"} == rule["annotations"].keys()


# ── the dashboards, as they are written ───────────────────────────────────────────────────────────────────────────────


def dashboard(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_are_drawn_with_care(path):
    """No overlaps, nothing beyond the edge; each has a title, a description, a unit, and the data source that was chosen."""
    board = dashboard(path)
    assert (
        board["templating"]["list"][0] | {"name": "datasource", "type": "datasource", "query": "prometheus"}
        == (board["templating"]["list"][0])
    )
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) > 0
    for panel in panels:
        assert panel["type"] in ("stat", "timeseries", "bargauge")
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        assert panel["targets"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)


def test_grafana_finds_the_dashboards():
    """Each has an address of its own, the data source it is provisioned with exists, and the first page is one of them."""
    boards = [dashboard(path) for path in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) == 3
    compose = yaml.safe_load((HERE / "docker-compose.yml").read_text())["services"]["grafana"]
    mounts = dict(volume.split(":")[1::-1] for volume in compose["volumes"])
    provider = yaml.safe_load((HERE / "grafana/provisioning/dashboards/bulk.yml").read_text())["providers"][0]
    folder = provider["options"]["path"]
    assert (HERE / mounts[folder]).resolve() == DASHBOARDS[0].parent
    home = compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in [f"{folder}/{path.name}" for path in DASHBOARDS]
    provisioning = HERE / mounts["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    interval = yaml.safe_load((HERE / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert (source["type"], source["jsonData"]["timeInterval"]) == ("prometheus", interval)


# ── what a running service tells ──────────────────────────────────────────────────────────────────────────────────────


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(server_url, tmp_path_factory):
    """A service and, where there is one, a Prometheus that scrapes it, with an import and both kinds of exports behind them."""
    folder = tmp_path_factory.mktemp("service")
    async with api_client.service(
        server_url, folder, worker_pool_size=2, batch_size=100, api_keys="the-only-key-there-is"
    ) as service:
        headers = {"Authorization": "Bearer the-only-key-there-is"}
        async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=PATIENCE_SECONDS) as client:
            prometheus = _Prometheus(folder, service) if programs.find("prometheus") else None
            try:
                if prometheus:
                    # the first scrape, so that what is counted then is seen to grow
                    await eventually(lambda: prometheus.value('up{job="bulk"} == 1'))
                await _work(client)
                yield (await client.get("/metrics")).text, prometheus
            finally:
                if prometheus:
                    prometheus.stop()


async def _work(client: httpx.AsyncClient) -> None:
    file = USERS_HEADER + b"".join(user_row(n) for n in range(1000)) + b"no address,X,king,true\n"
    posted = await client.post(
        api_client.PATH,
        content=file,
        params={"resource": "users"},
        headers={"Content-Type": "text/csv", "Idempotency-Key": "once"},
    )
    assert posted.status_code == 202, posted.text
    await _is_final(client, posted.headers["location"])
    ordered = await client.post("/api/v1/exports", json={"resource": "users", "format": "csv"})
    assert ordered.status_code == 202, ordered.text
    await _is_final(client, ordered.headers["location"])
    assert (await client.get("/api/v1/exports/users/stream")).status_code == 200


async def _is_final(client: httpx.AsyncClient, address: str) -> None:
    async def is_final() -> bool:
        return (await client.get(address)).json()["status"] == "completed"

    await eventually(is_final)


class _Prometheus:
    """The machine's own Prometheus with our configuration, but faster."""

    def __init__(self, folder: Path, service: Service) -> None:
        environment = service.environment
        settings = Settings(http_port=int(environment["HTTP_PORT"]), api_keys=environment["API_KEYS"])
        config = configure(settings, folder / "config") / "prometheus.yml"
        config.write_text(re.sub(r"(?<=_interval: )10s|(?<=_timeout: )5s", "1s", config.read_text()))
        self.url = f"http://127.0.0.1:{unused_port()}"
        with (folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=embedded.die_with_parent(signal.SIGTERM),
            )

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return answer.json()["data"]["result"]

    def rules(self) -> list[dict[str, Any]]:
        return httpx.get(f"{self.url}/api/v1/rules", timeout=PATIENCE_SECONDS).json()["data"]["groups"][0]["rules"]

    def value(self, expression: str) -> float | None:
        """None also while it starts, when it does not listen yet or says 503."""
        try:
            if httpx.get(f"{self.url}/-/ready", timeout=PATIENCE_SECONDS).status_code != 200:
                return None
        except httpx.TransportError:
            return None
        return next((float(series["value"][1]) for series in self.query(expression)), None)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def expressions() -> list[tuple[str, str, str]]:
    return [
        (path.stem, panel["title"], target["expr"])
        for path in DASHBOARDS
        for panel in dashboard(path)["panels"]
        for target in panel["targets"]
    ]


@pytest.mark.needs("prometheus")
async def test_every_panel_shows_something(running):
    """After an import and two exports each query of each panel has series; and the counts of that import were seen to grow."""
    _, prometheus = running
    refused = 'sum(increase(bulk_record_errors_total{resource="users", code="invalid_format"}[5m]))'
    await eventually(lambda: prometheus.value(f"{refused} > 0"))
    assert (
        prometheus.value('sum(increase(bulk_records_total{kind="import", resource="users", result="created"}[5m]))')
        > 900
    )
    written = {"$__rate_interval": "1m", "$__range": "1h", "$resource": ".*"}
    for name, title, expression in expressions():
        for variable, value in written.items():
            expression = expression.replace(variable, value)
        # a rate needs two scrapes
        try:
            await eventually(lambda expression=expression: prometheus.query(expression))
        except AssertionError:
            pytest.fail(f"{name}, {title}: no series for {expression}")


@pytest.mark.needs("prometheus")
async def test_variables_have_values(running):
    """The list of resources to choose from comes from a metric that is always told."""
    _, prometheus = running
    for variable in (entry for path in DASHBOARDS for entry in dashboard(path)["templating"]["list"]):
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert match
            values = {series["metric"][match[2]] for series in prometheus.query(match[1])}
            assert values == {"users", "articles", "comments"}


@pytest.mark.needs("prometheus")
async def test_the_rules_are_loaded_and_quiet(running):
    """A healthy service fires no alert."""
    _, prometheus = running
    assert {rule["name"]: rule["health"] for rule in prometheus.rules()} == {rule["alert"]: "ok" for rule in RULES}
    assert prometheus.query('ALERTS{alertstate="firing"}') == []


@pytest.mark.needs("promtool")
async def test_promtool_finds_no_fault_in_the_metrics(running):
    """Names, types, help texts and units are as Prometheus wants them."""
    text, _ = running
    promtool("check", "metrics", given=text)


async def test_the_documented_metrics_are_those_that_are_told(running):
    """The tables of monitoring/README.md name every metric of a scrape and of the code, with its type, and no other."""
    text, _ = running
    told = {_name(family): family.type for family in text_string_to_metric_families(text)}
    defined = {
        _name(family): family.type
        for family in REGISTRY.collect()
        if not family.name.startswith(("python_", "process_"))
    }
    documented: dict[str, str] = {}
    for names, kind in re.findall(
        r"^\| (`[^|]+) \| (counter|gauge|histogram) \|", (HERE / "README.md").read_text(), re.MULTILINE
    ):
        documented |= dict.fromkeys(re.findall(r"`(\w+)`", names), kind)
    assert documented == told | defined


def _name(family: Any) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


async def test_a_machine_without_an_api_tells_of_its_workers(service, tmp_path):
    """The exporter serves what the workers beside it count, on its own port; beyond loopback only when that was allowed."""
    data_dir = tmp_path / "data"
    await service(run=["workers"], worker_pool_size=2, data_dir=data_dir)
    port = unused_port()

    async def shows_both() -> bool:
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
            try:
                return "\nbulk_workers 2.0\n" in (await client.get(f"http://127.0.0.1:{port}/metrics")).text
            except httpx.TransportError:
                return False

    exporter = start_exporter(data_dir, f"--port={port}")
    try:
        await eventually(shows_both)
    finally:
        exporter.terminate()
        exporter.communicate()
    refused = start_exporter(data_dir, "--host=0.0.0.0")
    assert "METRICS_PUBLIC" in refused.communicate()[1]
    assert refused.returncode == 1


def start_exporter(data_dir: Path, argument: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "monitoring.exporter", argument],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(data_dir)},
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_a_check_that_hangs_is_repeated(monkeypatch):
    """A probe is answered in time while its check hangs. The check does not run twice at once and is in the end repeated."""
    monkeypatch.setattr(health, "DEADLINE_SECONDS", 0.01)
    runs = []

    async def run() -> str:
        runs.append(1)
        if len(runs) == 1:
            await asyncio.Event().wait()
        return "passed"

    check = health.CachedCheck(run)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await check.result()
    assert len(runs) == 1
    monkeypatch.setattr(health, "ABANDON_SECONDS", 0)
    assert await check.result() == "passed"
    assert await check.result() == "passed"
    assert len(runs) == 2


# ── make monitoring-start ─────────────────────────────────────────────────────────────────────────────────────────────


def monitoring(action: str, folder: Path, *, path: Path, port: int = 9090) -> subprocess.CompletedProcess[str]:
    """Runs `python -m monitoring` on a machine that has only the programs in `path`."""
    return subprocess.run(
        [sys.executable, "-m", "monitoring", action, f"--port={port}"],
        cwd=ROOT,
        env={"PATH": str(path), "DATA_DIR": str(folder / "data")},
        capture_output=True,
        text=True,
    )


@pytest.mark.needs("prometheus")
def test_without_docker_the_machines_own_prometheus_is_started(tmp_path):
    """The message says that Grafana is not started, and why. A second start fails; a stop ends Prometheus."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "prometheus").symlink_to(programs.find("prometheus") or "")
    port = unused_port()
    here = {"path": tmp_path / "bin", "port": port}
    try:
        started = monitoring("start", tmp_path, **here)
        assert started.returncode == 0, started.stderr
        assert f"http://127.0.0.1:{port}" in started.stdout
        assert "Grafana is not started: it runs in a container, and there is no docker" in started.stdout
        assert httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=PATIENCE_SECONDS).status_code == 200
        again = monitoring("start", tmp_path, **here)
        assert (again.returncode, again.stderr) == (
            1,
            "monitoring is started already: `make monitoring-stop` stops it\n",
        )
    finally:
        stopped = monitoring("stop", tmp_path, **here)
    assert (stopped.returncode, stopped.stdout) == (0, "monitoring is stopped\n")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=PATIENCE_SECONDS)
    assert monitoring("stop", tmp_path, **here).stdout == "monitoring is not started\n"


def test_with_neither_nothing_is_started(tmp_path):
    """One line says what is missing."""
    done = monitoring("start", tmp_path, path=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("nothing was started: there is no docker, and there is no `prometheus` on PATH")


def test_with_docker_both_are_started(tmp_path):
    """`docker compose` is told which file, which configuration and whose user; and to stop what it has started."""
    said = tmp_path / "said"
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$BULK_PROMETHEUS_CONFIG $BULK_UID $*" >> {said}\n')
    docker.chmod(0o755)
    started = monitoring("start", tmp_path, path=tmp_path)
    assert (started.returncode, started.stdout) == (
        0,
        "Grafana: http://127.0.0.1:3000, Prometheus: http://127.0.0.1:9090\n",
    )
    config = tmp_path / "data" / "monitoring" / "config"
    compose = f"compose --file {HERE / 'docker-compose.yml'}"
    assert f"{config} {os.getuid()} {compose} up --detach" in said.read_text()
    assert (config / "prometheus.yml").exists()
    assert monitoring("stop", tmp_path, path=tmp_path).stdout == "monitoring is stopped\n"
    assert said.read_text().endswith(f"{compose} down\n")
