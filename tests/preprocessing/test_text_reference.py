"""A phrase for the subject of a folder: as the reference, with or without a photo, and as a filter; a random SAM 3."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import SAM
from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from persam_dreambooth.preprocessing import SETTINGS_NAME, SegmentationJob, segment_albums, segment_folder
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import TextLocator, TextPrompt
from tests.scene import scene
from tests.segmentation.random_locators import save

NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def sam3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3")
    save("sam3", folder)
    return str(folder)


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """Tinyworld's SAM without its presence rule."""
    folder = tmp_path_factory.mktemp("models") / "sam"
    shutil.copytree(SAM, folder, ignore=shutil.ignore_patterns("presence.json"))
    return str(folder)


@pytest.fixture
def photos(tmp_path):
    for seed, name in enumerate(NAMES):
        pixels, _ = scene(64, 80, seed)
        files.write_picture(Image.fromarray(pixels), tmp_path / "photos" / f"{name}.png")
    files.write_mask(scene(64, 80, 0)[1], tmp_path / "a-mask.png")
    return tmp_path / "photos"


def job_for(photos, sam, **changes):
    settings = {"images": photos, "references": (), "output": photos.parent / "out", "sam": sam, "device": "cpu"}
    return SegmentationJob(**{**settings, **changes})


def by_mask(photos):
    return (ReferenceFiles(photos / "a.png", photos.parent / "a-mask.png"),)


def named(entries):
    return {Path(entry.photo).stem: entry for entry in entries}


def given(entries):
    return [name for name, entry in entries.items() if entry.source == "reference"]


def by_score(sam3, phrase="a disc"):
    """The names of the photos, the one that fits the phrase best first."""
    locator = TextLocator.from_pretrained(sam3, "cpu")
    scores = {
        name: locator.locate(scene(64, 80, seed)[0], TextPrompt(phrase))[0].score for seed, name in enumerate(NAMES)
    }
    return sorted(scores, key=scores.get, reverse=True)


def test_the_photo_that_fits_best_becomes_the_reference(photos, sam, sam3):
    best = by_score(sam3)[0]
    prompt = TextPrompt("a disc", sam3)
    entries = named(segment_folder(job_for(photos, sam, text=prompt)))
    assert given(entries) == [best] and set(entries) == set(NAMES)
    pixels = scene(64, 80, NAMES.index(best))[0]
    expected = TextLocator.from_pretrained(sam3, "cpu").locate(pixels, prompt)[0].mask
    np.testing.assert_array_equal(files.read_mask(photos.parent / "out" / entries[best].mask), expected)


def test_a_resumed_run_keeps_its_reference_although_another_photo_fits_better_now(photos, sam, sam3):
    best, second, *_ = by_score(sam3)
    prompt, away = TextPrompt("a disc", sam3), photos.parent / "away.png"
    (photos / f"{best}.png").rename(away)
    assert given(named(segment_folder(job_for(photos, sam, text=prompt)))) == [second]
    away.rename(photos / f"{best}.png")
    entries = named(segment_folder(job_for(photos, sam, text=prompt)))
    assert given(entries) == [second] and set(entries) == set(NAMES)
    with pytest.raises(UserError, match="another run"):
        segment_folder(job_for(photos, sam, text=TextPrompt("a dog", sam3)))
    chosen_again = given(named(segment_folder(job_for(photos, sam, text=prompt), again=True)))
    assert best in chosen_again


def test_albums_share_the_reference(photos, sam, sam3):
    best = by_score(sam3)[0]
    (photos / "trip").mkdir()
    (photos / f"{best}.png").rename(photos / "trip" / f"{best}.png")
    jobs = segment_albums(job_for(photos, sam, text=TextPrompt("a disc", sam3)))
    assert {job.references[0].image for job in jobs} == {photos / "trip" / f"{best}.png"}
    sources = [entry.source for job in jobs for entry in read_manifest(job.output / MANIFEST_NAME)]
    assert sources.count("reference") == 1 and len(sources) == len(NAMES)


