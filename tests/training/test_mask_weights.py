"""Grey masks as weights, exclusion masks, and steps without masks: from the files to the gradient."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats import export_masks
from persam_dreambooth.photos import files, pairs
from persam_dreambooth.training import loop, objective
from persam_dreambooth.training.data.dataset import DreamBoothDataset, collate
from persam_dreambooth.training.data.mask_report import check_masks, summary
from persam_dreambooth.training.data.samples import EncodedSamples, FreshSamples
from persam_dreambooth.training.losses import background_prior, kept_cells, latent_mask
from persam_dreambooth.training.objective import is_unmasked, training_loss
from tests.training.runs import train
from tests.training.small import batch_for, configure, make, photos_of, tokenized

LEVELS = np.repeat(np.array([0, 64, 128, 255], np.uint8), 8)[None].repeat(32, 0)  # four columns of cells


@pytest.fixture
def photo(tmp_path):
    """A photo of one latent cell per 8 pixels, whose mask has four levels, with an exclusion mask."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "dog.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(LEVELS).save(tmp_path / "masks" / "dog.png")
    excluded = np.zeros((32, 32), np.uint8)
    excluded[3, 25] = 255  # one pixel of the cell in row 0, column 3
    Image.fromarray(excluded).save(tmp_path / "masks" / "dog-exclude.png")
    found, _ = photos_of(
        configure(
            "model", data={"instance_data_dir": str(tmp_path)}, mask={"instance_mask_dir": str(tmp_path / "masks")}
        ),
        [(32, 32)],
    )
    return found[0]


def test_levels_reach_the_latent_mask(photo):
    item = DreamBoothDataset(
        [photo], FreshSamples(configure("model", data={"resolution": 32}).data), {"a sks dog": {}}
    )[0]
    batch = collate([item])
    latent = latent_mask(batch.mask, (4, 4))[0, 0]
    np.testing.assert_allclose(latent.numpy(), [[0, 64 / 255, 128 / 255, 1]] * 4, atol=1e-6)
    assert kept_cells(batch.exclude, (4, 4))[0, 0].tolist() == [[1, 1, 1, 0], *[[1] * 4] * 3]


def test_caches_keep_levels_and_exclusions(photo, pipelines, tmp_path):
    data = {"resolution": 32, "center_crop": True, "cache_latents": True, "training_cache": str(tmp_path / "cache")}
    config, family = make(pipelines / "stable-diffusion", data=data)
    source = photo.source
    fresh = FreshSamples(config.data)(*source)
    for _ in range(2):  # written, then read
        kept = EncodedSamples(family, FreshSamples(config.data), [source])(*source)
        assert torch.equal(kept["mask"], fresh["mask"]) and torch.equal(kept["exclude"], fresh["exclude"])
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(photo.exclude)
    assert (EncodedSamples(family, FreshSamples(config.data), [source])(*source)["exclude"] == 1).all()


def test_exclusion_masks_of_a_folder_are_found(photo, tmp_path):
    folder = tmp_path / "never"
    folder.mkdir()
    files.write_mask(np.eye(32, dtype=bool), folder / "dog.png")
    mask = {"instance_mask_dir": str(tmp_path / "masks"), "exclude_mask_dir": str(folder)}
    config = configure("model", data={"instance_data_dir": str(tmp_path)}, mask=mask)
    assert photos_of(config, [(32, 32)])[0][0].exclude == folder / "dog.png"
    assert photo.exclude == tmp_path / "masks" / "dog-exclude.png"
    (folder / "dog.png").rename(folder / "cat.png")
    with pytest.raises(UserError, match="named like a photo"):
        photos_of(config, [(32, 32)])


def test_report_counts_grey_and_excluded_cells(photo):
    config = configure("model", data={"resolution": 32})
    (check,) = check_masks([photo], config, 8)
    np.testing.assert_allclose(check.latent[0].numpy(), [0, 64 / 255, 128 / 255, 0], atol=1e-6)
    assert check.grey == pytest.approx(2 / 3)
    assert "grey levels are weights" in summary([check]) and "exclusion masks: 1 of 1" in summary([check])
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(photo.exclude)
    with pytest.raises(UserError, match="empty on the latent grid"):
        check_masks([photo], config, 8)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(photo.exclude)
    with pytest.raises(UserError, match=r"dog-exclude\.png is 8 x 8"):
        check_masks([photo], config, 8)


