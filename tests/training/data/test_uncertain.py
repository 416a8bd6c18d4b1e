"""Photos with an uncertain subject, or excluded by a person, are left out of training."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from accelerate import PartialState

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest, write_manifest
from persam_dreambooth.preprocessing import SETTINGS_NAME
from persam_dreambooth.training.data.concepts import read_concepts
from persam_dreambooth.training.data.instances import find_instances
from tests.judged_photos import VERDICTS, save_judged_photos
from tests.training.small import configure, photos_of

SIZES = [(32, 32)]


@pytest.fixture
def folder(tmp_path):
    """Photos with the output of `persam-dreambooth segment`."""
    PartialState()  # needed by Accelerate's logger
    save_judged_photos(tmp_path, 40, 60)
    (tmp_path / "out" / SETTINGS_NAME).write_text(json.dumps({}))
    return tmp_path


def config_for(folder, **mask):
    mask = {"instance_mask_dir": str(folder / "out")} | mask
    data = {"instance_data_dir": str(folder / "photos")}
    return configure("model", mask=mask, data=data, output={"output_dir": str(folder / "model")})


def trained_on(folder, **mask):
    found, left_out = photos_of(config_for(folder, **mask), SIZES)
    return [instance.photo.stem for instance in found], {photo.stem: reason for photo, reason in left_out.items()}


def test_uncertain_photos_are_left_out_and_reason_is_logged_and_saved(folder, caplog):
    with caplog.at_level(logging.WARNING):
        found, left_out = trained_on(folder)
    assert found == ["dog", "reference"]
    assert all(f"{name}.png" in caplog.text for name in ("park", "sofa"))
    assert left_out == {
        "park": "the subject in park.png: unsure, because of park",
        "sofa": "the subject in sofa.png: not found, because of sofa",
    }
    config = config_for(folder)
    lines = {entry.photo: entry for entry in find_instances(read_concepts(config)[0], config, SIZES).manifest}
    assert "not found, because of sofa" in lines["../photos/sofa.png"].error


def test_uncertain_photos_are_used_on_request(folder):
    assert trained_on(folder, uncertain_photo_weight=1.0) == (sorted(VERDICTS), {})


def test_uncertain_photos_can_be_down_weighted(folder):
    found, _ = photos_of(config_for(folder, uncertain_photo_weight=0.25), SIZES)
    assert {instance.photo.stem: instance.weight for instance in found} == {
        "dog": 1,
        "park": 0.25,
        "reference": 1,
        "sofa": 0.25,
    }


def test_corrected_mask_is_not_uncertain(folder):
    mask = files.read_mask(folder / "out" / "masks" / "park.png")
    files.write_mask(np.roll(mask, 3), folder / "out" / "masks" / "park.png")
    assert trained_on(folder)[0] == ["dog", "park", "reference"]


def test_run_without_remaining_photos_is_refused(folder):
    for name in ("dog", "reference"):
        (folder / "photos" / f"{name}.png").unlink()
    with pytest.raises(UserError, match=r"not sure of the subject in any photo \(.*park.*sofa.*\)") as error:
        photos_of(config_for(folder), SIZES)
    assert "--uncertain_photo_weight" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def review(folder, **verdicts):
    """Write a person's verdicts, by photo name."""
    path = folder / "out" / MANIFEST_NAME
    entries = [replace(entry, review=verdicts.get(entry.photo.split("/")[-1][:-4])) for entry in read_manifest(path)]
    write_manifest(path, entries)


def test_person_overrides_rule(folder, caplog):
    review(folder, park="approved", dog="excluded")
    with caplog.at_level(logging.WARNING):
        found, left_out = trained_on(folder)
    assert found == ["park", "reference"]
    assert left_out["dog"] == "dog.png was excluded in review"
    assert "dog.png was excluded in review" in caplog.text
    assert trained_on(folder, uncertain_photo_weight=0.25)[0] == ["park", "reference", "sofa"]
    instances, _ = photos_of(config_for(folder, uncertain_photo_weight=0.25), SIZES)
    assert {instance.photo.stem: instance.weight for instance in instances} == {
        "park": 1,
        "reference": 1,
        "sofa": 0.25,
    }


def test_excluded_photo_stays_excluded_after_mask_change(folder):
    review(folder, dog="excluded")
    mask = files.read_mask(folder / "out" / "masks" / "dog.png")
    files.write_mask(np.roll(mask, 3), folder / "out" / "masks" / "dog.png")
    assert trained_on(folder)[0] == ["reference"]


def test_excluded_photo_stays_excluded_though_its_copy_is_used(folder):
    """A copy under another name, which albums often have; the manifest lists both."""
    for there, kind in (("photos", ""), ("out", "masks/")):
        twin = folder / there / f"{kind}a-dog.png"
        twin.write_bytes((folder / there / f"{kind}dog.png").read_bytes())
    entries = read_manifest(folder / "out" / MANIFEST_NAME)
    twins = [replace(entry, photo="../photos/a-dog.png") for entry in entries if entry.photo == "../photos/dog.png"]
    review(folder, dog="excluded")
    write_manifest(folder / "out" / MANIFEST_NAME, [*read_manifest(folder / "out" / MANIFEST_NAME), *twins])
    assert trained_on(folder)[0] == ["a-dog", "reference"]


def test_run_with_all_photos_excluded_is_refused(folder):
    review(folder, **dict.fromkeys(VERDICTS, "excluded"))
    with pytest.raises(UserError, match="every photo was excluded"):
        photos_of(config_for(folder), SIZES)
