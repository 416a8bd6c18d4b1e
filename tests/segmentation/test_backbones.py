"""Loading SAMs: supported sources, refused ones and their messages; code in a file never runs."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from segment_anything import sam_model_registry
from transformers import SamModel, ViTConfig, ViTModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Method, PerSAM, Reference, load_backbone
from persam_dreambooth.segmentation.backbones.checkpoints import read_checkpoint
from random_models import random_sam
from tests.parity import recorded_sam
from tests.scene import scene


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a saved transformers SAM; copy it before writing to it."""
    folder = tmp_path_factory.mktemp("models") / "sam"
    random_sam().save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "sam"))


def refusal_of(source):
    """Return the error message for a source; it is one line."""
    with pytest.raises(UserError) as refusal:
        load_backbone(source, device="cpu")
    message = str(refusal.value)
    assert message
    assert "\n" not in message
    return message


class RunsCode:
    """A malicious object in a checkpoint: unpickling it would create a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


# Transformers


def test_saved_folder_is_loaded_by_name_with_its_weights(saved):
    backbone = load_backbone(str(saved), device="cpu")
    assert backbone.name == str(saved)
    assert backbone.image_size == 128
    assert backbone.device == torch.device("cpu")
    photo = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    direct = load_backbone(random_sam(), device="cpu")
    assert torch.equal(backbone.encode(photo), direct.encode(photo))
    assert backbone.encode(photo).shape == (1, 32, 8, 8)


def test_persam_loads_folder_given_as_path(saved):
    persam = PerSAM.from_pretrained(saved, device="cpu")
    assert persam.backbone.name == str(saved)
    assert persam.personalize(Reference(*scene(40, 60))).backbone == str(saved)


def test_model_object_is_frozen_and_named_after_its_class(saved):
    model = random_sam()
    assert load_backbone(model, device="cpu").name == "SamModel"
    assert load_backbone(SamModel.from_pretrained(saved), device="cpu").name == str(saved)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert load_backbone(recorded_sam.original(), device="cpu").name == "Sam"


@pytest.mark.parametrize("name", ["nobody/no-such-sam", "no-such-folder", "not a name at all", "too/many/parts", ""])
def test_unknown_name_is_refused(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # the variable as huggingface_hub read it at import
    message = refusal_of(name)
    assert repr(name) in message
    assert "the hub cannot be reached" in message or "facebook/sam-vit-base" in message  # an example is for a typo


def test_foreign_model_folder_is_refused_by_its_type(tmp_path):
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
    ViTModel(config).save_pretrained(tmp_path)
    assert '"vit"' in refusal_of(tmp_path)


def test_folder_with_untyped_or_invalid_config_is_refused(copied):
    (copied / "config.json").write_text("{}")
    assert "is not a SAM" in refusal_of(copied)
    (copied / "config.json").write_text("{")
    assert str(copied) in refusal_of(copied)


def test_sam_without_its_weights_file_is_refused(copied):
    (copied / "model.safetensors").unlink()
    assert "model.safetensors" in refusal_of(copied)


def test_sam_with_missing_weights_is_refused_naming_one(copied):
    file = copied / "model.safetensors"
    weights = {name: weight for name, weight in load_file(file).items() if "neck" not in name}
    save_file(weights, file, metadata={"format": "pt"})
    message = refusal_of(copied)
    assert "6 of a SAM's weights" in message
    assert "vision_encoder.neck.conv1.weight" in message


def test_sam_with_mismatched_weights_is_refused(copied):
    file = copied / "model.safetensors"
    weights = load_file(file)
    weights["vision_encoder.neck.conv1.weight"] = torch.zeros(3, 3, 1, 1)
    save_file(weights, file, metadata={"format": "pt"})
    assert str(copied) in refusal_of(copied)


# Original checkpoints


def test_missing_checkpoint_is_refused(tmp_path):
    assert "no SAM checkpoint at" in refusal_of(tmp_path / "sam_vit_h.pth")
    (tmp_path / "folder.pth").mkdir()
    assert "no SAM checkpoint at" in refusal_of(tmp_path / "folder.pth")


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_checkpoint_with_code_is_refused_and_code_does_not_run(tmp_path, how, suffix):
    trace, file = tmp_path / "the-code-ran", tmp_path / f"sam{suffix}"
    state = {"image_encoder.pos_embed": torch.zeros(1, 64, 64, 768), "extra": RunsCode(trace)}
    if how == "bare pickle":
        file.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=how == "zip")
    assert "can run code" in refusal_of(file)
    assert not trace.exists()
    # The payload is real: an unsafe load runs it.
    if how == "bare pickle":
        pickle.loads(file.read_bytes())
        assert trace.exists()


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


def test_truncated_checkpoint_is_refused(tmp_path):
    file, whole = tmp_path / "sam.pth", recorded_sam.WEIGHTS.read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 10):
        file.write_bytes(whole[:length])
        assert str(file) in refusal_of(file)


@pytest.mark.parametrize(
    "content", [b"<html>404 Not Found</html>", b"PK\x03\x04" + bytes(100), bytes(1000)], ids=["page", "zip", "zeros"]
)
def test_unrelated_file_is_refused(tmp_path, content):
    (tmp_path / "sam.pth").write_bytes(content)
    assert str(tmp_path / "sam.pth") in refusal_of(tmp_path / "sam.pth")


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


# Precision


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


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_damaged_safetensors_file_is_refused(tmp_path, content):
    random_sam().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError):
        load_backbone(tmp_path, device="cpu")


def test_weights_bin_with_code_is_refused(tmp_path):
    random_sam().save_pretrained(tmp_path)
    torch.save({**load_file(tmp_path / "model.safetensors"), "x": PerSAM}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError):
        load_backbone(tmp_path, device="cpu")


def test_config_that_is_not_object_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError):
        load_backbone(tmp_path, device="cpu")


@pytest.mark.parametrize("length", [1, 5000])
def test_truncated_legacy_checkpoint_is_refused(tmp_path, length):
    torch.save(random_sam().state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:length])
    with pytest.raises(UserError):
        load_backbone(tmp_path / "a.pth", device="cpu")


@pytest.mark.parametrize("content", [b"U\xf2\xd4}" + bytes(range(128, 256)) * 3, b"h\x11\xbb=\xb5", b"b\xa0\xad"])
def test_garbage_is_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError):
        load_backbone(tmp_path / "a.pth", device="cpu")
