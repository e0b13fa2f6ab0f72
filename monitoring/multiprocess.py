"""Multiprocess mode of prometheus_client: the folder in which the processes of this machine write their metrics.

Each process writes files of its own, and a scrape sums them. prometheus_client names the files after the process id, which
the system reuses: the gauges of a dead process would be counted again, and it would be unknown when the folder can be emptied.
Here the files are named after the process id and the start time of the process.
"""

import fcntl
import os
from functools import cache
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def join(folder: Path) -> None:
    """Makes this process write its metrics to `folder`. Call it before `monitoring.metrics` is imported.

    Removes the files of an earlier run, unless a process of that run is still alive: Prometheus would take a sum that gets
    smaller for a restart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(folder)
    # the API and the workers start at the same time: one must not remove the new files of the other
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = list(folder.glob("*_*"))
        if not any(_alive(path) for path in files):
            for path in files:
                path.unlink()
        (folder / f"joined_{identity()}").touch()


def folder() -> Path | None:
    """The folder that this process writes to; None before `join`."""
    return Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None


def identity() -> str:
    """The name of this process: `<id>-<start time>`. Called at every increment, therefore cached by process id."""
    return identity_of(os.getpid())


@cache
def identity_of(pid: int) -> str:
    """The name of a running process."""
    return f"{pid}-{_started(pid)}"


def is_alive(identity: str) -> bool:
    """Whether the process of this name is running, and not another one with the same id."""
    pid, _, started = identity.partition("-")
    return _started(int(pid)) == started


def sweep(folder: Path) -> None:
    """Removes the gauges of dead processes. Their counters stay, because a sum must not get smaller."""
    for path in folder.glob("gauge_live*_*.db"):
        if not _alive(path):
            path.unlink(missing_ok=True)


def _alive(path: Path) -> bool:
    return is_alive(path.stem.rpartition("_")[2])


def _started(pid: int) -> str | None:
    """The start time of `pid` in clock ticks; None if the process does not exist, "" if the system has no /proc."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (ProcessLookupError, PermissionError):
        # PermissionError: a process of another user, so not the one that wrote the files
        return None
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else ""
    # the second field is the program's name in parentheses, which may contain spaces
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] == b"Z" else fields[19].decode()
