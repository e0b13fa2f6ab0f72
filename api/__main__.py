"""The API process: `python -m api`. `python -m api --check` only checks whether it can start with these settings."""

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

    # until the server installs its own handlers
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: sys.exit(0))
    # SIGHUP stops the process too, unless it is ignored, as under nohup
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
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
    with tracing.recording(config, process="api"):
        server.Server(application, config, listeners).run()


def _fail(reason: str) -> int:
    print(f"api: {reason}", file=sys.stderr)  # noqa: T201  # there is no log before the start
    return 2


if __name__ == "__main__":
    main()
