"""The base of all families: latents, places and precisions of the parts, and batches of noisy latents."""

import pytest
import torch

from persam_dreambooth.training.families.base import Noised
from random_models import random_sd3
from tests.training.small import every_family, make


@every_family
def test_denoiser_can_be_kept_off_device(base):
    """As FSDP needs, which moves the denoiser to the device shard by shard."""
    _, family = make(base)
    family.place(torch.device("meta"), torch.bfloat16, torch.device("cpu"))
    (denoiser,) = family.trained().values()
    assert {weight.device.type for weight in denoiser.parameters()} == {"cpu"} and family.vae.device.type == "meta"


def test_first_pictures_of_a_batch_are_views():
    names = ("noisy", "timesteps", "target", "weight", "crop")
    batch = Noised(*(torch.randn(3, *shape) for shape in ((4, 2, 2), (), (4, 2, 2), (), (6,))))
    two = batch.first(2)
    for name in names:
        ours, whole = getattr(two, name), getattr(batch, name)
        assert torch.equal(ours, whole[:2]) and ours.data_ptr() == whole.data_ptr()
    bare = Noised(batch.noisy, batch.timesteps, batch.target).first(2)
    assert bare.weight is None and bare.crop is None


@pytest.mark.parametrize(("name", "shift"), [("stable-diffusion", 0.0), ("sd3", 0.06), ("flux", 0.12)])
def test_latents_are_shifted_then_scaled(pipelines, name, shift):
    _, family = make(pipelines / name)
    latents = torch.tensor([shift, shift + 1, shift - 2]).view(1, 1, 1, 3)
    torch.testing.assert_close(family.normalize(latents).flatten(), torch.tensor([0.0, 0.18215, -0.3643]))


@pytest.mark.parametrize(("name", "draws"), [("stable-diffusion", True), ("sd3", True), ("z-image", False)])
def test_latents_are_drawn_or_the_mean(pipelines, name, draws):
    _, family = make(pipelines / name)
    mean = torch.randn(2, 4, 6, 6)
    certain, wide = (torch.cat([mean, torch.full_like(mean, level)], 1) for level in (-30.0, 0.0))
    before = torch.get_rng_state()
    torch.testing.assert_close(family.sample_latents(certain), family.normalize(mean), rtol=1e-4, atol=1e-5)
    assert torch.equal(before, torch.get_rng_state()) != draws
    assert torch.equal(family.sample_latents(wide), family.sample_latents(wide)) != draws


@pytest.mark.parametrize("lora", [True, False])
def test_what_is_trained_stays_in_float32(pipelines, lora):
    _, family = make(pipelines / "flux", {"use_lora": lora, "train_text_encoder": True})
    family.place(torch.device("cpu"), torch.bfloat16)
    for name in ("vae", *family.encoders, "transformer"):
        for weight in getattr(family, name).parameters():
            assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16), name
    whole = {name for name in family.trained() if all(w.requires_grad for w in getattr(family, name).parameters())}
    assert whole == (set() if lora else {"text_encoder", "transformer"})


def test_frozen_parts_are_those_that_exist_and_are_not_trained(tmp_path):
    random_sd3(with_t5=False).save_pretrained(tmp_path)
    _, family = make(tmp_path, {"use_lora": True})
    _, trained = make(tmp_path, {"use_lora": True, "train_text_encoder": True})
    names = ("vae", *family.encoders, "transformer")
    assert family.frozen(names) == [family.vae, family.text_encoder, family.text_encoder_2]
    assert trained.frozen(names) == [trained.vae] and trained.frozen(["text_encoder_3"]) == []
    encoded = family.encode_prompt(family.tokenize("a dog"))
    family.drop_text_encoder()
    assert family.encode_prompt(encoded) is encoded