def test_command_marks_the_subject_in_a_named_photo_or_chooses_one(photos, sam, sam3, capsys):
    def run(output, *argv):
        common = ["--images", photos, "--output", photos.parent / output, "--sam", sam, "--device", "cpu"]
        assert main(["segment", *map(str, [*common, "--text", "a disc", "--text_model", sam3, *argv])]) == 0
        stored = json.loads((photos.parent / output / SETTINGS_NAME).read_text())["references"]
        assert [reference["text"]["phrase"] for reference in stored] == ["a disc"] * len(stored)
        return given(named(read_manifest(photos.parent / output / MANIFEST_NAME))), capsys.readouterr().out

    worst, best = by_score(sam3)[-1], by_score(sam3)[0]
    marked, said = run("named", "--reference", photos / f"{worst}.png")
    assert marked == [worst] and "check its mask" not in said
    chosen, said = run("chosen")
    assert chosen == [best]
    assert f"{best}.png; check its mask first, it was found by the phrase 'a disc'" in said
    both, _ = run("both", "--reference", photos / f"{worst}.png", photos / f"{best}.png")
    assert sorted(both) == sorted([worst, best])


def test_masks_that_do_not_fit_the_phrase_are_not_found(photos, sam, sam3):
    plain = named(segment_folder(job_for(photos, sam, references=by_mask(photos))))
    assert {entry.presence for entry in plain.values()} == {None}
    loose, strict = (TextPrompt("a disc", sam3, overlap=overlap) for overlap in (0.0, 1.0))
    output = photos.parent / "loose"
    kept = named(segment_folder(job_for(photos, sam, references=by_mask(photos), text=loose, output=output)))
    assert {entry.presence for entry in kept.values()} == {None}
    assert {name: entry.box for name, entry in kept.items()} == {name: entry.box for name, entry in plain.items()}
    output = photos.parent / "strict"
    uncertain = named(segment_folder(job_for(photos, sam, references=by_mask(photos), text=strict, output=output)))
    assert uncertain["a"].presence is None  # the user's own mask
    for name in ("b", "c", "d"):
        assert uncertain[name].presence == "not found" and uncertain[name].uncertain
        assert "not on what 'a disc' describes" in uncertain[name].reason


def test_a_presence_rule_still_decides_on_masks_that_fit(photos, sam, sam3):
    alone = named(segment_folder(job_for(photos, SAM, references=by_mask(photos))))
    text = TextPrompt("a disc", sam3, overlap=0.0)
    output = photos.parent / "both"
    both = named(segment_folder(job_for(photos, SAM, references=by_mask(photos), text=text, output=output)))
    assert {name: entry.probability for name, entry in both.items()} == {
        name: entry.probability for name, entry in alone.items()
    }
    with pytest.raises(UserError, match="text differ"):
        segment_folder(job_for(photos, SAM, references=by_mask(photos), output=output))


@pytest.mark.parametrize("reference", [True, False])
def test_a_phrase_that_fits_nowhere_is_one_line(photos, sam, sam3, capsys, reference):
    argv = ["--images", photos, "--output", photos.parent / "out", "--sam", sam, "--device", "cpu"]
    argv += ["--text", "a disc", "--text_model", sam3, "--text_threshold", 1]
    argv += ["--reference", photos / "a.png"] if reference else []
    assert main(["segment", *map(str, argv)]) == 2
    where = "in the reference photo" if reference else "in 4 photos"
    assert f"no 'a disc' was found {where} with a score above 1" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_of_something_else_is_refused_before_the_search(photos):
    job = job_for(photos, "no-sam", text=TextPrompt("a disc", "no-model"), output=photos)
    with pytest.raises(UserError, match="is not from an earlier segmentation run"):
        segment_folder(job)
