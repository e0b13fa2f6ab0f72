"""Waiting for a condition, and for a connection to break."""

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import pytest

# the timeout of all waits in tests; TEST_PATIENCE=4 multiplies it on a slow or busy machine
PATIENCE_SECONDS = 30 * float(os.environ.get("TEST_PATIENCE", "1"))

T = TypeVar("T")


async def in_time(awaitable: Awaitable[T], *, waits: int = 1) -> T:
    """Waits for an awaitable that another process or connection completes. Fails with TimeoutError after PATIENCE_SECONDS.

    `waits` multiplies them, for a process that waits several times itself.
    """
    async with asyncio.timeout(waits * PATIENCE_SECONDS):
        return await awaitable


async def eventually(condition: Callable[[], Any], *, within: float | None = None) -> Any:
    """Returns what `condition` returns as soon as that is true; `condition` may be async.

    Fails after PATIENCE_SECONDS. Use `within` only where the test is about that number of seconds, and mark such a test with
    `timing`.
    """
    seconds = PATIENCE_SECONDS if within is None else within
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s; the last value was {value!r}")
        await asyncio.sleep(0.02)


def broken_off() -> pytest.RaisesExc[httpx.TransportError]:
    """`with broken_off():` expects that the connection breaks during a request.

    The peer's kernel sends FIN or RST, depending on the contents of its buffers. Both are accepted.
    """
    return pytest.raises((httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError))
