"""A real browser, headless: Debian's Chromium where there is one; without it these tests say so and are skipped."""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.fixtures.waiting import PATIENCE

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SIZES = {"phone": {"width": 390, "height": 844}, "desktop": {"width": 1280, "height": 900}}

Check = Callable[[Page], None]

expect.set_options(timeout=1000 * PATIENCE)
"""Playwright's own five seconds are too few for a busy machine."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Closed with this folder's last test: as long as it is open, Playwright's event loop is the main thread's."""
    if CHROMIUM is None:
        pytest.skip("no browser is installed (Debian: apt-get install chromium; or name one in CHROMIUM)")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


PHONE, DESK = ("phone", "light"), ("desktop", "dark")


@pytest.fixture(params=[PHONE, pytest.param(DESK, marks=pytest.mark.slow)], ids="-".join)
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A fresh profile at the size of a phone or of a desk, in light or in dark."""
    size, scheme = request.param
    opened = browser.new_context(viewport=SIZES[size], color_scheme=scheme)
    opened.set_default_timeout(1000 * PATIENCE)
    yield opened
    opened.close()


@pytest.fixture
def desk(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile at the size of a desk, where neither size nor colours matter."""
    opened = browser.new_context(viewport=SIZES["desktop"])
    opened.set_default_timeout(1000 * PATIENCE)
    yield opened
    opened.close()


@pytest.fixture
def accessible() -> Check:
    """`accessible(page)`: axe finds nothing, and nothing is wider than the window."""

    def check(page: Page) -> None:
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= window, f"{page.url} is {wide} pixels wide in a window of {window}"

    return check
