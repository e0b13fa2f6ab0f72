"""The health check of the image: the API of this container is ready or, if no API listens in it, its workers run."""

import os
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT_SECONDS = 4
# where the entry point starts the exporter of the workers' metrics
EXPORTER_PORT = 9101


def main() -> int:
    try:
        is_healthy, report = _check()
    except (OSError, HTTPException) as error:
        is_healthy, report = False, str(error)
    # `docker inspect` shows it
    print(report)  # noqa: T201
    return 0 if is_healthy else 1


def _check() -> tuple[bool, str]:
    try:
        status, body = _get(int(os.environ.get("HTTP_PORT") or 8080), "/ready")
    except ConnectionRefusedError:
        _, body = _get(EXPORTER_PORT, "/metrics")
        workers = next((line for line in body.splitlines() if line.startswith("bulk_workers ")), "bulk_workers 0")
        return float(workers.split()[1]) > 0, workers
    return status == 200, body


def _get(port: int, path: str) -> tuple[int, str]:
    """Not by urllib, which would use the proxies of the environment."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read().decode()


if __name__ == "__main__":
    sys.exit(main())
