"""`--revision` and `--variant`: training and generation load what they name, from a hub with several in its cache."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from transformers import CLIPTokenizer

from persam_dreambooth.cli import main
from random_models import PIPELINES, random_stable_diffusion
from tests.hub_cache import cache_model
from tests.training.runs import same_weights, train
from tests.training.small import make

NAMED = {"revision": "other", "variant": "fp16"}
DRAWN = ("--prompt", "a sks dog", "--num_images", "1", "--num_inference_steps", "2", "--height", "32", "--width", "32")


@pytest.fixture
def folders(models, tmp_path, monkeypatch):
    """Put `me/base` into the hub's cache; returns folders with the models that each of `NAMED` stands for."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folders, branch = {name: tmp_path / f"of-{name}" for name in NAMED}, tmp_path / "main"
    random_stable_diffusion(seed=1, prediction_type="v_prediction").save_pretrained(folders["revision"])
    variant = random_stable_diffusion(seed=2)
    variant.save_pretrained(folders["variant"])
    shutil.copytree(models / "stable-diffusion", branch)
    variant.save_pretrained(branch, variant="fp16")
    cache_model(tmp_path / "hub", "me/base", {"main": branch, "other": folders["revision"]})
    return folders


@pytest.mark.parametrize("name", NAMED)
def test_training_and_class_images_are_those_of_the_named_weights(name, flags, folders):
    more = {"report_to": "none", "max_train_steps": 1, "class_prompt": "a dog", "num_class_images": 1}

    def run(output, base, *switches):
        given = {"pretrained_model_name_or_path": base, "output_dir": output, "class_data_dir": f"{output}-class"}
        assert train(flags | more | given, "--with_prior_preservation", *switches) == 0
        return Image.open(f"{output}-class/class-00000.png").tobytes()

    class_images = [run("named", "me/base", f"--{name}", NAMED[name]), run("folder", folders[name])]
    assert class_images[0] == class_images[1] != run("plain", "me/base")
    weights = {path.relative_to("named") for path in Path("named").rglob("*.safetensors")}
    assert {path.parts[0] for path in weights} == {"unet", "vae", "text_encoder"}
    for path in weights:
        named, folder, plain = (Path(output) / path for output in ("named", "folder", "plain"))
        assert same_weights(named, folder) and not same_weights(named, plain)
    config = "scheduler/scheduler_config.json"
    assert (Path("named") / config).read_text() == (Path("folder") / config).read_text()


@pytest.mark.parametrize("name", PIPELINES)
def test_every_part_of_every_family_is_of_the_revision(name, pipelines, tmp_path, monkeypatch):
    """Nothing else is in the cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cache_model(tmp_path, "me/base", {"other": pipelines / name})
    _, family = make("me/base", {"revision": "other"})
    _, expected = make(pipelines / name)
    assert type(family) is type(expected)
    for part in (family.denoiser[0], "vae", *family.encoders):
        ours, theirs = (getattr(of, part).state_dict() for of in (family, expected))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    pipeline = family.pipeline()
    assert dict(pipeline.scheduler.config) == dict(expected.pipeline().scheduler.config)


@pytest.mark.parametrize("name", NAMED)
def test_generate_loads_a_lora_onto_the_named_base(name, flags, folders):
    more = {"pretrained_model_name_or_path": "me/base", name: NAMED[name], "report_to": "none", "max_train_steps": 1}
    assert train(flags | more, "--use_lora") == 0

    def draw(output, *given):
        assert main(["generate", "--model", "output", *given, *DRAWN, "--output", output]) == 0
        return Image.open(f"{output}/a-sks-dog-0.png").tobytes()

    drawn = [
        draw("by-config"),
        draw("folder", "--base_model", str(folders[name])),
        draw("plain", "--base_model=me/base"),
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_another_tokenizer_is_of_the_revision_too(pipelines, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    branches = {}
    for branch, length in (("main", 30), ("other", 20)):
        words = CLIPTokenizer.from_pretrained(pipelines / "stable-diffusion" / "tokenizer", model_max_length=length)
        branches[branch] = tmp_path / branch
        words.save_pretrained(branches[branch])
        shutil.copy(pipelines / "stable-diffusion" / "text_encoder" / "config.json", branches[branch])
    cache_model(tmp_path / "hub", "me/base", {"other": pipelines / "stable-diffusion"})
    cache_model(tmp_path / "hub", "me/words", branches)
    _, family = make("me/base", {"revision": "other", "tokenizer_name": "me/words"})
    assert family.tokenize("a dog")["input_ids"].shape == (1, 20)
