"""Flags of `segment`: how references are given, and what makes no sense together."""

from pathlib import Path

import pytest

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.cli.segment import GROUPS as SEGMENT
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import TextPrompt
from tests.cli.parsed import REQUIRED


def test_references_take_boxes_and_points():
    boxed = ["--reference", "a.jpg", "b.jpg", "--reference_box", "1,2,3,4", "5,6,7,8.5"]
    flags, *_ = parse(SEGMENT, ["--images", "p", "--output", "o", *boxed], "", "")
    assert flags.references() == (
        ReferenceFiles(Path("a.jpg"), box=(1, 2, 3, 4)),
        ReferenceFiles(Path("b.jpg"), box=(5, 6, 7, 8.5)),
    )
    pointed = ["--reference", "a.jpg", "--reference_points", "10,20", "30,40,0"]
    flags, *_ = parse(SEGMENT, ["--images", "p", "--output", "o", *pointed], "", "")
    assert flags.references() == (ReferenceFiles(Path("a.jpg"), points=((10, 20, 1), (30, 40, 0))),)


def test_a_text_is_a_reference_or_filters_the_masks_of_one():
    flags, _, _, texts, _ = parse(SEGMENT, ["--images", "p", "--output", "o", "--text", "a mug"], "", "")
    prompt = texts.prompt(flags.text, filters=False)
    assert prompt == TextPrompt("a mug") and flags.references(prompt) == ()
    named = ["--images", "p", "--output", "o", "--text", "a mug", "--reference", "a.jpg", "b.jpg"]
    flags, *_ = parse(SEGMENT, named, "", "")
    assert flags.references(prompt) == tuple(ReferenceFiles(Path(name), text=prompt) for name in ("a.jpg", "b.jpg"))
    settings = ["--text", "a mug", "--text_model", "m", "--text_threshold", "0.4", "--text_overlap", "0.3"]
    flags, _, _, texts, _ = parse(SEGMENT, [*REQUIRED, *settings], "", "")
    assert texts.prompt(flags.text, filters=True) == TextPrompt("a mug", "m", 0.4, 0.3)
    assert flags.references(prompt) == (ReferenceFiles(Path("dog.jpg"), mask=Path("dog.png")),)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--text_model", "m"], ["--text_model", "no effect without --text"]),
        (["--text_threshold", "0.5"], ["--text_threshold", "no effect without --text"]),
        (["--text", "."], ["has no word"]),
        (["--text", "a mug", "--text_threshold", "2"], ["--text_threshold", "2"]),
        (["--text", "a mug", "--subject_name", "mug"], ["--text describes one subject"]),
    ],
)
def test_texts_that_make_no_sense_are_refused(error_of, argv, expected):
    line = error_of("segment", *REQUIRED, *argv)
    assert all(text in line for text in expected)


def test_overlap_without_a_mask_to_filter_by_is_refused(error_of):
    argv = ["--images", "photos", "--output", "out", "--text", "a mug"]
    assert "--text_overlap is for a --text that filters" in error_of("segment", *argv, "--text_overlap", "0.3")
    assert "--reference is missing" in error_of("segment", *argv, "--reference_mask", "m.png")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--reference_mask", "m.png", "n.png"], ["1 of --reference", "2 of --reference_mask"]),
        (["--reference_box", "1,2,3"], ["1,2,3", "left,top,right,bottom"]),
        (["--reference_box", "1,2,3,wide"], ["left,top,right,bottom"]),
        (["--reference_points", "1,2,5"], ["third number"]),
        (
            ["--reference_box", "1,2,3,4", "--reference_scribble", "s.png"],
            ["--reference_box and --reference_scribble"],
        ),
        (["--reference_mask", "m.png", "--pick_reference"], ["more than one --reference"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_mismatched_reference_flags_are_refused(error_of, argv, expected):
    line = error_of("segment", "--images", "p", "--output", "o", "--reference", "a.jpg", *argv)
    assert all(part in line for part in expected)


@pytest.mark.parametrize("missing", ["--images", "--reference", "--reference_mask", "--output"])
def test_missing_flag_of_segment_is_named(error_of, missing):
    place = REQUIRED.index(missing)
    assert f"{missing} is missing" in error_of("segment", *REQUIRED[:place], *REQUIRED[place + 2 :])
