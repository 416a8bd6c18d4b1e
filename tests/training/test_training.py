"""Whole runs through the command line: their outputs, and that they can be resumed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from persam_dreambooth.cli import main
from persam_dreambooth.photos.manifest import read_manifest
from tests.conftest import ROOT
from tests.parity.diffusers_cases import logged_losses
from tests.segmentation.test_seggpt import random_seggpt
from tests.training.runs import NAMES, launch, train

PRIOR = ("--class_prompt=a dog", "--background_prior_weight=1.0")


def trained_unet(folder):
    return load_file(Path(folder) / "unet" / "diffusion_pytorch_model.safetensors")


def test_full_fine_tuning_saves_pipeline(flags, models):
    prompt = "a sks dog in the jungle"
    assert (
        train(flags, "--train_text_encoder", validation_prompt=prompt, num_validation_images=2, validation_steps=2)
        == 0
    )
    output = Path("output")
    pipeline = StableDiffusionPipeline.from_pretrained(output)
    base = StableDiffusionPipeline.from_pretrained(models / "stable-diffusion")
    for part in ("unet", "text_encoder"):
        trained, untrained = getattr(pipeline, part).state_dict(), getattr(base, part).state_dict()
        assert any(not torch.equal(trained[key], untrained[key]) for key in trained)
    vae = base.vae.state_dict()
    assert all(torch.equal(value, vae[key]) for key, value in pipeline.vae.state_dict().items())
    pictures = sorted(path.name for path in (output / "validation").iterdir())
    assert pictures == ["step-000002-0.png", "step-000002-1.png", "step-000004-0.png", "step-000004-1.png"]
    card = (output / "README.md").read_text()
    assert "validation/step-000004-0.png" in card and prompt in card and "subject only" in card
    entries = read_manifest(output / "manifest.jsonl", own_files=False)
    assert [(output / entry.photo).resolve() for entry in entries] == [
        Path(f"photos/{n}.png").resolve() for n in NAMES
    ]
    assert all((output / entry.mask).exists() for entry in entries)
    assert not list(output.glob(".*"))  # no partial files


def test_diffusers_loads_lora_weights(flags, models):
    assert train(flags, "--use_lora", "--train_text_encoder", rank=4) == 0
    pipeline = StableDiffusionPipeline.from_pretrained(models / "stable-diffusion")
    pipeline.set_progress_bar_config(disable=True)

    def draw():
        generator = torch.Generator().manual_seed(0)
        picture = pipeline(
            "a sks dog", height=32, width=32, num_inference_steps=2, generator=generator, output_type="pt"
        )
        return picture.images

    before = draw()
    pipeline.load_lora_weights("output", weight_name="pytorch_lora_weights.safetensors")
    weights = load_file("output/pytorch_lora_weights.safetensors")
    assert {key.split(".")[0] for key in weights} == {"unet", "text_encoder"}
    assert not torch.equal(before, draw())


def test_saved_config_reproduces_run_from_any_folder(flags, monkeypatch):
    assert train(flags, "--use_lora", hub_token="hf_secret", output_dir="first") == 0
    saved = Path("first/training_config.yaml")
    assert "hf_secret" not in saved.read_text() and yaml.safe_load(saved.read_text())["max_train_steps"] == 4
    here = Path.cwd()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")  # its paths are relative to the original folder
    assert main(["train", "--config", str(here / saved), "--output_dir", "second"]) == 0
    first, second = (load_file(f"{name}/pytorch_lora_weights.safetensors") for name in (here / "first", "second"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("switches", "resume_at"),  # after an epoch of two batches, and one batch into the next
    [
        ((), 2),
        (("--use_lora", "--train_text_encoder", "--mixed_precision=bf16"), 3),
        (("--train_text_encoder", *PRIOR), 3),
        (("--use_lora", "--train_text_encoder", *PRIOR), 2),
    ],
    ids=["full", "lora", "full-prior", "lora-prior"],
)
def test_resume_equals_uninterrupted(flags, switches, resume_at):
    """Bit-identical with centre crops. (Random crops are drawn a batch ahead; see docs/training.md.)"""
    whole = {"max_train_steps": 5, "checkpointing_steps": resume_at}
    assert train(flags, "--center_crop", *switches, output_dir="whole", **whole) == 0
    assert train(flags, "--center_crop", *switches, **whole | {"max_train_steps": resume_at}) == 0
    assert train(flags, "--center_crop", *switches, resume_from_checkpoint="latest", **whole) == 0
    lora = "--use_lora" in switches
    name = "pytorch_lora_weights.safetensors" if lora else "unet/diffusion_pytorch_model.safetensors"
    expected, resumed = load_file(Path("whole") / name), load_file(Path("output") / name)
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)


def test_checkpoints_are_limited_and_complete(flags):
    assert train(flags, checkpointing_steps=1, checkpoints_total_limit=2) == 0
    names = sorted(path.name for path in Path("output").glob("*checkpoint*"))
    assert names == ["checkpoint-3", "checkpoint-4"]
    assert json.loads(Path("output/checkpoint-4/progress.json").read_text())["step"] == 4


def test_validation_does_not_change_training(flags):
    assert train(flags, output_dir="blind") == 0
    assert train(flags, validation_prompt="a sks dog", num_validation_images=1, validation_steps=1) == 0
    blind, watched = trained_unet("blind"), trained_unet("output")
    assert all(torch.equal(blind[key], watched[key]) for key in blind)


def test_logged_loss_is_mean_over_accumulated_batches(flags):
    settings = {"train_batch_size": 1, "learning_rate": 0.0}
    assert train(flags, **settings, max_train_steps=3, output_dir="apart") == 0
    assert train(flags, **settings, max_train_steps=1, gradient_accumulation_steps=3) == 0
    apart, together = logged_losses(Path("apart")), logged_losses(Path("output"))
    assert together == pytest.approx([np.mean(apart)], rel=1e-5)


def test_plain_dreambooth_equals_white_masks(flags):
    for name in NAMES:
        Image.new("L", Image.open(f"photos/{name}.png").size, 255).save(f"masks/{name}.png")
    assert train(flags, output_dir="white") == 0
    assert train(flags, "--no_masked_loss", instance_mask_dir=None) == 0
    assert logged_losses(Path("output")) == pytest.approx(logged_losses(Path("white")), abs=1e-6)


@pytest.mark.parametrize("method", ["persam", "insid3-sam", "seggpt"])
def test_segmenting_during_training_equals_segmenting_before(flags, models, method):
    photo, mask = "photos/00.png", "subject.png"
    sam, dino = str(models / "sam"), str(ROOT / "experiments" / "tinyworld" / "models" / "dino")
    given = {"sam": sam, "segmentation_features": dino, "segmentation_features_size": 64}
    if method == "seggpt":
        random_seggpt().save_pretrained("seggpt")
        given = {"segmentation_seggpt": "seggpt"}
    located = [
        word for name, value in given.items() for word in (f"--{name.removeprefix('segmentation_')}", str(value))
    ]
    reference = ["--reference", photo, "--reference_mask", mask, "--method", method, *located]
    assert main(["segment", "--images", "photos", *reference, "--output", "segmented"]) == 0
    assert train(flags, instance_mask_dir="segmented", mask_downsample="max", output_dir="before") == 0
    on_the_way = {"instance_mask_dir": None, "reference_image": photo, "reference_mask": mask}
    on_the_way |= {"segmentation_method": method} | given
    assert train(flags | on_the_way, mask_downsample="max") == 0
    assert logged_losses(Path("output")) == logged_losses(Path("before"))
    for name in NAMES:
        ours, before = (Path(folder) / "masks" / f"{name}.png" for folder in ("output/segmentation", "segmented"))
        assert ours.read_bytes() == before.read_bytes()
    scores = [entry.score for entry in read_manifest(Path("output/manifest.jsonl"), own_files=False)]
    assert scores[0] is None and None not in scores[1:]


def test_class_images_are_generated_once_despite_interruptions(flags):
    prior = {"class_data_dir": "class", "class_prompt": "a dog", "num_class_images": 2, "max_train_steps": 1}
    switch = "--with_prior_preservation"
    assert train(flags, switch, **prior, output_dir="first") == 0
    before = {path.name: np.asarray(Image.open(path)).astype(int) for path in Path("class").glob("*.png")}
    assert sorted(before) == ["class-00000.png", "class-00001.png"]
    Path("class/class-00000.png").unlink()
    assert train(flags, switch, **prior) == 0
    for name, pixels in before.items():
        assert np.abs(np.asarray(Image.open(f"class/{name}")) - pixels).max() <= 2
    assert len(list(Path("class").glob("*.png"))) == 2


def test_undecodable_photo_is_left_out(flags, caplog):
    Path("photos/broken.jpg").write_bytes(b"no photo")
    assert train(flags) == 0
    assert "broken.jpg" in caplog.text
    entries = {
        Path(entry.photo).name: entry for entry in read_manifest(Path("output/manifest.jsonl"), own_files=False)
    }
    assert set(entries) == {*(f"{name}.png" for name in NAMES), "broken.jpg"}
    assert [name for name, entry in entries.items() if entry.error] == ["broken.jpg"]


@pytest.mark.parametrize("switches", [("--use_lora", "--gradient_checkpointing"), ("--pre_compute_text_embeddings",)])
def test_bf16_follows_float32(flags, switches):
    """Only roughly, since bf16 latents draw different noise; the trained weights stay float32."""
    prompt = {"validation_prompt": "a sks dog", "num_validation_images": 1}
    assert train(flags, *switches, output_dir="float32") == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train(flags, *switches, mixed_precision="bf16", **prompt) == 0
    losses = logged_losses(Path("output"))
    assert losses == pytest.approx(logged_losses(Path("float32")), rel=0.3)
    assert losses != logged_losses(Path("float32"))
    whole = Path("output/unet/diffusion_pytorch_model.safetensors")
    stored = load_file(whole if whole.exists() else "output/pytorch_lora_weights.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}


def test_two_processes_segment_once_and_resume(flags, models):
    """One process segments, both train on their own photos; a resumed run equals an uninterrupted one bit for bit."""
    flags = flags | {
        "instance_mask_dir": None,
        "reference_image": "photos/00.png",
        "reference_mask": "subject.png",
    }
    flags |= {"sam": models / "sam", "mask_downsample": "max", "train_batch_size": 1}
    switches = ("--use_lora", "--center_crop")
    printed = launch(2, flags | {"output_dir": "whole", "max_train_steps": 3, "checkpointing_steps": 1}, *switches)
    assert printed.count("the model: whole") == printed.count("device: cpu, 2 processes, float32") == 1
    assert len(read_manifest(Path("whole/segmentation/manifest.jsonl"))) == 3
    assert {path.name for path in Path("whole/checkpoint-1").glob("random_states_*")} == {
        "random_states_0.pkl",
        "random_states_1.pkl",
    }
    assert len(logged_losses(Path("whole"))) == 3
    shutil.copytree("whole", "output", ignore=shutil.ignore_patterns("checkpoint-[23]", "*.safetensors~"))
    resumed = flags | {"max_train_steps": 3, "resume_from_checkpoint": "checkpoint-1"}
    launch(2, resumed, *switches)
    name = "pytorch_lora_weights.safetensors"
    expected, resumed = load_file(f"whole/{name}"), load_file(f"output/{name}")
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)


def test_half_precision_base_is_loaded_correctly(flags, models):
    half = StableDiffusionPipeline.from_pretrained(models / "stable-diffusion").to(torch.float16)
    half.save_pretrained("half")
    prior = {"class_data_dir": "class", "class_prompt": "a dog", "num_class_images": 1}
    prompt = {"validation_prompt": "a sks dog", "num_validation_images": 1}
    switches = ("--with_prior_preservation", "--pre_compute_text_embeddings")
    assert train(flags, *switches, pretrained_model_name_or_path="half", **prior, **prompt) == 0
    small = ["--num_images", "1", "--num_inference_steps", "2", "--height", "32", "--width", "32"]
    assert main(["generate", "--model", "output", "--prompt", "a dog", *small, "--device", "cpu"]) == 0
    stored = load_file("output/text_encoder/model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}


def test_edited_mask_is_no_longer_attributed_to_persam(flags, models):
    reference = ["--reference", "photos/00.png", "--reference_mask", "subject.png"]
    given = ["--images", "photos", *reference, "--sam", str(models / "sam"), "--output", "segmented"]
    assert main(["segment", *given, "--device", "cpu"]) == 0
    shutil.copy("masks/01.png", "segmented/masks/01.png")
    assert train(flags, instance_mask_dir="segmented", mask_downsample="max") == 0
    entries = read_manifest(Path("output/manifest.jsonl"), own_files=False)
    assert [entry.source for entry in entries] == ["reference", "given", "persam"]
    assert entries[1].score is None and entries[1].box is None
