"""The browser that the tests of this folder share the fixture of."""

from playwright.async_api import expect

from tests.support.chromium import browser
from tests.support.eventually import PATIENCE_SECONDS

__all__ = ["browser"]

expect.set_options(timeout=PATIENCE_SECONDS * 1000)
