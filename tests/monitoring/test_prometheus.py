"""A running service as Prometheus sees it: every panel has data, no alert fires, all metrics are documented."""

import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from db import embedded
from db.settings import Settings
from monitoring import metrics  # noqa: F401  registers the metrics
from monitoring.prometheus import configure
from tests.support import api_client, programs
from tests.support.api_client import USERS_HEADER, user_row
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.monitoring import DASHBOARDS, FOLDER, RULES, dashboard, promtool
from tests.support.service import Service, unused_port
from tests.support.webhooks import UNREACHABLE, setting

KEY = "the-key-of-the-service"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(server_url, tmp_path_factory):
    """A service and, if the program is installed, a Prometheus that scrapes it, after an import and both kinds of exports."""
    folder = tmp_path_factory.mktemp("service")
    settings = {"worker_pool_size": 2, "batch_size": 100, "api_keys": KEY, "webhooks": setting(UNREACHABLE)}
    async with api_client.service(server_url, folder, **settings) as service:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=PATIENCE_SECONDS) as client:
            prometheus = _Prometheus(folder, service) if programs.find("prometheus") else None
            try:
                if prometheus:
                    # wait for the first scrape, so that later counts are an increase
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
    accepted = await client.post("/api/v1/exports", json={"resource": "users", "format": "csv"})
    assert accepted.status_code == 202, accepted.text
    await _is_final(client, accepted.headers["location"])
    assert (await client.get("/api/v1/exports/users/stream")).status_code == 200


async def _is_final(client: httpx.AsyncClient, address: str) -> None:
    async def is_final() -> bool:
        return (await client.get(address)).json()["status"] == "completed"

    await eventually(is_final)


class _Prometheus:
    """The installed Prometheus with the project's configuration, but with an interval of 1 s."""

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
        """The value of the first series; None if there is none or Prometheus is still starting."""
        try:
            if httpx.get(f"{self.url}/-/ready", timeout=PATIENCE_SECONDS).status_code != 200:
                return None
        except httpx.TransportError:
            return None
        return next((float(series["value"][1]) for series in self.query(expression)), None)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)


def expressions() -> list[tuple[str, str, str]]:
    return [
        (path.stem, panel["title"], target["expr"])
        for path in DASHBOARDS
        for panel in dashboard(path)["panels"]
        for target in panel["targets"]
    ]


@pytest.mark.needs("prometheus")
async def test_every_panel_has_data(running):
    """After an import and two exports each query of each panel has series, and the counters of that import have increased."""
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
    """The resources to choose from are the labels of a metric that always exists."""
    _, prometheus = running
    for variable in (entry for path in DASHBOARDS for entry in dashboard(path)["templating"]["list"]):
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert match
            values = {series["metric"][match[2]] for series in prometheus.query(match[1])}
            assert values == {"users", "articles", "comments"}


@pytest.mark.needs("prometheus")
async def test_a_healthy_service_fires_no_alert(running):
    """A healthy service fires no alert."""
    _, prometheus = running
    assert {rule["name"]: rule["health"] for rule in prometheus.rules()} == {rule["alert"]: "ok" for rule in RULES}
    assert prometheus.query('ALERTS{alertstate="firing"}') == []


@pytest.mark.needs("promtool")
async def test_promtool_accepts_the_metrics(running):
    """Names, types, help texts and units follow Prometheus's conventions."""
    text, _ = running
    promtool("check", "metrics", stdin=text)


async def test_the_documented_metrics_are_those_of_the_service(running):
    """The tables of monitoring/README.md name every metric of a scrape and of the code, with its type, and no other."""
    text, _ = running
    scraped = {_name(family): family.type for family in text_string_to_metric_families(text)}
    defined = {
        _name(family): family.type
        for family in REGISTRY.collect()
        if not family.name.startswith(("python_", "process_"))
    }
    documented: dict[str, str] = {}
    for names, kind in re.findall(
        r"^\| (`[^|]+) \| (counter|gauge|histogram) \|", (FOLDER / "README.md").read_text(), re.MULTILINE
    ):
        documented |= dict.fromkeys(re.findall(r"`(\w+)`", names), kind)
    assert documented == scraped | defined


def _name(family: Any) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name
