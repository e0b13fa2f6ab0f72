"""The browser and the service of the tests of this folder."""

import pytest
from playwright.async_api import expect

from tests.support.chromium import browser
from tests.support.eventually import PATIENCE_SECONDS

__all__ = ["browser"]

expect.set_options(timeout=PATIENCE_SECONDS * 1000)


@pytest.fixture
async def started(service):
    """The test's own service; some modules start it with other settings."""
    return await service(worker_pool_size=2, batch_size=4)
