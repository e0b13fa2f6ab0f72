"""Making the data folder, which happens once."""

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from db.embedded.binaries import EmbeddedError, Identity


def initialise(data_path: Path, bin_dir: Path, identity: Identity, *, name: str) -> None:
    """Makes DATA_DIR/postgres, and a password for its superuser `name`. Raises `EmbeddedError`."""
    # under another name first: what was begun and never finished must not be taken for whole
    password, unfinished = data_path / "postgres.password", data_path / "postgres.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password.unlink(missing_ok=True)
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(24))
    if user := identity.popen.get("user"):
        for path in (unfinished, password):
            os.chown(path, user, identity.popen["group"])
    done = subprocess.run(
        [
            *identity.prefix,
            *(bin_dir / "initdb", "-D", unfinished, "-U", name, "-E", "UTF8", "--no-locale"),
            *("--auth=scram-sha-256", f"--pwfile={password}"),
        ],
        capture_output=True,
        text=True,
        check=False,
        **identity.popen,
    )
    if done.returncode != 0:
        raise EmbeddedError(f"initdb failed: {complaint(done.stderr)}")
    unfinished.rename(data_path / "postgres")


def complaint(text: str) -> str:
    """The last thing that PostgreSQL complained of, or its last line."""
    lines = text.strip().splitlines() or ["no output"]
    return ([line for line in lines if "FATAL:" in line or "error:" in line] or lines)[-1]
