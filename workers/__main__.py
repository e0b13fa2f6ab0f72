"""`python -m workers`: the worker pool."""

import os
import sys

from db import settings as db_settings
from db.connections import pool
from monitoring import multiprocess, tracing


def main() -> int:
    # files of the service are accessible to its own user only
    os.umask(0o077)
    try:
        settings = db_settings.load()
        pool.conninfo(settings)
        multiprocess.join(settings.metrics_path)
        # not before: the metrics open their files when they are imported
        from monitoring import logging
        from workers import pool as worker_pool

        logging.setup(settings, process="worker")
        tracing.require(settings)
    except db_settings.SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    worker_pool.create(settings).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
