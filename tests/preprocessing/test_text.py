"""A phrase for the subject: as the reference, with or without a photo, and as a filter; by tinyworld's CLIPSeg."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models import CLIPSEG, DINO, SAM
from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from persam_dreambooth.preprocessing import SETTINGS_NAME, SegmentationJob, segment_albums, segment_folder
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import Insid3Method, TextLocator, TextPrompt
from presence import photo
from tests.scene import iou
from world import random_identity

DOG = TextPrompt("a dog", str(CLIPSEG))


@pytest.fixture(scope="module")
def pictures():
    """Photos of a dog, of the dog beside a car, of a car, and of nobody, by name."""
    rng = np.random.default_rng(12)
    dog, car = (random_identity(rng, kind, held_out=True) for kind in ("dog", "car"))
    drawn = {f"dog{number}": photo(rng, dog, ("subject",)) for number in range(3)}
    return drawn | {"car": photo(rng, car, ("subject",)), "nobody": photo(rng, dog, ())}


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """Tinyworld's SAM without its presence rule."""
    folder = tmp_path_factory.mktemp("models") / "sam"
    shutil.copytree(SAM, folder, ignore=shutil.ignore_patterns("presence.json"))
    return folder


@pytest.fixture
def photos(pictures, tmp_path):
    for name, picture in pictures.items():
        files.write_picture(picture.image, tmp_path / "photos" / f"{name}.png")
    files.write_mask(pictures["dog0"].mask(), tmp_path / "dog0-mask.png")
    return tmp_path / "photos"


def job_for(photos, sam, **changes):
    settings = {"images": photos, "references": (), "output": photos.parent / "out", "sam": sam, "device": "cpu"}
    return SegmentationJob(**{**settings, **changes})


def named(entries):
    return {Path(entry.photo).stem: entry for entry in entries}


def by_mask(photos):
    return (ReferenceFiles(photos / "dog0.png", photos.parent / "dog0-mask.png"),)


def scores_of(pictures, prompt):
    locator = TextLocator.from_pretrained(prompt.model, "cpu")
    found = {name: locator.locate(picture.image, prompt) for name, picture in pictures.items()}
    return {name: matches[0].score for name, matches in found.items() if matches}


def test_the_photo_that_fits_best_becomes_the_reference(pictures, photos, sam):
    scores = scores_of(pictures, DOG)
    best = max(scores, key=scores.get)
    entries = named(segment_folder(job_for(photos, sam, text=DOG)))
    assert [name for name, entry in entries.items() if entry.source == "reference"] == [best]
    assert best.startswith("dog")
    for name in ("dog0", "dog1", "dog2"):
        assert iou(files.read_mask(photos.parent / "out" / entries[name].mask), pictures[name].mask()) > 0.7


def test_a_run_goes_on_with_its_reference_although_another_photo_fits_better_now(pictures, photos, sam):
    scores = scores_of(pictures, DOG)
    best = max(scores, key=scores.get)
    (photos / f"{best}.png").rename(photos.parent / f"{best}.png")
    first = named(segment_folder(job_for(photos, sam, text=DOG)))
    (kept,) = (name for name, entry in first.items() if entry.source == "reference")
    assert kept != best
    (photos.parent / f"{best}.png").rename(photos / f"{best}.png")
    second = named(segment_folder(job_for(photos, sam, text=DOG)))
    assert [name for name, entry in second.items() if entry.source == "reference"] == [kept]
    assert set(second) == {*first, best}
    with pytest.raises(UserError, match="another run"):
        segment_folder(job_for(photos, sam, text=TextPrompt("a car", str(CLIPSEG))))
    third = named(segment_folder(job_for(photos, sam, text=DOG), again=True))
    assert {name for name, entry in third.items() if entry.source == "reference"} >= {best}


def test_albums_share_the_reference(pictures, photos, sam):
    scores = scores_of(pictures, DOG)
    best = max(scores, key=scores.get)
    (photos / "trip").mkdir()
    (photos / f"{best}.png").rename(photos / "trip" / f"{best}.png")
    jobs = segment_albums(job_for(photos, sam, text=DOG))
    assert {job.references[0].image for job in jobs} == {photos / "trip" / f"{best}.png"}
    sources = [entry.source for job in jobs for entry in read_manifest(job.output / MANIFEST_NAME)]
    assert sources.count("reference") == 1 and len(sources) == len(pictures)


