"""Subjects in a segmented folder: presence, disjoint masks, and instances."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import SAM
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from persam_dreambooth.preprocessing import SETTINGS_NAME, SHEET_NAME, SUBJECT_NAME, SegmentationJob, segment_folder
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.preprocessing.segment_folder import _warn_once
from persam_dreambooth.segmentation import Subject
from presence import photo
from recipes import Recipe, random_identity, random_placement
from tests.scene import iou
from world import draw


def identity_of(kind, number):
    return random_identity(np.random.default_rng([55, number]), kind, held_out=True)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A dog's reference, and photos of the dog, the dog beside a car, two dogs, a car, and no subject."""
    folder = tmp_path_factory.mktemp("album")
    rng = np.random.default_rng(8)
    dog, car = identity_of("dog", 1), identity_of("car", 2)

    def side_by_side(*identities):
        placed = zip(identities, (0.27, 0.73), strict=True)
        return draw(Recipe("snow", tuple((who, random_placement(rng, x, 0.66)) for who, x in placed), seed=4), 128)

    pictures = {
        "reference": photo(rng, dog, ("subject",)),
        "car": photo(rng, car, ("subject",)),
        "dog": photo(rng, dog, ("subject",)),
        "both": side_by_side(dog, car),
        "twins": side_by_side(dog, dog),
        "nobody": photo(rng, dog, ()),
    }
    for name, picture in pictures.items():
        files.write_picture(picture.image, folder / "photos" / f"{name}.png")
    for name in ("reference", "car"):
        files.write_mask(pictures[name].mask(), folder / f"{name}-mask.png")
    return folder, pictures


def job_for(folder, output, **changes):
    reference = ReferenceFiles(folder / "photos" / "reference.png", folder / "reference-mask.png")
    settings = {"images": folder / "photos", "references": (reference,), "output": output, "sam": str(SAM)}
    return SegmentationJob(**{**settings, "device": "cpu", **changes})


def named(job):
    return {Path(entry.photo).stem: entry for entry in segment_folder(job)}


def test_rule_next_to_sam_decides_and_manifest_and_sheet_show_it(album, tmp_path):
    folder, pictures = album
    entries = named(job_for(folder, tmp_path / "out"))
    assert entries["dog"].presence == "found"
    assert entries["dog"].reason is None
    assert entries["nobody"].presence == "not found"
    assert entries["nobody"].probability < 0.2
    assert "usually" in entries["nobody"].reason
    assert entries["car"].presence in ("unsure", "not found")
    assert entries["reference"].presence is None
    assert entries["both"].presence != "not found"
    mask = files.read_mask(tmp_path / "out" / entries["both"].mask)
    assert iou(mask, pictures["both"].mask(0)) > 0.6
    assert (tmp_path / "out" / SHEET_NAME).is_file()


def test_no_rule_means_no_verdict(album, models, tmp_path):
    folder, _ = album
    entries = named(job_for(folder, tmp_path / "out", sam=str(models / "sam")))
    assert {entry.presence for entry in entries.values()} == {None}


def test_each_subject_has_own_folder_and_masks_are_disjoint(album, tmp_path):
    folder, pictures = album
    references = tuple(
        ReferenceFiles(folder / "photos" / f"{name}.png", folder / f"{name}-mask.png") for name in ("reference", "car")
    )
    out = tmp_path / "out"
    entries = list(segment_folder(job_for(folder, out, references=references, names=("rex", "mini"))))
    assert len(entries) == 2 * len(pictures)
    for name in ("rex", "mini"):
        assert Subject.load(out / name / SUBJECT_NAME)
        assert all((out / name / file).is_file() for file in (SETTINGS_NAME, SHEET_NAME, MANIFEST_NAME))
    masks = {
        (name, stem): files.read_mask(out / name / "masks" / f"{stem}.png")
        for name in ("rex", "mini")
        for stem in pictures
    }
    assert all(not (masks["rex", stem] & masks["mini", stem]).any() for stem in pictures)
    assert iou(masks["rex", "both"], pictures["both"].mask(0)) > 0.6
    assert iou(masks["mini", "both"], pictures["both"].mask(1)) > 0.6
    # The car is not in these two, so it takes no pixels from the dog.
    assert iou(masks["rex", "dog"], pictures["dog"].mask()) > 0.8
    alone = named(job_for(folder, tmp_path / "alone"))
    np.testing.assert_array_equal(masks["rex", "dog"], files.read_mask(tmp_path / "alone" / alone["dog"].mask))
    np.testing.assert_array_equal(masks["rex", "twins"], files.read_mask(tmp_path / "alone" / alone["twins"].mask))
    np.testing.assert_array_equal(masks["rex", "reference"], pictures["reference"].mask())
    np.testing.assert_array_equal(masks["mini", "car"], pictures["car"].mask())
    again = {path: path.stat().st_mtime_ns for path in out.rglob("masks/*.png")}
    segment_folder(job_for(folder, out, references=references, names=("rex", "mini")))
    assert {path: path.stat().st_mtime_ns for path in again} == again


