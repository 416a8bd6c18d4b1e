"""The estimate of a training's memory: its terms are those of a step, and its activations those of a real one."""

import pytest
import torch

from persam_dreambooth.training import memory
from persam_dreambooth.training.objective import training_loss
from persam_dreambooth.training.runtime.optimizer import build_optimizer
from tests.training.small import batch_for, make, trained_parameters


def weights_of(*modules):
    return sum(weight.nbytes for module in modules for weight in module.parameters())


def fail(*_):
    raise RuntimeError


def test_offloaded_weights_are_counted_while_they_are_needed(pipelines):
    """Moved weights are counted once, and weights that a cache replaces only before training."""
    base, on = pipelines / "stable-diffusion", {"use_lora": True, "offload": True}
    config, family = make(base, on)
    unet, vae, text = (weights_of(part) for part in (family.unet, family.vae, family.text_encoder))
    sizes = memory.terms(family, config)
    assert next(iter(sizes.values())) == unet and sizes["weights moved in to encode (--offload)"] == max(vae, text)
    assert memory.while_encoding(family, config) == 0
    cached, data = {"pre_compute_text_embeddings": True}, {"cache_latents": True}
    config, family = make(base, on | cached, data=data)
    assert next(iter(memory.terms(family, config).values())) == unet and len(memory.terms(family, config)) == 3
    assert memory.while_encoding(family, config) == max(vae, text)
    config, family = make(base, {"use_lora": True} | cached, data=data)
    assert memory.while_encoding(family, config) == unet + vae + text
    # Activations are most of so small a model's memory, and are left out if they cannot be estimated.
    family.unet.register_forward_pre_hook(fail)
    assert "before, while prompts and photos are encoded" in memory.lines(family, config, batch_for(family, False))[-1]


@pytest.mark.parametrize("optimizer", ["adamw", "prodigy"])
@pytest.mark.parametrize("use_lora", [True, False])
def test_memory_equals_that_of_a_step(pipelines, optimizer, use_lora):
    settings = {"optimizer": optimizer, "use_ema": True}
    config, family = make(pipelines / "stable-diffusion", {"use_lora": use_lora}, optimization=settings)
    family.place(torch.device("cpu"), torch.bfloat16)
    parameters = trained_parameters(family)
    chosen = build_optimizer(parameters, config.optimization, 1)
    for weight in parameters:
        weight.grad = torch.ones_like(weight)
    gradients = sum(weight.grad.nbytes for weight in parameters)
    chosen.step()
    states = sum(
        value.nbytes
        for state in chosen.state.values()
        for value in state.values()
        if torch.is_tensor(value) and value.ndim
    )
    parts = (family.unet, family.vae, family.text_encoder)
    weights = sum(weight.nbytes for part in parts for weight in part.parameters())
    average = sum(weight.numel() * 4 for weight in parameters)
    sizes = memory.terms(family, config)
    named = next(iter(sizes))
    assert named.startswith("weights (") and "bfloat16" in named
    expected = {named: weights, "gradients": gradients, f"states of {optimizer}": states, "moving average": average}
    # Prodigy keeps one number instead of a copy of those weights that begin at 0.
    assert sizes == pytest.approx(expected, rel=0.15 if optimizer == "prodigy" and use_lora else 0.01)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("stable-diffusion", {}),
        ("stable-diffusion", {"use_lora": True, "gradient_checkpointing": True}),
        ("qwen-image", {"use_lora": True}),  # asks whether its mask is 1 everywhere, which has no contents
    ],
)
def test_activations_are_those_of_a_step_with_contents(pipelines, name, model):
    config, family = make(pipelines / name, model)
    family.place(torch.device("cpu"), torch.float32)
    batch, live = batch_for(family, False), memory._LiveBytes()
    for part in family.trained().values():
        part.train()
    with live:
        loss, _ = training_loss(family, batch, config)
        loss.backward()
    for part in family.trained().values():
        part.zero_grad()
    sizes, peak = memory.terms(family, config), memory.step_peak(family, config, batch)
    assert peak == pytest.approx(live.peak, rel=0.05) and peak > sizes["gradients"]
    assert all(weight.grad is None for weight in trained_parameters(family))


def test_memory_without_what_cannot_be_estimated(pipelines):
    def fail(*_):
        raise RuntimeError("needs a GPU\nmore")

    config, family = make(pipelines / "stable-diffusion", {"use_lora": True, "offload": True})
    family.place(torch.device("cpu"), torch.float32)
    hook = family.unet.register_forward_pre_hook(fail)
    batch, sizes = batch_for(family, False), memory.terms(family, config)
    total = f"memory, estimated: {memory.in_words(sum(sizes.values()))} in each process"
    assert memory.lines(family, config, batch)[0] == (
        f"{total}, without activations, which could not be estimated (needs a GPU)"
    )
    hook.remove()
    head, *terms = memory.lines(family, config, batch)
    assert head.startswith("memory, estimated:") and head.endswith("in each process") and head != total
    assert terms[-1].startswith("  activations of a step: ")


def test_memory_leaves_out_what_caches_remove(pipelines):
    caches = {"cache_latents": True}
    config, family = make(
        pipelines / "stable-diffusion", {"use_lora": True, "pre_compute_text_embeddings": True}, data=caches
    )
    family.place(torch.device("cpu"), torch.float32)
    unet = sum(weight.nbytes for weight in family.unet.parameters())
    assert next(iter(memory.terms(family, config).values())) == unet


def test_bytes_are_written_with_three_digits_in_powers_of_ten():
    sizes = [0, 999_499, 1_000_000, 123_456_789, 1_000_000_000, 80_123_000_000]
    assert [memory.in_words(size) for size in sizes] == ["0 kB", "999 kB", "1 MB", "123 MB", "1 GB", "80.1 GB"]
