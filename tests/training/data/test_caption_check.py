"""Captions that are allowed but seldom meant cause one warning for each kind; good ones cause none."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.training.runs import train

GOOD = ("a sks dog, sitting", "a sks dog from the side", "a close-up of sks dog")


def warnings_of(caplog):
    """Return the warnings since the last call."""
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("persam_dreambooth")]
    caplog.clear()
    return lines


@pytest.fixture
def warned(flags, caplog):
    """Write the captions, bytes or text, into the photos' folder, and return the warnings of a dry run."""

    def run(captions, *switches, **more):
        for name, caption in zip(("00", "01", "02"), captions, strict=True):
            if caption is not None:
                content = caption if isinstance(caption, bytes) else caption.encode()
                Path(f"photos/{name}.txt").write_bytes(content)
        settings = flags | {"caption_extension": ".txt", "class_prompt": "a dog", "resolution": 16} | more
        assert train(settings, "--use_lora", "--dry_run", *switches) == 0
        return warnings_of(caplog)

    return run


def test_good_captions_cause_no_warning(warned):
    assert warned(GOOD) == []


@pytest.mark.parametrize(
    ("captions", "words"),
    [
        (("a sks dog", GOOD[1], "a brown dog"), ["1 caption without 'sks'", "02.png"]),
        (("a sks dog", GOOD[1], "a sksx dog"), ["1 caption without 'sks'", "02.png"]),
        ((GOOD[0], " \n", GOOD[2]), ["1 photo with an empty caption, which gets the instance prompt", "01.png"]),
        ((None, GOOD[1], GOOD[2]), ["1 photo with no caption file", "00.png"]),
        ((GOOD[0], b"\xef\xbb\xbfa sks dog, up", GOOD[2]), ["1 caption with a byte-order mark", "01.png"]),
        (
            (GOOD[0], GOOD[1], GOOD[0] + "\n"),
            ["2 photos with the same caption 'a sks dog, sitting'", "00.png, 02.png"],
        ),
        (("a sks dog on a sofa", GOOD[1], GOOD[2]), ["1 prompt with words that may name", "00.png ('on a sofa')"]),
        (("sks dog, blurry background", GOOD[1], GOOD[2]), ["1 prompt with words", "('blurry background')"]),
    ],
)
def test_each_kind_is_named_once(warned, captions, words):
    (line,) = warned(captions)
    assert all(word in line for word in words)


def test_background_words_are_right_where_the_background_is_learned(warned):
    captions = ("a sks dog on a sofa", *GOOD[1:])
    assert warned(captions, "--no_masked_loss", instance_mask_dir=None) == []
    assert warned(captions, background_weight=0.1) == []
    assert warned(captions, unmasked_probability=0.5) == []


def test_identifier_takes_precedence_over_the_instance_prompt(warned):
    captions = ("a zwx dog", "a zwx dog, up", "a sks dog")
    (line,) = warned(captions, identifier="zwx")  # the instance prompt says sks
    assert "1 caption without 'zwx'" in line and "02.png" in line


def test_same_photo_twice_is_named(warned):
    shutil.copy("photos/00.png", "photos/01.png")
    Image.open("masks/00.png").save("masks/01.png")
    (line,) = warned(GOOD)
    assert "00.png, 01.png are the same photo, which counts 2 times" in line


def test_training_warns_too(flags, caplog):
    Path("photos/00.txt").write_text("a brown dog")
    more = {"caption_extension": ".txt", "class_prompt": "a dog", "max_train_steps": 1, "report_to": "none"}
    assert train(flags | more, "--use_lora") == 0
    missing, lacking = warnings_of(caplog)
    assert "2 photos with no caption file, which get" in missing and "1 caption without 'sks'" in lacking
