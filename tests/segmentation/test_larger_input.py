"""A SAM with a larger square: BA-SAM's factor, what stays as it was, and the flag."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from larger_input import compare, table
from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import PerSAM, Reference, load_backbone
from persam_dreambooth.segmentation.backbones.larger_input import with_larger_input
from random_models import random_sam
from tests.scene import scene
from tests.segmentation.random_sams import FAMILIES

SIDE, LARGER = 128, 192
GLOBAL = 1
"""The layer of the small SAM without windows."""


@torch.no_grad()
def test_factor_multiplies_products_of_queries_and_keys_only():
    sam = random_sam(SIDE)
    sam.set_attn_implementation("eager")
    for layer in sam.vision_encoder.layers:  # relative positions that matter
        torch.nn.init.normal_(layer.attn.rel_pos_h, std=0.5)
        torch.nn.init.normal_(layer.attn.rel_pos_w, std=0.5)
    scaled, plain = with_larger_input(sam, LARGER), with_larger_input(sam, LARGER, scaled=False)
    pixels = torch.randn(1, 3, LARGER, LARGER, generator=torch.Generator().manual_seed(0))
    ours, before = scaled.get_image_embeddings(pixels), plain.get_image_embeddings(pixels)
    for model in (scaled, plain):
        model.set_attn_implementation("eager")
    plain.vision_encoder.layers[GLOBAL].attn.scale *= math.log((LARGER / 16) ** 2, (SIDE / 16) ** 2)
    torch.testing.assert_close(plain.get_image_embeddings(pixels), ours, atol=1e-5, rtol=1e-4)
    assert (ours - before).abs().max() > 1e-3


def test_only_positions_and_global_keys_change():
    sam = random_sam(SIDE)
    old, new = sam.state_dict(), with_larger_input(sam, LARGER).state_dict()
    changed = {name for name in old if old[name].shape != new[name].shape or not torch.equal(old[name], new[name])}
    layer = f"vision_encoder.layers.{GLOBAL}.attn."
    rows = {"rel_pos_h", "rel_pos_w", "qkv.weight"}
    assert changed == {"vision_encoder.pos_embed", *(layer + name for name in rows)}  # its biases are zero
    assert new[layer + "rel_pos_h"].shape[0] == 2 * LARGER // 16 - 1
    assert new["vision_encoder.pos_embed"].shape[1:3] == (LARGER // 16, LARGER // 16)
    third = len(old[layer + "qkv.weight"]) // 3
    for part in (slice(0, third), slice(2 * third, None)):
        assert torch.equal(old[layer + "qkv.weight"][part], new[layer + "qkv.weight"][part])


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
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        Image.fromarray(scene(150, 200, seed)[0]).save(tmp_path / "photos" / f"{seed}.png")
    Image.fromarray(scene(150, 200)[1]).save(tmp_path / "mask.png")
    given = {"images": tmp_path / "photos", "reference": tmp_path / "photos" / "0.png"}
    given |= {"reference_mask": tmp_path / "mask.png", "sam": models / "sam", "device": "cpu"}
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
    scores = compare(subjects=1, count=1)
    for company, (trained,) in scores["true box", "64, as trained"].items():
        assert scores["true box", "128, with the factor"][company][0] > trained
    assert table(scores).count("\n") == 1 + len(scores)
