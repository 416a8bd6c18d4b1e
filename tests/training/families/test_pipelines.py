"""Each family agrees with diffusers' pipeline on prompts and saved weights."""

from itertools import product

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from persam_dreambooth.generation import generate, load_pipeline
from random_models import PIPELINES
from tests.training.small import (
    KINDS,
    batch_for,
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
