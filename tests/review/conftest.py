"""A served page, and the SAM that follows its clicks."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from playwright.sync_api import Error

from models import SAM
from persam_dreambooth.cli.review import prepare
from persam_dreambooth.review.clicks import Clicker
from persam_dreambooth.segmentation import PerSAM
from tests.browser import browser as browser


@pytest.fixture(scope="module")
def clicker():
    """Tinyworld's trained SAM."""
    return Clicker(lambda: PerSAM.from_pretrained(str(SAM), device="cpu"))


@pytest.fixture
def serve():
    """Return a function that serves with given flags, as the command line does, and returns the page's address."""
    running = []

    def start(*flags: object) -> str:
        words = [str(flag) for flag in ("--sam", SAM, "--device", "cpu", "--port", 0, *flags)]
        server, bound = prepare("persam-dreambooth review", words)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{bound.getsockname()[1]}/"

    yield start
    for server, thread in running:
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture
def open_tab(browser) -> Callable:
    """Return a function that opens an address in a new tab; errors in any tab fail the test."""
    tabs, wrong = [], []

    def open_one(address: str):
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        tab.set_default_timeout(20_000)
        host = address.split("/")[2]
        tab.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        tab.on(
            "console", lambda message: wrong.append(f"console: {message.text}") if message.type == "error" else None
        )
        tab.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        tab.on("request", lambda sent: None if _is_local(sent.url, host) else wrong.append(f"asked for {sent.url}"))
        tab.on("response", lambda got: wrong.append(f"{got.status} {got.url}") if got.status >= 400 else None)
        tabs.append(tab)
        tab.goto(address)
        tab.wait_for_selector("[data-id=list] li")
        return tab

    yield open_one
    for tab in tabs:
        with suppress(Error):
            tab.close()
    assert wrong == []


def _is_local(address: str, host: str) -> bool:
    return address.startswith(("data:", "blob:", f"http://{host}/"))
