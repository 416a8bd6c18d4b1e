"""Class nouns of an output folder: which masks are looked at, the file, the prompt of `train`, the review page."""

import json

import pytest

from models import CLIP, SAM
from persam_dreambooth import TrainingConfig, UserError
from persam_dreambooth.cli import main
from persam_dreambooth.photos import files
from persam_dreambooth.photos.class_suggestion import ClassSuggestion
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, append_entry
from persam_dreambooth.preprocessing.suggest_class import suggest_class
from persam_dreambooth.review.workspace import Workspace
from persam_dreambooth.segmentation.class_nouns import ClassSuggester
from tests.review.albums import draw_photos, write_found
from tests.review.test_workspace import api_of, checked
from tests.scene import scene

NAMES = ("a.png", "b.png", "c.png")
GIVEN = {"pretrained_model_name_or_path": "base", "instance_data_dir": "dog", "instance_prompt": "a sks dog"}


@pytest.fixture(scope="module")
def suggester():
    return ClassSuggester.from_pretrained(CLIP, None, "cpu")


@pytest.fixture
def folder(tmp_path):
    masks = draw_photos(tmp_path, NAMES)
    write_found(tmp_path, tmp_path / "segmented", masks, {"a.png": 0.5})
    return tmp_path / "segmented"


def doubt(folder, name, **changes):
    """Append a line that changes a photo's entry."""
    (entry,) = (entry for entry in map(json.loads, (folder / MANIFEST_NAME).open()) if entry["photo"].endswith(name))
    append_entry(folder / MANIFEST_NAME, ManifestEntry(**entry | changes))


def test_only_masks_that_are_certainly_the_subjects_are_looked_at(folder, suggester):
    first = suggest_class(folder, suggester, "clip")
    shown = [scene(48, 64, seed) for seed in range(3)]
    assert first == ClassSuggestion.read(folder)
    assert dict(zip(first.nouns, first.scores, strict=True)) == pytest.approx(dict(suggester.suggest(shown)), abs=1e-3)
    doubt(folder, "a.png", presence="unsure")
    doubt(folder, "b.png", review="excluded")
    only_c = suggest_class(folder, suggester, "clip")
    assert dict(zip(only_c.nouns, only_c.scores, strict=True)) == pytest.approx(
        dict(suggester.suggest(shown[2:])), abs=1e-3
    )
    files.write_picture(files.read_photo(folder.parent / "a.png"), folder.parent / "c.png")  # another photo now
    assert suggest_class(folder, suggester, "clip") is None


def test_segment_stores_and_prints_and_train_reads(tmp_path, capsys):
    masks = draw_photos(tmp_path / "photos", NAMES)
    files.write_mask(masks["a.png"], tmp_path / "mask.png")
    (tmp_path / "nouns.txt").write_text("umbrella\nclock\n")
    given = ["--images", tmp_path / "photos", "--reference", tmp_path / "photos" / "a.png", "--reference_mask"]
    given += [tmp_path / "mask.png", "--output", tmp_path / "out", "--sam", SAM, "--device", "cpu"]
    words = ["--suggest_class", CLIP, "--vocabulary", tmp_path / "nouns.txt"]
    assert main(["segment", *map(str, [*given, *words])]) == 0
    suggestion = ClassSuggestion.read(tmp_path / "out")
    assert sorted(suggestion.nouns) == ["clock", "umbrella"]
    assert f"{tmp_path / 'out'}: looks like: {', '.join(suggestion.nouns)}" in capsys.readouterr().out
    best = {"umbrella": "an umbrella", "clock": "a clock"}[suggestion.nouns[0]]
    for masks_folder in (tmp_path / "out", tmp_path / "out" / "masks", tmp_path):
        config = TrainingConfig(**GIVEN, instance_mask_dir=masks_folder, class_prompt="auto")
        assert config.data.class_prompt == config.flat()["class_prompt"] == best
    assert main(["segment", *map(str, given)]) == 0  # the folder is still this run's


def test_each_subject_of_a_list_has_its_own_class_prompt(tmp_path):
    from persam_dreambooth.training.data.concepts import read_concepts

    for name in ("corgi", "apple"):
        (tmp_path / name).mkdir()
        ClassSuggestion((name, "fox"), (0.3, 0.2), "clip").save(tmp_path / name)
        (tmp_path / f"{name} photos").mkdir()
    entries = [
        {"instance_data_dir": f"{name} photos", "instance_prompt": "a sks", "instance_mask_dir": str(tmp_path / name)}
        for name in ("corgi", "apple")
    ]
    (tmp_path / "subjects.json").write_text(json.dumps(entries))
    config = TrainingConfig(
        pretrained_model_name_or_path="base", concepts_list=tmp_path / "subjects.json", class_prompt="auto"
    )
    assert [concept.class_prompt for concept in read_concepts(config)] == ["a corgi", "an apple"]


def test_train_says_what_to_do_without_a_suggestion(folder):
    for masks in ({}, {"instance_mask_dir": folder}):
        with pytest.raises(UserError, match=r"--suggest_class openai/clip.*or give a prompt") as refused:
            TrainingConfig(**GIVEN, **masks, class_prompt="auto")
        assert "\n" not in str(refused.value)


def test_review_page_shows_the_suggestion(folder):
    api = api_of(Workspace(folder.parent))
    assert checked(api.overview({"album": "."}))["looks_like"] == ""
    ClassSuggestion(("corgi", "dog"), (0.3, 0.2), "clip").save(folder)
    assert checked(api.overview({"album": "."}))["looks_like"] == "looks like: corgi, dog"


def test_vocabulary_without_suggestion_is_refused(capsys):
    argv = ["--images", "x", "--reference", "x.png", "--reference_mask", "m.png", "--output", "o"]
    assert main(["segment", *argv, "--vocabulary", "nouns.txt"]) == 2
    assert "--vocabulary holds the nouns of --suggest_class" in capsys.readouterr().err
