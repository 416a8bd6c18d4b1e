"""`--dry_run`: checks, an estimate of the memory, the first batch as a picture, and nothing trained or written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from persam_dreambooth.training import dry_run, loop
from tests.training.runs import train

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
