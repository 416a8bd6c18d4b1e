"""The `browser` fixture, imported where pages are opened, so that no other tests load Playwright."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")  # not longer: it keeps an event loop running
def browser():
    """A headless Chromium, or Chrome."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    assert path, "no browser to test pages in: install Chromium (Debian: apt install chromium)"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=QUIET.split())
        yield chromium
        chromium.close()
