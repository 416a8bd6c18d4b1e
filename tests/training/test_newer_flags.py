"""Flags of diffusers' newer DreamBooth scripts: each changes what it says, and nothing else."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import EDMEulerScheduler
from safetensors.torch import load_file

from persam_dreambooth.errors import UserError
from persam_dreambooth.generation import load_pipeline
from persam_dreambooth.training.config import OptimizationConfig, TrainingConfig
from persam_dreambooth.training.data.dataset import DreamBoothDataset
from persam_dreambooth.training.runtime.optimizer import build_optimizer
from random_models import random_sdxl, random_vae
from tests.training.runs import train
from tests.training.small import configure, every_family, make, photos_of

LORA = "pytorch_lora_weights.safetensors"


def ups(part):
    """The matrices of a part's adapters that begin as zeros."""
    weights = load_file(Path("output") / LORA)
    ends = (".up.weight", ".lora_B.weight")
    found = [value for key, value in weights.items() if key.startswith(f"{part}.") and key.endswith(ends)]
    assert found
    return found


def groups_in(checkpoint):
    return torch.load(Path(checkpoint) / "optimizer.bin", weights_only=True)["param_groups"]


def test_text_encoder_has_its_own_rate(flags, capsys):
    both = ("--use_lora", "--train_text_encoder", "--scale_lr", "--adam_weight_decay_text_encoder=0.5")
    short = {"max_train_steps": 1, "checkpointing_steps": 1}
    assert train(flags, *both, text_encoder_lr=0, **short) == 0
    assert all((up == 0).all() for up in ups("text_encoder")) and any((up != 0).any() for up in ups("unet"))
    unet, text = groups_in("output/checkpoint-1")
    assert (unet["lr"], text["lr"]) == (2e-3, 0.0)  # --scale_lr multiplies the first by the batch size
    assert (unet["weight_decay"], text["weight_decay"]) == (1e-2, 0.5)
    more = {"resume_from_checkpoint": "latest", "max_train_steps": 2, "checkpointing_steps": 2}
    assert train(flags, *both[:3], **more) == 2
    assert "the run had text_encoder_lr 0.0, not None" in capsys.readouterr().err
    assert train(flags, *both, text_encoder_lr=0.25, **more) == 0
    assert groups_in("output/checkpoint-2")[1]["lr"] == 0.25
    assert any((up != 0).any() for up in ups("text_encoder"))