def test_references_with_same_name_are_one_subject(album, tmp_path):
    folder, _ = album
    twice = (ReferenceFiles(folder / "photos" / "reference.png", folder / "reference-mask.png"),) * 2
    job = job_for(folder, tmp_path / "out", references=twice, names=("rex", "rex"))
    assert list(job.subjects()) == [tmp_path / "out" / "rex"]
    assert len(next(iter(job.subjects().values()))) == 2


def test_mask_has_all_instances_and_they_are_numbered(album, tmp_path):
    folder, pictures = album
    entries = named(job_for(folder, tmp_path / "out", all_instances=True))
    labels = np.asarray(Image.open(tmp_path / "out" / entries["twins"].instances))
    assert set(np.unique(labels)) == {0, 1, 2}
    np.testing.assert_array_equal(labels > 0, files.read_mask(tmp_path / "out" / entries["twins"].mask))
    for true in (pictures["twins"].mask(0), pictures["twins"].mask(1)):
        assert max(iou(labels == number, true) for number in (1, 2)) > 0.5
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out" / entries["dog"].instances)))) == {0, 1}
    assert entries["nobody"].presence != "found"
    assert entries["reference"].instances is None
    # A second run finds everything done, and recreates a deleted instances picture.
    (tmp_path / "out" / entries["twins"].instances).unlink()
    assert named(job_for(folder, tmp_path / "out", all_instances=True)) == entries
    assert (tmp_path / "out" / entries["twins"].instances).is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("rex", "mini")}, "2 names were given for 1 references"),
        ({"names": ("../rex",)}, "cannot be a folder's name"),
        ({"names": (".rex",)}, "cannot be a folder's name"),
        ({"sam": "facebook/sam-vit-base", "all_instances": True}, "needs a presence rule"),
    ],
)
def test_invalid_names_and_instances_are_refused(album, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        job_for(album[0], tmp_path / "out", **changes)


def test_rule_of_another_sam_is_refused_before_writing(album, models, tmp_path):
    job = job_for(album[0], tmp_path / "out", sam=str(models / "sam"), presence=SAM / "presence.json")
    with pytest.raises(UserError, match="calibrated on"):
        segment_folder(job)
    assert not (tmp_path / "out").exists()


def test_changed_rule_is_new_run_and_caveat_is_logged_once(album, tmp_path, caplog):
    _warn_once.cache_clear()
    segment_folder(job_for(album[0], tmp_path / "out"))
    segment_folder(job_for(album[0], tmp_path / "again"))
    (warning,) = [record.message for record in caplog.records if "made on drawings" in record.message]
    assert warning.endswith("on photographs its probabilities are a guess")
    rule = json.loads((SAM / "presence.json").read_text()) | {"encoder": str(SAM.parent / "clip"), "found_from": 0.5}
    (tmp_path / "rule.json").write_text(json.dumps(rule))
    with pytest.raises(UserError, match="presence differ"):
        segment_folder(job_for(album[0], tmp_path / "out", presence=tmp_path / "rule.json"))


def test_older_manifest_without_presence_is_read(tmp_path):
    path = tmp_path / MANIFEST_NAME
    path.write_text('{"photo": "a.png", "digest": "0"}\n')
    assert read_manifest(path)[0].presence is None
