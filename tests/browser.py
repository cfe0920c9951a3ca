"""A real browser for the tests that look at pages: Debian's Chromium, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.debian import missing_after_install

# Nothing that the browser does of its own accord may look like a request of the page.
_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, or a skip that says why there is none."""
    if missing_after_install(("chromium",), ("chromium", "fonts-dejavu-core")):
        pytest.skip("no chromium on this machine and none to be had from apt-get")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