def test_a_phrase_marks_the_subject_in_a_named_photo(pictures, photos, sam, capsys):
    argv = ["--images", photos, "--output", photos.parent / "out", "--sam", sam, "--device", "cpu"]
    argv += ["--text", "a dog", "--text_model", CLIPSEG]
    assert main(["segment", *map(str, argv), "--reference", str(photos / "dog1.png")]) == 0
    assert "look at its mask first" not in capsys.readouterr().out
    entries = named(read_manifest(photos.parent / "out" / MANIFEST_NAME))
    assert entries["dog1"].source == "reference"
    assert iou(files.read_mask(photos.parent / "out" / entries["dog1"].mask), pictures["dog1"].mask()) > 0.7
    stored = json.loads((photos.parent / "out" / SETTINGS_NAME).read_text())["references"]
    assert [reference["text"]["phrase"] for reference in stored] == ["a dog"]
    argv[3] = photos.parent / "chosen"
    assert main(["segment", *map(str, argv)]) == 0
    assert "look at its mask first, 'a dog' made it" in capsys.readouterr().out


def test_without_a_sam_clipsegs_own_mask_is_the_reference(pictures, photos, sam):
    references = (ReferenceFiles(photos / "dog0.png", text=DOG),)
    settings = {"references": references, "method": Insid3Method(), "features": str(DINO)}
    entries = named(segment_folder(job_for(photos, "unused", **settings)))
    mask = files.read_mask(photos.parent / "out" / entries["dog0"].mask)
    best = TextLocator.from_pretrained(CLIPSEG, "cpu").locate(pictures["dog0"].image, DOG)[0]
    np.testing.assert_array_equal(mask, best.mask)


def test_masks_that_do_not_fit_the_phrase_are_not_found(pictures, photos, sam):
    given = by_mask(photos)
    plain = named(segment_folder(job_for(photos, sam, references=given)))
    assert {entry.presence for entry in plain.values()} == {None}
    dogs = named(segment_folder(job_for(photos, sam, references=given, text=DOG, output=photos.parent / "dogs")))
    assert dogs["car"].presence == dogs["nobody"].presence == "not found"
    assert dogs["car"].uncertain and "the mask is not on a 'a dog'" in dogs["car"].reason
    assert dogs["dog0"].presence is dogs["dog1"].presence is dogs["dog2"].presence is None
    for name in ("dog1", "dog2"):
        masks = [files.read_mask(photos.parent / folder / f"masks/{name}.png") for folder in ("out", "dogs")]
        assert iou(masks[1], pictures[name].mask()) >= iou(masks[0], pictures[name].mask()) - 1e-9
    cars = TextPrompt("a car", str(CLIPSEG))
    others = named(segment_folder(job_for(photos, sam, references=given, text=cars, output=photos.parent / "cars")))
    assert others["dog1"].presence == others["dog2"].presence == "not found"
    assert others["dog0"].presence is None  # the user's own mask


def test_a_presence_rule_still_decides_on_masks_that_fit(photos):
    entries = named(segment_folder(job_for(photos, SAM, references=by_mask(photos), text=DOG)))
    assert entries["dog1"].presence == "found" and 0 < entries["dog1"].probability < 1
    assert entries["car"].presence == "not found" and entries["car"].probability == 0
    with pytest.raises(UserError, match="text differ"):
        segment_folder(job_for(photos, SAM, references=by_mask(photos)))


def test_overlap_sets_how_well_a_mask_must_fit(photos, sam):
    strict = TextPrompt("a dog", str(CLIPSEG), overlap=1.0)
    entries = named(segment_folder(job_for(photos, sam, references=by_mask(photos), text=strict)))
    assert entries["dog1"].presence == entries["dog2"].presence == "not found"


@pytest.mark.parametrize("reference", [True, False])
def test_a_phrase_that_fits_nowhere_is_one_line(photos, sam, capsys, reference):
    argv = ["--images", photos, "--output", photos.parent / "out", "--sam", sam, "--device", "cpu"]
    argv += ["--text", "a dog", "--text_model", CLIPSEG, "--text_threshold", 1]
    argv += ["--reference", photos / "dog0.png"] if reference else []
    assert main(["segment", *map(str, argv)]) == 2
    where = "in the reference photo" if reference else "in 5 photos"
    assert f"no 'a dog' was found {where} with a score above 1" in capsys.readouterr().err.splitlines()[-1]
    assert not (photos.parent / "out").exists()
