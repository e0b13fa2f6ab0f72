"""The files of monitoring/, for tests."""

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support import ROOT
from tests.support.eventually import PATIENCE_SECONDS

FOLDER = ROOT / "monitoring"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]


def promtool(*arguments: object, stdin: str | None = None) -> None:
    """Fails with the output of promtool if it reports an error."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr


def dashboard(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
