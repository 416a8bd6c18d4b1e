"""Captions never show a box in place of a letter, and long ones cost no time."""

import time

import pytest
from PIL import Image

from persam_dreambooth.photos import rendering


@pytest.mark.parametrize("text", ["a dog", "Käfer", "Мой пёс", "我的狗", "🐶", "a\nb", "\ud800", "\x00", ""])
def test_caption_is_shown_in_full_or_replaced_by_its_number(text):
    written, font = rendering.caption_and_font(text, 14, "#12")
    assert written in ("#12", " ".join(text.split()))
    assert rendering.covers(font, written.replace(" ", ""))


def test_missing_glyph_is_detected():
    font = rendering.ImageFont.load_default(14)
    assert rendering.covers(font, "abc") and not rendering.covers(font, "狗")


def test_long_caption_is_fast_and_fits():
    font = rendering.ImageFont.load_default(14)
    started = time.monotonic()
    cut = rendering._fit("word " * 2000, font, 256)
    assert time.monotonic() - started < 2
    assert cut.endswith("…") and font.getlength(cut) <= 256 < font.getlength(cut[:-1] + "word…")
    rendering.sheet([Image.new("RGB", (8, 8))] * 2, ["x" * 8000, "狗 \ud800"])
