"""The mask report before the first step: coverage, losses to crops, polarity, empty masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.training.data.dataset import InstancePhoto, Region
from persam_dreambooth.training.data.mask_report import MASKS_NAME, SHEET_LIMIT, check_masks, save_sheet, summary
from tests.training.small import configure


def instance(folder, name, rows, columns, shape=(64, 96)):
    """Write a grey photo whose subject is a box."""
    mask = np.zeros(shape, dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    files.write_picture(Image.new("RGB", shape[::-1], "grey"), folder / f"{name}.png")
    files.write_mask(mask, folder / "masks" / f"{name}.png")
    return InstancePhoto(folder / f"{name}.png", (Region(folder / "masks" / f"{name}.png"),), (32, 32), shape)


def check(instances, **data):
    return check_masks(instances, configure("model", data={"resolution": 32} | data), 8)


def test_coverage_and_cropped_share_are_measured(tmp_path):
    small = instance(tmp_path, "small", (16, 32), (0, 24))
    wide = instance(tmp_path, "wide", (0, 64), (0, 96))
    checks = check([small, wide, InstancePhoto(small.photo, (), (32, 32), small.shape)])
    assert [item.coverage for item in checks] == pytest.approx([16 * 24 / (64 * 96), 1.0])
    assert [item.kept for item in checks] == pytest.approx([1.0, 32 / 48])
    assert [tuple(item.latent.shape) for item in checks] == [(4, 6), (4, 6)]
    text = summary(checks)
    assert "covers 6% to 100% of 2 photos" in text
    assert "some crops are smaller than the subject and keep only a part of it: wide.png (67%)" in text
    (centre,) = check([small], center_crop=True)
    assert centre.latent.shape == (4, 4) and centre.kept == 1.0  # the crop was moved to the left border


def test_subject_of_few_latent_cells_is_warned_of_until_the_resolution_is_larger(tmp_path):
    photos = [instance(tmp_path, "far", (0, 16), (0, 30)), instance(tmp_path, "near", (0, 40), (0, 40))]
    photos = [replace(photo, size=(64, 64)) for photo in photos]

    def warned(cell):
        found = summary(check_masks(photos, configure("model", data={"resolution": 64}), cell)).splitlines()
        return [line for line in found if line.startswith("warning: the subject covers fewer than 32 latent cells")]

    (line,) = warned(4)  # 4 x 7.5 and 10 x 10 cells
    assert line.endswith("in far.png (30); take a larger --resolution, or crop these photos closer to the subject")
    assert warned(2) == []
    assert "far.png (8), near.png (25)" in warned(8)[0]


def test_inverted_mask_is_noticed(tmp_path):
    mask = np.ones((64, 96), dtype=bool)
    mask[20:44, 30:66] = False
    inverted = instance(tmp_path, "inverted", (0, 0), (0, 0))
    files.write_mask(mask, inverted.regions[0].mask)
    whole = instance(tmp_path, "whole", (0, 64), (0, 96))
    checks = check([inverted, whole])
    assert [item.inverted for item in checks] == [True, False]
    assert "inverted.png" in summary(checks).splitlines()[-1]
    assert any("whole.png cover nearly everything" in line for line in summary(checks).splitlines())


def test_report_draws_no_random_numbers(tmp_path, monkeypatch):
    only = instance(tmp_path, "a", (0, 9), (0, 9))
    state = torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: 1 / 0)
    check([only])
    assert torch.equal(torch.get_rng_state(), state)


def test_empty_mask_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"the mask of b\.png is empty on the latent grid") as error:
        check([instance(tmp_path, "a", (0, 9), (0, 9)), instance(tmp_path, "b", (0, 0), (0, 0))])
    assert len(str(error.value).splitlines()) == 1


def test_sheet_shows_photo_and_latent_mask_side_by_side(tmp_path):
    checks = check([instance(tmp_path, "a", (0, 32), (0, 96))])
    save_sheet(checks, tmp_path)
    sheet = np.asarray(files.read_picture(tmp_path / MASKS_NAME).convert("L")).astype(int)
    quarter = sheet.shape[1] // 4
    photo, cells = sheet[:, quarter], sheet[:, 3 * quarter]
    # The subject, and the dimmed background.
    assert (abs(photo - 128) < 5).any() and (abs(photo - 0.35 * 128) < 5).any()
    assert (cells == 255).any() and (cells == 0).any()
    save_sheet(checks * (SHEET_LIMIT + 5), tmp_path / "many")
    save_sheet(checks * SHEET_LIMIT, tmp_path / "limit")
    assert (tmp_path / "many" / MASKS_NAME).read_bytes() == (tmp_path / "limit" / MASKS_NAME).read_bytes()
    save_sheet([], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_crops_without_foreground_are_reported(tmp_path):
    """A whole cell of 8 pixels in the photo's grid; the crops' grids are offset."""
    photo = replace(instance(tmp_path, "thin", (16, 24), (40, 48), (32, 96)), size=(32, 32))
    checks = check_masks([photo], configure("model", data={"resolution": 32}, mask={"mask_downsample": "min"}), 8)
    assert checks[0].coverage > 0 and 0 < checks[0].empty_crops < 1
    assert "some crops train nothing" in summary(checks) and "thin.png (" in summary(checks)
    (area,) = check([photo])
    assert area.empty_crops == 0 and "nothing" not in summary([area])


def test_one_pixel_mask_is_refused_by_name(tmp_path):
    speck = instance(tmp_path, "speck", (30, 33), (40, 43))
    config = configure("model", data={"resolution": 32}, mask={"mask_downsample": "max"})
    with pytest.raises(UserError, match=r"the mask of speck\.png marks fewer than 16 pixels"):
        check_masks([speck], config, 8)
