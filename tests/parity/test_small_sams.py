"""MobileSAM, EdgeSAM and EfficientSAM load the authors' files strictly and compute the same."""

import numpy as np
import pytest
import torch

from persam_dreambooth.segmentation import Prompts, load_backbone
from persam_dreambooth.segmentation.backbones import edge_sam, efficient_sam, mobile_sam
from persam_dreambooth.segmentation.backbones.checkpoints import read_checkpoint
from tests.parity.small_sams import (
    CASES,
    CELLS,
    SIDES,
    published_shapes,
    random_pixels,
    random_state,
    recorded,
    thinned,
)

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
# A few of EfficientSAM-Ti's 256 logits differ by up to 1.2e-3; all others by less than 5e-4.
LOGITS = {"rtol": 1e-4, "atol": 2e-3}


def built(name):
    """Build our model for the recording's side, with the random weights under the authors' names."""
    state, side = random_state(published_shapes(name)), SIDES[name]
    if name == "mobile_sam":
        sam, weights = mobile_sam.from_published(state)
    elif name == "edge_sam":
        _, weights = edge_sam.from_published(state)
        sam = edge_sam.build_edge_sam(side)
    else:
        sam, weights = efficient_sam.from_published(state, side)
    sam.load_state_dict(weights)  # strict: no missing and no unexpected weights
    return load_backbone(sam, device="cpu")


@pytest.mark.parametrize("name", SIDES)
def test_embedding_and_masks_equal_recordings_of_authors_code(name):
    backbone, arrays = built(name), recorded(name)
    side, pixels = SIDES[name], random_pixels(SIDES[name])
    (embedding,) = backbone.encode(pixels)
    np.testing.assert_allclose(thinned(embedding[::16], CELLS), arrays["embedding"], **TOLERANCE)
    for case, prompts in CASES.items():
        given = Prompts(
            torch.tensor(prompts.points) * side,
            torch.tensor(prompts.labels),
            None if prompts.box is None else torch.tensor(prompts.box) * side,
        )
        for masks in (1, 3):
            logits, predicted_iou = backbone.decode(embedding, given, multimask=masks == 3)
            assert len(logits) == masks
            np.testing.assert_allclose(thinned(logits, 2 * CELLS), arrays[f"{case}_{masks}_logits"], **LOGITS)
            np.testing.assert_allclose(predicted_iou.numpy(), arrays[f"{case}_{masks}_iou"], **TOLERANCE)


@pytest.mark.parametrize("name", SIDES)
def test_recordings_differ_between_prompts(name):
    arrays = recorded(name)
    for masks in (1, 3):
        first, *others = (arrays[f"{case}_{masks}_logits"] for case in CASES)
        assert all(abs(first - other).max() > 0.01 for other in others)


@pytest.mark.parametrize("name", SIDES)
def test_published_file_is_recognized_by_its_weights(tmp_path, name):
    state, file = random_state(published_shapes(name)), tmp_path / "sam_vit_h.pth"
    torch.save({"model": state} if "efficient" in name else state, file)
    sam = read_checkpoint(file)
    assert sam.image_encoder.img_size == 1024
    theirs, ours = sum(weight.numel() for weight in state.values()), sum(w.numel() for w in sam.state_dict().values())
    # EfficientSAM's positions are resized to 64 x 64 cells, without the class token; its label 0 has a row of zeros.
    if "efficient" in name:
        width = state["image_encoder.pos_embed"].shape[-1]
        ours -= (64 * 64 - 197) * width + 256
    assert ours == theirs
    for weight in ("mask_decoder.iou_token.weight", "image_encoder.neck.2.weight"):
        assert torch.equal(sam.state_dict()[weight], state[weight])
