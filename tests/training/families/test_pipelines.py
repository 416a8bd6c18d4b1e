"""Each family agrees with diffusers' pipeline on prompts, noisy latents and saved weights."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from persam_dreambooth.generation import generate, load_pipeline
from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families import check_base_model, load_family
from random_models import PIPELINES, random_sd3, random_sdxl
from tests.training.small import (
    KINDS,
    batch_for,
    configure,
    every_family,
    make,
    noised_for,
    prediction_of,
    trained_parameters,
)

UNGUIDED = {"do_classifier_free_guidance": False}
# Results of each pipeline's `encode_prompt`, in order, and its arguments for prompts of the training length.
ENCODE_PROMPT = {
    "stable-diffusion": (["embeds"], {"num_images_per_prompt": 1, "device": "cpu"} | UNGUIDED),
    "sdxl": (["embeds", None, "pooled"], UNGUIDED),
    "sd3": (["embeds", None, "pooled"], {"prompt_2": None, "prompt_3": None, "max_sequence_length": 77} | UNGUIDED),
    "flux": (["embeds", "pooled"], {"prompt_2": None}),
    "lumina2": (["embeds", "attention_mask"], UNGUIDED),
    "qwen-image": (["embeds", None], {"max_sequence_length": 512}),
    "flux2-klein": (["embeds"], {}),
    "flux2": (["embeds"], {}),
    "z-image": (["embeds"], UNGUIDED),
    "krea2": (["embeds", "attention_mask"], {}),
}
families = pytest.mark.parametrize("name", PIPELINES)


@families
def test_prompt_encoding_matches_pipeline(pipelines, name):
    _, family = make(pipelines / name)
    ours = family.encode_prompt(family.tokenize("a sks dog"))
    pipeline = DiffusionPipeline.from_pretrained(pipelines / name)
    pipeline.text_encoder.to(family.text_encoder.dtype)
    names, settings = ENCODE_PROMPT[name]
    theirs = dict(zip(names, pipeline.encode_prompt("a sks dog", **settings), strict=False))
    if name == "z-image":  # one tensor for each prompt
        theirs["embeds"] = torch.stack(theirs["embeds"])
    if name == "krea2":  # pads every prompt, and only there
        theirs["embeds"] = theirs["embeds"][:, theirs["attention_mask"][0]]
        theirs["attention_mask"] = torch.ones_like(ours["attention_mask"])
    for key, value in theirs.items():
        if key is not None:
            torch.testing.assert_close(ours[key], value.to(ours[key].dtype), rtol=1e-4, atol=1e-4)
    assert {len(value) for value in ours.values()} == {1}


def test_sd3_without_t5_uses_zeros(tmp_path):
    random_sd3(with_t5=False).save_pretrained(tmp_path)
    config, family = make(tmp_path, {"use_lora": True})
    ours = family.encode_prompt(family.tokenize("a sks dog"))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path, text_encoder_3=None, tokenizer_3=None)
    theirs = pipeline.encode_prompt("a sks dog", None, None, max_sequence_length=77)
    torch.testing.assert_close(ours["embeds"], theirs[0])
    assert family.pipeline().text_encoder_3 is None
    assert prediction_of(family, noised_for(family, config), batch_for(family, False)).isfinite().all()


@pytest.mark.parametrize(("name", "kind"), list(product(PIPELINES, KINDS)))
def test_saved_weights_predict_like_trained_ones(pipelines, tmp_path, name, kind):
    """In diffusers' own pipeline, and in a resumed run."""
    config, family = make(pipelines / name, KINDS[kind])
    torch.manual_seed(0)
    for weight in trained_parameters(family):
        weight.data += 0.05 * torch.randn_like(weight)
    for part in family.trained().values():
        part.eval()
    batch, noised = batch_for(family, class_images=False), noised_for(family, config)
    trained, untouched = prediction_of(family, noised, batch), prediction_of(make(pipelines / name)[1], noised, batch)
    assert (trained - untouched).abs().max() > 1e-2  # unchanged weights would prove nothing
    family.save(tmp_path / "saved")

    lora = config.model.use_lora
    pipeline = DiffusionPipeline.from_pretrained(pipelines / name if lora else tmp_path / "saved")
    if lora:
        pipeline.load_lora_weights(tmp_path / "saved", weight_name="pytorch_lora_weights.safetensors")
    _, reader = make(pipelines / name)
    reader.replace({part: getattr(pipeline, part) for part in family.trained()})
    torch.testing.assert_close(prediction_of(reader, noised, batch), trained, rtol=1e-4, atol=1e-4)

    _, other = make(pipelines / name, KINDS[kind])
    family.save_weights(tmp_path / "checkpoint")
    other.load_weights(tmp_path / "checkpoint")
    for part in other.trained().values():
        part.eval()
    torch.testing.assert_close(prediction_of(other, noised, batch), trained, rtol=0, atol=0)


