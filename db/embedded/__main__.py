"""`python -m db.embedded`: starts and stops the embedded server of DATA_DIR, alone or for the duration of a command."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db import embedded, settings
from db.embedded import EmbeddedError, binaries
from db.settings import Settings, SettingsError

# how often `run` checks whether the server has crashed
CHECK_SECONDS = 0.5


def main() -> None:
    # files of the server and of the service are accessible to their own user only
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="python -m db.embedded", description="PostgreSQL under DATA_DIR")
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser(
        "run", help="start the server unless DATABASE_URL is set, run a command with DATABASE_URL, stop the server"
    )
    run.add_argument("command", nargs="+")
    actions.add_parser("start", help="start the server, leave it running and print its URL")
    actions.add_parser("stop", help="stop it")
    actions.add_parser("url", help="print its URL")
    psql = actions.add_parser("psql", help="open psql on DATABASE_URL or on the server")
    psql.add_argument("arguments", nargs="*")
    arguments = parser.parse_args()
    try:
        given = settings.load()
        match arguments.action:
            case "run":
                sys.exit(_run(arguments.command, given))
            case "start":
                sys.stdout.write(embedded.start(given.data_path, outlive=True) + "\n")
            case "stop":
                embedded.stop(given.data_path)
            case "url":
                sys.stdout.write(embedded.url(given.data_path) + "\n")
            case _:
                _psql(arguments.arguments, given)
    except (EmbeddedError, SettingsError) as error:
        sys.exit(str(error))


def _run(command: list[str], given: Settings) -> int:
    """Runs `command` while the server runs, and returns its exit status as a shell does."""
    if given.database_url:
        return _wait_for(command, os.environ, None)
    with embedded.running(given.data_path) as database_url:
        return _wait_for(command, {**os.environ, "DATABASE_URL": database_url}, given.data_path)


def _wait_for(command: list[str], environment: Mapping[str, str], data_path: Path | None) -> int:
    """Runs `command` to its end, and restarts the server in `data_path`, if given, when it crashes. Ctrl-C is a success."""
    interrupts: list[int] = []
    # The terminal sends SIGINT and SIGHUP to all processes of its foreground group. SIGINT is left to the child. SIGHUP would
    # kill a child that has no handler for it before it has stopped its own children, so it ignores SIGHUP and gets SIGTERM.
    signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        child = subprocess.Popen(command, env=environment, preexec_fn=embedded.die_with_parent(signal.SIGTERM))
    except OSError as error:
        raise EmbeddedError(f"{command[0]}: {error.strerror}") from None
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    signal.signal(signal.SIGHUP, lambda *_: _terminate_all(child.pid))
    while True:
        try:
            status = child.wait(timeout=CHECK_SECONDS)
        except subprocess.TimeoutExpired:
            if data_path:
                _restart(data_path)
        else:
            status = status if status >= 0 else 128 - status
            return 0 if interrupts and status == 128 + signal.SIGINT else status


def _restart(data_path: Path) -> None:
    """Starts the server again at the same address if it has crashed; not if it was stopped."""
    if embedded.has_crashed(data_path):
        sys.stderr.write(f"PostgreSQL has crashed, restarting it; see {data_path / 'postgres.log'}\n")
        try:
            embedded.start(data_path)
        except EmbeddedError as error:
            sys.stderr.write(f"{error}\n")


def _terminate_all(pid: int) -> None:
    """Terminates `pid` and, on Linux, its descendants: honcho would fail at its first write to the closed terminal, and not stop
    them."""
    family = [pid]
    for member in family:
        with suppress(FileNotFoundError):
            children = Path(f"/proc/{member}/task/{member}/children").read_text()
            family.extend(int(child) for child in children.split())
    for member in family:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGTERM)


def _psql(arguments: list[str], given: Settings) -> NoReturn:
    """Replaces this process by psql. The password is passed in the environment, because any user can read a command line."""
    parameters = conninfo_to_dict(given.database_url or embedded.url(given.data_path))
    password = parameters.pop("password", None)
    psql = shutil.which("psql") or str(binaries.find() / "psql")
    _exec(
        [psql, make_conninfo("", **parameters), *arguments],
        os.environ if password is None else {**os.environ, "PGPASSWORD": str(password)},
    )


def _exec(command: list[str], environment: Mapping[str, str]) -> NoReturn:
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606  no shell is needed
    except OSError as error:
        raise EmbeddedError(f"{command[0]}: {error.strerror}") from None


if __name__ == "__main__":
    main()
