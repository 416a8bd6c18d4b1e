"""Inputs and outputs of the API: paths, one-line errors, short reprs, bounded memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Method, PerSAM, Reference, load_backbone
from persam_dreambooth.segmentation.appearance import LARGEST_CUT_OUT, cut_out
from random_models import random_sam
from tests.scene import scene


@pytest.fixture
def files(tmp_path):
    photo, mask = scene(90, 150)
    Image.fromarray(np.asarray(photo)).save(tmp_path / "a.png")
    Image.fromarray(np.asarray(mask).astype(np.uint8) * 255).save(tmp_path / "m.png")
    return tmp_path


# Paths


def test_paths_are_accepted_as_pictures(persam, subject, files):
    photo, mask = files / "a.png", files / "m.png"
    from_paths, from_images = Reference(str(photo), mask), Reference(Image.open(photo), Image.open(mask))
    np.testing.assert_array_equal(from_paths.pixels, from_images.pixels)
    np.testing.assert_array_equal(from_paths.foreground, from_images.foreground)
    np.testing.assert_array_equal(from_paths.raw_levels(), from_images.raw_levels())
    by_path = persam.segment(str(photo), subject)
    assert by_path.mask.shape == (90, 150)
    assert len(persam.segment([photo, Image.open(photo)], subject)) == 2


def test_path_that_is_not_image_is_named_in_one_line(persam, subject, files):
    (files / "text.jpg").write_text("not an image")
    for name in ("absent.png", "text.jpg", "."):
        with pytest.raises(UserError, match=r"no picture at|cannot be decoded|is a folder") as caught:
            persam.segment(files / name, subject)
        assert "\n" not in str(caught.value)


# Reprs


def test_reprs_are_one_short_line(persam, subject):
    photo, mask = scene(90, 150)
    (encoded,) = persam.encode([photo])
    found = persam.segment(encoded, subject)
    for value in (Reference(photo, mask), subject, encoded, found, found.passes[0]):
        assert len(repr(value)) < 200
        assert "\n" not in repr(value)
    assert "150 x 90" in repr(found)


# Damaged and foreign models


def saved_sam(folder, damage):
    """Save a small SAM with weights modified by `damage`; return its folder."""
    random_sam().save_pretrained(folder)
    path = folder / "model.safetensors"
    save_file({name: damage(name, weight) for name, weight in load_file(path).items()}, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize("part", ["vision_encoder", "mask_decoder"])
def test_nan_weights_are_refused(tmp_path, part):
    def damage(name, weight):
        return torch.full_like(weight, torch.nan) if name.startswith(part) else weight

    persam = PerSAM.from_pretrained(saved_sam(tmp_path / "sam", damage), device="cpu")
    with pytest.raises(UserError, match="not finite"):
        persam.segment(scene(90, 150)[0], persam.personalize(Reference(*scene(90, 150))))


def test_unavailable_name_fails_immediately(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the hub cannot be reached"):
        load_backbone("nobody/no-such-sam", device="cpu")


# Long and narrow photos


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is created."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0) if sizes else self.elements
        return result


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (10, 8000)], ids=str)
@pytest.mark.parametrize("padding", [0.0, 0.1])
def test_memory_depends_on_pixels_not_on_longer_side(backbone, size, padding):
    persam = PerSAM(backbone, replace(Method(), edge_padding=padding))
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, bool)
    mask.reshape(-1)[: mask.size // 2] = True
    small = persam.personalize(Reference(*scene(64, 64)))
    with Largest() as usual:
        persam.segment(scene(128, 128)[0], small)
    with Largest() as narrow:
        persam.segment(photo, persam.personalize(Reference(photo, mask)))
    assert narrow.elements <= usual.elements + 4 * photo.size


def test_cut_out_of_long_subject_has_limited_size():
    photo, mask = np.zeros((1, 20000, 3), np.uint8), np.ones((1, 20000), bool)
    assert max(cut_out(photo, mask).size) == LARGEST_CUT_OUT
    usual = np.zeros((30, 60, 3), np.uint8)
    assert cut_out(usual, np.ones((30, 60), bool)).size == (60, 60)


# Edge padding


def test_edge_padding_has_separate_cache_entries_and_keeps_mask_size(backbone, tmp_path):
    photo, mask = scene(90, 150)
    for padding in (0.0, 0.1):
        persam = PerSAM(backbone, Method(edge_padding=padding), cache=tmp_path)
        found = persam.segment(photo, persam.personalize(Reference(photo, mask)))
        assert found.mask.shape == (90, 150)
        assert (found.points >= 0).all()
        assert (found.points < [150, 90]).all()
    assert len(list(tmp_path.iterdir())) == 2
