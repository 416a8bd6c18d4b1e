"""`report.html` loads no other file, and shows all pictures and measures in a real browser."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from persam_dreambooth.evaluation.generation.table import MEASURES
from tests.browser import browser as browser
from tests.evaluation.generation.conftest import evaluate

NASTY = 'a {unique_token} {class_token} <img src="http://example.org/x.png"> & "quotes"'


class References(HTMLParser):
    """Collects everything a page would load, and its tags."""

    def __init__(self):
        super().__init__()
        self.loaded, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [
            value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster", "action")
        ]


@pytest.fixture
def report(options, subject, tmp_path):
    """A report of two models, with a prompt that would break a page that does not escape it."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text((subject / "prompts.txt").read_text() + NASTY)
    assert evaluate(options, prompts=prompts, class_images=1) == 0
    return Path(options["output"][0]) / "report.html"


def test_page_loads_nothing_and_shows_everything(report, browser):
    text = report.read_text(encoding="utf-8")
    page = References()
    page.feed(text)
    # 3 photos; 2 models x (4 prompts x 2 seeds + 1 of the class), each picture with and without its outline.
    assert len(page.loaded) == page.tags.count("img") == 3 + 2 * (4 * 2 + 1) * 2
    assert all(re.match(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+$", url) for url in page.loaded)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert "url(" not in text and "@import" not in text and "@font-face" not in text
    unmeasured = ("found", "masc", "class_leakage")  # no presence rule, no SigLIP 2, no known base model
    assert all((measure.title in text) == (name not in unmeasured) for name, measure in MEASURES.items())
    elsewhere = report.parent.parent / "moved.html"
    report.rename(elsewhere)
    context = browser.new_context(offline=True)
    tab = context.new_page()
    requests, failures, errors = [], [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("requestfailed", lambda request: failures.append(request.url))
    tab.on("console", lambda message: errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(elsewhere.as_uri())
    assert {url for url in requests if not url.startswith("data:")} == {elsewhere.as_uri()}
    assert not failures and not errors
    widths = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 39 and min(widths) > 0
    assert tab.get_by_text('a sks disc <img src="http://example.org/x.png"> & "quotes"').count() == 1
    outlines = tab.locator("img.outlined")
    assert outlines.count() == 18 and not outlines.first.is_visible()
    tab.get_by_label("show where the subject was found").check()
    assert outlines.first.is_visible() and not tab.locator("img.plain").first.is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
