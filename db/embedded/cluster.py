"""Creates the data folder with initdb."""

import os
import shutil
import subprocess
from pathlib import Path

from db.embedded.access import SUPERUSER
from db.embedded.binaries import EmbeddedError, Identity


def initialise(data_path: Path, bin_dir: Path, identity: Identity) -> None:
    """Creates DATA_DIR/postgres. Raises `EmbeddedError`."""
    # under another name first, so that a killed initdb does not leave an incomplete DATA_DIR/postgres
    unfinished = data_path / "postgres.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    if user := identity.popen.get("user"):
        os.chown(unfinished, user, identity.popen["group"])
    done = subprocess.run(
        [
            *identity.prefix,
            *(bin_dir / "initdb", "-D", unfinished, "-U", SUPERUSER, "-E", "UTF8", "--no-locale"),
            *("--auth-local=trust", "--auth-host=scram-sha-256"),
        ],
        capture_output=True,
        text=True,
        check=False,
        **identity.popen,
    )
    if done.returncode != 0:
        raise EmbeddedError(f"initdb failed: {last_error(done.stderr)}")
    unfinished.rename(data_path / "postgres")


def last_error(text: str) -> str:
    """The last error in PostgreSQL's output; its last line if there is none."""
    lines = text.strip().splitlines() or ["no output"]
    return ([line for line in lines if "FATAL:" in line or "error:" in line] or lines)[-1]
