"""Prometheus's configuration, its alert rules and the dashboards, as files."""

import re
from collections import Counter
from itertools import combinations

import pytest
import yaml

from db.settings import Settings
from monitoring.prometheus import configure
from tests.support.monitoring import DASHBOARDS, FOLDER, RULES, dashboard, promtool

RULE_TESTS = yaml.safe_load((FOLDER / "alerts.test.yml").read_text())["tests"]


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("settings", [{}, {"api_keys": "first, second"}, {"api_keys": "key", "metrics_public": True}])
def test_prometheus_accepts_the_configuration(tmp_path, settings):
    """The file in the repository, and the one that is written for the settings, with their port and key."""
    promtool("check", "config", FOLDER / "prometheus.yml")
    config = configure(Settings(http_port=8123, **settings), tmp_path)
    promtool("check", "config", config / "prometheus.yml")
    (job,) = yaml.safe_load((config / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8123"]}]
    needs_key = settings == {"api_keys": "first, second"}
    assert job.get("authorization") == ({"credentials_file": "api_key"} if needs_key else None)
    assert (config / "api_key").exists() == needs_key


@pytest.mark.needs("promtool")
def test_each_alert_fires_when_it_should():
    """promtool runs the cases of alerts.test.yml against the rules."""
    promtool("test", "rules", FOLDER / "alerts.test.yml")


def test_each_alert_has_a_case_that_fires_and_one_that_does_not():
    """Each alert also has a summary and a description."""
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


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap_and_are_described(path):
    """Each panel is within the grid and has a title, a description, a unit, and the selected data source."""
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
    """Each dashboard has its own uid, the provisioned data source exists, and the home page is one of the dashboards."""
    boards = [dashboard(path) for path in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards) == 3
    compose = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())["services"]["grafana"]
    mounts = dict(volume.split(":")[1::-1] for volume in compose["volumes"])
    provider = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/bulk.yml").read_text())["providers"][0]
    folder = provider["options"]["path"]
    assert (FOLDER / mounts[folder]).resolve() == DASHBOARDS[0].parent
    home = compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in [f"{folder}/{path.name}" for path in DASHBOARDS]
    provisioning = FOLDER / mounts["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    interval = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert (source["type"], source["jsonData"]["timeInterval"]) == ("prometheus", interval)
