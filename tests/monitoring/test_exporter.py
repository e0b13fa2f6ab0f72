"""The exporter: the metrics of the workers of a machine that has no API."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support import ROOT
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.service import unused_port


async def test_a_machine_without_an_api_exports_the_metrics_of_its_workers(service, tmp_path):
    """The exporter serves the metrics of the machine's workers on its own port; on other interfaces only if that is allowed."""
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
        exporter.communicate(timeout=PATIENCE_SECONDS)
    refused = start_exporter(data_dir, "--host=0.0.0.0")
    assert "METRICS_PUBLIC" in refused.communicate(timeout=PATIENCE_SECONDS)[1]
    assert refused.returncode == 1


def start_exporter(data_dir: Path, argument: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "monitoring.exporter", argument],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(data_dir)},
        stderr=subprocess.PIPE,
        text=True,
    )
