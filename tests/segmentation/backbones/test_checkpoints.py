"""Which authors' checkpoint a file is: recognized by its weights, refused if it is none or incomplete."""

import pytest
import torch
from segment_anything import sam_model_registry

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.backbones.checkpoints import SMALL, TYPE_BY_WIDTH, read_checkpoint
from random_models import random_sam
from tests.parity import recorded_sam
from tests.parity.small_sams import published_shapes, random_state
from tests.segmentation.test_backbones import refusal_of


@pytest.mark.parametrize(
    "state",
    [{"weight": torch.zeros(3)}, torch.zeros(3), [1, 2], {}, {"image_encoder.pos_embed": "text"}],
    ids=["other tensors", "single tensor", "list", "empty", "no tensor"],
)
def test_tensors_that_are_not_sam_are_refused(tmp_path, state):
    torch.save(state, tmp_path / "other.pth")
    assert "no SAM image encoder" in refusal_of(tmp_path / "other.pth")


def test_transformers_state_dict_is_not_original_checkpoint(tmp_path):
    torch.save(random_sam().state_dict(), tmp_path / "sam.pth")
    assert "no SAM image encoder" in refusal_of(tmp_path / "sam.pth")


def test_sam_of_unknown_width_is_refused_with_known_widths():
    message = refusal_of(recorded_sam.WEIGHTS)
    assert "width 32" in message
    assert "768, 1024 or 1280" in message


def test_sam_encoder_alone_is_refused(tmp_path):
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 768)}, tmp_path / "half.pth")
    assert "lacks other SAM weights" in refusal_of(tmp_path / "half.pth")


def test_vit_b_checkpoint_is_recognized_and_loaded_completely(tmp_path):
    torch.manual_seed(0)
    saved, file = sam_model_registry["vit_b"]().state_dict(), tmp_path / "named_vit_h.pth"
    torch.save(saved, file)
    sam = read_checkpoint(file)
    file.unlink()  # 360 MB
    assert len(sam.image_encoder.blocks) == 12
    read = sam.state_dict()
    assert list(read) == list(saved)
    assert all(torch.equal(read[name], saved[name]) for name in saved)


@pytest.mark.parametrize("name", ["mobile_sam", "edge_sam", "efficient_sam_vitt"])
@pytest.mark.parametrize("missing", ["neck", "iou_token", "point_embeddings"])
def test_file_without_some_weights_is_refused(tmp_path, name, missing):
    state, file = random_state(published_shapes(name)), tmp_path / "sam.pt"
    torch.save({weight: value for weight, value in state.items() if missing not in weight}, file)
    with pytest.raises(UserError, match="lacks other SAM weights"):
        read_checkpoint(file)


def test_each_small_sam_is_known_by_a_weight_of_its_own():
    published = [set(published_shapes(name)) for name in ("mobile_sam", "edge_sam", "efficient_sam_vitt")]
    published.append(set(recorded_sam.original().state_dict()))
    assert [[known in names for names in published] for known in SMALL] == [
        [True, False, False, False],
        [False, True, False, False],
        [False, False, True, False],
    ]


@pytest.mark.parametrize(("width", "name"), TYPE_BY_WIDTH.items())
def test_size_is_known_by_the_encoders_width(width, name):
    with torch.device("meta"):
        sam = sam_model_registry[name]()
    assert sam.image_encoder.pos_embed.shape[-1] == width
