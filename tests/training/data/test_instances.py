"""Which photos are trained on: none that is uncertain or excluded; the others as they are, with remarks."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest, write_manifest
from persam_dreambooth.preprocessing import SETTINGS_NAME
from persam_dreambooth.training.data.concepts import read_concepts
from persam_dreambooth.training.data.instances import find_instances
from tests.judged_photos import VERDICTS, save_judged_photos
from tests.training.data.test_concepts import configured, draw
from tests.training.data.test_remarks import new_warnings
from tests.training.small import configure, photos_of

pytestmark = pytest.mark.usefixtures("process_state")
SIZES = [(32, 32)]


@pytest.fixture
def folder(tmp_path):
    """Photos with the output of `persam-dreambooth segment`."""
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


@pytest.mark.parametrize("prior", [False, True])
def test_concepts_class_images_among_its_photos_are_not_reported_as_unread(tmp_path, prior, caplog):
    draw(tmp_path, ["a"])
    files.write_picture(Image.new("RGB", (40, 40)), tmp_path / "photos" / "dogs" / "b.png")
    entry = {"instance_data_dir": "photos", "instance_mask_dir": "masks", "instance_prompt": "a sks dog"}
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps([entry | {"class_data_dir": "photos/dogs", "class_prompt": "a dog"}]))
    data = {"concepts_list": str(path), "instance_data_dir": None, "with_prior_preservation": prior}
    found = find_instances(*read_concepts(configure("model", data=data)), configure("model", data=data), SIZES)
    assert [entry.error for entry in found.manifest] == [None] and not caplog.text


def test_captions_with_other_extension_cause_warning(tmp_path, caplog):
    draw(tmp_path, ["a"])
    (tmp_path / "photos" / "a.txt").write_text("a sks dog on a table")
    for ending, warned in ((".txt", False), (".text", True)):
        photos_of(configured(tmp_path, instance_data_dir=str(tmp_path / "photos"), caption_extension=ending), SIZES)
        assert ("has a caption that ends in .text" in caplog.text) == warned


def test_enlarged_photos_are_named(tmp_path, caplog):
    for name, size in {"small": (40, 64), "large": (64, 70)}.items():
        files.write_picture(Image.new("RGB", size), tmp_path / f"{name}.png")
    config = configure(
        "model",
        data={"instance_data_dir": str(tmp_path), "resolution": 48},
        mask={"masked_loss": False, "instance_mask_dir": None},
    )
    photos_of(config, [(48, 48)])
    (line,) = new_warnings(caplog)
    assert line.endswith("1 of 2 photos is smaller than --resolution 48 and will be enlarged: small.png (40 x 64)")
    photos_of(config, [(40, 40)])
    assert not new_warnings(caplog)
