"""A real browser: `make test-browser` installs what it needs; elsewhere these tests are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser_checks import watch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None or "ABHINAYA_AXE" not in os.environ:
        pytest.skip("needs chromium, playwright and axe-core; run make test-browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page; the test fails on an error in its console and on a request that leaves."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    errors, leaving = watch(context)
    yield context.new_page()
    context.close()
    assert not errors, f"errors in the console: {errors}"
    assert not leaving, f"requests that leave this machine: {leaving}"
