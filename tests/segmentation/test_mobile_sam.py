"""Guards that MobileSAM's checkpoint loads under its own names, and that its encoder computes what a TinyViT does."""

import hashlib

import numpy as np
import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import PerSAM, Reference, load_backbone
from persam_dreambooth.segmentation.backbones.mobile_sam import TinyViT, build_mobile_sam
from persam_dreambooth.segmentation.backbones.original_sam import read_checkpoint
from random_parts import draw_weights
from tests.scene import scene

# Of the sorted lines "name (shape)" of the state dict of TinyViT as ChaoningZhang/MobileSAM builds it.
NAMES_AND_SHAPES = "3bae6e53e8e0674c86d3c03f785efa7e75a0d52c6e1db6c2ddec68ca450df98b"


def random_mobile_sam(side=128, seed=0):
    torch.manual_seed(seed)  # the positional encoding is a buffer
    return draw_weights(build_mobile_sam(side), seed)


def test_encoder_weights_match_mobile_sam_names_and_shapes():
    lines = sorted(f"{name} {tuple(weight.shape)}" for name, weight in TinyViT().state_dict().items())
    assert len(lines) == 302
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == NAMES_AND_SHAPES


def test_checkpoint_is_recognized_and_loaded_completely(tmp_path):
    saved, file = random_mobile_sam(side=1024).state_dict(), tmp_path / "sam_vit_h.pt"
    torch.save(saved, file)
    read = read_checkpoint(file).state_dict()
    assert list(read) == list(saved)
    assert all(torch.equal(read[name], saved[name]) for name in saved)
    backbone = load_backbone(file, device="cpu")
    assert (backbone.name, backbone.image_size) == ("sam_vit_h.pt", 1024)
    torch.save({name: weight for name, weight in saved.items() if "neck" not in name}, file)
    with pytest.raises(UserError, match="lacks other SAM weights"):
        read_checkpoint(file)


@torch.no_grad()
def test_encoder_is_timm_tiny_vit_with_full_resolution_last_stage():
    timm = pytest.importorskip("timm")
    ours = draw_weights(TinyViT(128), seed=0)
    random = torch.Generator().manual_seed(0)
    for name, weight in ours.state_dict().items():
        if "bias" in name or "running_mean" in name:
            weight.copy_(torch.randn(weight.shape, generator=random) * 0.1)
        if "running_var" in name:
            weight.copy_(torch.rand(weight.shape, generator=random) + 0.5)
    theirs = timm.create_model("tiny_vit_5m_224", features_only=True, out_indices=(0, 1, 2, 3)).eval()
    theirs.stages_3.downsample.conv2.conv.stride = (1, 1)
    state = {timms_name(name): weight for name, weight in ours.state_dict().items()}
    theirs.load_state_dict({name: weight for name, weight in state.items() if name is not None})
    pixels = torch.randn(2, 3, 128, 128, generator=random)
    expected = ours.neck(theirs(pixels)[-1])
    assert expected.shape == (2, 256, 8, 8)
    torch.testing.assert_close(ours(pixels), expected, rtol=1e-4, atol=1e-4)


def timms_name(name):
    """timm's name of a TinyViT weight, None if it has none; timm's stages begin with the transition from the last."""
    for old, new in (
        (".c.", ".conv."),
        ("patch_embed.seq.0", "patch_embed.conv1"),
        ("patch_embed.seq.2", "patch_embed.conv2"),
    ):
        name = name.replace(old, new)
    first, *rest = name.split(".")
    if first == "layers":
        return ".".join([f"stages_{int(rest[0]) + (rest[1] == 'downsample')}", *rest[1:]])
    return name if first == "patch_embed" else None


def test_persam_runs_on_mobile_sam():
    persam = PerSAM(load_backbone(random_mobile_sam(), device="cpu"))
    subject = persam.personalize(Reference(*scene(60, 100)))
    photos = [scene(90, 150)[0], scene(70, 40, seed=1)[0]]
    together = persam.segment(photos, subject)
    for photo, found in zip(photos, together, strict=True):
        assert found.mask.shape == photo.shape[:2]
        np.testing.assert_allclose(found.confidence_map, persam.segment(photo, subject).confidence_map, atol=1e-4)
