"""A check of a probe that is cached, runs once at a time and has a deadline."""

import asyncio

import pytest

from api import health
from tests.support.eventually import PATIENCE_SECONDS


async def test_a_check_that_hangs_is_repeated(monkeypatch):
    """While a check hangs, probes fail at their deadline. It does not run twice at the same time, and is repeated later."""
    monkeypatch.setattr(health, "DEADLINE_SECONDS", 0.01)
    runs = []

    async def run() -> str:
        runs.append(1)
        if len(runs) == 1:
            await asyncio.Event().wait()
        return "passed"

    check = health.CachedCheck(run)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await check.result()
    assert len(runs) == 1
    monkeypatch.setattr(health, "DEADLINE_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(health, "ABANDON_SECONDS", 0)
    assert await check.result() == "passed"
    assert await check.result() == "passed"
    assert len(runs) == 2
