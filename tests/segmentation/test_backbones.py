"""Loading SAMs by hub name, folder and object."""

import pytest
import torch
from huggingface_hub import constants
from transformers import SamModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import PerSAM, Reference, load_backbone
from random_models import random_sam
from tests.parity import recorded_sam
from tests.scene import scene


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a saved transformers SAM; copy it before writing to it."""
    folder = tmp_path_factory.mktemp("models") / "sam"
    random_sam().save_pretrained(folder)
    return folder


def refusal_of(source):
    """Return the error message for a source; it is one line."""
    with pytest.raises(UserError) as refusal:
        load_backbone(source, device="cpu")
    message = str(refusal.value)
    assert message
    assert "\n" not in message
    return message


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
