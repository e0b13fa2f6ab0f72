"""Runs this process again in namespaces of its own: network, processes and mounts.

Everything that is started inside, and the network, the names of its parts and the scratch files in memory, end with it, also
when it is killed.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from db import embedded

# set inside
INSIDE = "CLUSTER_INSIDE"
SCRATCH = Path("/dev/shm")  # noqa: S108  a file system of these namespaces only
SCRATCH_BYTES = 10 << 30
UNSHARE = ("unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child=KILL")
# the first process of the namespace, which has to collect the orphans: PostgreSQL is one of them
INIT = ("sh", "-c", '"$@"; exit $?', "sh")


def obstacle() -> str | None:
    """Why this machine cannot run the cluster, apart from its programs."""
    if os.geteuid() != 0:
        return "root"
    if (
        not shutil.which("unshare")
        or subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode != 0
    ):
        return "namespaces"
    return None


def is_inside() -> bool:
    return INSIDE in os.environ


def run(module: str, arguments: Sequence[str]) -> int:
    """Runs a Python module inside, and returns its exit code. If this process is killed, so is all that runs inside."""
    return subprocess.run(
        [*UNSHARE, *INIT, sys.executable, "-m", module, *arguments],
        env=os.environ | {INSIDE: "1"},
        preexec_fn=embedded.die_with_parent(signal.SIGKILL),
        check=False,
    ).returncode


def enter() -> None:
    """Called first inside: mounts what the namespaces have of their own."""
    Path("/run/netns").mkdir(exist_ok=True)
    _mount("/run/netns", "size=1m")
    _mount(str(SCRATCH), f"size={SCRATCH_BYTES},mode=1777")
    os.environ.pop("TMPDIR", None)


def _mount(folder: str, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "cluster", folder], check=True)
