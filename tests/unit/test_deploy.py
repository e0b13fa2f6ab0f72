"""The files in `.deploy` agree with the code, the settings and each other. tests/system/test_image.py runs them."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from db.settings import Settings
from tests.cluster.patroni import RECOMMENDED
from tests.support import ROOT, programs
from tests.support.eventually import PATIENCE_SECONDS

FOLDER = ROOT / ".deploy"
UNITS = sorted((FOLDER / "systemd").glob("*.service"))
COMMON = FOLDER / "systemd" / "bulk-.service.d" / "common.conf"
# what docker and systemd need themselves, and what the libraries read
OTHER_VARIABLES = re.compile(r"PATH|HOME|PYTHON[A-Z]+|AWS_[A-Z_]+|BULK_API_KEY")
# the interpreter that the units run
INSTALLED = "/opt/bulk/.venv/bin/python"


def compose(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())["services"]


def of_the_image(services: dict[str, Any]) -> dict[str, Any]:
    """Those that run the image of the service."""
    return {name: service for name, service in services.items() if "BULK_IMAGE" in service["image"]}


def entry_point() -> str:
    return (FOLDER / "entrypoint").read_text()


def dockerfile() -> str:
    return (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")


def systemd() -> str:
    return "\n".join(path.read_text() for path in (*UNITS, COMMON))


def stop_seconds(environment: dict[str, str]) -> float:
    """How long a process may take to stop."""
    drain, stop = (
        environment.get(name.upper(), getattr(Settings(), name)) for name in ("drain_seconds", "stop_seconds")
    )
    return float(drain) + float(stop)


def of_the_cluster() -> dict[str, Any]:
    """The services that compose.cluster.yaml adds, and does not derive from those of compose.yaml."""
    services = compose("compose.cluster.yaml")
    return {name: one for name, one in services.items() if name not in compose("compose.yaml") and "extends" not in one}


@pytest.mark.parametrize("services", [compose("compose.yaml"), of_the_cluster()], ids=["single", "cluster"])
def test_services_are_confined(services):
    """No container can write to its image or keeps a capability; ports are open to this machine only; what is mounted exists."""
    assert services
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        sources = [volume.partition(":")[0] for volume in service.get("volumes", [])]
        assert all((FOLDER / source).exists() for source in sources if source.startswith("."))


def test_the_processes_find_what_they_need():
    """Commands are those of the entry point, variables are settings, and there is time to stop."""
    services = of_the_image(compose("compose.yaml"))
    assert {"api", "workers", "migrate"} == {service["command"] for service in services.values()}
    for service in services.values():
        assert f"    {service['command']})\n" in entry_point()
        assert set(service["environment"]) <= {field.upper() for field in Settings.__struct_fields__}
        assert float(service["stop_grace_period"].removesuffix("s")) > stop_seconds(service["environment"])
        assert service["tmpfs"] == "/tmp"  # noqa: S108
    exports = [service["volumes"] for service in services.values() if service["command"] != "migrate"]
    assert exports == [["exports:/exports"]] * len(exports)


def test_the_nodes_of_the_cluster_know_each_other():
    """Each is known by the name of its service, to etcd, to Patroni and to the processes of the service. Patroni has the
    settings that the tests of the cluster use."""
    services = compose("compose.cluster.yaml")
    nodes = [name for name in services if name.startswith("postgres")]
    members = [name for name in services if name.startswith("etcd")]
    assert len(nodes) == len(members) == 3
    for name in nodes:
        environment = services[name]["environment"]
        assert environment["PATRONI_NAME"] == name
        assert environment["PATRONI_RESTAPI_CONNECT_ADDRESS"] == f"{name}:8008"
        assert environment["PATRONI_POSTGRESQL_CONNECT_ADDRESS"] == f"{name}:5432"
    for name in members:
        environment = services[name]["environment"]
        assert environment["ETCD_NAME"] == name
        assert environment["ETCD_INITIAL_ADVERTISE_PEER_URLS"] == f"http://{name}:2380"
        assert environment["ETCD_INITIAL_CLUSTER"] == ",".join(f"{one}=http://{one}:2380" for one in members)
    patroni = yaml.safe_load((FOLDER / "cluster" / "patroni.yml").read_text())
    assert patroni["etcd3"]["hosts"] == [f"{name}:2379" for name in members]
    assert patroni["bootstrap"]["dcs"].items() >= RECOMMENDED.items()
    for name in ("migrate", "api", "workers"):
        assert (
            f"@{','.join(nodes)}/bulk?target_session_attrs=read-write" in services[name]["environment"]["DATABASE_URL"]
        )


def test_all_variables_are_settings():
    """Those of the image, of its entry point and of the units."""
    names = re.findall(r"\b([A-Z_]+)=", " ".join(re.findall(r"^ENV (.*)", dockerfile(), re.MULTILINE)))
    names += re.findall(r"\b([A-Z_]+)=", " ".join(re.findall(r"^Environment=(.*)", systemd(), re.MULTILINE)))
    names += re.findall(r"^([A-Z_]+)=", (FOLDER / "systemd" / "bulk.env").read_text(), re.MULTILINE)
    names += re.findall(r"^for name in (.*); do", entry_point(), re.MULTILINE)[0].split()
    settings = {field.upper() for field in Settings.__struct_fields__}
    assert {"DATA_DIR", "EXPORT_DIR", "API_KEYS", "DATABASE_URL", "LOG_FORMAT"} <= set(names)
    assert [name for name in names if name not in settings and not OTHER_VARIABLES.fullmatch(name)] == []


def test_all_modules_exist():
    """Those that the entry point, the image and the units run."""
    modules = re.findall(r"python -m (\S+)", entry_point() + systemd())
    assert {"api", "workers", "db.migrate", "monitoring.exporter"} <= set(modules)
    assert [module for module in modules if not find_spec(module)] == []


def test_the_image_has_the_packages_and_no_postgresql():
    """Every package of the project gets into the image, on a supported Python, without the embedded server."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = {line[2:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!/")}
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == {
        name for name in copied if (ROOT / name / "__init__.py").exists()
    }
    base = re.findall(r"^ARG PYTHON_IMAGE=python:([\d.]+)-slim$", dockerfile(), re.MULTILINE)
    assert SpecifierSet(project["project"]["requires-python"]).contains(base[0])
    (embedded,) = (re.split(r"[ >]", one)[0] for one in project["project"]["optional-dependencies"]["embedded"])
    assert f"pip uninstall --yes {embedded} " in dockerfile()