def test_nearly_black_mask_is_refused_as_empty(flags, capsys):
    size = Image.open("photos/01.png").size
    noise = np.random.default_rng(0).integers(0, 4, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(noise).save("masks/01.png")
    assert train(flags, "--use_lora") == 2
    assert "the mask of 01.png is empty" in capsys.readouterr().err
    assert not Path("output").exists()


def gradients(family, config, batch, unmasked=False):
    """Return the gradient of the loss with respect to the trained model's prediction, and the terms."""
    kept, predict = [], family.predict

    def keep(noised, conditioning):
        prediction = predict(noised, conditioning)
        if prediction.requires_grad:
            prediction.retain_grad()
            kept.append(prediction)
        return prediction

    family.predict = keep
    torch.manual_seed(1)
    loss, terms = training_loss(family, batch, config, unmasked)
    loss.backward()
    family.predict = predict
    return kept[0].grad, terms


@pytest.mark.parametrize("normalization", ["sample", "batch", "none"])
def test_excluded_cells_have_no_gradient_in_any_term(base, normalization):
    mask = {"background_prior_weight": 1.0, "mask_normalization": normalization}
    config, family = make(base, {"use_lora": True}, mask, data={"class_prompt": "a dog"})
    for part in family.trained().values():
        for name, weight in part.named_parameters():
            if "lora_B" in name:
                weight.data += 0.02  # otherwise the prediction equals the base model's
    cell = family.cell_of(config.model)
    batch = batch_for(family, class_images=False)._replace(class_prompt=tokenized(family, ["a dog"] * 2))
    whole, _ = gradients(family, config, batch)
    assert (whole != 0).float().mean() > 0.99  # both terms together reach every cell
    excluded = torch.zeros_like(batch.mask)
    excluded[0, :, 5, 5] = excluded[0, :, 31, 31] = excluded[1, :, 9:20, 0:7] = 1  # subject and background
    grad, _ = gradients(family, config, batch._replace(exclude=excluded))
    out = (torch.nn.functional.max_pool2d(excluded, cell) > 0).expand_as(grad)
    assert out.any() and (grad[out] == 0.0).all()
    assert (grad[~out] != 0.0).float().mean() > 0.99


def test_grey_cells_share_the_two_terms():
    """A cell of weight w has w of the foreground loss and 1 - w of the background prior."""
    prediction, base = torch.zeros(1, 1, 1, 2, requires_grad=True), torch.ones(1, 1, 1, 2)
    background_prior(prediction, base, torch.tensor([[[[0.25, 0.5]]]])).backward()
    shares = prediction.grad[0, 0, 0] / prediction.grad.sum()
    assert shares.tolist() == pytest.approx([0.75 / 1.25, 0.5 / 1.25])


def test_share_of_steps_is_unmasked_and_depends_on_seed_and_step_only():
    config = configure("model", mask={"unmasked_probability": 0.25}, optimization={"seed": 7})
    torch.manual_seed(0)
    drawn = [is_unmasked(config, step) for step in range(2000)]
    torch.manual_seed(1)
    assert drawn == [is_unmasked(config, step) for step in range(2000)]
    assert 430 < sum(drawn) < 570
    other = configure("model", mask={"unmasked_probability": 0.25}, optimization={"seed": 8})
    assert drawn != [is_unmasked(other, step) for step in range(2000)]
    assert not any(is_unmasked(configure("model"), step) for step in range(50))


def test_unmasked_step_trains_on_whole_photos(pipelines):
    mask = {"background_prior_weight": 1.0, "unmasked_probability": 0.5}
    config, family = make(pipelines / "stable-diffusion", {"use_lora": True}, mask, data={"class_prompt": "a dog"})
    batch = batch_for(family, class_images=False)
    grad, terms = gradients(family, config, batch._replace(exclude=torch.zeros_like(batch.mask)), unmasked=True)
    assert "background_prior_loss" not in terms
    white, _ = gradients(family, configure_white(config), batch._replace(mask=torch.ones_like(batch.mask)))
    assert torch.equal(grad, white)


def configure_white(config):
    """Return the settings without background prior."""
    return replace(config, mask=replace(config.mask, background_prior_weight=0.0))


@pytest.fixture
def seen(monkeypatch):
    """Whether each step of the trainings was unmasked."""
    seen, loss = [], objective.training_loss
    monkeypatch.setattr(loop, "training_loss", lambda *given: (seen.append(given[3]), loss(*given))[1])
    return seen


def test_resumed_run_leaves_out_the_masks_of_the_same_steps(flags, seen):
    settings = {"unmasked_probability": 0.5, "gradient_accumulation_steps": 2, "report_to": "none"}
    settings |= {"checkpointing_steps": 3, "max_train_steps": 6}
    assert train(flags, "--use_lora", output_dir="whole", **settings) == 0
    expected = list(seen)
    assert Counter(expected).keys() == {True, False} and expected[::2] == expected[1::2]
    seen.clear()
    assert train(flags, "--use_lora", **settings | {"max_train_steps": 3}) == 0
    assert train(flags, "--use_lora", resume_from_checkpoint="latest", **settings) == 0
    assert seen == expected
    name = "pytorch_lora_weights.safetensors"
    whole, resumed = load_file(Path("whole") / name), load_file(Path("output") / name)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_export_keeps_levels_and_names_exclusions(photo, tmp_path):
    output = tmp_path.with_name(f"{tmp_path.name}-exported")  # not among the photos
    exported = export_masks(tmp_path / "masks", output, "kohya", images=tmp_path)
    levels = np.asarray(Image.open(output / "masks" / "dog.png"))
    np.testing.assert_array_equal(levels, LEVELS)
    assert any("1 exclusion mask left out" in words for words in exported.warnings)


def test_photo_named_like_an_exclusion_mask_is_a_photo(tmp_path):
    for name in ("dog", "dog-exclude"):
        files.write_mask(np.eye(4, dtype=bool), tmp_path / "photos" / f"{name}.png")
        files.write_mask(np.eye(4, dtype=bool), tmp_path / "masks" / f"{name}.png")
    photos = files.find_photos(tmp_path / "photos")
    assert set(pairs.find_masks(tmp_path / "masks", photos)) == {"dog", "dog-exclude"}
