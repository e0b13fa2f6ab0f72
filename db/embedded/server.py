"""Starts and stops a PostgreSQL server under DATA_DIR, for the current user of this machine only.

DATA_DIR/postgres contains the data. Beside it are the folder `socket`, postgres.log and postgres.lock. The server inherits the
lock, an flock: the kernel releases it when the last process of the server has ended, for whatever reason. So the lock shows
whether the server runs. A pid does not, because the system may have given it to another process.
"""

import ctypes
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psycopg

from db.embedded import access, binaries, cluster, roles
from db.embedded.binaries import EmbeddedError, Identity

START_SECONDS = 60
STOP_SECONDS = 30

# a start renames a larger log to postgres.log.1 and begins a new one
LOG_BYTES_MAX = 1024 * 1024

# For a small machine; all other settings have PostgreSQL's defaults, which are durable. The log has only messages about the
# server as a whole: no statements, no values, and no errors of statements, which the service logs itself.
OPTIONS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}


class NotRunning(EmbeddedError):
    """No server runs under this DATA_DIR."""


def url(data_path: Path) -> str:
    """The URL of the server that runs under `data_path`. Raises `NotRunning`."""
    url = _url(data_path) if _locked(data_path) else None
    if url is None:
        raise NotRunning(f"no PostgreSQL runs under {data_path}: set DATABASE_URL, or start one with `make db-start`")
    return url


@contextmanager
def running(data_path: Path) -> Iterator[str]:
    """Runs the block with the URL of the server under `data_path`. A server that was started for it is stopped at the end."""
    url = start(data_path)
    try:
        yield url
    finally:
        if data_path in _children:
            with suppress(NotRunning):
                stop(data_path)


