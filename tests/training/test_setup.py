"""Checks and preparations before the first step; nothing is written into the output folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import persam_dreambooth as pd
from persam_dreambooth.training.setup import load_base, setup
from tests.training.small import trained_parameters


def settings_of(flags, **changes):
    return pd.TrainingConfig(**flags | {"use_lora": True, "report_to": "none"} | changes)


def test_run_holds_its_photos_masks_and_manifest_and_nothing_is_written(flags):
    run = setup(settings_of(flags))
    assert [photo.name for photo in run.instances] == ["00.png", "01.png", "02.png"]
    assert [check.photo.name for check in run.masks] == [photo.name for photo in run.instances]
    assert [entry.photo for entry in run.manifest] == [f"../photos/0{number}.png" for number in range(3)]
    assert (run.class_images, run.likeness, run.repository, run.resume_from) == ([[]], None, None, None)
    assert not Path("output").exists()


def test_photos_of_several_subjects_are_numbered_and_their_mistakes_name_them(flags):
    entries = []
    for name in ("rex", "mini"):
        shutil.copytree("photos", name)
        shutil.copytree("masks", f"{name}-masks")
        entries.append({"instance_data_dir": name, "instance_mask_dir": f"{name}-masks"})
    Path("concepts.json").write_text(json.dumps(entries))
    own = {"instance_data_dir": None, "instance_mask_dir": None, "concepts_list": "concepts.json"}
    run = setup(settings_of(flags, **own))
    assert [(photo.name, photo.concept) for photo in run.instances] == [
        *((f"rex/0{number}.png", 0) for number in range(3)),
        *((f"mini/0{number}.png", 1) for number in range(3)),
    ]
    assert len(run.concepts) == len(run.class_images) == 2
    Path("mini-masks/01.png").unlink()
    with pytest.raises(pd.UserError, match=r"^subject mini: no mask in mini-masks for 01\.png"):
        setup(settings_of(flags, **own))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"resolution": 67},
            "--resolution 67 is not a multiple of 2, the pixels of one latent cell or patch; take 66",
        ),
        ({"resolution": 1}, "is not a multiple of 2, the pixels of one latent cell or patch; take 2"),
        ({"mixed_precision": "fp16"}, "--mixed_precision fp16 needs a GPU; on a CPU take bf16 or no"),
        ({"background_images": "behind"}, "behind/0.png cannot be decoded"),
        ({"training_cache": "subject.png", "cache_latents": True}, "subject.png"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(flags, changes, words):
    Path("behind").mkdir()
    Path("behind/0.png").write_bytes(b"no picture")
    with pytest.raises(pd.UserError) as refused:
        setup(settings_of(flags, **changes))
    assert words in str(refused.value) and not Path("output").exists()


def test_missing_checkpoint_is_told_and_the_run_begins_from_its_start(flags, capsys):
    assert setup(settings_of(flags, resume_from_checkpoint="latest")).resume_from is None
    assert "no checkpoint in output yet: the run starts from the beginning" in capsys.readouterr().out


def test_new_weights_depend_on_the_seed_and_the_base_is_kept_for_the_prior_only(flags):
    drawn = []
    for seed, prior in ((0, {}), (0, {"class_prompt": "a dog", "background_prior_weight": 0.5}), (1, {})):
        torch.manual_seed(99)  # whatever was drawn before
        family = load_base(setup(settings_of(flags, seed=seed, **prior)))
        drawn.append(torch.cat([weight.flatten() for weight in trained_parameters(family)]))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    full = flags | {"class_prompt": "a dog", "report_to": "none"}
    kept = load_base(setup(pd.TrainingConfig(**full, background_prior_weight=0.5)))
    plain = load_base(setup(pd.TrainingConfig(**full)))
    assert set(kept.base) == {"unet"} and not plain.base
    assert not any(weight.requires_grad for weight in kept.base["unet"].parameters())


def test_unreadable_photo_is_left_out_of_the_run_but_not_of_its_manifest(flags, caplog):
    Path("photos/01.png").write_bytes(b"no picture")
    Image.new("L", (8, 8), 255).save("masks/unused.png")
    run = setup(settings_of(flags))
    assert [photo.name for photo in run.instances] == ["00.png", "02.png"]
    (left_out,) = (entry for entry in run.manifest if entry.error)
    assert left_out.photo == "../photos/01.png" and "cannot be decoded" in left_out.error
    assert "masks without a photo: unused.png" in caplog.text
