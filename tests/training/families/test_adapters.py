"""LoRA's alpha and DoRA: saved weights predict the same in diffusers' pipeline and in a resumed run."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from persam_dreambooth.cli import main
from persam_dreambooth.training.config import OptimizationConfig
from tests.training.runs import train
from tests.training.small import batch_for, make, prediction_of

SETTINGS = {
    "alpha": {"rank": 4, "lora_alpha": 16},
    "alpha-text": {"rank": 4, "lora_alpha": 16, "train_text_encoder": True},
    "dora": {"rank": 4, "lora_alpha": 2, "use_dora": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_saved_weights_predict_like_trained_ones(models, tmp_path, name):
    base = models / "stable-diffusion"
    model = {"use_lora": True} | SETTINGS[name]
    _, family = make(base, model)
    torch.manual_seed(0)
    for part in family.trained().values():
        for weight in part.parameters():
            if weight.requires_grad:
                weight.data += 0.05 * torch.randn_like(weight)
        part.eval()
    batch = batch_for(family, class_images=False)
    noised = family.add_noise(torch.randn(2, 4, 16, 16), OptimizationConfig())
    trained, from_base = prediction_of(family, noised, batch), family.predict_base(noised, batch.prompt)
    family.save(tmp_path)

    pipeline = StableDiffusionPipeline.from_pretrained(base)
    pipeline.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    with torch.no_grad():
        embeds = pipeline.text_encoder(batch.prompt["input_ids"])[0]
        loaded = pipeline.unet(noised.noisy, noised.timesteps, embeds).sample
    torch.testing.assert_close(loaded, trained, rtol=1e-4, atol=1e-5)
    assert (trained - from_base).abs().max() > 1e-2  # zero adapters would prove nothing

    _, other = make(base, model)
    other.load_weights(tmp_path)
    for part in other.trained().values():
        part.eval()
    torch.testing.assert_close(prediction_of(other, noised, batch), trained, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flag", ["--lora_alpha=8", "--use_dora"])
def test_alpha_and_dora_without_lora_are_refused(flags, capsys, flag):
    assert train(flags, flag) == 2
    assert "--lora_alpha and --use_dora are for LoRA; add --use_lora" in capsys.readouterr().err
    assert not Path("output").exists()


def test_dora_of_text_encoder_is_refused(flags, capsys):
    assert train(flags, "--use_lora", "--use_dora", "--train_text_encoder") == 2
    assert "--use_dora and --train_text_encoder exclude each other" in capsys.readouterr().err
    assert not Path("output").exists()


def test_generate_works_with_dora(flags):
    assert train(flags, "--use_lora", "--use_dora", lora_alpha=8) == 0
    small = ["--num_images", "1", "--num_inference_steps", "2", "--height", "32", "--width", "32"]
    assert main(["generate", "--model", "output", "--prompt", "a dog", *small, "--device", "cpu"]) == 0
