"""A served page."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from playwright.sync_api import Error

from models import SAM
from persam_dreambooth.cli.review import prepare
from tests.browser import browser as browser


@pytest.fixture
def serve():
    """Serve with these flags, as the command line does; returns the page's address."""
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
    """Open an address in a tab of its own; what goes wrong in any of them fails the test."""
    tabs, wrong = [], []

    def open_one(address: str):
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        tab.set_default_timeout(20_000)
        host = address.split("/")[2]
        tab.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        tab.on("console", lambda one: wrong.append(f"console: {one.text}") if one.type == "error" else None)
        tab.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        tab.on("request", lambda one: None if _is_local(one.url, host) else wrong.append(f"asked for {one.url}"))
        tab.on("response", lambda one: wrong.append(f"{one.status} {one.url}") if one.status >= 400 else None)
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
