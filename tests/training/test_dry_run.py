"""`--dry_run`: checks, an estimate of the memory, the first batch as a picture, and nothing trained or written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from persam_dreambooth.training import dry_run, loop, memory
from persam_dreambooth.training.objective import training_loss
from persam_dreambooth.training.runtime.optimizer import build_optimizer
from tests.training.runs import train
from tests.training.small import batch_for, make, trained_parameters

PRIOR = {"class_prompt": "a dog", "background_prior_weight": 1.0}


def written():
    given = ("photos", "masks", "subject.png")
    return sorted(str(path) for path in Path().rglob("*") if path.is_file() and path.parts[0] not in given)


def test_writes_only_the_first_batch_and_trains_nothing(flags, capsys):
    caches = {"training_cache": "cache", "class_data_dir": "classes", "num_class_images": 2, "report_to": "none"}
    caches |= {"cache_background_prior": 2}
    switches = ("--use_lora", "--dry_run", "--cache_latents", "--pre_compute_text_embeddings")
    assert train(flags, *switches, "--with_prior_preservation", **PRIOR | caches) == 0
    assert written() == ["output/masks.png"]
    assert not Path("classes").exists()
    printed = capsys.readouterr().out
    assert "class images: 2 of 2 would be generated into classes" in printed
    for words in ("masks are on", "steps: 4", "memory, estimated:", "the first batch: output/masks.png"):
        assert words in printed
    assert printed.splitlines()[-1] == "dry run: nothing was trained"


def test_training_accepts_the_folder_of_a_dry_run(flags):
    assert train(flags, "--use_lora", "--dry_run") == 0
    assert train(flags, "--use_lora", max_train_steps=1, report_to="none") == 0
    assert Path("output/pytorch_lora_weights.safetensors").exists()


def test_masks_from_a_reference_are_made_and_thrown_away(flags, models, capsys):
    own = {"instance_mask_dir": None, "reference_image": "photos/00.png", "reference_mask": "masks/00.png"}
    run = {"sam": models / "sam", "uncertain_photo_weight": 1}
    assert train(flags, "--use_lora", "--dry_run", **own, **run) == 0
    assert written() == ["output/masks.png"]
    assert "masks are on: the subject covers" in capsys.readouterr().out


@pytest.mark.parametrize("switches", [(), ("--seed_each_batch",)])
def test_draws_the_batch_that_training_begins_with(flags, monkeypatch, switches):
    drawn, trained = [], []
    draw, learn = dry_run.save_batch_sheet, loop.training_loss
    monkeypatch.setattr(dry_run, "save_batch_sheet", lambda batch, *more: (drawn.append(batch), draw(batch, *more))[1])
    monkeypatch.setattr(
        loop, "training_loss", lambda family, batch, *more: (trained.append(batch), learn(family, batch, *more))[1]
    )
    assert train(flags, "--use_lora", "--dry_run", "--random_flip", *switches, **PRIOR) == 0
    assert train(flags, "--use_lora", "--random_flip", *switches, **PRIOR, report_to="none") == 0
    assert len(drawn) == 1 and len(trained) == 4
    assert drawn[0].photos == trained[0].photos
    assert torch.equal(drawn[0].pixels, trained[0].pixels)
    assert any(not torch.equal(drawn[0].mask, batch.mask) for batch in trained[1:])


def test_picture_shows_crop_and_cells(flags):
    assert train(flags, "--use_lora", "--dry_run") == 0
    picture = np.asarray(Image.open("output/masks.png").convert("L"), dtype=int)
    left, right = picture[20:500, 30:230], picture[120:400, 300:500]
    assert left.std() > 10  # a photo
    assert ((right < 5) | (right > 250)).mean() > 0.5  # cells are mostly 0 or 1


def test_mistakes_are_found_and_nothing_is_written(flags, capsys):
    Image.new("L", Image.open("photos/01.png").size).save("masks/01.png")
    assert train(flags, "--use_lora", "--dry_run") == 2
    assert "01.png" in capsys.readouterr().err
    assert written() == []


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