@families
@pytest.mark.parametrize("kind", ["lora-text", "lora", "full"])
def test_gradient_checkpointing_changes_no_gradient(pipelines, name, kind):
    def gradients(checkpointing):
        torch.manual_seed(0)
        config, family = make(pipelines / name, KINDS[kind] | {"gradient_checkpointing": checkpointing})
        batch, noised = batch_for(family, class_images=False), noised_for(family, config)
        for part in family.trained().values():
            part.train()
            assert part.is_gradient_checkpointing == checkpointing
            for key, weight in part.named_parameters():
                if "lora_B" in key:
                    weight.data += 0.02
        (family.predict(noised, family.encode_prompt(batch.prompt)) ** 2).mean().backward()
        return [weight.grad for weight in trained_parameters(family)]

    without, with_it = gradients(False), gradients(True)
    assert sum(gradient is not None for gradient in without) > 0.7 * len(without)
    for plain, checkpointed in zip(without, with_it, strict=True):
        assert (
            (plain is None or not plain.any())
            if checkpointed is None
            else torch.allclose(plain, checkpointed, atol=1e-6)
        )


@families
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_dropped_text_encoders_are_reloaded_for_pictures(pipelines, tmp_path, name, kind):
    _, family = make(pipelines / name, KINDS[kind])
    drawn = {}
    for dropped in (False, True):
        if dropped:
            family.drop_text_encoder()
            assert all(getattr(family, encoder) is None for encoder in family.encoders)
        pipeline = family.pipeline()
        pipeline.scheduler = family.sampler("DPMSolverMultistepScheduler", pipeline.scheduler.config)
        settings = {"num_inference_steps": 2, "height": 32, "width": 32}
        drawn[dropped] = generate(pipeline, ["a sks dog"], num_images=1, **settings)[0].image
    loaded, reloaded = (np.asarray(drawn[dropped]).astype(int) for dropped in drawn)
    assert np.abs(loaded - reloaded).max() <= (3 if name == "lumina2" else 0)  # its text encoder trains in bf16
    family.save(tmp_path)
    saved = load_pipeline(str(tmp_path), str(pipelines / name) if kind == "lora" else None, "cpu")
    assert generate(saved, ["a sks dog"], num_images=1, **settings)[0].image.size == drawn[False].size
    family.dtype = torch.bfloat16  # as after `place`
    reloaded = family.pipeline().components
    assert {reloaded[encoder].dtype for encoder in family.encoders if reloaded[encoder]} == {torch.bfloat16}


@families
def test_accepted_sides_match_denoiser(pipelines, name):
    config = ModelConfig(pretrained_model_name_or_path=str(pipelines / name))
    kind = check_base_model(config)
    expected = {"stable-diffusion": (2, 2), "sdxl": (2, 2), "lumina2": (8, 16)}
    assert (kind.cell_of(config), kind.side_unit_of(config)) == expected.get(name, (2, 4))
    assert DiffusionPipeline.from_pretrained(pipelines / name).vae_scale_factor == kind.cell_of(config)


def test_sdxl_gets_crop_position(pipelines):
    config, family = make(pipelines / "sdxl")
    batch, noised = batch_for(family, class_images=False), noised_for(family, config)
    given = []
    family.unet.register_forward_pre_hook(lambda module, args, kwargs: given.append(kwargs), with_kwargs=True)
    here = prediction_of(family, noised, batch)
    assert given[0]["added_cond_kwargs"]["time_ids"].tolist() == [[40, 48, 0, 5, 32, 32]] * 2
    elsewhere = replace(noised, crop=noised.crop + torch.tensor([0, 0, 9, 0, 0, 0]))
    assert (prediction_of(family, elsewhere, batch) - here).abs().max() > 1e-3


@every_family
def test_denoiser_can_be_kept_off_device(base):
    """As FSDP needs, which moves the denoiser to the device shard by shard."""
    _, family = make(base)
    family.place(torch.device("meta"), torch.bfloat16, torch.device("cpu"))
    (denoiser,) = family.trained().values()
    assert {weight.device.type for weight in denoiser.parameters()} == {"cpu"} and family.vae.device.type == "meta"


def test_sdxl_normalizes_latents_by_autoencoder_statistics(tmp_path):
    pipeline = random_sdxl()
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    mean, std = [0.1, -0.2, 0.3, 0.4], [0.5, 1.0, 2.0, 4.0]
    pipeline.vae.register_to_config(latents_mean=mean, latents_std=std)
    pipeline.save_pretrained(tmp_path)
    _, family = make(tmp_path)
    family.place(torch.device("cpu"), torch.bfloat16)
    torch.manual_seed(0)
    latents = family.sample_latents(family.encode_pixels(pixels))
    torch.manual_seed(0)
    raw = pipeline.vae.encode(pixels).latent_dist.sample()
    expected = (raw - torch.tensor(mean).view(1, 4, 1, 1)) * pipeline.vae.config.scaling_factor
    torch.testing.assert_close(latents, expected / torch.tensor(std).view(1, 4, 1, 1))
    assert latents.dtype == torch.float32  # the real one overflows in half precision
    with torch.autocast("cpu", torch.bfloat16):  # as in validation
        assert family.pipeline().vae.decode(latents.bfloat16()).sample.dtype == torch.float32


