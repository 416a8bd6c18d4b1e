"""References as files and coordinates: one kind of prompt each, read, checked and compared across runs."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing.references import ReferenceFiles, read_references
from persam_dreambooth.segmentation import TextPrompt
from tests.scene import save_scenes, scene


@pytest.mark.parametrize(
    "prompts",
    [{}, {"box": (1, 1, 5, 5), "points": ((2, 2, 1),)}, {"mask": Path("a"), "scribble": Path("b")}],
    ids=["nothing", "box and points", "mask and scribble"],
)
def test_reference_has_exactly_one_kind_of_prompt(prompts):
    with pytest.raises(UserError, match="one of a mask, a box, points, a scribble or a text"):
        ReferenceFiles(Path("dog.jpg"), **prompts)


def test_fingerprint_follows_the_files_and_the_coordinates(tmp_path):
    photo = save_scenes(tmp_path, 2) / "photos" / "0.png"
    files.write_mask(~scene(60, 90)[1], tmp_path / "mask-1.png")
    masks = [ReferenceFiles(str(photo), str(tmp_path / f"mask-{number}.png")) for number in (0, 1)]
    assert masks[0].image == photo and masks[0].drawings == (tmp_path / "mask-0.png",)
    others = [
        ReferenceFiles(photo, box=(1, 2, 3, 4)),
        ReferenceFiles(photo, points=((1, 2, 1), (3, 4, 0))),
        ReferenceFiles(photo, text=TextPrompt("a disc")),
        ReferenceFiles(tmp_path / "photos" / "1.png", box=(1, 2, 3, 4)),
    ]
    prints = [reference.fingerprint() for reference in (*masks, *others)]
    assert all(prints[first] != prints[second] for first in range(6) for second in range(first))
    assert prints[2]["box"] == [1, 2, 3, 4] and prints[2]["drawing"] == [] and "text" not in prints[2]
    (tmp_path / "mask-0.png").rename(tmp_path / "moved.png")
    assert ReferenceFiles(photo, tmp_path / "moved.png").fingerprint() == prints[0]


def test_mask_is_what_methods_learn_from(tmp_path):
    save_scenes(tmp_path, 1)
    (read,) = read_references([ReferenceFiles(tmp_path / "photos" / "0.png", tmp_path / "mask-0.png")])
    pixels, disc = scene(60, 90)
    np.testing.assert_array_equal(np.asarray(read.image), pixels)
    np.testing.assert_array_equal(read.convert(None).foreground, disc)  # no SAM is needed
    (boxed,) = read_references([ReferenceFiles(tmp_path / "photos" / "0.png", box=(1, 2, 3, 4))])
    assert boxed.drawing is None


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones((5, 5), bool), r"mask\.png is 5 x 5 pixels but its photo 0\.png is 90 x 60"),
        (np.zeros((60, 90), bool), "is empty: no pixel is marked"),
        (np.ones((60, 90), bool), "is full: every pixel is marked"),
    ],
    ids=["size", "empty", "full"],
)
def test_useless_mask_is_refused_but_a_scribble_may_be_small(mask, words, tmp_path):
    photo = save_scenes(tmp_path, 1) / "photos" / "0.png"
    files.write_mask(mask, tmp_path / "mask.png")
    with pytest.raises(UserError, match=words):
        read_references([ReferenceFiles(photo, tmp_path / "mask.png")])
    read_references([ReferenceFiles(photo, scribble=tmp_path / "mask.png")])  # SAM decides later


def test_warnings_about_a_mask_can_be_left_to_another_process(tmp_path, caplog):
    photo = save_scenes(tmp_path, 1) / "photos" / "0.png"
    Image.fromarray(~scene(60, 90)[1]).save(tmp_path / "inverted.png")
    given = [ReferenceFiles(photo, tmp_path / "inverted.png")]
    with caplog.at_level(logging.WARNING):
        read_references(given, warns=False)
        assert not caplog.records
        read_references(given)
    assert "0.png" in caplog.text and len(caplog.records) == 1
