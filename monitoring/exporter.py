"""`python -m monitoring.exporter`: the metrics of a machine that runs workers and no API, on a port of its own."""

import argparse
import sys
import threading
from ipaddress import ip_address

from prometheus_client import CollectorRegistry, start_http_server

from db import settings
from db.settings import SettingsError
from monitoring import multiprocess


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.exporter", description="This machine's workers' metrics"
    )
    parser.add_argument("--host", default="127.0.0.1", type=ip_address, help="address to listen on")
    parser.add_argument("--port", default=9101, type=int)
    arguments = parser.parse_args()
    try:
        given = settings.load()
    except SettingsError as error:
        sys.exit(str(error))
    if not arguments.host.is_loopback and not given.metrics_public:
        sys.exit("--host: asks nobody for a key, so beyond loopback it needs METRICS_PUBLIC=true")
    multiprocess.join(given.metrics_path)
    # only now: the metrics that it defines look for the folder that was just joined
    from monitoring.metrics import Machine

    registry = CollectorRegistry()
    registry.register(Machine())
    start_http_server(arguments.port, str(arguments.host), registry)
    threading.Event().wait()


if __name__ == "__main__":
    main()
