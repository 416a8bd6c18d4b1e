"""Settings that are allowed but may surprise cause one warning each; usual ones cause none."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, PartialState
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.training.data import remarks
from persam_dreambooth.training.data.class_images import ORIGIN_NAME, ensure_class_images
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.families import load_family
from persam_dreambooth.training.families.lumina2 import SYSTEM_PROMPT
from tests.training.small import NAMED, configure, photos_of


@pytest.fixture(autouse=True)
def state():
    PartialState()  # which the warnings ask whether this process speaks


def said(caplog):
    """The warnings since the last call."""
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("persam_dreambooth")]
    caplog.clear()
    return lines


@pytest.mark.parametrize(
    ("prompt", "class_prompt", "says"),
    [
        ("a dog", "a dog", "has no word that --class_prompt 'a dog' lacks"),
        ("A  Dog", "a dog", "has no word"),
        ("photo of the dog", "a dog", "has no word"),
        ("a dog", None, "has only one word for the subject"),
        ("a photo of my dog", None, "has only one word"),
        ("a sks dog", "a dog", None),
        ("a photo of sks dog", "a photo of dog", None),
        ("a sks dog", None, None),
        ("a photo of TOK", None, None),
        ("a photo of sks", None, None),
        ("ein <v1> Hund", "ein Hund", None),
        ("собака", None, None),
        (None, "a dog", None),
    ],
)
def test_a_prompt_without_identifier_is_told_of(caplog, prompt, class_prompt, says):
    data = {"instance_prompt": prompt, "class_prompt": class_prompt, "caption_extension": ".txt"}
    remarks.without_identifier([Concept.of(configure("model", data=data))])
    lines = said(caplog)
    assert len(lines) == (says is not None) and all(says in line for line in lines)


@pytest.mark.parametrize(("side", "says"), [(512, None), (504, "448 and 512 are even"), (8, "64 is even")])
def test_a_side_that_the_model_halves_with_a_remainder_is_told_of(caplog, side, says):
    remarks.uneven_resolution(configure("model", data={"resolution": side}), 64)
    lines = said(caplog)
    assert len(lines) == (says is not None) and all(says in line for line in lines)


@pytest.mark.parametrize(("name", "unit"), [("stable-diffusion", 4), ("sdxl", 4), ("flux", 4), ("sd3", 4)])
def test_the_unit_is_read_from_the_models_configs(pipelines, name, unit):
    config = configure(pipelines / name).model
    family = NAMED[name]
    assert family.even_unit_of(config) == unit and unit % family.side_unit_of(config) == 0


def test_bfloat16_is_warned_of_only_where_the_processor_emulates_it(caplog):
    cpu = torch.device("cpu")
    remarks.slow_bfloat16("no", cpu)
    remarks.slow_bfloat16("bf16", torch.device("meta"))
    assert not said(caplog)
    remarks.slow_bfloat16("bf16", cpu)
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "avx512bw"
    assert len(said(caplog)) == ("avx2" in flags and "avx512bw" not in flags)  # an x86 processor, and an older one


def test_few_steps_are_told_of_where_nobody_asked_for_them(caplog):
    remarks.few_steps(configure("model"), 1, 3)
    (line,) = said(caplog)
    assert "--num_train_epochs 1 of 3 photos makes 1 step," in line and "--max_train_steps" in line
    remarks.few_steps(configure("model", optimization={"max_train_steps": 1}), 1, 3)
    remarks.few_steps(configure("model"), 400, 3)
    assert not said(caplog)


@pytest.mark.parametrize(
    ("name", "fits", "told"),
    [
        ("stable-diffusion", 75, ["77 tokens that the tokenizer takes"]),
        ("sdxl", 75, ["77 tokens that the tokenizer takes", "77 tokens that the tokenizer_2 takes"]),
        ("flux", 75, ["77 tokens that the tokenizer takes"]),
        ("lumina2", 255 - len(f"{SYSTEM_PROMPT} <Prompt Start> "), ["256 tokens that the tokenizer takes"]),
    ],
)
def test_what_is_cut_off_a_long_prompt_is_named(pipelines, caplog, name, fits, told):
    """Small tokenizers take a letter for a token, with the prompt's beginning and end."""
    family = load_family(configure(pipelines / name).model)
    remarks.cut_prompts(family, {"a sks dog": "--instance_prompt", "a" * fits: "--instance_prompt"})
    assert not said(caplog)
    remarks.cut_prompts(family, {"a" * fits + " and the rest": "the prompt of 01.png"})
    lines = said(caplog)
    assert len(lines) == len(told)
    for line, words in zip(lines, told, strict=True):
        assert words in line and "the prompt of 01.png has more" in line and line.endswith("cut off: 'and the rest'")


def test_small_photos_are_enlarged_and_named(tmp_path, caplog):
    for name, size in {"small": (40, 64), "large": (64, 70)}.items():
        files.write_picture(Image.new("RGB", size), tmp_path / f"{name}.png")
    config = configure(
        "model",
        data={"instance_data_dir": str(tmp_path), "resolution": 48},
        mask={"masked_loss": False, "instance_mask_dir": None},
    )
    photos_of(config, [(48, 48)])
    (line,) = said(caplog)
    assert line.endswith("1 of 2 photos is smaller than --resolution 48 and will be enlarged: small.png (40 x 64)")
    photos_of(config, [(40, 40)])
    assert not said(caplog)


def class_run(models, folder, prompt, count=1):
    data = {"class_data_dir": str(folder), "class_prompt": prompt, "num_class_images": count}
    config = configure(models / "stable-diffusion", data=data | {"with_prior_preservation": True})
    torch.manual_seed(0)
    return ensure_class_images(Concept.of(config), config, Accelerator())


def test_class_images_remember_what_they_were_drawn_for(models, tmp_path, caplog):
    folder = tmp_path / "class"
    class_run(models, folder, "a dog")
    class_run(models, folder, "a dog")
    assert not said(caplog)
    (image,) = class_run(models, folder, "a cat")
    (line,) = said(caplog)
    assert "holds images generated for 'a dog' by stable-diffusion, but this run uses 'a cat'" in line
    assert image.name == "class-00000.png"
    assert str(models) not in (folder / ORIGIN_NAME).read_text()
    (folder / ORIGIN_NAME).write_text("[3]")
    with pytest.raises(UserError, match="is damaged; delete it"):
        class_run(models, folder, "a cat")


def test_nothing_is_said_of_a_users_own_class_images(models, tmp_path, caplog):
    files.write_picture(Image.new("RGB", (32, 32)), tmp_path / "mine.png")
    assert [path.name for path in class_run(models, tmp_path, "a cat")] == ["mine.png"]
    assert not said(caplog) and not Path(tmp_path / ORIGIN_NAME).exists()
