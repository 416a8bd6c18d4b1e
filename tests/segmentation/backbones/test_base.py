"""The base of all backbones: precision, the frozen weights and their checksum, prompts on a device."""

import numpy as np
import pytest
import torch

from persam_dreambooth.segmentation import Method, PerSAM, Prompts, Reference, load_backbone
from persam_dreambooth.segmentation.backbones import TransformersSam
from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.guidance import Guidance
from random_models import random_sam
from tests.parity import recorded_sam
from tests.scene import scene


@pytest.mark.parametrize("build", [random_sam, recorded_sam.original], ids=["transformers", "segment-anything"])
def test_bfloat16_changes_only_image_encoder_dtype(build):
    model = build()
    load_backbone(model, device="cpu", dtype=torch.bfloat16)
    for name, weight in model.named_parameters():
        inside = name.startswith(("vision_encoder.", "image_encoder."))
        assert weight.dtype == (torch.bfloat16 if inside else torch.float32), name


def test_bfloat16_features_and_masks_are_close_to_float32():
    reference, photo = Reference(*scene(90, 150)), scene(90, 150, seed=1)[0]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        # One pass only: refinement with a random SAM amplifies every difference.
        persam = PerSAM.from_pretrained(random_sam(), Method(refinement=False), device="cpu", dtype=dtype)
        subject = persam.personalize(reference)
        assert subject.target_feature.dtype == torch.float32
        found.append(persam.segment(photo, subject))
    full, half = found
    assert np.corrcoef(full.confidence_map.ravel(), half.confidence_map.ravel())[0, 1] > 0.995
    assert np.corrcoef(full.logits.ravel(), half.logits.ravel())[0, 1] > 0.995
    assert (full.mask & half.mask).sum() / (full.mask | half.mask).sum() > 0.9
    assert half.logits.dtype == np.float32
    assert not np.array_equal(full.logits, half.logits)


def test_checksum_is_of_loaded_weights_not_of_compute_dtype(backbone):
    assert load_backbone(random_sam(), device="cpu", dtype=torch.bfloat16).checksum == backbone.checksum


def test_prompts_are_moved_with_what_they_have():
    given = Prompts(torch.ones(1, 2), torch.ones(1), mask=torch.ones(4, 4))
    moved = given.to(torch.device("meta"))
    assert {value.device.type for value in (moved.points, moved.labels, moved.mask)} == {"meta"}
    assert moved.box is None and given.points.device.type == "cpu"
    assert Prompts(given.points, given.labels, torch.ones(4)).to(torch.device("meta")).box.device.type == "meta"


def test_model_is_frozen_in_evaluation_mode():
    model = random_sam().train()
    load_backbone(model, device="cpu")
    assert not any(module.training for module in model.modules())
    assert not any(weight.requires_grad for weight in model.parameters())


def test_photo_is_placed_and_normalized_as_the_backbone_says():
    class Stretched(TransformersSam):
        stretch, mean, std = True, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)

    assert load_backbone(random_sam(), device="cpu").frame(60, 120) == Frame(60, 120, 128)
    frame = Stretched(random_sam(), "stretched", "cpu").frame(60, 120)
    assert frame == Frame(60, 120, 128, stretch=True, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))


def test_features_are_float32_with_none_extra_and_without_gradients(backbone):
    photos = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    features, extra = backbone.encode_with_extra(photos)
    assert features.shape == (2, 32, 8, 8) and extra == ()
    assert features.dtype == torch.float32 and not features.requires_grad
    assert torch.equal(backbone.encode(photos), features)
    logits, _ = backbone.decode(features[0].requires_grad_(), Prompts(torch.ones(1, 2), torch.ones(1)), False)
    assert not logits.requires_grad


def test_guidance_holds_for_its_call_only(backbone):
    random = torch.Generator().manual_seed(0)
    embedding, point = torch.randn(32, 8, 8, generator=random), Prompts(torch.full((1, 2), 40.0), torch.ones(1))
    guidance = Guidance(torch.rand(64, generator=random) * 20, torch.randn(32, generator=random))
    plain, guided, again = (backbone.decode(embedding, point, True, given)[0] for given in (None, guidance, None))
    assert (plain - guided).abs().max() > 0.01
    assert torch.equal(plain, again)
