"""A SAM with a larger square: its subjects, the sizes that are refused, the flag, and what it is good for."""

import numpy as np
import pytest

from larger_input import change, larger
from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import PerSAM, Reference, load_backbone
from random_models import random_sam
from tests.scene import save_scenes, scene
from tests.segmentation.random_sams import FAMILIES

SIDE, LARGER = 128, 192


def test_subject_belongs_to_the_size():
    sam, reference = random_sam(SIDE), Reference(*scene(150, 200))
    larger, own = (PerSAM.from_pretrained(sam, device="cpu", sam_size=size) for size in (LARGER, None))
    assert (larger.backbone.image_size, own.backbone.image_size) == (LARGER, SIDE)
    subject = larger.personalize(reference)
    assert larger.segment(scene(150, 200, 1)[0], subject).mask.shape == (150, 200)
    with pytest.raises(UserError, match="was made with"):
        own.segment(scene(150, 200, 1)[0], subject)


@pytest.mark.parametrize(
    ("source", "size", "expected"),
    [
        (lambda: random_sam(SIDE), SIDE, "give a multiple of 16 above 128"),
        (lambda: random_sam(SIDE), 200, "give a multiple of 16 above 128"),
        (lambda: FAMILIES["sam2"](), LARGER, "not a Sam2Model; give one of them"),
        (lambda: "sam_vit_b.pth", LARGER, "not an original checkpoint; give one of them"),
    ],
    ids=["own size", "no multiple", "SAM 2", "checkpoint"],
)
def test_sizes_that_a_sam_cannot_have_are_refused(source, size, expected):
    with pytest.raises(UserError, match=expected):
        load_backbone(source(), "cpu", size=size)


def test_flag_changes_masks_and_is_part_of_the_run(tmp_path, models, capsys):
    save_scenes(tmp_path, 2, 150, 200)
    given = {"images": tmp_path / "photos", "reference": tmp_path / "photos" / "0.png"}
    given |= {"reference_mask": tmp_path / "mask-0.png", "sam": models / "sam", "device": "cpu"}
    argv = ["segment", *(str(word) for name, value in given.items() for word in (f"--{name}", value))]
    assert main([*argv, "--output", str(tmp_path / "own")]) == 0
    assert main([*argv, "--output", str(tmp_path / "larger"), "--sam_size", str(LARGER)]) == 0
    own, larger = (files.read_mask(tmp_path / name / "masks" / "1.png") for name in ("own", "larger"))
    assert not np.array_equal(own, larger)
    persam = PerSAM.from_pretrained(str(models / "sam"), device="cpu", sam_size=LARGER)
    subject = persam.personalize(Reference(given["reference"], given["reference_mask"]))
    np.testing.assert_array_equal(larger, persam.segment(tmp_path / "photos" / "1.png", subject).mask)
    capsys.readouterr()
    assert main([*argv, "--output", str(tmp_path / "own"), "--sam_size", str(LARGER)]) == 2
    assert main([*argv[:-4], "--method", "insid3", "--sam_size", "192", "--output", str(tmp_path / "out")]) == 2
    assert "--sam_size has no effect on --method insid3" in capsys.readouterr().err


def test_trained_sam_outlines_better_in_a_larger_square():
    scores = larger(subjects=1, count=1)
    for company, ((trained, _),) in scores["true box, 64"].items():
        assert scores["true box, 128"][company][0][0] > trained
        gained = 100 * (scores["true box, 96"][company][0][0] - trained)
        assert f"{gained:+.1f}" in change(scores, "true box, 96", company)
