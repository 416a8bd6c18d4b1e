"""A second encoder: its features, in their own frame, give the confidence map and nothing else."""

import numpy as np
import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Method, PerSAM, Reference, load_backbone, location
from persam_dreambooth.segmentation.features import FeatureEncoder
from persam_dreambooth.segmentation.frame import Frame
from random_models import draw_weights, random_sam
from tests.scene import scene

CELLS, WIDTH, SIZE = 6, 24, (90, 150)
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


def dinov2(seed=0):
    return draw_weights(Dinov2Model(Dinov2Config(**SMALL)), seed)


def with_registers(seed=0):
    return draw_weights(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, num_register_tokens=4)), seed)


def dinov3(seed=0):
    config = {**SMALL, "patch_size": 16, "image_size": 32, "intermediate_size": 48, "num_register_tokens": 4}
    return draw_weights(DINOv3ViTModel(DINOv3ViTConfig(**config)), seed)


@pytest.fixture(params=[dinov2, with_registers, dinov3], ids=lambda build: build.__name__)
def build(request):
    return request.param


def persam_with(build, method=None):
    return PerSAM(load_backbone(random_sam(), device="cpu"), method, FeatureEncoder(build(), CELLS, device="cpu"))


def test_folder_gives_grid_of_last_layer_patches(build, tmp_path):
    build().save_pretrained(tmp_path)
    encoder = FeatureEncoder.from_pretrained(tmp_path, CELLS * build().config.patch_size, "cpu")
    assert encoder.image_size == CELLS * build().config.patch_size
    assert encoder.checksum == FeatureEncoder(build(), device="cpu").checksum
    assert encoder.checksum != FeatureEncoder(build(seed=1), device="cpu").checksum
    frame = encoder.frame(*SIZE)
    assert frame == Frame(*SIZE, encoder.image_size)
    pixels = frame.pixels(scene(*SIZE)[0])[None]
    features = encoder.encode(pixels)
    assert features.shape == (1, WIDTH, CELLS, CELLS)
    with torch.no_grad():
        tokens = build()(pixels).last_hidden_state[0]
    torch.testing.assert_close(features[0, :, 0, 1], tokens[-CELLS * CELLS + 1])  # rows first: (0, 1) is the second
    torch.testing.assert_close(features[0, :, -1, -1], tokens[-1])


@pytest.mark.parametrize("method", [Method(), Method("official"), Method("paper"), Method.persam_f()], ids=str)
def test_confidence_map_is_second_encoders_and_target_embedding_sams(method):
    persam, alone = persam_with(dinov2, method), PerSAM(load_backbone(random_sam(), device="cpu"), method)
    reference, photo = Reference(*scene(60, 100)), scene(*SIZE, seed=1)[0]
    subject, sams = persam.personalize(reference), alone.personalize(reference)
    assert subject.target_feature.shape == (WIDTH,)
    assert torch.equal(subject.target_embedding, sams.target_embedding)
    found = persam.segment(photo, subject)
    frame = persam.features.frame(*SIZE)
    features = persam.features.encode(frame.pixels(photo)[None])[0]
    expected = location.to_photo(location.confidence_map(subject.target_feature, features), frame)
    np.testing.assert_allclose(found.confidence_map, expected, atol=1e-6)
    assert found.mask.shape == SIZE
    x, y = found.points[0]
    assert found.confidence_map[y, x] == found.confidence_map.max()
    if method.guided_attention:
        assert found.attention_bias.shape == (8, 8)  # SAM's grid, not the second encoder's
        assert np.ptp(found.attention_bias) > 0
    together = persam.segment([scene(40, 40)[0], photo], subject)
    np.testing.assert_allclose(together[1].confidence_map, found.confidence_map, atol=1e-6)


def test_subject_belongs_to_both_encoders():
    reference, photo = Reference(*scene(60, 100)), scene(*SIZE)[0]
    with_other, alone = persam_with(dinov2), PerSAM(load_backbone(random_sam(), device="cpu"))
    subject = with_other.personalize(reference)
    for other in (alone, persam_with(dinov3)):
        with pytest.raises(UserError, match="personalize again"):
            other.segment(photo, subject)
    with pytest.raises(UserError, match="personalize again"):
        with_other.segment(photo, alone.personalize(reference))


def test_map_is_padded_with_its_lowest_value():
    frame = Frame(50, 100, 128)  # fills rows 0 to 3 of 8
    grid = location.to_grid(torch.linspace(0, 1, 100).expand(50, 100), frame, 8)
    assert (grid[4:] == 0).all()
    assert (grid[:3].diff(dim=1) > 0).all()


def test_foreign_model_folder_is_refused(tmp_path):
    random_sam().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is not a DINO"):
        FeatureEncoder.from_pretrained(tmp_path)
