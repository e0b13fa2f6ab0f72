"""`python -m monitoring.exporter`: serves the metrics of a machine that runs only workers."""

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
        prog="python -m monitoring.exporter", description="Serves the metrics of the workers on this machine"
    )
    parser.add_argument("--host", default="127.0.0.1", type=ip_address, help="address to listen on")
    parser.add_argument("--port", default=9101, type=int)
    arguments = parser.parse_args()
    try:
        config = settings.load()
    except SettingsError as error:
        sys.exit(str(error))
    if not arguments.host.is_loopback and not config.metrics_public:
        sys.exit(
            "--host: an address other than loopback needs METRICS_PUBLIC=true, because the exporter does not check API keys"
        )
    multiprocess.join(config.metrics_path)
    # imported after `join`: the metrics open their files in that folder
    from monitoring.metrics import Machine

    registry = CollectorRegistry()
    registry.register(Machine())
    start_http_server(arguments.port, str(arguments.host), registry)
    threading.Event().wait()


if __name__ == "__main__":
    main()