def start(
    data_path: Path,
    *,
    port: int = 0,
    options: Mapping[str, str] | None = None,
    bin_dir: Path | None = None,
    outlive: bool = False,
) -> str:
    """Starts the server under `data_path`, if it does not run yet, and returns its URL. Creates the data folder if needed.

    `options` are PostgreSQL settings; with `access.TCP` the server also listens on `port`, where 0 means the port of the last
    start, or a free one. `bin_dir` is the folder of the binaries; by default they are searched for. Without `outlive` the
    server stops when the calling thread ends. Raises `EmbeddedError`.
    """
    data_path.mkdir(mode=0o711, parents=True, exist_ok=True)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        lock = os.open(data_path / "postgres.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if _try_lock(lock):
                bin_dir = bin_dir or binaries.find()
                identity = binaries.identity(bin_dir, data_path)
                _make_private(data_path, identity)
                if not (data_path / "postgres").exists():
                    cluster.initialise(data_path, bin_dir, identity)
                access.prepare(data_path, identity)
                settings = {**OPTIONS, **(options or {})}
                settings["unix_socket_directories"] = f'"{access.socket_folder(data_path)}"'
                with_tcp = bool(settings["listen_addresses"])
                settings["port"] = str((port or _last_port(data_path)) if with_tcp else access.SOCKET_PORT)
                server = _launch(data_path, lock, bin_dir, identity, settings, outlive=outlive)
                _children[data_path] = server
                return _wait_until_ready(data_path, server, with_tcp=with_tcp)
        finally:
            os.close(lock)
        # a server started by another process is running, starting or stopping
        if (url := _url(data_path)) and _accepts_connections(url):
            return url
        time.sleep(0.05)
    raise EmbeddedError(f"the PostgreSQL under {data_path} neither became ready nor stopped within {START_SECONDS} s")


def stop(data_path: Path) -> None:
    """Stops the server under `data_path` and all of its sessions, and waits for its end. Raises `NotRunning`."""
    # SIGINT is a fast shutdown; if it takes too long, SIGQUIT is an immediate one, after which the next start runs recovery
    for signum in (signal.SIGINT, signal.SIGQUIT):
        pid = _pid(data_path) if _locked(data_path) else None
        if pid is None:
            raise NotRunning(f"no PostgreSQL runs under {data_path}")
        os.kill(pid, signum)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if not _locked(data_path):
                if child := _children.pop(data_path, None):
                    child.wait()
                return
            time.sleep(0.02)
    raise EmbeddedError(f"the PostgreSQL under {data_path} does not stop; see {data_path / 'postgres.log'}")


def has_crashed(data_path: Path) -> bool:
    """Whether a server that this process has started has ended without being stopped."""
    server = _children.get(data_path)
    return server is not None and server.poll() not in (None, 0)


def die_with_parent(signum: signal.Signals) -> Callable[[], None] | None:
    """For `preexec_fn`: the kernel sends `signum` to the child when the thread that started it ends (Linux only)."""
    if sys.platform != "linux":
        return None
    prctl, set_pdeathsig = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(set_pdeathsig, signum)


# the servers that this process has started
_children: dict[Path, subprocess.Popen[bytes]] = {}


def _launch(
    data_path: Path, lock: int, bin_dir: Path, identity: Identity, options: Mapping[str, str], *, outlive: bool
) -> subprocess.Popen[bytes]:
    # The pid file of a crashed server may contain the pid of another running process, and PostgreSQL would refuse to start. The
    # lock proves that this process is no server of this folder. As PG_GRANDPARENT_PID it is ignored, while PostgreSQL still
    # checks that no process is attached to the old shared memory.
    stale = _pid(data_path)
    arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    with _open_log(data_path) as log:
        return subprocess.Popen[bytes](
            [*identity.prefix, bin_dir / "postgres", "-D", data_path / "postgres", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            env={**os.environ, "LC_ALL": "C"} | ({"PG_GRANDPARENT_PID": str(stale)} if stale else {}),
            # Ctrl-C must stop the command only; the server is stopped after it
            start_new_session=True,
            preexec_fn=None if outlive else die_with_parent(signal.SIGINT),
            **identity.popen,
        )


def _make_private(data_path: Path, identity: Identity) -> None:
    """Denies other users access to DATA_DIR. If the server runs as another user, that one can still enter its own folders."""
    with suppress(PermissionError):
        data_path.chmod(0o711 if identity.popen else 0o700)


def _open_log(data_path: Path) -> IO[bytes]:
    path = data_path / "postgres.log"
    with suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.rename(data_path / "postgres.log.1")
    path.touch(mode=0o600)
    path.chmod(0o600)
    return path.open("ab")


def _wait_until_ready(data_path: Path, server: subprocess.Popen[bytes], *, with_tcp: bool) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            del _children[data_path]
            log = (data_path / "postgres.log").read_text(errors="replace")
            raise EmbeddedError(f"PostgreSQL did not start: {cluster.last_error(log)}")
        if _pid(data_path) == server.pid and (port := _ready_port(data_path)):
            roles.create(data_path, port, with_tcp=with_tcp)
            if (url := _url(data_path)) is not None:
                return url
        time.sleep(0.02)
    server.send_signal(signal.SIGQUIT)
    raise EmbeddedError(f"PostgreSQL was not ready after {START_SECONDS} s; see {data_path / 'postgres.log'}")


def _accepts_connections(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def _last_port(data_path: Path) -> int:
    """The port of the server's last start if it is free, otherwise a free one."""
    with suppress(OSError):
        last = re.search(r'"port=(\d+)"', (data_path / "postgres" / "postmaster.opts").read_text())
        if last:
            return _free_port(int(last[1]))
    return _free_port(0)


def _free_port(wanted: int) -> int:
    """`wanted`, or any free port if that is 0. Raises `OSError` if it is in use."""
    with socket.socket() as probe:
        # connections of the last server in TIME_WAIT do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", wanted))
        return probe.getsockname()[1]


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked(data_path: Path) -> bool:
    """Whether a process of the server under `data_path` is running."""
    try:
        lock = os.open(data_path / "postgres.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(lock)
    finally:
        os.close(lock)


def _pid_file(data_path: Path) -> list[str]:
    """Line 1 is the pid, 4 the port, 6 the TCP address, 8 the state; PostgreSQL writes them one after another."""
    try:
        return (data_path / "postgres" / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _pid(data_path: Path) -> int | None:
    lines = _pid_file(data_path)
    return int(lines[0]) if lines else None


def _ready_port(data_path: Path) -> int | None:
    """The port in the pid file, or None while the server is not ready."""
    lines = _pid_file(data_path)
    return int(lines[3]) if len(lines) >= 8 and lines[7].strip() == "ready" else None


def _url(data_path: Path) -> str | None:
    """The URL of the server, or None while it is not ready."""
    port = _ready_port(data_path)
    if port is None:
        return None
    if not _pid_file(data_path)[5].strip():
        return access.socket_url(data_path, port)
    try:
        return access.tcp_url(data_path, port)
    except FileNotFoundError:
        return None
