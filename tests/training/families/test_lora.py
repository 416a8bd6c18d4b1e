"""LoRA's layers, alpha and DoRA: saved weights predict the same in diffusers' pipeline and in a resumed run."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import OptimizationConfig
from random_models import PIPELINES
from tests.training.runs import train
from tests.training.small import KINDS, batch_for, make, prediction_of

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


def test_generate_works_with_dora(flags):
    assert train(flags, "--use_lora", "--use_dora", lora_alpha=8) == 0
    small = ["--num_images", "1", "--num_inference_steps", "2", "--height", "32", "--width", "32"]
    assert main(["generate", "--model", "output", "--prompt", "a dog", *small, "--device", "cpu"]) == 0


def test_lora_adapts_the_named_layers_only(pipelines):
    _, family = make(pipelines / "stable-diffusion", {"use_lora": True, "lora_layers": "attn2.to_q, to_out.0"})
    adapted = {name.partition(".lora_A")[0] for name, _ in family.unet.named_parameters() if "lora_A" in name}
    assert adapted and all(name.endswith(("attn2.to_q", "to_out.0")) for name in adapted)
    assert any(name.endswith("attn1.to_out.0") for name in adapted)
    _, family = make(pipelines / "sd3", {"use_lora": True, "lora_blocks": "1"})
    adapted = {name.partition(".lora_A")[0] for name, _ in family.transformer.named_parameters() if "lora_A" in name}
    assert adapted and all(name.startswith("transformer_blocks.1.") for name in adapted)


@pytest.mark.parametrize(
    ("family", "layers", "words"),  # not `name` and `model`, by which conftest leaves out what a family refuses
    [
        ("stable-diffusion", {"lora_layers": "to_q,to_z"}, "no layer's name ends in 'to_z'"),
        ("stable-diffusion", {"lora_layers": "to_q,"}, "no layer's name ends in ''"),
        (
            "stable-diffusion",
            {"lora_layers": "attn1"},
            "not only linear layers' and convolutions' names end in 'attn1'",
        ),
        ("sd3", {"lora_blocks": "0,7"}, "there is no block '7'; give numbers from 0 to 1"),
    ],
)
def test_layers_that_cannot_be_adapted_are_refused(pipelines, family, layers, words):
    with pytest.raises(UserError) as error:
        make(pipelines / family, {"use_lora": True} | layers)
    assert words in str(error.value)


def test_lora_files_have_diffusers_names(pipelines, tmp_path):
    for name in PIPELINES:
        _, family = make(pipelines / name, KINDS["lora"])
        family.save(tmp_path / name)
        keys = load_file(tmp_path / name / "pytorch_lora_weights.safetensors")
        assert all(key.startswith(f"{family.denoiser[0]}.") for key in keys) and keys
