"""Class images: generated once, from one seed each, with a record of their origin, and never among photos."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.training.data.class_images import ORIGIN_NAME, check_class_folders, ensure_class_images
from persam_dreambooth.training.data.concepts import Concept
from tests.training.data.test_remarks import new_warnings
from tests.training.small import configure

pytestmark = pytest.mark.usefixtures("process_state")


def class_run(models, folder, prompt, count=1):
    data = {"class_data_dir": str(folder), "class_prompt": prompt, "num_class_images": count}
    config = configure(models / "stable-diffusion", data=data | {"with_prior_preservation": True})
    torch.manual_seed(0)
    return ensure_class_images(Concept.of(config), config, Accelerator())


def test_class_images_record_prompt_and_model(models, tmp_path, caplog):
    folder = tmp_path / "class"
    class_run(models, folder, "a dog")
    class_run(models, folder, "a dog")
    assert not new_warnings(caplog)
    (image,) = class_run(models, folder, "a cat")
    (line,) = new_warnings(caplog)
    assert "holds images generated for 'a dog' by stable-diffusion, but this run uses 'a cat'" in line
    assert image.name == "class-00000.png"
    assert str(models) not in (folder / ORIGIN_NAME).read_text()
    (folder / ORIGIN_NAME).write_text("[3]")
    with pytest.raises(UserError, match="is damaged; delete it"):
        class_run(models, folder, "a cat")


def test_users_own_class_images_cause_no_warning(models, tmp_path, caplog):
    files.write_picture(Image.new("RGB", (32, 32)), tmp_path / "mine.png")
    assert [path.name for path in class_run(models, tmp_path, "a cat")] == ["mine.png"]
    assert not new_warnings(caplog) and not Path(tmp_path / ORIGIN_NAME).exists()


class Begun(Exception):
    """Raised in place of the first denoising step, with its noise."""


def begin(unet, given):
    raise Begun(given[0].chunk(2)[0])  # with and without guidance


@pytest.fixture
def noise_of(models, tmp_path, monkeypatch):
    """The noise that the missing class images in `class` begin from, for a number of images and a seed."""
    read = DiffusionPipeline.from_pretrained

    def loaded(*args, **named):
        pipeline = read(*args, **named)
        pipeline.unet.register_forward_pre_hook(begin)
        return pipeline

    def run(count, seed):
        data = {"class_data_dir": str(tmp_path / "class"), "class_prompt": "a dog", "num_class_images": count}
        data |= {"with_prior_preservation": True}
        config = configure(models / "stable-diffusion", data=data, optimization={"seed": seed})
        with pytest.raises(Begun) as begun:
            ensure_class_images(Concept.of(config), config, Accelerator())
        return begun.value.args[0]

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", loaded)
    return run


def test_image_depends_on_seed_and_its_number_whatever_is_there_already(noise_of, tmp_path):
    noise = noise_of(3, seed=5)
    assert len(noise) == 3 and torch.equal(noise[1], noise_of(1, seed=6)[0])
    for name in ("class-00001.png", "mine.png"):  # a picture of the user's own takes the place of one, not its number
        files.write_picture(Image.new("RGB", (8, 8)), tmp_path / "class" / name)
    assert torch.equal(noise_of(4, seed=5), noise[[0, 2]])


def prior_config(folder, **data):
    data = {"class_data_dir": str(folder), "class_prompt": "a dog", "num_class_images": 3} | data
    return configure("model", data=data | {"with_prior_preservation": True}, output={"dry_run": True})


def test_dry_run_makes_nothing_and_returns_what_is_there(tmp_path, capsys):
    config = prior_config(tmp_path / "class")
    assert ensure_class_images(Concept.of(config), config, Accelerator()) == []
    assert "class images: 3 of 3 would be generated into" in capsys.readouterr().out
    assert not (tmp_path / "class").exists()
    for number in range(4):
        files.write_picture(Image.new("RGB", (8, 8)), tmp_path / "class" / f"{number}.png")
    found = ensure_class_images(Concept.of(config), config, Accelerator())
    assert [path.name for path in found] == ["0.png", "1.png", "2.png"] and not capsys.readouterr().out
    (tmp_path / "class" / "1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1\.png cannot be decoded"):
        ensure_class_images(Concept.of(config), config, Accelerator())


@pytest.mark.parametrize("taken", ["photos", "masks"])
def test_folder_of_photos_or_masks_is_refused_where_class_images_are_used(tmp_path, monkeypatch, taken):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--class_data_dir {taken} holds a subject's photos or masks"):
        check_class_folders([Concept.of(prior_config(taken))])
    check_class_folders([Concept.of(prior_config("elsewhere"))])
    check_class_folders([Concept.of(configure("model", data={"class_data_dir": taken}))])