def test_one_group_without_these_flags():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    (group,) = build_optimizer(weights, OptimizationConfig(learning_rate=0.5), 1, weights[2:]).param_groups
    assert group["params"] == weights
    config = OptimizationConfig(learning_rate=0.5, adam_weight_decay_text_encoder=0.1)
    first, second = build_optimizer(weights, config, 1, weights[2:]).param_groups
    assert second["params"] == weights[2:] and first["params"] == weights[:2] and second["lr"] == 0.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"text_encoder_lr": 1e-4}, "--text_encoder_lr is for trained text encoders; add --train_text_encoder"),
        ({"adam_weight_decay_text_encoder": 0.1}, "add --train_text_encoder"),
        ({"text_encoder_lr": 1e-4, "train_text_encoder": True, "optimizer": "prodigy"}, "drop --text_encoder_lr"),
        (
            {"adam_weight_decay_text_encoder": 0.1, "optimizer_args": {"weight_decay": 0.2}},
            "weight_decay in --optimizer_args exclude each other",
        ),
        ({"lora_layers": "to_q"}, "--lora_layers and --lora_blocks are for LoRA; add --use_lora"),
        ({"caption_dropout": 0.1, "attention_loss_weight": 0.1, "identifier": "sks"}, "--caption_dropout and"),
        ({"caption_dropout": 1.5}, "--caption_dropout 1.5 must lie in [0, 1]"),
        ({"repeats": 0}, "--repeats 0 must be at least 1"),
        ({"final_validation_prompt": "a", "validation_prompt": "b"}, "--final_validation_prompt and --validation_p"),
        ({"final_validation_prompt": "a", "skip_final_inference": True}, "and --skip_final_inference exclude"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_contradictions_are_refused(settings, words):
    given = {"pretrained_model_name_or_path": "base", "instance_data_dir": "dog", "instance_mask_dir": "masks"}
    with pytest.raises(UserError) as error:
        TrainingConfig(**given, instance_prompt="a sks dog", **settings)
    assert words in str(error.value)


def test_repeats_multiply_the_photos_of_an_epoch(flags):
    config = configure(flags["pretrained_model_name_or_path"], data={"repeats": 3, "resolution": 32})
    instances, _ = photos_of(config, [(32, 32)])
    dataset = DreamBoothDataset(instances, None, {})
    assert [photo.name for photo in dataset.instances] == ["00.png"] * 3 + ["01.png"] * 3 + ["02.png"] * 3
    epoch = {"max_train_steps": None, "num_train_epochs": 1, "train_batch_size": 3, "checkpointing_steps": 3}
    assert train(flags, "--use_lora", repeats=3, **epoch) == 0
    assert json.loads(Path("output/checkpoint-3/progress.json").read_text())["step"] == 3


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_captions_are_dropped_but_never_those_of_class_images(flags, share):
    config = configure(flags["pretrained_model_name_or_path"])
    instances, _ = photos_of(config, [(32, 32)])
    prompts = {text: {"text": text} for text in ("", "a sks dog", "a dog")}
    fixed = [[Path("class.png")]]
    dataset = DreamBoothDataset(instances, lambda *source: {}, prompts, fixed, ["a dog"], share)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    items = [dataset[0] for _ in range(400)]
    assert torch.equal(before, torch.get_rng_state()) == (share == 0)
    counts = Counter(item.prompt["text"] for item in items)
    assert counts[""] / 400 == pytest.approx(share, abs=0.06) and counts["a dog"] == 0
    assert all(item.class_prompt["text"] == "a dog" for item in items)
    torch.manual_seed(0)
    assert [dataset[0].prompt for _ in range(400)] == [item.prompt for item in items]


def test_dropped_caption_is_the_empty_prompt(flags):
    """With every caption dropped, the prompt does not matter."""
    for folder, prompt in (("one", "a sks dog"), ("two", "a zwx cat")):
        assert train(flags, "--use_lora", caption_dropout=1, instance_prompt=prompt, output_dir=folder) == 0
    one, two = (load_file(f"{folder}/{LORA}") for folder in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert train(flags, "--use_lora", caption_dropout=0, instance_prompt="a zwx cat", output_dir="three") == 0
    three = load_file(f"three/{LORA}")
    assert not all(torch.equal(one[key], three[key]) for key in one)


@every_family
def test_every_family_encodes_the_empty_prompt(base):
    _, family = make(base)
    with torch.no_grad():
        encoded = family.encode_prompt(family.tokenize(""))
    assert encoded["embeds"].shape[1] > 0 and all(value.float().isfinite().all() for value in encoded.values())


def test_other_autoencoder_encodes_and_is_saved(flags):
    base = flags["pretrained_model_name_or_path"]
    other = random_vae(7, 2)
    other.save_pretrained("vae")
    _, family = make(base, {"pretrained_vae_model_name_or_path": "vae"})
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    moments = other.eval().encode(pixels).latent_dist.parameters
    torch.testing.assert_close(family.encode_pixels(pixels), moments)
    assert not torch.allclose(make(base)[1].encode_pixels(pixels), moments, atol=1e-2)
    for folder, switches in (("whole", []), ("adapters", ["--use_lora"])):
        trained = train(
            flags, *switches, output_dir=folder, max_train_steps=1, pretrained_vae_model_name_or_path="vae"
        )
        assert trained == 0
        vae = load_pipeline(Path(folder), device="cpu").vae
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in vae.state_dict().items())


def drawn(folder="output"):
    return sorted(path.name for path in (Path(folder) / "validation").glob("*.png"))


def test_when_validation_images_are_drawn(flags):
    pictures = {"validation_prompt": "a sks dog", "num_validation_images": 1, "validation_steps": 1}
    epochs = {"max_train_steps": None, "num_train_epochs": 3, "train_batch_size": 2}  # two steps each
    assert train(flags, "--use_lora", "--skip_final_inference", **pictures, **epochs, validation_epochs=2) == 0
    assert drawn() == ["step-000004-0.png"]
    final = {"final_validation_prompt": "a sks dog", "validation_steps": 1, "num_validation_images": 1}
    assert train(flags, "--use_lora", **final, max_train_steps=2, output_dir="final") == 0
    assert drawn("final") == ["step-000002-0.png"]
    assert "*a sks dog*" in Path("final/README.md").read_text().partition("## Validation images")[2]


@pytest.mark.parametrize("switches", [["--use_lora"], []])
def test_model_is_saved_in_float32_or_in_the_precision_of_training(flags, switches):
    low = {"mixed_precision": "bf16", "max_train_steps": 1}
    file = LORA if switches else "unet/diffusion_pytorch_model.safetensors"
    assert train(flags, *switches, **low) == 0
    assert train(flags, *switches, "--no_upcast_before_saving", **low, output_dir="half") == 0
    whole, half = load_file(f"output/{file}"), load_file(f"half/{file}")
    assert {value.dtype for value in whole.values()} == {torch.float32}
    assert {value.dtype for value in half.values()} == {torch.bfloat16}
    assert all(torch.equal(whole[key].to(torch.bfloat16), half[key]) for key in whole)
    assert load_pipeline(Path("half"), device="cpu").unet.dtype == torch.float32


def test_edm_base_model_is_trained_and_drawn_with_its_noise(flags, capsys):
    pipeline = random_sdxl()
    pipeline.register_modules(scheduler=EDMEulerScheduler())
    pipeline.save_pretrained("edm")
    base = {"pretrained_model_name_or_path": "edm", "max_train_steps": 1}
    pictures = {"final_validation_prompt": "a sks dog", "num_validation_images": 1}
    assert train(flags, "--use_lora", **base, **pictures) == 0
    assert drawn() == ["step-000001-0.png"]
    _, family = make("edm", {"use_lora": True})
    noised = family.add_noise(torch.zeros(2, 4, 16, 16), OptimizationConfig())
    assert noised.timesteps.is_floating_point() and isinstance(family.sampler("", None), EDMEulerScheduler)
    assert train(flags, **base, snr_gamma=5, output_dir="other") == 2
    assert "--snr_gamma has no meaning with a base model of EDM's noise" in capsys.readouterr().err
