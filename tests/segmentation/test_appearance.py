"""Appearance similarity: cut-outs show only the subject, and features equal those of the model's class."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, Dinov2Config, Dinov2Model

from models import CLIP
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import ImageEncoder
from persam_dreambooth.segmentation.appearance import GREY, cut_out
from tests.scene import scene


@settings(deadline=None, max_examples=40)
@given(
    top=st.integers(0, 20),
    left=st.integers(0, 30),
    height=st.integers(1, 15),
    width=st.integers(1, 15),
    seed=st.integers(0, 1000),
)
def test_cut_out_shows_only_subject(top, left, height, width, seed):
    random = np.random.default_rng(seed)
    subject = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    photo = random.integers(0, 256, (36, 46, 3), dtype=np.uint8)
    photo[top : top + height, left : left + width] = subject
    mask = np.zeros(photo.shape[:2], bool)
    mask[top : top + height, left : left + width] = True
    square = np.asarray(cut_out(photo, mask))
    side = max(height, width)
    assert square.shape == (side, side, 3)
    down, across = (side - height) // 2, (side - width) // 2
    np.testing.assert_array_equal(square[down : down + height, across : across + width], subject)
    beside = np.ones((side, side), bool)
    beside[down : down + height, across : across + width] = False
    assert (square[beside] == GREY).all()


def test_pixels_in_box_but_not_in_mask_are_grey():
    photo, disc = scene(60, 80)
    square = np.asarray(cut_out(photo, disc))
    assert (square[0, 0] == GREY).all()
    middle = square[square.shape[0] // 2, square.shape[1] // 2]
    assert middle[0] > 180 > middle[1]


def test_clip_features_match_transformers():
    pictures = [scene(60, 80, seed)[0] for seed in (0, 1)]
    ours = ImageEncoder.from_pretrained(CLIP, "cpu").encode(pictures)
    model, prepare = CLIPModel.from_pretrained(CLIP), CLIPImageProcessor.from_pretrained(CLIP)
    assert isinstance(CLIPProcessor.from_pretrained(CLIP).image_processor, type(prepare))
    with torch.no_grad():
        theirs = model.float().get_image_features(**prepare(pictures, return_tensors="pt")).pooler_output
    torch.testing.assert_close(ours, theirs / theirs.norm(dim=-1, keepdim=True), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(2))


def test_dino_features_are_class_token(tmp_path):
    torch.manual_seed(0)
    model = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    ).eval()
    prepare = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    for part in (model, prepare):
        part.save_pretrained(tmp_path)
    picture = scene(60, 80)[0]
    (ours,) = ImageEncoder.from_pretrained(tmp_path, "cpu").encode([picture])
    with torch.no_grad():
        token = model(**prepare(picture, return_tensors="pt")).last_hidden_state[0, 0]
    torch.testing.assert_close(ours, token / token.norm(), atol=1e-4, rtol=1e-4)


def test_foreign_model_and_missing_preprocessor_config_are_refused(models, tmp_path):
    with pytest.raises(UserError, match="is not a CLIP or DINO"):
        ImageEncoder.from_pretrained(models / "sam", "cpu")
    CLIPModel.from_pretrained(CLIP).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no preprocessor_config\.json"):
        ImageEncoder.from_pretrained(tmp_path, "cpu")
