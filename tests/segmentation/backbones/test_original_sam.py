"""The backbone for segment-anything's `Sam` computes what that class's own forward pass does."""

from functools import partial

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from persam_dreambooth.segmentation import Prompts
from persam_dreambooth.segmentation.backbones import OriginalSam
from persam_dreambooth.segmentation.backbones.small_sam import small_sam
from random_models import draw_weights
from tests.scene import scene

SIDE = 64
POINTS, LABELS = torch.tensor([[20.0, 30.0], [50.0, 9.0]]), torch.tensor([1, 0])
BOX, MASK = torch.tensor([5.0, 8.0, 40.0, 50.0]), torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) * 5


@pytest.fixture(scope="module")
def sam():
    """A small `Sam`; as in the published ones, its embedding has 256 channels."""
    torch.manual_seed(0)  # the positional encoding is a buffer
    encoder = ImageEncoderViT(
        SIDE, embed_dim=32, depth=2, num_heads=2, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True
    )
    return draw_weights(small_sam(encoder, SIDE), 0)


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("more", [{}, {"box": BOX}, {"mask": MASK}, {"box": BOX, "mask": MASK}], ids="-".join)
def test_masks_are_those_of_sams_own_forward_pass(sam, more, multimask):
    photo = scene(SIDE, SIDE)[0]
    given = {"image": torch.from_numpy(photo).permute(2, 0, 1), "original_size": (SIDE, SIDE)}
    given |= {"point_coords": POINTS[None], "point_labels": LABELS[None]}
    if "box" in more:
        given["boxes"] = BOX[None]
    if "mask" in more:
        given["mask_inputs"] = MASK[None, None]
    (whole,) = sam([given], multimask_output=multimask)
    backbone = OriginalSam(sam, "small", "cpu")
    (embedding,) = backbone.encode(backbone.frame(SIDE, SIDE).pixels(photo)[None])
    logits, predicted_iou = backbone.decode(embedding, Prompts(POINTS, LABELS, **more), multimask)
    assert logits.shape == (3 if multimask else 1, 16, 16)
    torch.testing.assert_close(logits, whole["low_res_logits"][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(predicted_iou, whole["iou_predictions"][0])


def test_each_prompt_matters(sam):
    backbone = OriginalSam(sam, "small", "cpu")
    embedding = torch.randn(256, 4, 4, generator=torch.Generator().manual_seed(1))
    choices = [Prompts(POINTS, LABELS), Prompts(POINTS, 1 - LABELS), Prompts(POINTS, LABELS, BOX)]
    choices.append(Prompts(POINTS, LABELS, mask=MASK))
    masks = [backbone.decode(embedding, prompts, True)[0].numpy() for prompts in choices]
    assert all(np.abs(a - b).max() > 1e-3 for number, a in enumerate(masks) for b in masks[:number])


def test_size_and_name_are_the_models(sam):
    backbone = OriginalSam(sam, "given name", "cpu", torch.bfloat16)
    assert (backbone.name, backbone.image_size, backbone.dtype) == ("given name", SIDE, torch.bfloat16)
    dtypes = {name: weight.dtype for name, weight in sam.named_parameters()}
    sam.float()
    assert all((dtype == torch.bfloat16) == name.startswith("image_encoder.") for name, dtype in dtypes.items())
