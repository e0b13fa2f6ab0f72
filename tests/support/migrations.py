"""Migrations in processes of their own."""

import subprocess
import sys
from pathlib import Path

from tests.support import ROOT


def start_migrator(url: str, folder: Path) -> subprocess.Popen:
    """Starts a process that applies the migrations of `folder`."""
    script = "import pathlib, sys; from db import migrate; migrate.up(sys.argv[1], folder=pathlib.Path(sys.argv[2]))"
    return subprocess.Popen([sys.executable, "-c", script, url, folder], cwd=ROOT)
