"""Guards captions: never a box in the place of a letter, and no time lost on long ones."""

import time

import pytest
from PIL import Image

from persam_dreambooth.photos import fonts, rendering


@pytest.mark.parametrize("text", ["a dog", "Käfer", "Мой пёс", "我的狗", "🐶", "a\nb", "\ud800", "\x00", ""])
def test_a_caption_is_written_with_its_own_letters_or_as_a_number(text):
    written, font = fonts.writable(text, 14, "#12")
    assert written in ("#12", " ".join(text.split()))
    assert fonts.covers(font, written.replace(" ", ""))


def test_a_box_is_told_from_a_letter():
    font = fonts.ImageFont.load_default(14)
    assert fonts.covers(font, "abc") and not fonts.covers(font, "狗")


def test_a_long_caption_takes_no_time_and_fits():
    font = fonts.ImageFont.load_default(14)
    started = time.monotonic()
    cut = rendering._fit("word " * 2000, font, 256)
    assert time.monotonic() - started < 2
    assert cut.endswith("…") and font.getlength(cut) <= 256 < font.getlength(cut[:-1] + "word…")
    rendering.sheet([Image.new("RGB", (8, 8))] * 2, ["x" * 8000, "狗 \ud800"])