@pytest.mark.parametrize("name", [name for name in PIPELINES if name not in ("stable-diffusion", "sdxl")])
def test_exact_velocity_leads_from_noise_to_latents(pipelines, name):
    """The pipeline's sampler, given the training target as prediction, ends at the clean latents."""
    config, family = make(pipelines / name)
    side = 32 // family.cell_of(config.model)
    latents = torch.randn(1, 4, side, side)
    scheduler = family.sampler("", family.scheduler.config)
    scheduler.set_timesteps(5, mu=0.0)
    noised, seen = noised_for(family, config, latents), []
    sigma = (noised.noisy - latents).mean() / (noised.noisy - latents - noised.target).mean()
    sign = -1 if name == "lumina2" else 1  # its pipeline negates the velocity before the sampler
    # noisy = latents + s (noise - latents): both ends follow from the sample.
    share = noised.timesteps.item() / 1000
    data_share = share if name == "lumina2" else 1 - share
    noise = (noised.noisy - data_share * latents) / (1 - data_share)
    torch.testing.assert_close(noised.target, sign * (noise - latents), rtol=1e-3, atol=1e-3)
    sample = noise
    for step in scheduler.timesteps:
        seen.append(step)
        sample = scheduler.step(sign * noised.target, step, sample, return_dict=False)[0]
    torch.testing.assert_close(sample, latents, rtol=1e-3, atol=1e-3)
    assert len(seen) == 5 and sigma.isfinite()


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_weighting_schemes_match_diffusers(pipelines, name):
    for scheme in ("sigma_sqrt", "cosmap", "none"):
        settings = {"weighting_scheme": scheme} | ({"precondition_outputs": 0} if name == "sd3" else {})
        config, family = make(pipelines / name, optimization=settings)
        noised = noised_for(family, config)
        sigma = noised.timesteps / 1000
        cosmap = 2 / (torch.pi * (1 - 2 * sigma + 2 * sigma**2))
        expected = {"sigma_sqrt": sigma**-2, "cosmap": cosmap, "none": torch.ones(2)}[scheme]
        torch.testing.assert_close(noised.weight, expected, rtol=1e-4, atol=1e-6)


def test_lora_files_have_diffusers_names(pipelines, tmp_path):
    for name in PIPELINES:
        _, family = make(pipelines / name, KINDS["lora"])
        family.save(tmp_path / name)
        keys = load_file(tmp_path / name / "pytorch_lora_weights.safetensors")
        assert all(key.startswith(f"{family.denoiser[0]}.") for key in keys) and keys


def tensors_of(family):
    """Return all weights and buffers by part and name, and tensors that modules hold as plain attributes."""
    parts = {name: getattr(family, name) for name in ("vae", *family.encoders, family.denoiser[0])}
    return {
        f"{part} {name} {key}": value
        for part, module in parts.items()
        for name, layer in (module.named_modules() if module is not None else ())
        for key, value in (layer._parameters | layer._buffers | vars(layer)).items()
        if isinstance(value, torch.Tensor)
    }


@pytest.mark.parametrize("name", ["sdxl", "sd3", "lumina2", "qwen-image"])
def test_frozen_parts_are_read_in_the_precision_of_training(pipelines, name):
    """With the same bits as if they were read in float32 and then cast."""
    config, low, placed = configure(pipelines / name, {"use_lora": True}), torch.bfloat16, []
    for dtype in (torch.float32, low):
        torch.manual_seed(0)
        family = load_family(config.model, dtype)
        if dtype == low:
            denoiser = getattr(family, family.denoiser[0])
            assert {weight.dtype for key, weight in denoiser.named_parameters() if "lora_" not in key} == {low}
            encoders = [getattr(family, part) for part in family.encoders]
            assert {weight.dtype for part in encoders for weight in part.parameters()} == {low}
            assert next(family.vae.parameters()).dtype == (family.vae_dtype or low)
        family.place(torch.device("cpu"), low)
        placed.append(tensors_of(family))
    cast, read = placed
    assert cast.keys() == read.keys()
    assert all(cast[key].dtype == read[key].dtype and torch.equal(cast[key], read[key]) for key in cast)


@pytest.mark.parametrize("text", [True, False])
def test_parts_trained_whole_are_read_in_float32(pipelines, text):
    config = configure(pipelines / "stable-diffusion", {"train_text_encoder": text})
    family = load_family(config.model, torch.bfloat16)
    assert family.unet.dtype == torch.float32 and family.vae.dtype == torch.bfloat16
    assert family.text_encoder.dtype == (torch.float32 if text else torch.bfloat16)
