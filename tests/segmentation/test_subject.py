"""The subject file: it loads unchanged, and works only with the weights that made it."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import (
    Method,
    PerSAM,
    PresenceMeter,
    Reference,
    Subject,
    VideoSegmenter,
    load_backbone,
    segment_instances,
)
from persam_dreambooth.segmentation.multi_mask import candidates
from persam_dreambooth.segmentation.subject import Examples, Memory
from random_models import random_sam
from tests.parity import recorded_sam
from tests.scene import scene


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(random_sam(), device="cpu")


@pytest.mark.parametrize("method", [Method(), Method.persam_f()], ids=["persam", "persam-f"])
def test_loaded_subject_finds_same_masks(backbone, method, tmp_path):
    persam = PerSAM(backbone, method)
    subject = persam.personalize(Reference(*scene(90, 150)))
    subject.save(tmp_path / "new" / "dog.safetensors")
    loaded = Subject.load(tmp_path / "new" / "dog.safetensors")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["dog.safetensors"]
    assert (loaded.backbone, loaded.checksum) == (subject.backbone, subject.checksum)
    photo, _ = scene(90, 150, seed=1)
    found, again = persam.segment(photo, subject), persam.segment(photo, loaded)
    np.testing.assert_array_equal(found.logits, again.logits)


def test_subject_is_moved_to_the_models_device(backbone):
    """A subject loads on the CPU whatever the model is on. Here the devices are exchanged: "meta" cannot be left."""
    persam, (photo, mask) = PerSAM(backbone, Method.persam_f()), scene(90, 150)
    subject = persam.personalize(Reference(photo, mask))
    elsewhere = subject.to("meta")
    tensors = (elsewhere.target_feature, elsewhere.target_embedding, elsewhere.mask_weights)
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 3
    uses = (
        lambda: persam.segment(photo, elsewhere),
        lambda: segment_instances(persam, photo, elsewhere, lambda *_: True),
        lambda: next(VideoSegmenter(persam, [elsewhere]).follow([photo])),
        lambda: next(candidates(persam, persam.encode([photo])[0], elsewhere, 1)),
        lambda: PresenceMeter(persam, elsewhere, [Reference(photo, mask)]),
        lambda: persam.personalize(Reference(photo, mask), subject.mask_weights.to("meta")),
    )
    for use in uses:
        with pytest.raises(NotImplementedError, match="out of meta tensor"):
            use()


@pytest.mark.parametrize(
    "part", [{"memory": Memory(torch.ones(2, 3), torch.ones(2))}, {"examples": Examples(torch.ones(1), torch.ones(1))}]
)
def test_all_of_a_subject_is_moved(part):
    subject = Subject(torch.ones(3), torch.ones(3), "dino", "1", **part).to("meta")
    (name,) = part
    held = [value for value in vars(getattr(subject, name)).values() if isinstance(value, torch.Tensor)]
    assert [tensor.device.type for tensor in held] == ["meta"] * 2


def test_both_packages_give_same_checksum():
    original, ported = (
        load_backbone(build(), device="cpu") for build in (recorded_sam.original, recorded_sam.transformers)
    )
    assert original.checksum == ported.checksum
    assert (
        load_backbone(random_sam(), device="cpu").checksum != load_backbone(random_sam(seed=1), device="cpu").checksum
    )


def test_one_changed_weight_changes_checksum(backbone):
    model = random_sam()
    with torch.no_grad():
        model.mask_decoder.iou_token.weight[0, 0] += 1e-3
    assert load_backbone(model, device="cpu").checksum != backbone.checksum


def test_invalid_subject_is_refused(tmp_path):
    path = tmp_path / "dog.safetensors"
    with pytest.raises(UserError, match="no subject at"):
        Subject.load(path)
    path.write_bytes(b"not a subject at all")
    with pytest.raises(UserError, match="damaged or no safetensors"):
        Subject.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is not a subject"):
        Subject.load(path)


def test_failed_save_keeps_old_subject(backbone, tmp_path, monkeypatch):
    path = tmp_path / "dog.safetensors"
    subject = PerSAM(backbone).personalize(Reference(*scene(90, 150)))
    subject.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("persam_dreambooth.torch_utils.save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        subject.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
