"""The folder in which the processes of this machine add up their metrics.

prometheus_client keeps a process's numbers in files named for the process, and a scrape sums the files. Two things go wrong
with its own way, which is the process id alone: ids come again, so a dead process's gauges would count as present for ever;
and nobody knows when the folder may be emptied. So the files are named for the id *and* the start time of the process.
"""

import fcntl
import os
from functools import cache
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def join(folder: Path) -> None:
    """Makes this process count in `folder`. Call it before anything imports `monitoring.metrics`.

    The files of an earlier run are removed, unless a process of that run still lives: its sums must not shrink under the
    eyes of Prometheus, which would take that for a restart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(folder)
    # the api and the workers start at the same moment: one must not remove what the other has just begun
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = list(folder.glob("*_*"))
        if not any(_alive(path) for path in files):
            for path in files:
                path.unlink()
        (folder / f"joined_{identity()}").touch()


def folder() -> Path | None:
    """The folder that this process has joined."""
    return Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None


def identity() -> str:
    """The name of this process: `<id>-<start time>`. Asked for at every increment, hence the cache; right after a fork too."""
    return identity_of(os.getpid())


@cache
def identity_of(pid: int) -> str:
    """The name of another process, which lives."""
    return f"{pid}-{_started(pid)}"


def is_alive(identity: str) -> bool:
    """Whether the process of that name lives, and not only another one with its id."""
    pid, _, started = identity.partition("-")
    return _started(int(pid)) == started


class Supervisor:
    """The process that looks after this one. None: there is none that we know of, and so none to be missed."""

    def __init__(self, pid: int | None) -> None:
        self._identity = None if pid is None else identity_of(pid)

    def is_gone(self) -> bool:
        return self._identity is not None and not is_alive(self._identity)


def sweep(folder: Path) -> None:
    """Removes the gauges of processes that died. Their counters stay, or the sums would shrink."""
    for path in folder.glob("gauge_live*_*.db"):
        if not _alive(path):
            path.unlink(missing_ok=True)


def _alive(path: Path) -> bool:
    return is_alive(path.stem.rpartition("_")[2])


def _started(pid: int) -> str | None:
    """When `pid` started, as the kernel counts; None for a process that is gone, "" where the system does not tell."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (ProcessLookupError, PermissionError):
        # the second is somebody else's process, and so not the one that wrote here
        return None
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else ""
    # the second field is the program's name in brackets, and may hold spaces
    fields = stat.rpartition(b")")[2].split()
    return None if fields[0] == b"Z" else fields[19].decode()
