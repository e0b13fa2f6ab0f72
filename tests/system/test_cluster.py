"""A short form of `make cluster`: the primary of three is killed, and then changed by plan, during imports and exports."""

import subprocess
import sys

import pytest

from tests.cluster import isolation
from tests.support import ROOT
from tests.support.eventually import PATIENCE_SECONDS

# a failover takes 20 s, and the start of the cluster as long
PATIENCES = 8


@pytest.mark.needs("etcd", "patroni", "ip")
def test_no_acknowledged_upload_is_lost():
    """Each upload that was acknowledged is final once, each record is stored once, and each export is complete."""
    if obstacle := isolation.obstacle():
        pytest.skip(f"three nodes on one machine cannot do without {obstacle}")
    run = subprocess.run(
        [sys.executable, "-m", "tests.cluster", "--short", "--only", "1", "5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCES * PATIENCE_SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