def test_grafana_and_prometheus_are_provisioned():
    """The images are those of `make monitoring-start`; Grafana gets the address of Prometheus, and that the addresses of both."""
    ours, local = (
        compose("compose.yaml"),
        yaml.safe_load((ROOT / "monitoring" / "docker-compose.yml").read_text())["services"],
    )
    source = (ROOT / "monitoring/grafana/provisioning/datasources/prometheus.yml").read_text()
    assert "url: ${PROMETHEUS_URL}\n" in source
    for name in ("prometheus", "grafana"):
        assert ours[name]["image"].endswith(f":-{local[name]['image']}}}")
    assert local["grafana"]["environment"]["PROMETHEUS_URL"] == "http://127.0.0.1:9090"
    assert ours["grafana"]["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}
    assert targets == {"bulk": ["api:8080"], "bulk-workers": ["workers:9101"]}
    assert "EXPOSE 8080 9101" in dockerfile()
    assert "--port 9101" in entry_point()


@pytest.mark.needs("promtool")
def test_prometheus_accepts_its_configuration(tmp_path):
    """With the rules beside it, as in the container."""
    for path in (FOLDER / "prometheus.yml", ROOT / "monitoring" / "alerts.yml"):
        shutil.copy(path, tmp_path)
    done = run("promtool", "check", "config", str(tmp_path / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_units_give_time_to_stop():
    """TimeoutStopSec is longer than the defaults of the settings."""
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", systemd(), re.MULTILINE)
    assert float(seconds) > stop_seconds({})


@pytest.mark.needs("systemd-analyze")
def test_systemd_accepts_the_units(tmp_path):
    """They are valid, and systemd rates their exposure below 2 of 10."""
    shutil.copytree(FOLDER / "systemd", tmp_path / "systemd")
    units = [tmp_path / "systemd" / unit.name for unit in UNITS]
    for unit in units:
        assert INSTALLED in unit.read_text()
        # verify looks for the program
        unit.write_text(unit.read_text().replace(INSTALLED, sys.executable))
    verified = run("systemd-analyze", "verify", *map(str, units))
    # it may have warnings about units of this machine
    assert (verified.returncode, [line for line in verified.stderr.splitlines() if "bulk-" in line]) == (0, [])
    rated = run("systemd-analyze", "security", "--offline=true", "--threshold=20", *map(str, units))
    assert rated.returncode == 0, rated.stdout + rated.stderr


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [programs.find(program) or program, *arguments], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
