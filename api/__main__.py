"""The API: `python -m api`, in API_PROCESSES processes. `--check` only checks whether it can start with these settings."""

import os
import signal
import sys

from db import settings
from db.settings import SettingsError
from monitoring import logging, multiprocess, tracing


def main() -> None:
    # files of the service are accessible to its own user only
    os.umask(0o077)
    try:
        config = settings.load()
    except SettingsError as error:
        sys.exit(_fail(str(error)))
    logging.setup(config, process="api")
    multiprocess.join(config.metrics_path)
    # not before: the metrics modules that these import open files in the folder that was just joined
    from api import app
    from api.http import server
    from monitoring.process_pool import ProcessPool, unblock_signals
    from monitoring.supervisor import Supervisor

    _exit_on_signals()
    try:
        tracing.require(config)
        listeners = server.listen(config)
        if sys.argv[1:] == ["--check"]:
            return
        application = app.create(config)
    except (SettingsError, server.AddressInUse) as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        sys.exit(_fail(f"HTTP_HOST: cannot listen on {config.http_host}:{config.http_port}: {error.strerror}"))

    def serve(parent: int | None = None) -> None:
        with tracing.recording(config, process="api"):
            server.Server(application, config, listeners, parent=parent).run()

    def serve_as_child(_: int) -> None:
        _exit_on_signals()
        unblock_signals()
        serve(parent)

    def stop_listening() -> None:
        # the children accept what waits; the last one that closes its listeners ends the port
        for listener in listeners:
            listener.close()

    if config.api_processes == 1:
        serve()
    else:
        parent = os.getpid()
        ProcessPool(
            "API process",
            range(1, config.api_processes + 1),
            serve_as_child,
            stop_seconds=config.drain_seconds + config.stop_seconds,
            supervisor=Supervisor(config.supervisor_pid),
            on_stop=stop_listening,
        ).run()


def _exit_on_signals() -> None:
    """Until the server installs its own handlers."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: sys.exit(0))
    # SIGHUP stops the process too, unless it is ignored, as under nohup
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


def _fail(reason: str) -> int:
    print(f"api: {reason}", file=sys.stderr)  # noqa: T201  # there is no log before the start
    return 2


if __name__ == "__main__":
    main()
