"""Programs that some tests need in addition to Python and PostgreSQL.

`@pytest.mark.needs("curl")` leaves a test out where the program is missing, and the end of the run says so. Where
TEST_REQUIRED names the program, the test fails instead: a machine that promises to run a test cannot leave it out silently.
"""

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

# where `make cluster` installs it
PATRONI = Path(sys.prefix) / "patroni"
# Debian installs some of them in a folder that is only in root's PATH
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:{PATRONI / 'bin'}"
# programs with more than one name
NAMES = {"chromium": ("chromium", "chromium-browser", "google-chrome")}
# the Debian packages, where the name differs from that of the program
PACKAGES = {
    "promtool": "prometheus",
    "etcd": "etcd-server",
    "ip": "iproute2",
    "java": "default-jdk-headless",
    "node": "nodejs",
    "go": "golang-go",
    "systemd-analyze": "systemd",
    "docker": "docker.io",
}
# those that are not Debian's
INSTALLED_BY = {"patroni": "make cluster installs it"}
REASON = re.compile(r"needs ([\w-]+)$")


def find(program: str) -> str | None:
    """The path of an installed program."""
    return next((path for name in NAMES.get(program, (program,)) if (path := shutil.which(name, path=SEARCHED))), None)


def check(program: str) -> None:
    """Skips the running test if the program is missing, or fails it if the program is required."""
    if find(program):
        return
    if program in os.environ.get("TEST_REQUIRED", "").replace(",", " ").split():
        pytest.fail(f"TEST_REQUIRED names {program}, which is not installed", pytrace=False)
    pytest.skip(f"needs {program}")


def summary(reasons: Iterable[str]) -> list[str]:
    """One line for each missing program and for each other reason, from the reasons of skipped tests."""
    why = Counter(_why(reason.removeprefix("Skipped: ")) for reason in reasons)
    return [f"left out {count} {'test' if count == 1 else 'tests'}: {text}" for text, count in sorted(why.items())]


def _why(reason: str) -> str:
    match = REASON.match(reason)
    if not match:
        return reason
    program = match[1]
    install = INSTALLED_BY.get(program) or f"Debian: apt install {PACKAGES.get(program, program)}"
    return f"{program} is not installed ({install})"
