"""The log on a terminal: short aligned lines, colours only where they are shown, tracebacks of a bounded length."""

import os
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.support.eventually import PATIENCE_SECONDS

PROGRAM = """
from logging import getLogger
import structlog
from db.settings import Settings
from monitoring import logging

logging.setup(Settings(log_format="console"), process="api")
log = structlog.get_logger("api.test")
log.info("request", method="POST", route="/api/v1/imports", status=202, duration_ms=12.3, body=None)
# psycopg's line when a pipeline ends after its connection was lost, which is logged where it is handled
getLogger("psycopg").warning("error ignored terminating %r: %s", "pipeline", "the connection is lost")
log.warning("database is unreachable", error="refused")

def descend(depth):
    return 1 / depth if depth == 0 else descend(depth - 1) + 1

try:
    descend(200)
except ZeroDivisionError:
    log.exception("request failed")
"""


def output(**environment: str) -> list[str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=plain | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    return done.stdout.splitlines()


def test_lines_are_short_and_aligned():
    """Time, level and event are aligned in columns, followed by the fields; without a terminal there are no colours."""
    request, unreachable, failed, *traceback = output()
    assert request[8:] == " info    POST /api/v1/imports 202       duration_ms=12.3"
    assert unreachable[8:] == " warning database is unreachable        error=refused"
    assert failed[8:] == " error   request failed"
    assert "\x1b" not in "".join([request, unreachable, failed, *traceback])
    assert len(traceback) <= 25
    assert traceback[0] == "Traceback (most recent call last):"
    assert traceback[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(("environment", "is_coloured"), [({"FORCE_COLOR": "1"}, True), ({"NO_COLOR": "1"}, False)])
def test_colours(environment, is_coloured):
    """FORCE_COLOR asks for colours without a terminal, as under `make run`; NO_COLOR switches them off."""
    assert any("\x1b[" in line for line in output(**environment)) == is_coloured
